"""The common base of labelled images and labelled texts."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float64, Int32

__all__ = ["LabelledData", "Modality", "Split"]

Modality = Literal["images", "texts"]
Split = Literal["train", "test"]


class LabelledData(ABC):
    """A part of a data set: `ImageData` or `TextData`, in memory, or `StreamedImages` of :mod:`jaxrel.data`.

    Attributes:
        modality: ``"images"`` or ``"texts"``: which encoders it is for.
        name: name of the data set.
        split: ``"train"`` or ``"test"``.
        labels: class of each sample; -1 if unknown.
        class_names: name of each class.
        licence: the licence as stated where the data came from.
        provider: where the data came from.
        skipped: name of each unreadable sample that is left out, and the reason.
        targets: regression targets, if there are no classes.
    """

    modality: ClassVar[Modality]
    name: str
    split: Split
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    licence: str
    provider: str
    skipped: tuple[tuple[str, str], ...]
    targets: Float64[np.ndarray, " n"] | None

    @property
    @abstractmethod
    def samples(self) -> Any:
        """The input of an encoder: images or texts, or an object that returns them by slices."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the samples and of the labels or targets, in order."""
        if self.targets is None:
            return self._fingerprint()
        return hashlib.sha256(self._fingerprint().encode() + self.targets.astype("<f8").tobytes()).hexdigest()

    @abstractmethod
    def _fingerprint(self) -> str: ...

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, including those without a sample."""
        return len(self.class_names)

    def _check_labels(self) -> None:
        """Raise ValueError unless there is one label for each sample, and a name for each label."""
        labels, wanted = self.labels, (len(self.samples),)
        if labels.shape != wanted or labels.dtype != np.int32:
            raise ValueError(
                f"labels of {self.name} have shape {labels.shape} and type {labels.dtype}, expected {wanted} and int32"
            )
        if labels.size and not -1 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(
                f"labels of {self.name} go from {labels.min()} to {labels.max()}, "
                f"expected 0 to {self.num_classes - 1} for {self.num_classes} class names, or -1"
            )
        if self.targets is not None and self.targets.shape != wanted:
            raise ValueError(f"targets of {self.name} have shape {self.targets.shape}, expected {wanted}")

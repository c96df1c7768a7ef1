"""How the encoders of a study are compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxrel.relatedness import Joint
    from jaxrel.training import FineTuning

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """How the encoders of a ranking are compared; the same for every one of them.

    Args:
        samples: training samples taken from each data set, or all that there are. `transferability` is about those of
            the target.
        held_out: held-out samples taken from each data set, on which the terms of the bound are evaluated; none are
            taken where there is no reference, or no label is looked at.
        official_splits: whether training and held-out samples are those of the data set's own publication.
        image_size: input resolution of networks of images in pixels; None means each network's own.
        batch_size: samples in one forward pass.
        seed: seed of the scoring, the resampling and of the randomly initialised encoders.
        resamples: how often the samples are resampled for the intervals; 0 leaves them out.
        confidence: share of the resamples inside an interval.
        method: how the bound on a reference is learned; None means the default of :func:`jaxrel.task_relatedness`.
        label_free: whether target labels are left alone, and augmented views of the training samples used instead.
        target_classes: number of target classes where labels are left alone; None estimates it.
        fine_tuning: how networks are fine-tuned for their accuracy; None means the default of
            :class:`jaxrel.training.FineTuning`.
        strict: whether the first sample or score that fails ends the work, in place of being named and left out.

    Raises:
        ValueError: a number is out of its range.
    """

    samples: int = 1000
    held_out: int = 400
    official_splits: bool = False
    image_size: int | None = None
    batch_size: int = 32
    seed: int = 0
    resamples: int = 1000
    confidence: float = 0.9
    method: Joint | None = None
    label_free: bool = False
    target_classes: int | None = None
    strict: bool = False
    fine_tuning: FineTuning | None = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        least = {
            "samples": 1,
            "held_out": 0,
            "batch_size": 1,
            "resamples": 2,
            "seed": 0,
            "image_size": 32,
            "target_classes": 2,
        }
        for name, limit in least.items():
            value = getattr(self, name)
            if value is not None and value < limit and (name, value) != ("resamples", 0):
                raise ValueError(f"{name} is {value}: pass an integer of at least {limit}.")
        if self.seed >= 2**32:
            raise ValueError(f"seed is {self.seed}: pass an integer below 2**32.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}: pass a number between 0 and 1, such as 0.9.")
        if self.target_classes is not None and not self.label_free:
            raise ValueError("target_classes is for targets without labels: set label_free, or leave it out.")

    def joint(self) -> Joint:
        """The method, with the default filled in."""
        from jaxrel.relatedness import Joint

        return self.method or Joint()

    def tuning(self) -> FineTuning:
        """How networks are fine-tuned, with the default filled in."""
        from jaxrel.training import FineTuning

        return self.fine_tuning or FineTuning()

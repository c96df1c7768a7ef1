"""The settings of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxrel.data.readers.text_columns import columns_of

if TYPE_CHECKING:
    from jaxrel.relatedness import Joint
    from jaxrel.training import FineTuning

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Settings by which the encoders of a study are compared; the same for all encoders.

    Args:
        samples: training samples used from each data set, or all if there are fewer. `transferability` is computed
            from those of the target.
        held_out: held-out samples used from each data set, on which the terms of the bound are evaluated; none are
            used without a reference or without labels.
        official_splits: whether to use the data set's published split into training and held-out samples.
        image_size: input resolution of networks of images in pixels; None means each network's own.
        prompt: prefix of each text, for text encoders of checkpoints: the name of one of their prompts, or a text.
            None means the default of each checkpoint.
        width: number of their features that are kept; None means all.
        batch_size: samples per forward pass.
        seed: seed of the scoring, the resampling and of the randomly initialised encoders.
        resamples: number of resamples for the intervals; 0 means no intervals.
        confidence: share of the resamples inside an interval.
        method: how the bound on a reference is learned; None means the default of :func:`jaxrel.task_relatedness`.
        label_free: whether to ignore target labels and use augmented views of the training samples instead.
        class_names: names of the target classes, or descriptions of each (by name, or in pairs): each target sample
            then gets the class whose name is nearest in the embedding of a teacher, and the labels of targets are
            ignored. Kept as pairs.
        teacher: the encoder that embeds samples and names: a text encoder, or "clip-image@CHECKPOINT". None means
            `jaxrel.study.named_classes.TEACHER` for texts; images have no default. It has its own image size, prompt
            and width.
        target_classes: number of target classes if labels are ignored; None estimates it.
        text_column, label_column: names of the columns of tables, if they are not the usual ones; several text columns
            are joined.
        pair: whether two text columns make pairs of texts, instead of being joined.
        regression: whether the labels of targets are regression targets; metrics of classes are not defined then.
        fine_tuning: settings of fine-tuning for accuracies; None means the default of
            :class:`jaxrel.training.FineTuning`.
        skip_broken: whether unreadable pictures and texts are left out; otherwise their data set fails.
        strict: whether the first failing data set or score ends the run, instead of being named and left out.

    Raises:
        ValueError: a number is out of range, fewer than two classes are named, or one is named twice, or pairs are not
            of two columns.
    """

    samples: int = 1000
    held_out: int = 400
    official_splits: bool = False
    image_size: int | None = None
    prompt: str | None = None
    width: int | None = None
    batch_size: int = 32
    seed: int = 0
    resamples: int = 1000
    confidence: float = 0.9
    method: Joint | None = None
    label_free: bool = False
    class_names: Mapping[str, Sequence[str]] | Sequence[str | tuple[str, Sequence[str]]] = ()
    teacher: str | None = None
    target_classes: int | None = None
    text_column: Sequence[str] = ()
    label_column: str | None = None
    pair: bool = False
    regression: bool = False
    skip_broken: bool = False
    strict: bool = False
    fine_tuning: FineTuning | None = None

    def __post_init__(self) -> None:
        """Raise for numbers out of range."""
        columns = columns_of(self.text_column, self.label_column, regression=self.regression, pair=self.pair)
        object.__setattr__(self, "text_column", columns.text)
        least = {
            "samples": 1,
            "held_out": 0,
            "batch_size": 1,
            "resamples": 2,
            "seed": 0,
            "image_size": 32,
            "width": 1,
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
        object.__setattr__(self, "class_names", _as_pairs(self.class_names))
        if self.class_names and self.label_free:
            raise ValueError("class_names assign labels to target samples, which label_free ignores: leave out one.")
        if self.teacher is not None and not self.class_names:
            raise ValueError(f"teacher is {self.teacher!r}, but there are no class_names: name the target classes.")
        if self.regression and (self.label_free or self.class_names):
            raise ValueError("regression is about numbers, label_free and class_names about classes: leave out one.")
        if self.target_classes is not None and not self.label_free:
            raise ValueError("target_classes is for targets without labels: set label_free, or leave it out.")

    @property
    def named_classes(self) -> dict[str, tuple[str, ...]]:
        """The descriptions of each named class."""
        return dict(self.class_names)  # type: ignore[arg-type]  # pairs by now

    def joint(self) -> Joint:
        """The method, with the default filled in."""
        from jaxrel.relatedness import Joint

        return self.method or Joint()

    def tuning(self) -> FineTuning:
        """The settings of fine-tuning, with the default filled in."""
        from jaxrel.training import FineTuning

        return self.fine_tuning or FineTuning()


def _as_pairs(
    names: Mapping[str, Sequence[str]] | Sequence[str | tuple[str, Sequence[str]]],
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each name with its descriptions.

    Raises:
        ValueError: there is only one name, a name is empty or passed twice, or an entry is not a name.
    """
    if isinstance(names, str):
        raise ValueError(f"class_names is the text {names!r}: pass a list of names, or descriptions by name.")
    pairs: list[tuple[str, tuple[str, ...]]] = []
    for entry in names.items() if isinstance(names, Mapping) else names:
        match entry:
            case str(name):
                pairs.append((name, ()))
            case (str(name), [*descriptions]) if all(isinstance(text, str) and text.strip() for text in descriptions):
                pairs.append((name, tuple(descriptions)))
            case _:
                raise ValueError(f"class_names has {entry!r}: pass a name, or a name and a list of descriptions.")
        if not name.strip():
            raise ValueError(f"class_names has the name {name!r}, which is empty: name every class.")
    if len({name for name, _ in pairs}) < len(pairs):
        twice = next(name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1)
        raise ValueError(f"class_names has {twice!r} twice: name each class once, with all of its descriptions.")
    if len(pairs) == 1:
        raise ValueError(f"class_names has {pairs[0][0]!r} as the only name: name at least two classes.")
    return tuple(pairs)

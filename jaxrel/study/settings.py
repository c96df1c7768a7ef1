"""How the encoders of a study are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxrel.data.readers.text_columns import as_names

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
        prompt: what is put before each text, of encoders of checkpoints: the name of a prompt of theirs, or a text.
            None means each one's own default.
        width: how many features of these are kept; None means all.
        batch_size: samples in one forward pass.
        seed: seed of the scoring, the resampling and of the randomly initialised encoders.
        resamples: how often the samples are resampled for the intervals; 0 leaves them out.
        confidence: share of the resamples inside an interval.
        method: how the bound on a reference is learned; None means the default of :func:`jaxrel.task_relatedness`.
        label_free: whether target labels are left alone, and augmented views of the training samples used instead.
        class_names: names of the target classes, or of each its descriptions (by name, or in pairs): the samples of a
            target then have the class whose name is nearest to them, as a teacher sees both, and the labels of targets
            are left alone. Kept as pairs.
        teacher: the encoder that sees samples and names: one of texts, or "clip-image@CHECKPOINT". None is
            `jaxrel.study.named_classes.TEACHER` for texts; images have none to take. It has an image size, prompt and
            width of its own.
        target_classes: number of target classes where labels are left alone; None estimates it.
        text_column, label_column: names of the columns of tables, where they are other than the usual ones; several of
            texts are joined.
        regression: whether the labels of targets are numbers to predict: metrics of classes are not defined then.
        fine_tuning: how networks are fine-tuned for their accuracy; None means the default of
            :class:`jaxrel.training.FineTuning`.
        skip_broken: whether pictures and texts that cannot be read are left out; otherwise their data set fails.
        strict: whether the first data set or score that fails ends the work, in place of being named and left out.

    Raises:
        ValueError: a number is out of range, or fewer than two classes are named, or one twice.
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
    regression: bool = False
    skip_broken: bool = False
    strict: bool = False
    fine_tuning: FineTuning | None = None

    def __post_init__(self) -> None:
        """Refuse numbers out of range."""
        object.__setattr__(self, "text_column", as_names(self.text_column))
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
            raise ValueError("class_names give target samples labels, which label_free leaves alone: leave out one.")
        if self.teacher is not None and not self.class_names:
            raise ValueError(f"teacher is {self.teacher!r}, but there are no class_names: name the target classes.")
        if self.regression and (self.label_free or self.class_names):
            raise ValueError("regression is about numbers, label_free and class_names about classes: leave out one.")
        if self.target_classes is not None and not self.label_free:
            raise ValueError("target_classes is for targets without labels: set label_free, or leave it out.")

    @property
    def named_classes(self) -> dict[str, tuple[str, ...]]:
        """The descriptions of each class that is named."""
        return dict(self.class_names)  # type: ignore[arg-type]  # pairs by now

    def joint(self) -> Joint:
        """The method, with the default filled in."""
        from jaxrel.relatedness import Joint

        return self.method or Joint()

    def tuning(self) -> FineTuning:
        """How networks are fine-tuned, with the default filled in."""
        from jaxrel.training import FineTuning

        return self.fine_tuning or FineTuning()


def _as_pairs(
    names: Mapping[str, Sequence[str]] | Sequence[str | tuple[str, Sequence[str]]],
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each name with its descriptions.

    Raises:
        ValueError: there is one name alone, or one is empty or given twice, or what is given is no name.
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
        raise ValueError(f"class_names has {pairs[0][0]!r} alone: name at least two classes.")
    return tuple(pairs)

"""What a ranking will compute: targets and their references, encoders and settings, validated before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxrel.storage.features import FeatureStore
from jaxrel.study.sources import Source, named_sources

if TYPE_CHECKING:
    from jaxrel.relatedness import Joint


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
        resamples: how often the samples are resampled for the intervals.
        confidence: share of the resamples inside an interval.
        method: how the bound on a reference is learned; None means the default of :func:`jaxrel.task_relatedness`.
        label_free: whether target labels are left alone, and augmented views of the training samples used instead.
        target_classes: number of target classes where labels are left alone; None estimates it.
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
            if value is not None and value < limit:
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


Pair = tuple[Source | None, Source]
"""A reference, or None, and a target."""


@dataclass(frozen=True)
class Plan:
    """Every pair of a reference, if there are any, and a target, to be scored under every encoder."""

    pairs: tuple[Pair, ...]
    encoders: tuple[str, ...]
    settings: Settings

    @property
    def rows(self) -> list[list[str | None]]:
        """Reference, target and encoder of every score."""
        return [
            [reference.name if reference else None, target.name, encoder]
            for reference, target in self.pairs
            for encoder in self.encoders
        ]


def make_plan(
    targets: Sequence[str | Source],
    encoder_names: Sequence[str],
    references: Sequence[str | Source] = (),
    *,
    settings: Settings,
    store: FeatureStore,
    data_paths: Mapping[str, Path] | None = None,
) -> Plan:
    """Every target with each reference that is another data set; every target alone where there is no reference.

    Args:
        targets: data sets by name, or anything that has features (see :class:`Source`).
        encoder_names: encoders by name.
        references: as the targets.
        settings: the settings of the ranking.
        store: where extracted features are kept.
        data_paths: by data set name, where the user has the data.

    Raises:
        ValueError: a name is unknown or given twice, features are missing, or the only reference of a target is itself.
    """
    for kind, names in (
        ("target", [_name(entry) for entry in targets]),
        ("reference", [_name(entry) for entry in references]),
        ("encoder", encoder_names),
    ):
        _check_distinct(names, kind, least=0 if kind == "reference" else 1)
    held_out = bool(references) and not settings.label_free
    if held_out and not settings.held_out:
        raise ValueError("held_out is 0: with references, pass at least 1 sample on which the bound is evaluated.")
    entries = [*references, *targets]
    named = named_sources(
        dict.fromkeys(entry for entry in entries if isinstance(entry, str)),
        settings=settings if held_out else dataclasses.replace(settings, held_out=0),
        store=store,
        data_paths=data_paths,
    )
    sources: dict[str, Source] = dict(named)
    for entry in entries:
        if not isinstance(entry, str) and sources.setdefault(entry.name, entry) is not entry:
            raise ValueError(f"two data sets are called {entry.name!r}: give them different names.")
    roles = {
        role: [sources[_name(entry)] for entry in part]
        for role, part in (("reference", references), ("target", targets))
    }
    for target in roles["target"]:
        if roles["reference"] == [target]:
            raise ValueError(
                f"{target.name!r} is not compared with itself: pass another reference for it, or none at all to rank "
                "without the terms of a reference."
            )
    for encoder in encoder_names:
        for source in sources.values():
            source.check(encoder, views=settings.label_free and source in roles["target"], held_out=held_out)
    pairs: list[Pair] = [(r, t) for r in roles["reference"] for t in roles["target"] if r is not t]
    return Plan(tuple(pairs or [(None, target) for target in roles["target"]]), tuple(encoder_names), settings)


def _name(entry: str | Source) -> str:
    return entry if isinstance(entry, str) else entry.name


def _check_distinct(names: Sequence[str], kind: str, *, least: int) -> None:
    if len(names) < least:
        raise ValueError(f"no {kind} is given: pass at least one.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{kind} given twice: {', '.join(twice)}; name each once.")

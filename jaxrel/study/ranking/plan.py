"""What a ranking will compute: targets and their references, encoders and settings, validated before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxrel.storage.features import FeatureStore
from jaxrel.study.settings import Settings
from jaxrel.study.sources import Source, named_sources

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

"""Features of named data sets, extracted by workers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Executor

from jaxrel.encoders.registry import split_layer
from jaxrel.study.engine import Part, run_parts
from jaxrel.study.sources import NamedSource, Progress, silent

__all__ = ["extract"]


def extract(
    executor: Executor, sources: Sequence[NamedSource], encoder_names: Sequence[str], progress: Progress
) -> None:
    """Let workers extract all features missing from the store, with one call for each network and data set."""
    # Requesting any layer of a network extracts all of them.
    encoder_names = list({split_layer(name)[0]: name for name in encoder_names}.values())
    total = len(sources) * len(encoder_names)
    parts = (
        Part(f"features of {source.name} under {name}", _extract_into_store, (source, name))
        for name in encoder_names
        for source in sources
    )
    with contextlib.closing(run_parts(executor, parts)) as results:
        for done, _ in enumerate(results, start=1):
            progress("extracting", done, total)


def _extract_into_store(source: NamedSource, encoder: str) -> None:
    # A failure occurs again when the features are requested, and is then reported for that encoder only.
    with contextlib.suppress(ValueError):
        source.features(encoder, silent)

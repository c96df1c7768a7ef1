"""Features of an encoder for the data sets of its units, computed once for each, and their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxrel._core.stopwatch import Stopwatch, stopwatch
from jaxrel.study.sources import Progress, Source, Split, Views

__all__ = ["Features"]


class _CountedProgress:
    """Progress that counts the samples of an extraction, without those that were already done at its start."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._spans: dict[str, tuple[int, int]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        first, _ = self._spans.get(what, (done, done))
        self._spans[what] = first, done
        self._progress(what, done, total)

    @property
    def samples(self) -> int:
        return sum(last - first for first, last in self._spans.values())


class Features:
    """The features of one encoder, kept for the units that share a data set, and the time they took."""

    def __init__(self, encoder: str, sources: Mapping[str, Source], progress: Progress) -> None:
        """Nothing is read yet."""
        self.sources = sources
        self.progress = progress
        self._encoder = encoder
        self._kept: dict[tuple[str, str], Any] = {}
        self._watches: dict[str, list[Stopwatch]] = {}
        self._extracted: dict[str, int] = {}
        self.spent = Stopwatch()
        """The total time so far."""

    def of(self, source: str) -> Split:
        """The tasks."""
        split: Split = self._get(source, self.sources[source].features)
        return split

    def views_of(self, source: str) -> Views:
        """Features of two augmented views of the training samples."""
        views: Views = self._get(source, self.sources[source].views)
        return views

    def inputs_of(self, source: str) -> tuple[Any, Any]:
        """The network inputs of the training and the held-out samples."""
        inputs: tuple[Any, Any] = self._get(source, self.sources[source].inputs)  # type: ignore[attr-defined]
        return inputs

    def views_if_any(self, source: str) -> Views | None:
        """None if this source has no views under this encoder."""
        try:
            self.sources[source].check(self._encoder, views=True, held_out=False)
        except ValueError:
            return None
        return self.views_of(source)

    def costs_of(self, source: str) -> dict[str, float]:
        """The total time of this source, and the number of its samples that were not in the store."""
        watches = self._watches.get(source, [])
        return {
            "extraction_seconds": sum(watch.seconds for watch in watches),
            "compilation_seconds": sum(watch.compilation_seconds for watch in watches),
            "extracted_samples": float(self._extracted.get(source, 0)),
        }

    def _get(self, source: str, get: Callable[[str, Progress], Any]) -> Any:
        key = source, get.__name__
        if key not in self._kept:
            counted = _CountedProgress(self.progress)
            with stopwatch() as watch:
                self._kept[key] = get(self._encoder, counted)
            self._watches.setdefault(source, []).append(watch)
            self.spent = Stopwatch(
                self.spent.seconds + watch.seconds, self.spent.compilation_seconds + watch.compilation_seconds
            )
            self._extracted[source] = self._extracted.get(source, 0) + counted.samples
        return self._kept[key]

"""A matrix of scores: what came of it, and what it took."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxrel._core.printable import printable
from jaxrel.metrics.registry import METRICS
from jaxrel.metrics.result import ScoreStatus
from jaxrel.study.matrix.picture import matrix_figure
from jaxrel.study.matrix.plan import MatrixPlan, needs_reference
from jaxrel.study.matrix.records import Entry
from jaxrel.study.tabular import Section, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Matrix", "Timings", "make_matrix"]

OK = "ok"
SAME = "the reference is the target"


@dataclass(frozen=True)
class Timings:
    """What this process did in one call; what was finished before is not in it.

    Attributes:
        num_scores: numbers that were computed, components of one counting once.
        num_compilations: programs compiled, or taken from a cache; more than planned where memory did not suffice.
        compile_seconds: what these took.
        first_result_seconds: from the start of scoring to the first batch on the disk; NaN where there was none.
        scoring_seconds: all else: reading rows, computing, writing.
        device_seconds: what of it devices took, copies to them included; in the rest they wait for the host.
    """

    num_scores: int
    num_compilations: int
    compile_seconds: float
    first_result_seconds: float
    scoring_seconds: float
    device_seconds: float

    @property
    def scores_per_second(self) -> float:
        """Throughput after compilation: pairs per second, of one metric and encoder; NaN where nothing was computed."""
        return self.num_scores / self.scoring_seconds if self.num_scores else float("nan")


@dataclass(frozen=True, repr=False)
class Matrix(Tabular):
    """Scores of encoders on pairs of data sets.

    Attributes:
        metrics: names in `jaxrel.metrics.METRICS`.
        references: names; one empty name where no reference was given.
        values: `(metric, encoder, reference, target)`. Metrics without a reference repeat along its axis; metrics with
            one are NaN where it is the target. NaN or infinite only where the status says why.
        status: of the same shape, "ok" or what is wrong with a value.
        timings: compilation, first result and throughput, apart.
    """

    metrics: tuple[str, ...]
    encoders: tuple[str, ...]
    references: tuple[str, ...]
    targets: tuple[str, ...]
    values: np.ndarray
    status: np.ndarray
    timings: Timings

    def __repr__(self) -> str:
        axes = (self.metrics, self.encoders, self.references, self.targets)
        counts = zip(map(len, axes), ("metrics", "encoders", "references", "targets"), strict=True)
        return f"Matrix({', '.join(f'{number} {what}' for number, what in counts)})"

    def records(self) -> list[dict[str, Any]]:
        """One for each score, in the order of the axes; no reference where the metric needs none."""
        return [
            {
                "metric": metric,
                "encoder": encoder,
                "reference": reference if needs_reference(metric) else None,
                "target": target,
                "value": None if np.isnan(self.values[m, e, r, t]) else float(self.values[m, e, r, t]),
                "status": str(self.status[m, e, r, t]),
            }
            for m, metric in enumerate(self.metrics)
            for e, encoder in enumerate(self.encoders)
            for r, reference in enumerate(self.references if needs_reference(metric) else self.references[:1])
            for t, target in enumerate(self.targets)
            if self.status[m, e, r, t] != SAME
        ]

    def sections(self) -> list[Section]:
        """For each metric and reference: a line for each encoder, a column for each target."""

        def cell(value: float, status: str) -> str:
            return "" if status == SAME else "failed" if np.isnan(value) else f"{value:.4g}"

        key, targets = "encoder / target", list(map(printable, self.targets))
        return [
            Section(
                title,
                [
                    {key: encoder, **dict(zip(targets, map(cell, *line), strict=True))}
                    for encoder, *line in zip(self.encoders, self.values[m, :, r], self.status[m, :, r], strict=True)
                ],
                key,
                names=(key,),
                texts=(key,),
            )
            for title, m, r in self._panels()
        ]

    def plot(self) -> Figure:
        """Values as colours, in a panel for each metric and reference; needs matplotlib.

        Returns:
            A figure, which `savefig` writes in any format.
        """
        return matrix_figure(
            self.encoders, self.targets, {title: self.values[m, :, r] for title, m, r in self._panels()}
        )

    def _panels(self) -> list[tuple[str, int, int]]:
        """For each metric and reference: what it is, and where."""
        return [
            (f"{metric}, from {self.references[r]}" if needs_reference(metric) else metric, m, r)
            for m, metric in enumerate(self.metrics)
            for r in range(len(self.references) if needs_reference(metric) else 1)
        ]


def make_matrix(plan: MatrixPlan, entries: Sequence[Entry], timings: Timings) -> Matrix:
    """All entries in their places, combined over encoders where scores depend on each other."""
    references = plan.references or ("",)
    shape = len(plan.metrics), len(plan.encoders), len(references), len(plan.targets)
    values, status = np.full(shape, np.nan), np.full(shape, SAME, object)
    places = [{name: place for place, name in enumerate(axis)} for axis in (plan.encoders, references, plan.targets)]
    by_metric = collections.defaultdict(list)
    for entry in entries:
        by_metric[entry.metric].append(entry)
    for number, metric in enumerate(plan.metrics):
        for entry, value, bits in _scores(metric, by_metric[metric]):
            encoder, target = places[0][entry.encoder], places[2][entry.target]
            reference = places[1][entry.reference] if needs_reference(metric) else slice(None)
            values[number, encoder, reference, target] = value
            status[number, encoder, reference, target] = entry.failure or _text(bits)
    return Matrix(plan.metrics, plan.encoders, references, plan.targets, values, status, timings)


def _scores(metric: str, entries: Sequence[Entry]) -> list[tuple[Entry, float, int]]:
    """Value and status of each entry."""
    definition = METRICS[metric]
    if definition.combine is None:
        return [(entry, entry.fields["value"], entry.status) for entry in entries]
    hubs = collections.defaultdict(list)
    for entry in entries:
        hubs[entry.reference, entry.target].append(entry)
    members = list(hubs.values())
    stacked = {
        name: np.asarray([[entry.fields[name] for entry in hub] for hub in members]) for name in members[0][0].fields
    }
    status = np.asarray([[entry.status for entry in hub] for hub in members], np.int32)
    combined = jax.jit(jax.vmap(definition.combine))(definition.result(**stacked, status=status))
    return [
        (entry, float(value), int(bits))
        for hub, *columns in zip(members, np.asarray(combined.value), np.asarray(combined.status), strict=True)
        for entry, value, bits in zip(hub, *columns, strict=True)
    ]


def _text(bits: int) -> str:
    return "; ".join(ScoreStatus.messages_of(bits)) or OK

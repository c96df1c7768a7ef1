"""Results of a study: records on its axes, as tables, pictures, files, a ranking, a matrix or a scoreboard."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

from jaxrel.encoders.registry import split_layer
from jaxrel.metrics.registry import METRICS
from jaxrel.metrics.result import ScoreStatus
from jaxrel.storage.records import from_json_number
from jaxrel.study.documents import (
    SCHEMA,
    Saved,
    as_text,
    file_at,
    origin_of,
    settings_as_data,
    settings_from_data,
    shown_paths,
    write_json,
)
from jaxrel.study.figures import Line, curve_figure, heat_figure, terms_figure
from jaxrel.study.plan import BOUND, OF_STUDIES, Plan
from jaxrel.study.records import OK, Record
from jaxrel.study.settings import Settings
from jaxrel.study.tabular import Section, Tabular

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AXES", "AXES_OF_FILE", "FILE", "Results", "Timings", "comparable"]

_CURVES = {
    "samples": "training samples of the target",
    "reference_classes": "classes of the reference",
    "layer": "layer of the encoder",
}
"""Axes of curves, with their labels."""
AXES = ("encoder", "reference", "target", "samples", "seed", "reference_classes")
SAME = "the reference is the target"
FILE = "study.json"
AXES_OF_FILE = ("metrics", "encoders", "references", "targets", "samples", "seeds", "reference_classes")


@dataclass(frozen=True)
class Timings:
    """The work of this process in one call, without numbers that were finished before.

    Attributes:
        num_scores: number of computed values; components of one value count once.
        num_compilations: batched programs that were compiled or loaded from a cache; more than planned if memory ran
            out.
        compile_seconds: time of these compilations.
        first_result_seconds: time from the start of scoring to the first batch on disk; NaN if there was none.
        scoring_seconds: remaining time: reading rows, computing, writing.
        device_seconds: share of it that devices spent on these programs, including copies to them.
    """

    num_scores: int = 0
    num_compilations: int = 0
    compile_seconds: float = 0.0
    first_result_seconds: float = math.nan
    scoring_seconds: float = 0.0
    device_seconds: float = 0.0

    @property
    def scores_per_second(self) -> float:
        """Throughput after compilation: pairs of metric and encoder per second; NaN if nothing was computed."""
        return self.num_scores / self.scoring_seconds if self.num_scores else float("nan")


@dataclass(frozen=True, repr=False)
class Results(Tabular, Saved, file=FILE, command="jaxrel study"):
    """Records on the axes of a study.

    Attributes:
        entries: a record for every unit of the plan; metrics that depend on the other encoders have their values.
        metrics, encoders, references, targets, samples, seeds, reference_classes: the axes.
        data_paths: paths of data sets that were read from files, by data set.
        timings: timings of the call that made the results.
    """

    entries: tuple[Record, ...]
    metrics: tuple[str, ...]
    encoders: tuple[str, ...]
    references: tuple[str, ...]
    targets: tuple[str, ...]
    samples: tuple[int | None, ...]
    seeds: tuple[int, ...]
    reference_classes: tuple[str, ...]
    settings: Settings
    data_paths: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    timings: Timings = dataclasses.field(default_factory=Timings, compare=False)

    @classmethod
    def of(cls, plan: Plan, records: Sequence[Record], timings: Timings) -> Self:
        """The records of a plan, in the order of the plan."""
        axes = {name: getattr(plan, name) for name in AXES_OF_FILE}
        return cls(tuple(_combined(records)), settings=plan.settings, timings=timings, **axes)

    def __repr__(self) -> str:
        counts = [(len(getattr(self, axis)), axis.replace("_", " ")) for axis in AXES_OF_FILE]
        told = [f"{number} {axis}" for number, axis in counts if number > 1 or axis in ("metrics", "encoders")]
        return f"Results({', '.join(told)})"

    @property
    def incomplete(self) -> tuple[Record, ...]:
        """The records with a missing or unreliable number; the status says why."""
        return tuple(record for record in self.entries if record.status != OK)

    def numbers(self, name: str) -> list[tuple[Record, float]]:
        """Every record with a number of this name, and the number; the name of a metric means its value.

        Raises:
            ValueError: there is none.
        """
        if name in self.metrics:
            return [(record, record.value) for record in self.entries if record.metric == name]
        found = [(record, record.numbers[name]) for record in self.entries if name in record.numbers]
        if not found:
            known = sorted({number for record in self.entries for number in record.numbers} - {"value"})
            raise ValueError(f"no record has {name!r}: there are {', '.join([*self.metrics, *known])}.")
        return found

    @property
    def values(self) -> np.ndarray:
        """`(metric, encoder, reference, target)` values, if nothing else is varied; see `status`.

        Metrics without a reference repeat along the reference axis, which has length 1 if there is no reference;
        metrics with a reference are NaN if it is the target.

        Raises:
            ValueError: samples, seeds or reference classes are varied: use `numbers` or `to_pandas`.
        """
        return self._array(float, math.nan, lambda record: record.value)

    @property
    def status(self) -> np.ndarray:
        """Array of the shape of `values`: "ok", or the problem with a value."""
        return self._array(object, SAME, lambda record: record.status)

    def _array(self, kind: type, empty: Any, of: Callable[[Record], Any]) -> np.ndarray:
        if max(len(self.samples), len(self.seeds), len(self.reference_classes)) > 1:
            raise ValueError("samples, seeds or reference classes are varied: use numbers() or to_pandas().")
        axes = self.metrics, self.encoders, self.references or (None,), self.targets
        array: np.ndarray = np.full(tuple(map(len, axes)), empty, kind)
        places = [{name: place for place, name in enumerate(axis)} for axis in axes]
        for record in self.entries:
            reference = slice(None) if record.reference is None else places[2][record.reference]
            place = places[0][record.metric], places[1][record.encoder], reference, places[3][record.target]
            array[place] = of(record)
        return array

    # As tables and files

    def records(self) -> list[dict[str, Any]]:
        """A flat record for each unit; a missing number is None."""
        names = list(dict.fromkeys(name for record in self.entries for name in record.numbers if name != "value"))
        return [
            {
                "metric": record.metric,
                **{axis: getattr(record, axis) for axis in AXES},
                "value": _shown(record.value),
                "status": record.status,
                **{name: _shown(record.numbers.get(name, math.nan)) for name in names},
            }
            for record in self.entries
        ]

    def sections(self) -> list[Section]:
        """One table per metric, with a column for each target and a row for every combination of the other axes; means
        over seeds."""
        return [self._section(metric) for metric in self.metrics]

    def _section(self, metric: str) -> Section:
        entries = [record for record in self.entries if record.metric == metric]
        varied = [axis for axis in AXES if axis not in ("target", "seed", "encoder") and self._varies(axis, entries)]
        cells: dict[tuple[Any, ...], dict[str, list[Record]]] = {}
        for record in entries:
            place = record.encoder, *(getattr(record, axis) for axis in varied)
            cells.setdefault(place, {}).setdefault(record.target, []).append(record)
        axes = [self._axis(axis) for axis in ("encoder", *varied)]
        order = sorted(cells, key=lambda place: [axis.index(part) for axis, part in zip(axes, place, strict=True)])
        headings = ["encoder", *(axis.replace("_", " ") for axis in varied)]
        rows = [
            dict(zip(headings, map(_text, place), strict=True))
            | {target: _cell(cells[place].get(target, [])) for target in self.targets}
            for place in order
        ]
        complaints = [
            f"{record.encoder} on {record.tasks}: {record.status}" for record in entries if record.status != OK
        ]
        notes = [f"means and standard deviations over {len(self.seeds)} seeds"] if len(self.seeds) > 1 else []
        texts = ("encoder", "reference", "reference classes")
        return Section(metric, rows, notes=notes, complaints=complaints, names=("encoder", "reference"), texts=texts)

    def _axis(self, axis: str) -> list[Any]:
        """The positions on an axis of the records, in order."""
        if axis == "reference":
            return [None, *self.references]
        return list(getattr(self, axis if axis in ("samples", "reference_classes") else f"{axis}s"))

    def _varies(self, axis: str, entries: Iterable[Record]) -> bool:
        return len({getattr(record, axis) for record in entries}) > 1

    def save(
        self, path: Path | str, *, data_paths: Mapping[str, Path] | None = None, command: Sequence[str] = ()
    ) -> None:
        """Write everything to a file.

        Args:
            path: the file, which is replaced, or a folder for `study.json`.
            data_paths: by data set name, where the user has the data.
            command: the arguments of the command line that made it, if any.

        Raises:
            OSError: it cannot be written.
        """
        axes = {name: getattr(self, name) for name in AXES_OF_FILE}
        entries = [{field.name: getattr(r, field.name) for field in dataclasses.fields(r)} for r in self.entries]
        told = {"settings": settings_as_data(self.settings), "data_paths": shown_paths(data_paths or {})}
        document = {"schema": SCHEMA, **origin_of(command), **told, **axes}
        write_json(file_at(path, FILE), document | {"entries": entries})

    @classmethod
    def _of_document(cls, document: Mapping[str, Any]) -> Self:
        entries = tuple(map(_record, document["entries"]))
        axes: dict[str, Any] = {name: tuple(document[name]) for name in AXES_OF_FILE}
        if not entries:
            raise ValueError("it has no record")
        paths = {as_text(name): as_text(path) for name, path in document["data_paths"].items()}
        return cls(entries, settings=settings_from_data(document["settings"]), data_paths=paths, **axes)

    # As pictures

    def plot(self, *, x: str | None = None, y: str | None = None) -> Figure:
        """The default picture for the axes; needs matplotlib.

        A curve over `x`, if that is "samples", "reference_classes" or "layer" (the default if x is None and one of
        them is varied); otherwise the terms of the bound, if any; otherwise a heat map.

        Args:
            x: the axis of a curve.
            y: the name of a metric, or of any other number of its records; None means the first metric, or the bound
                if reference classes are varied.

        Returns:
            A figure, which `savefig` writes in any format.
        """
        if x is None:
            x = next((axis for axis in ("samples", "reference_classes") if self._varies(axis, self.entries)), None)
            if x is None and len({split_layer(encoder)[1] for encoder in self.encoders}) > 1:
                x = "layer"
        if x is not None:
            return self.plot_curves(x, y or (BOUND if x == "reference_classes" and BOUND in self.metrics else None))
        if y is None and any(record.metric == BOUND and record.status == OK for record in self.entries):
            return self.plot_terms()
        return self.plot_heat_map(y=y)

    def plot_curves(self, x: str, y: str | None = None) -> Figure:
        """`y` against an axis: one panel per target, with means over seeds and their range.

        Raises:
            ValueError: `x` is not such an axis, or there is no number `y`.
        """
        if x not in _CURVES:
            raise ValueError(f"x is {x!r}: pass one of {', '.join(_CURVES)}.")
        y = y or self.metrics[0]
        others = [axis for axis in ("encoder", "reference", "samples", "reference_classes") if axis != x]
        found = self.numbers(y)
        varied = [axis for axis in others if self._varies(axis, [record for record, _ in found])] or ["encoder"]
        panels: dict[str, dict[str, dict[float, list[float]]]] = {}
        places = [self._place(record, x) for record, _ in found]
        # If the number of classes is unknown, the choices are evenly spaced.
        side_by_side = x == "reference_classes" and any(map(math.isnan, places))
        if side_by_side:
            places = [float(self.reference_classes.index(record.reference_classes)) for record, _ in found]
        for (record, value), place in zip(found, places, strict=True):
            if not (math.isfinite(place) and math.isfinite(value)):
                continue
            told = dataclasses.replace(record, encoder=split_layer(record.encoder)[0]) if x == "layer" else record
            line = ", ".join(_text(getattr(told, axis)) for axis in varied)
            lines = panels.setdefault(record.target, {})
            lines.setdefault(line, {}).setdefault(place, []).append(value)
        drawn = {
            target: [
                Line(name, sorted(points), [points[place] for place in sorted(points)])
                for name, points in lines.items()
            ]
            for target, lines in panels.items()
        }
        names = dict(enumerate(self.reference_classes)) if side_by_side else {}
        return curve_figure(drawn, _CURVES[x], y.replace("_", " "), names)

    def _place(self, record: Record, x: str) -> float:
        """The position of a record on an axis; NaN if unknown."""
        if x == "samples":
            return math.nan if record.samples is None else float(record.samples)
        if x == "layer":
            layer = split_layer(record.encoder)[1]
            return math.nan if layer is None else float(layer)
        _, colon, count = record.reference_classes.partition(":")
        return float(count) if colon else record.numbers.get("num_reference_classes", math.nan)

    def plot_heat_map(self, rows: str = "encoder", columns: str = "target", y: str | None = None) -> Figure:
        """Heat maps of means over the remaining axes: one panel per metric, or one for the number `y`.

        Args:
            rows, columns: two of "encoder", "reference", "target", "samples", "seed" and "reference_classes".
            y: as in `plot`; None means every metric.

        Raises:
            ValueError: the axis or number is unknown.
        """
        for axis in (rows, columns):
            if axis not in AXES:
                raise ValueError(f"{axis!r} is not an axis: there are {', '.join(AXES)}.")
        found = {name: self.numbers(name) for name in (self.metrics if y is None else [y])}
        records = [record for numbers in found.values() for record, _ in numbers]
        lines, across = (
            [place for place in self._axis(axis) if place in {getattr(record, axis) for record in records}]
            for axis in (rows, columns)
        )
        panels = {}
        for name, numbers in found.items():
            cells: dict[tuple[Any, Any], list[float]] = {}
            for record, value in numbers:
                cells.setdefault((getattr(record, rows), getattr(record, columns)), []).append(value)
            panels[name] = np.array([[_mean(cells.get((one, other), [])) for other in across] for one in lines])
        return heat_figure(list(map(_text, lines)), list(map(_text, across)), panels, (rows, columns))

    def plot_terms(self) -> Figure:
        """A bar of the three terms of the bound for each unit, with the target loss of the transformed head.

        Raises:
            ValueError: there is no bound.
        """
        records = [record for record in self.entries if record.metric == BOUND and record.status == OK]
        if not records:
            raise ValueError("no record has the terms of a bound: pass references.")
        others = [axis for axis in AXES if axis not in ("reference", "target") and self._varies(axis, records)]
        pairs = ["tasks"] if len({record.tasks for record in records}) > 1 or not others else []
        names = [", ".join(_text(getattr(record, axis)) for axis in (*pairs, *others)) for record in records]
        return terms_figure(names, [record.numbers for record in records])


def comparable(settings: Settings) -> dict[str, Any]:
    """Settings as data, without those that are axes."""
    return {name: value for name, value in settings_as_data(settings).items() if name not in ("samples", "seed")}


def _record(data: Mapping[str, Any]) -> Record:
    fields = {field.name: data[field.name] for field in dataclasses.fields(Record) if field.name != "classes"}
    for name in ("metric", "encoder", "target", "status"):
        as_text(fields[name])
    fields["numbers"] = {name: from_json_number(value) for name, value in data["numbers"].items()}
    fields["resamples"] = tuple(map(from_json_number, data["resamples"]))
    fields["classes"] = tuple(data.get("classes", ()))  # absent from earlier files
    return Record(**fields)


def _combined(records: Sequence[Record]) -> list[Record]:
    """Replace components that depend on the other encoders by their values among these encoders."""
    hubs = collections.defaultdict(list)
    for place, record in enumerate(records):
        definition = METRICS.get(record.metric) if record.metric not in OF_STUDIES else None
        if definition is not None and definition.combine is not None:
            names = [field.name for field in dataclasses.fields(definition.result) if field.name != "status"]
            hubs[record.metric, record.tasks, record.samples, record.seed, record.reference_classes].append(
                (place, [record.numbers.get(name, math.nan) for name in names])
            )
    found = list(records)
    for (metric, *_), members in hubs.items():
        definition = METRICS[metric]
        names = [field.name for field in dataclasses.fields(definition.result) if field.name != "status"]
        columns = np.asarray([numbers for _, numbers in members]).T
        bits = np.asarray([records[place].bits for place, _ in members], np.int32)
        stacked = dict(zip(names, jax.numpy.asarray(columns), strict=True))
        assert definition.combine is not None  # noqa: S101 (for the type checker)
        score = definition.combine(definition.result(**stacked, status=jax.numpy.asarray(bits)))
        for (place, _), value, bit in zip(members, np.asarray(score.value), np.asarray(score.status), strict=True):
            record = records[place]
            told = "; ".join(ScoreStatus.messages_of(int(bit))) or OK
            found[place] = dataclasses.replace(
                record,
                status=told if record.status == OK or record.bits else record.status,
                bits=int(bit),
                numbers=dict(record.numbers) | {"value": float(value)},
            )
    return found


def _shown(value: float) -> float | None:
    return None if math.isnan(value) else value


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _cell(records: Sequence[Record]) -> str:
    """A value, or the mean and the standard deviation of several."""
    values = [record.value for record in records if math.isfinite(record.value)]
    if not records:
        return ""
    if len(values) < len(records):
        infinite = [record.value for record in records if not math.isnan(record.value)]
        return "failed" if not infinite else f"{np.mean(infinite):.4g}"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{np.mean(values):.4g} ± {np.std(values, ddof=1):.2g}"

"""A study and its plan, which is checked before any work; nothing is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel._core.suggestions import suggestion
from jaxrel.encoders import Encoder
from jaxrel.encoders.registry import is_known
from jaxrel.metrics.registry import METRICS
from jaxrel.storage.assets import cache_dir
from jaxrel.storage.features import FeatureStore
from jaxrel.study.draws import ALL_CLASSES, DrawnSamples, KeptClasses, ReferenceClasses
from jaxrel.study.encoder_arrays import Hub
from jaxrel.study.named_classes import default_teacher, named_classes
from jaxrel.study.settings import Settings
from jaxrel.study.sources import Source, encoder_options, has_inputs, named_sources, restricted_to

if TYPE_CHECKING:
    from jaxrel.study.scoring.buckets import Bucket

__all__ = [
    "BOUND",
    "FINE_TUNED_ACCURACY",
    "OF_NUMBERS",
    "OF_STUDIES",
    "PROBE_ACCURACY",
    "TRAINED",
    "TRANSFERABILITY",
    "Plan",
    "Study",
    "Unit",
    "feature_store",
    "name_of",
    "needed_by",
    "needs_reference",
]

BOUND, TRANSFERABILITY = "bound", "transferability"
PROBE_ACCURACY, FINE_TUNED_ACCURACY = "probe_accuracy", "fine_tuned_accuracy"
TRAINED = (PROBE_ACCURACY, FINE_TUNED_ACCURACY)
"""Accuracies after training, which scores predict."""
OF_STUDIES = (BOUND, *TRAINED)
"""Metrics that are not in `METRICS`; each is evaluated on held-out samples."""
OF_NUMBERS = ("ridge_regression", "logme_regression")
"""Metrics of regression targets; encoders are ranked by the first."""
_VIEWS = {"first_view", "second_view"}
_OF_DATA_SETS = {"features", "labels", "reference_features", "reference_labels", *_VIEWS}


def feature_store() -> FeatureStore:
    """The store of extracted features that all studies of this user share."""
    return FeatureStore(cache_dir() / "features")


def needs_reference(metric: str) -> bool:
    """Whether a metric compares the target with a reference task."""
    return metric == BOUND or any(need.startswith("reference_") for need in _needs(metric))


@dataclass(frozen=True)
class Unit:
    """One number of a study, or its components; the fields are those of its :class:`Record`.

    Attributes:
        target_source, reference_source: names of the plan's sources of the samples.
        key: hash of everything the number depends on, once known.
        bucket: the bucket of its shape, if it is computed in batches and the shape is known.
    """

    metric: str
    encoder: str
    reference: str | None
    target: str
    samples: int | None
    seed: int
    reference_classes: str
    target_source: str
    reference_source: str | None
    key: str = ""
    bucket: Bucket | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of the samples, the target last."""
        return tuple(filter(None, (self.reference_source, self.target_source)))


def needed_by(units: Sequence[Unit], sources: Mapping[str, Source]) -> dict[str, Source]:
    """The parts of the sources that a worker needs for these units."""
    encoders: dict[str, set[str]] = {}
    for unit in units:
        for name in unit.sources:
            encoders.setdefault(name, set()).add(unit.encoder)
    return {name: restricted_to(names, sources[name]) for name, names in encoders.items()}


@dataclass(frozen=True)
class Plan:
    """Every unit of a study.

    Attributes:
        units: in the order of the axes, metric by metric.
        sources: sources by name, including draws of samples and choices of classes.
        metrics, encoders, references, targets, samples, seeds, reference_classes: the axes.
    """

    units: tuple[Unit, ...]
    sources: Mapping[str, Source]
    metrics: tuple[str, ...]
    encoders: tuple[str, ...]
    references: tuple[str, ...]
    targets: tuple[str, ...]
    samples: tuple[int | None, ...]
    seeds: tuple[int, ...]
    reference_classes: tuple[str, ...]
    settings: Settings

    def of_encoders(self, encoders: Sequence[str]) -> Plan:
        """The part of these encoders."""
        units = tuple(unit for unit in self.units if unit.encoder in encoders)
        return dataclasses.replace(self, units=units, encoders=tuple(encoders))

    @property
    def pairs(self) -> list[tuple[str | None, str]]:
        """Every target with each other data set among the references; without references, every target alone."""
        pairs: list[tuple[str | None, str]] = [(r, t) for r in self.references for t in self.targets if r != t]
        return pairs or [(None, target) for target in self.targets]


@dataclass(frozen=True)
class Study:
    """Encoders x references x targets x metrics, and further axes.

        study = Study(["pixels", "mobilenet-v2"], ["digits"], ["mnist"], samples=[50, 100, 300], seeds=[0, 1, 2])
        results = run(study.plan(), output="results")
        results.plot(x="samples", y="transferability")

    A data set is a name that :mod:`jaxrel.data` knows, or anything that has features (:class:`Source`).

    Args:
        encoders: names, where `NAME:random` is the same network with random weights, and encoders of your own, such as
            :func:`jaxrel.encoders.from_function` makes, which keep their names and image size.
        targets: data sets to transfer to.
        references: data sets to compare targets with; no data set is compared with itself.
        metrics: names in `jaxrel.metrics.METRICS`; "bound", the bound of :func:`jaxrel.task_relatedness` with its
            terms; "probe_accuracy" and "fine_tuned_accuracy", accuracies on held-out samples after training on the
            others. "transferability" has an interval unless the settings have no resamples. None means
            "transferability", and with references also the bound.
        samples: numbers of training samples to draw from each target, with each of the seeds; draws are nested and
            keep the shares of the classes. The largest replaces the number in the settings, also for references.
            Without numbers, nothing is drawn.
        seeds: seeds of draws, scoring and resamples, instead of the seed in the settings.
        layers: layers of every encoder, instead of its last; see :func:`jaxrel.encoders.load`. Layer 3 of NAME is the
            encoder
            `NAME#3`, the name under which your own arrays must provide its features.
        reference_classes: classes of the references to keep: "all"; "nearest:3", "learned:3" or "random:3" (see
            :func:`jaxrel.relatedness.select_reference_classes`); or comma-separated names.
        settings: how encoders are compared.
        data_paths: by data set name, where you have the data.
        store: store of extracted features; None means the user's store.
    """

    encoders: Sequence[str | Encoder]
    targets: Sequence[str | Source]
    references: Sequence[str | Source] = ()
    metrics: Sequence[str] | None = None
    samples: Sequence[int] = ()
    seeds: Sequence[int] = ()
    layers: Sequence[int] = ()
    reference_classes: Sequence[str] = ("all",)
    settings: Settings = field(default_factory=Settings)
    data_paths: Mapping[str, Path] = field(default_factory=dict)
    store: FeatureStore | None = None

    def plan(self) -> Plan:
        """List every unit of the study; nothing is loaded.

        Raises:
            ValueError: a name is unknown or passed twice; features, views, held-out samples or other inputs of a
                metric are missing; a number is out of range; or the only reference of a target is the target itself.
        """
        self._check_names()
        metrics = self._checked_metrics()
        self._check_axes()
        settings = dataclasses.replace(self.settings, samples=max(self.samples, default=self.settings.samples))
        held_out = any(metric in OF_STUDIES for metric in metrics) and not settings.label_free
        if held_out and not settings.held_out:
            raise ValueError(
                "held_out is 0: with references, pass at least 1 sample on which the bound is evaluated; "
                "likewise for accuracies after training."
            )
        taken = settings if held_out else dataclasses.replace(settings, held_out=0)
        sources = self._sources(taken)
        references, targets = ([name_of(entry) for entry in role] for role in (self.references, self.targets))
        if settings.class_names:
            settings = dataclasses.replace(settings, teacher=settings.teacher or default_teacher(self._encoder_names))
        own = dataclasses.replace(taken, image_size=None, prompt=None, width=None)  # options of loading a teacher
        seen = sources if encoder_options(taken) == encoder_options(own) else self._sources(own)
        named = {target: _named(target, settings, sources, seen) for target in targets}
        views = settings.label_free or any(_VIEWS & set(_needs(metric)) for metric in metrics)
        encoders = self._planned_encoders
        if FINE_TUNED_ACCURACY in metrics and (bare := [name for name in targets if not has_inputs(sources[name])]):
            raise ValueError(
                f"{', '.join(bare)}: there are only features and no network to tune: leave out the metric."
            )
        for encoder in encoders:
            for name, source in sources.items():
                source.check(encoder, views=views and name in targets, held_out=held_out)
        units = [
            unit
            for metric in metrics
            for encoder in encoders
            for target in targets
            for reference in (references if references and needs_reference(metric) else [None])
            if reference != target
            for unit in self._units(metric, encoder, reference, target, named[target], sources)
        ]
        return Plan(
            tuple(units),
            sources,
            metrics,
            tuple(encoders),
            tuple(references),
            tuple(targets),
            tuple(self.samples) or (None,),
            self._seeds,
            tuple(self.reference_classes),
            settings,
        )

    @property
    def _encoder_names(self) -> list[str]:
        return [name_of(entry) for entry in self.encoders]

    @property
    def _planned_encoders(self) -> list[str]:
        names = self._encoder_names
        return [f"{name}#{layer}" for name in names for layer in self.layers] or names

    @property
    def _own_encoders(self) -> dict[str, Encoder]:
        return {entry.name: entry for entry in self.encoders if isinstance(entry, Encoder)}

    @property
    def _seeds(self) -> tuple[int, ...]:
        return tuple(self.seeds) or (self.settings.seed,)

    def _units(
        self, metric: str, encoder: str, reference: str | None, target: str, labelled: str, sources: dict[str, Source]
    ) -> list[Unit]:
        """The units along the other axes, adding the parts of data sets to the sources."""
        units = []
        for samples in self.samples or (None,):
            for seed in self._seeds:
                target_source = self._drawn(labelled, samples, seed, sources)
                for text in self.reference_classes if reference else ("all",):
                    reference_source = reference and _kept(reference, target_source, text, seed, sources)
                    units.append(
                        Unit(metric, encoder, reference, target, samples, seed, text, target_source, reference_source)
                    )
        return units

    def _drawn(self, target: str, samples: int | None, seed: int, sources: dict[str, Source]) -> str:
        if samples is None:
            return target
        name = f"{target}, {samples} samples of seed {seed}"
        looked_at = not self.settings.label_free
        sources.setdefault(name, DrawnSamples(sources[target], samples, seed, looked_at))
        return name

    def _check_names(self) -> None:
        for kind, names in (("encoder", self.encoders), ("target", self.targets), ("reference", self.references)):
            if isinstance(names, str):
                raise ValueError(f"{kind}s are {names!r}: pass a list, such as [{names!r}].")
        for name in self._own_encoders:
            if is_known(name):
                raise ValueError(
                    f"an encoder of your own is called {name!r}, which is the name of another, or of a checkpoint: "
                    "pass the name itself, or dataclasses.replace(encoder, name=...)."
                )
            if self.layers:
                raise ValueError(f"{name!r} is an encoder of your own, whose layers are not known: leave out layers.")
        found: dict[str, str | Source] = {}
        for entry in (*self.references, *self.targets):
            if not name_of(entry).strip():
                raise ValueError("the name of a data set is empty: pass a name or a path.")
            known = found.setdefault(name_of(entry), entry)
            if known is not entry and not (isinstance(known, str) and known == entry):
                raise ValueError(f"two data sets are called {name_of(entry)!r}: give them different names.")

    def _checked_metrics(self) -> tuple[str, ...]:
        hubs = [entry for entry in self.targets if isinstance(entry, Hub)]
        given = _OF_DATA_SETS | ({"targets"} if self.settings.regression else set())
        if self.settings.regression and (self.references or self.samples):
            raise ValueError("references and drawn samples are for classes: leave them out with regression.")
        metrics = self.metrics
        if metrics is None and self.settings.regression:
            metrics = OF_NUMBERS
        elif metrics is None:
            metrics = (TRANSFERABILITY, BOUND) if self.references else (TRANSFERABILITY,)
        for name in metrics:
            if name not in METRICS and name not in OF_STUDIES:
                known = (*METRICS, *OF_STUDIES)
                raise ValueError(f"unknown metric {name!r}{suggestion(name, known)}: there are {', '.join(known)}.")
            if self.settings.regression and (name == BOUND or {"labels", "reference_labels"} & set(_needs(name))):
                raise ValueError(
                    f"{name} is about classes and not defined for regression targets; for these there are "
                    f"{', '.join(OF_NUMBERS)}."
                )
            for hub in hubs:
                hub.check_needs(name, _needs(name))
            if not hubs and (missing := [need for need in _needs(name) if need not in given]):
                raise ValueError(
                    f"{name} needs {', '.join(missing)}, which data sets do not have: leave it out, or call "
                    "jaxrel.metrics.score_encoders with these arrays."
                )
            if self.settings.class_names and name in TRAINED:
                raise ValueError(f"{name} uses the target's own labels, which class_names replace: leave out one.")
            if self.settings.label_free and "labels" in _needs(name) and name != TRANSFERABILITY:
                raise ValueError(f"{name} needs labels, which label_free ignores: leave out one.")
        compared = not hubs and any(map(needs_reference, metrics))
        for kind, names, least in (
            ("metric", list(metrics), 1),
            ("encoder", self._encoder_names, 1),
            ("target", [name_of(entry) for entry in self.targets], 1),
            ("reference", [name_of(entry) for entry in self.references], int(compared)),
        ):
            _check_distinct(kind, names, least)
        for target in map(name_of, self.targets):
            if compared and [target] == [name_of(entry) for entry in self.references]:
                raise ValueError(
                    f"{target!r} is not compared with itself: pass another reference for it, or none at all to rank "
                    "without the terms of a reference."
                )
        return tuple(metrics)

    def _check_axes(self) -> None:
        for axis, values, least in (("samples", self.samples, 1), ("seeds", self.seeds, 0), ("layers", self.layers, 0)):
            for value in values:
                if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**32:
                    raise ValueError(f"{axis} has {value!r}: pass integers of at least {least}, below 2**32.")
            _check_distinct(f"number in {axis}", list(map(str, values)), 0)
        _check_distinct("choice of reference classes", list(self.reference_classes), 1)
        for text in self.reference_classes:
            rule = ReferenceClasses.parsed(text).rule
            if self.settings.label_free and rule in ("nearest", "learned"):
                raise ValueError(f"reference classes {text!r} use target labels: pass all, random:N or names.")

    def _sources(self, settings: Settings) -> dict[str, Source]:
        """The data sets by name."""
        entries = [*self.references, *self.targets]
        sources = named_sources(
            dict.fromkeys(entry for entry in entries if isinstance(entry, str)),
            settings=settings,
            store=self.store or feature_store(),
            data_paths=self.data_paths,
            own_encoders=self._own_encoders,
            encoder_names=self._planned_encoders,
        )
        return sources | {entry.name: entry for entry in entries if not isinstance(entry, str)}


def _named(target: str, settings: Settings, sources: dict[str, Source], seen: Mapping[str, Source]) -> str:
    """The target, labelled by a teacher if classes are named."""
    if not settings.class_names:
        return target
    if isinstance(sources[target], Hub):
        raise ValueError(f"class_names need samples for the teacher, but {target!r} has only arrays.")
    assert settings.teacher is not None  # noqa: S101 (filled in before)
    name = f"{target}, {len(settings.class_names)} class names by {settings.teacher}"
    sources[name] = named_classes(
        sources[target], settings.named_classes, settings.teacher, seed=settings.seed, seen=seen[target]
    )
    return name


def _kept(reference: str, target_source: str, text: str, seed: int, sources: dict[str, Source]) -> str:
    classes = ReferenceClasses.parsed(text)
    if classes == ALL_CLASSES:
        return reference
    beside = f" to {target_source}" if classes.rule in ("nearest", "learned") else ""
    name = f"{reference}, classes {text} of seed {seed}{beside}"
    sources.setdefault(name, KeptClasses(sources[reference], sources[target_source], classes, seed))
    return name


def _needs(metric: str) -> tuple[str, ...]:
    if metric in TRAINED:
        return ("features", "labels")
    return () if metric == BOUND else METRICS[metric].needs


def name_of(entry: str | Source | Encoder | Any) -> str:
    """The name of a data set or an encoder, which may be its name already."""
    name: str = entry if isinstance(entry, str) else entry.name
    return name


def _check_distinct(kind: str, names: Sequence[str], least: int) -> None:
    if len(names) < least:
        raise ValueError(f"no {kind} was passed: pass at least one.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{kind} given twice: {', '.join(twice)}; name each once.")

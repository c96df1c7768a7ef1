"""What a ranking will compute: targets and their references, encoders and settings, validated before any work."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from jaxrel import data, encoders
from jaxrel._core.arrays import to_array
from jaxrel.storage.features import FeatureStore

if TYPE_CHECKING:
    from jaxrel.encoders import Encoder
    from jaxrel.relatedness import Joint
    from jaxrel.task import Task

Progress = Callable[[str, int, int], None]
"""Told `(what, done, total)` as work goes on."""


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


Views = tuple[np.ndarray, np.ndarray]
"""Features of two augmented views of the same samples."""


class Split(NamedTuple):
    """The tasks of one data set under one encoder; the bound is learned on `train` and evaluated on `held_out`."""

    train: Task
    held_out: Task | None


class Source(Protocol):
    """Anything that has features: what a ranking needs of a data set."""

    @property
    def name(self) -> str:
        """How tables and files call it."""

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:
        """Raise ValueError where this encoder's features, views or held-out task are missing; cheap, called first."""

    def fingerprint(self, encoder: str) -> str:
        """What the features are determined by: equal fingerprints mean equal features."""

    def features(self, encoder: str, progress: Progress) -> Split:
        """The features of the training and of the held-out samples, where there are any of the latter."""

    def views(self, encoder: str, progress: Progress) -> Views:
        """Features of two augmented views of the training samples; asked for where targets have no labels."""


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


def _split(given: Task | tuple[Task, Task | None]) -> Split:
    """The tasks as given, with equal numbers for the classes of one name."""
    train, held_out = given if isinstance(given, tuple) else (given, None)
    if held_out is not None and train.labels is not None and held_out.labels is not None:
        held_out = held_out.with_classes_of(train)
    return Split(train, held_out)


class FeatureArrays:
    """A data set whose features are there already."""

    def __init__(
        self,
        name: str,
        tasks: Mapping[str, Task | tuple[Task, Task | None]],
        *,
        views: Mapping[str, Views] | None = None,
    ) -> None:
        """Name the data set.

        Args:
            name: how tables and files call it.
            tasks: by encoder name, the task that is ranked by; with references and labels, a tuple of that and the task
                that the bound is evaluated on.
            views: by encoder name, features of two augmented views of the samples of the first task.
        """
        self.name = name
        self._splits = {encoder: _split(given) for encoder, given in tasks.items()}
        self._views = {
            encoder: (np.asarray(to_array("views[0]", first)), np.asarray(to_array("views[1]", second)))
            for encoder, (first, second) in (views or {}).items()
        }

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:
        """Raise ValueError where there are no features of this encoder, no views, or no held-out task."""
        for kind, known in (("features", self._splits), *((("views", self._views),) if views else ())):
            if encoder not in known:
                raise ValueError(f"{self.name!r} has no {kind} of encoder {encoder!r}: it has {_listed(known)}.")
        if held_out and self._splits[encoder].held_out is None:
            raise ValueError(
                f"{self.name!r} has no held-out task of encoder {encoder!r}, on which a bound is evaluated: pass "
                "(task, held_out_task)."
            )

    def fingerprint(self, encoder: str) -> str:
        """Hash of the arrays of both tasks."""
        digest = hashlib.sha256(encoder.encode())
        for task in filter(None, self._splits[encoder]):
            for leaf in (task.features, task.labels, task.weights):
                if leaf is None:
                    continue
                array = np.ascontiguousarray(leaf)
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(array.tobytes())
            digest.update(str(task.num_classes).encode())
        for view in self._views.get(encoder, ()):
            digest.update(np.ascontiguousarray(view).tobytes())
        return digest.hexdigest()

    def features(self, encoder: str, progress: Progress) -> Split:  # noqa: ARG002 - nothing takes time here
        """The tasks as given."""
        return self._splits[encoder]

    def views(self, encoder: str, progress: Progress) -> Views:  # noqa: ARG002 - nothing takes time here
        """The views as given."""
        return self._views[encoder]


class NamedSource:
    """A data set of :mod:`jaxrel.data`, seen through an encoder of :mod:`jaxrel.encoders`."""

    def __init__(
        self,
        name: str,
        *,
        settings: Settings,
        store: FeatureStore,
        load_encoder: Callable[[str], Encoder],
        path: Path | None = None,
    ) -> None:
        """Name the data set; nothing is loaded yet.

        Args:
            name: the data set.
            settings: sample counts and batch size; without held-out samples all may be training samples.
            store: where extracted features are kept.
            load_encoder: gives an encoder by its name.
            path: where the user has the data; None means the data set's own providers.
        """
        self.name = name
        self._settings = settings
        self._store = store
        self._load_encoder = load_encoder
        self._path = path

        self.skipped = 0
        """How many files of this data set could not be read and were left out, once it is loaded."""
        self._load = remembered(self._load_parts)

    def _load_parts(self, name: str) -> list[data.LabelledData]:
        train, held_out = data.load_splits(
            name,
            path=self._path,
            train_limit=self._settings.samples,
            test_limit=self._settings.held_out,
            official=self._settings.official_splits,
            strict=self._settings.strict,
        )
        self.skipped = len(train.skipped)
        return [train] if held_out is None else [train, held_out]

    @property
    def _parts(self) -> list[data.LabelledData]:
        return self._load(self.name)

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:  # noqa: ARG002 - there are views of all
        """Raise ValueError where there is no such encoder, or it is known to encode another kind of samples."""
        encoded = encoders.modality(encoder)
        if self.name in data.names() and (given := data.describe(self.name).modality) != encoded:
            raise ValueError(f"{encoder!r} encodes {encoded}, {self.name!r} has {given}: pass an encoder of {given}.")

    def encoder(self, name: str) -> Encoder:
        """The encoder of this name, loaded."""
        return self._load_encoder(name)

    def fingerprint(self, encoder: str) -> str:
        """Those of the samples and of the encoder; the last bits depend on the batch size."""
        samples = [part.fingerprint for part in self._parts]
        return "/".join([*samples, self._load_encoder(encoder).fingerprint, str(self._settings.batch_size)])

    def features(self, encoder: str, progress: Progress) -> Split:
        """The features of both splits, extracted where the store does not hold them."""
        from jaxrel.task import Task

        def task(part: data.LabelledData) -> Task:
            features = self._extract(encoder, part, part.split, progress)
            return Task(features, part.labels, num_classes=part.num_classes, class_names=part.class_names)

        train, *held_out = map(task, self._parts)
        return Split(train, held_out[0] if held_out else None)

    def views(self, encoder: str, progress: Progress) -> Views:
        """The features of two augmented views of the training samples, extracted where the store lacks them."""
        train = self._parts[0]
        views = [encoders.VIEWS[train.modality](number, seed=self._settings.seed) for number in range(2)]
        first, second = (
            self._extract(encoder, train, f"view {number}", progress, view=view)
            for number, view in enumerate(views, start=1)
        )
        return first, second

    def _extract(
        self,
        encoder: str,
        part: data.LabelledData,
        what: str,
        progress: Progress,
        *,
        view: encoders.View | None = None,
    ) -> np.ndarray:
        features = encoders.extract_features(
            self._load_encoder(encoder),
            part.samples,
            batch_size=self._settings.batch_size,
            progress=functools.partial(progress, f"{encoder}: {self.name} ({what})"),
            store=self._store,
            view=view,
            data_fingerprint=part.fingerprint,
            provenance={"data": part.name, "split": part.split, "provider": part.provider},
        )
        return np.asarray(features)


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


def named_sources(
    names: Iterable[str],
    *,
    settings: Settings,
    store: FeatureStore,
    data_paths: Mapping[str, Path] | None = None,
) -> dict[str, Source]:
    """Data sets of :mod:`jaxrel.data` by name; nothing is loaded yet.

    Raises:
        ValueError: a name is unknown, or a path is given for another data set or does not exist.
    """
    names, paths = list(names), dict(data_paths or {})
    if any(not name.strip() for name in names):
        raise ValueError("the name of a data set is empty: pass a name or a path.")
    for name, path in paths.items():
        if not path.exists():
            raise ValueError(f"the path given for {name!r}, {path}, does not exist.")
    load_encoder = remembered(functools.partial(encoders.load, seed=settings.seed, image_size=settings.image_size))
    sources: dict[str, Source] = {}
    for name in names:
        data.check_name(name, path=paths.get(name))
        sources[name] = NamedSource(
            name, settings=settings, store=store, load_encoder=load_encoder, path=paths.pop(name, None)
        )
    if paths:
        raise ValueError(
            f"a path is given for {_listed(paths)}, which is neither reference nor target: name one of "
            f"{_listed(sources)}."
        )
    return sources


T = TypeVar("T")


def remembered(load: Callable[[str], T]) -> Callable[[str], T]:
    """`load`, which does not load again what it was asked for last; nor does what failed fail slowly again."""

    @functools.lru_cache(maxsize=1)
    def outcome(name: str) -> T | Exception:
        try:
            return load(name)
        except Exception as error:
            return error

    def last(name: str) -> T:
        found = outcome(name)
        if isinstance(found, Exception):
            raise found
        return found

    return last


def _name(entry: str | Source) -> str:
    return entry if isinstance(entry, str) else entry.name


def _listed(names: object) -> str:
    return ", ".join(map(str, names)) or "none"  # type: ignore[call-overload]


def _check_distinct(names: Sequence[str], kind: str, *, least: int) -> None:
    if len(names) < least:
        raise ValueError(f"no {kind} is given: pass at least one.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{kind} given twice: {_listed(twice)}; name each once.")

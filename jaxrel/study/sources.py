"""Data sets of a study under encoders: the user's features, or named sets whose features are extracted."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from jaxrel import data, encoders
from jaxrel._core.arrays import to_array
from jaxrel.data.readers.paths import files_of
from jaxrel.encoders.checkpoints.files import CheckpointError
from jaxrel.encoders.registry import split_layer
from jaxrel.encoders.samples import as_samples
from jaxrel.storage.features import FeatureStore, Table
from jaxrel.storage.fingerprints import remembered
from jaxrel.study.remembered import Remembered

if TYPE_CHECKING:
    from jaxrel.encoders import Encoder
    from jaxrel.study.settings import Settings
    from jaxrel.task import Task

Progress = Callable[[str, int, int], None]
"""Called with `(what, done, total)` as work goes on."""


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


Views = tuple[np.ndarray, np.ndarray]
"""Features of two augmented views of the same samples."""


class Split(NamedTuple):
    """The tasks of one data set under one encoder; the bound is learned on `train` and evaluated on `held_out`."""

    train: Task
    held_out: Task | None


class Source(Protocol):
    """The interface of a data set: anything that provides features."""

    @property
    def name(self) -> str:
        """Its name in tables and files."""

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:
        """Raise ValueError if this encoder's features, views or held-out task are missing; cheap, and called first."""

    def fingerprint(self, encoder: str) -> str:
        """A fingerprint of the features: equal fingerprints mean equal features."""

    def features(self, encoder: str, progress: Progress) -> Split:
        """The features of the training samples and of the held-out samples, if any."""

    def views(self, encoder: str, progress: Progress) -> Views:
        """Features of two augmented views of the training samples; needed for targets without labels."""


def _split(given: Task | tuple[Task, Task | None]) -> Split:
    """The tasks, with equal class indices for equal class names."""
    train, held_out = given if isinstance(given, tuple) else (given, None)
    if held_out is not None and train.labels is not None and held_out.labels is not None:
        held_out = held_out.with_classes_of(train)
    return Split(train, held_out)


def restricted_to(encoder_names: Collection[str], source: Source) -> Source:
    """The part of a data set that a worker needs for these encoders: all of it, unless it defines `restricted_to`."""
    own: Callable[[Collection[str]], Source] | None = getattr(source, "restricted_to", None)
    return source if own is None else own(encoder_names)


def has_inputs(source: Source) -> bool:
    """Whether a data set provides network inputs, and not only features."""
    return hasattr(source, "inputs")


def samples_fingerprint(source: Source, task: Task) -> str:
    """A hash of the samples of a source: of their content if available, otherwise of the labels that are used."""
    own: Callable[[Task], str] | None = getattr(source, "samples_fingerprint", None)
    if own is not None:
        return own(task)
    labels = b"" if task.labels is None else np.asarray(task.labels).tobytes()
    return hashlib.sha256(f"{task.num_samples} ".encode() + labels).hexdigest()


def target_labels(source: Source) -> str:
    """The source of the labels of a target: "given" with its samples, unless it defines another."""
    own: str = getattr(source, "target_labels", "given")
    return own


def targets_of(source: Source) -> np.ndarray:
    """The regression targets of the training samples; ValueError if a source has none."""
    own: np.ndarray | None = getattr(source, "targets", None)
    if own is None:
        raise ValueError(
            f"{source.name!r} has no regression targets: pass the name of a data set with regression=True, or "
            f"pass arrays with "
            "`targets` to jaxrel.study.score."
        )
    return own


class FeatureArrays:
    """A data set with existing features, in memory or in a feature store.

    table = FeatureStore(folder).table({"data": "mine", "encoder": "my-net"}, shape=(50_000, 512), shard_size=1024)
    mine = FeatureArrays("mine", {"my-net": Task(table, labels), "other-net": Task(features, labels)})
    """

    def __init__(
        self,
        name: str,
        tasks: Mapping[str, Task | tuple[Task, Task | None]],
        *,
        views: Mapping[str, Views] | None = None,
    ) -> None:
        """Create the data set.

        Args:
            name: its name in tables and files.
            tasks: the task for ranking, by encoder name; with references and labels, a tuple of that task and the task
                on which the bound is evaluated.
            views: features of two augmented views of the samples of the first task, by encoder name.
        """
        self.name = name
        self._splits = {encoder: _split(given) for encoder, given in tasks.items()}
        self._views = {
            encoder: (np.asarray(to_array("views[0]", first)), np.asarray(to_array("views[1]", second)))
            for encoder, (first, second) in (views or {}).items()
        }

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:
        """Raise ValueError if there are no features of this encoder, no views, or no held-out task."""
        for kind, known in (("features", self._splits), *((("views", self._views),) if views else ())):
            if encoder not in known:
                raise ValueError(f"{self.name!r} has no {kind} of encoder {encoder!r}: it has {_listed(known)}.")
        if held_out and self._splits[encoder].held_out is None:
            raise ValueError(
                f"{self.name!r} has no held-out task of encoder {encoder!r}, on which a bound is evaluated: pass "
                "(task, held_out_task)."
            )

    def fingerprint(self, encoder: str) -> str:
        """A hash of both tasks and of the views."""
        digest = hashlib.sha256(encoder.encode())
        for task in filter(None, self._splits[encoder]):
            digest.update(task.fingerprint().encode())
        for view in self._views.get(encoder, ()):
            digest.update(np.ascontiguousarray(view).tobytes())
        return digest.hexdigest()

    def features(self, encoder: str, progress: Progress) -> Split:  # noqa: ARG002 - nothing takes time here
        """The tasks as passed."""
        return self._splits[encoder]

    def views(self, encoder: str, progress: Progress) -> Views:  # noqa: ARG002 - nothing takes time here
        """The views as passed."""
        return self._views[encoder]

    def restricted_to(self, names: Collection[str]) -> FeatureArrays:
        """The same data set with the features of these encoders only."""
        kept = copy.copy(self)
        kept._splits = {name: split for name, split in self._splits.items() if name in names}
        kept._views = {name: views for name, views in self._views.items() if name in names}
        return kept


class NamedSource:
    """A data set of :mod:`jaxrel.data` under encoders of :mod:`jaxrel.encoders`."""

    def __init__(
        self,
        name: str,
        *,
        settings: Settings,
        store: FeatureStore,
        load_encoder: Callable[[str], Encoder],
        own_encoders: Mapping[str, Encoder] | None = None,
        encoder_names: Collection[str] = (),
        path: Path | None = None,
    ) -> None:
        """Describe the data set; nothing is loaded yet.

        Args:
            name: the data set.
            settings: sample counts and batch size; without held-out samples all may be training samples.
            store: store of extracted features.
            load_encoder: returns an encoder by its name.
            own_encoders: the user's own encoders by name, which are not loaded.
            encoder_names: encoders whose features will be requested; layers of one network are extracted together.
            path: path of the user's copy; None means the data set's own providers.
        """
        self.name = name
        self._settings = settings
        self._store = store
        self._load_encoder = load_encoder
        self._own_encoders = own_encoders or {}
        self._encoder_names = encoder_names
        self._path = path

        self.skipped: Sequence[tuple[str, str]] = ()
        """The unreadable samples of this data set that were left out, with reasons, once it is loaded."""
        self._load = Remembered(self._load_parts)

    def _load_parts(self, name: str) -> list[data.LabelledData]:
        train, held_out = data.load_splits(
            name,
            path=self._path,
            train_limit=self._settings.samples,
            test_limit=self._settings.held_out,
            official=self._settings.official_splits,
            skip_broken=self._settings.skip_broken,
            text_column=self._settings.text_column,
            label_column=self._settings.label_column,
            regression=self._settings.regression,
            pair=self._settings.pair,
        )
        self.skipped = train.skipped
        return [train] if held_out is None else [train, held_out]

    @property
    def parts(self) -> list[data.LabelledData]:
        """The training samples and the held-out samples, if any; loaded on first use."""
        return self._load(self.name)

    @property
    def loaded_parts(self) -> list[data.LabelledData]:
        """The samples in memory; none if all requested features were in the store."""
        return self._load.kept(self.name) or []

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:  # noqa: ARG002 - there are views of all
        """Raise ValueError if there is no such encoder, or it is known to encode another modality."""
        encoded = self.modality(encoder)
        if encoded and self.name in data.names() and (given := data.describe(self.name).modality) != encoded:
            raise ValueError(f"{encoder!r} encodes {encoded}, {self.name!r} has {given}: pass an encoder of {given}.")

    def modality(self, encoder: str) -> data.Modality | None:
        """What this encoder encodes; None where only loading it tells."""
        if encoder in self._own_encoders:
            return self._own_encoders[encoder].modality
        try:
            return encoders.modality(encoder)
        except CheckpointError:
            return None  # reported when this encoder is loaded, without affecting others

    def encoder(self, name: str) -> Encoder:
        """The encoder of this name, either the user's own or loaded."""
        return self._own_encoders.get(name) or self._load_encoder(name)

    def fingerprint(self, encoder: str) -> str:
        """The fingerprints of the samples and the encoder, and the batch size, which affects the last bits.

        Neither is loaded if its files are unchanged since an earlier run.
        """
        settings = self._settings
        state = None
        if encoder not in self._own_encoders:
            state = encoders.source_state(encoder, **encoder_options(settings))
        encoded = remembered(state, lambda: self.encoder(encoder).fingerprint)
        return "/".join([*self._sample_fingerprints, encoded, str(settings.batch_size)])

    def samples_fingerprint(self, task: Task) -> str:  # noqa: ARG002 - their content tells
        """A hash of the samples, independent of the encoder."""
        return hashlib.sha256("/".join(self._sample_fingerprints).encode()).hexdigest()

    @functools.cached_property
    def _sample_fingerprints(self) -> list[str]:
        state = data.source_state(self.name, path=self._path)
        settings = self._settings
        options: list[Any] = [settings.samples, settings.held_out, settings.official_splits, settings.skip_broken]
        options += [list(settings.text_column), settings.label_column, settings.regression, settings.pair]

        def told() -> list[Any]:
            return [[part.fingerprint for part in self.parts], self.skipped]

        fingerprints, self.skipped = remembered(None if state is None else [*state, *options], told)
        return list(fingerprints)

    def features(self, encoder: str, progress: Progress) -> Split:
        """The features of both splits, extracted if the store does not have them."""
        from jaxrel.task import Task

        def task(part: data.LabelledData) -> Task:
            features = self._extract(encoder, part, part.split, progress)
            # There are no classes if no sample has a label.
            return Task(
                features, part.labels, num_classes=part.num_classes or None, class_names=part.class_names or None
            )

        train, *held_out = map(task, self.parts)
        return Split(train, held_out[0] if held_out else None)

    @property
    def targets(self) -> np.ndarray | None:
        """The regression targets of the training samples, if there are no classes."""
        return self.parts[0].targets

    def views(self, encoder: str, progress: Progress) -> Views:
        """The features of two augmented views of the training samples, extracted if the store does not have them."""
        train = self.parts[0]
        views = [encoders.VIEWS[train.modality](number, seed=self._settings.seed) for number in range(2)]
        first, second = (
            np.asarray(self._extract(encoder, train, f"view {number}", progress, view=view))
            for number, view in enumerate(views, start=1)
        )
        return first, second

    def inputs(self, encoder: str, progress: Progress) -> tuple[Any, Any]:  # noqa: ARG002 - nothing is computed
        """The network inputs of the training and the held-out samples, in memory."""
        prepare = self.encoder(encoder).prepare
        train, held_out = (prepare(as_samples(part.samples[:])) for part in self.parts)
        return train, held_out

    def restricted_to(self, names: Collection[str]) -> NamedSource:
        """The same data set, restricted to the features of these encoders."""
        kept = copy.copy(self)
        kept._encoder_names = [name for name in self._encoder_names if name in names]
        return kept

    def _layers_beside(self, encoder: str) -> list[int]:
        """The requested layers of the same network, if this encoder is a layer."""
        network, layer = split_layer(encoder)
        if layer is None or encoder in self._own_encoders:
            return []
        asked = (split_layer(name) for name in self._encoder_names)
        layers = [number for name, number in asked if name == network and number is not None]
        return [number for number in layers if self._has(f"{network}#{number}")] if len(layers) > 1 else layers

    def _has(self, encoder: str) -> bool:
        try:
            self.encoder(encoder)
        except ValueError:
            return False
        return True

    def _extract(
        self,
        encoder: str,
        part: data.LabelledData,
        what: str,
        progress: Progress,
        *,
        view: encoders.View | None = None,
    ) -> np.ndarray | Table:
        def options(name: str) -> dict[str, Any]:
            return {
                "batch_size": self._settings.batch_size,
                "progress": functools.partial(progress, f"{name}: {self.name} ({what})"),
                "store": self._store,
                "view": view,
                "data_fingerprint": part.fingerprint,
                "provenance": {"data": part.name, "split": part.split, "provider": part.provider},
            }

        if len(layers := self._layers_beside(encoder)) > 1:
            network, _ = split_layer(encoder)
            # Errors of a layer are reported when its own features are requested.
            with contextlib.suppress(ValueError):
                encoders.extract_layers(self.encoder(network), layers, part.samples, **options(network))
        features = encoders.extract_features(self.encoder(encoder), part.samples, **options(encoder))
        return features if isinstance(part, data.StreamedImages) else np.asarray(features)


def encoder_options(settings: Settings) -> dict[str, Any]:
    """The options of loading encoders, besides their names."""
    return {name: getattr(settings, name) for name in ("seed", "image_size", "prompt", "width")}


def named_sources(
    names: Iterable[str],
    *,
    settings: Settings,
    store: FeatureStore,
    data_paths: Mapping[str, Path] | None = None,
    own_encoders: Mapping[str, Encoder] | None = None,
    encoder_names: Collection[str] = (),
) -> dict[str, Source]:
    """Data sets of :mod:`jaxrel.data` by name, for named encoders and the user's own; nothing is loaded yet.

    Layers of one network that are among the `encoder_names` are extracted together.

    Raises:
        ValueError: a name is unknown, or a path is passed for another data set or does not exist.
    """
    names, paths = list(names), dict(data_paths or {})
    for name, path in paths.items():
        if absent := [file for file in files_of(path) if not file.exists()]:
            raise ValueError(f"the path given for {name!r}, {absent[0]}, does not exist.")
    load = Remembered(functools.partial(encoders.load, **encoder_options(settings)))
    load_encoder = functools.partial(_of_layer, load)
    sources: dict[str, Source] = {}
    for name in names:
        data.check_name(name, path=paths.get(name))
        sources[name] = NamedSource(
            name,
            settings=settings,
            store=store,
            load_encoder=load_encoder,
            own_encoders=own_encoders,
            encoder_names=encoder_names,
            path=paths.pop(name, None),
        )
    if paths:
        raise ValueError(
            f"a path was passed for {_listed(paths)}, which is neither reference nor target: name one of "
            f"{_listed(sources)}."
        )
    return sources


def _of_layer(load: Callable[[str], Encoder], name: str) -> Encoder:
    """The encoder of this name; its network is loaded once for all of its layers."""
    network, layer = split_layer(name)
    if layer is None:
        return load(name)
    layers = load(network).layers
    return load(name) if layers is None else layers.at(layer)


def _listed(names: object) -> str:
    return ", ".join(map(str, names)) or "none"  # type: ignore[call-overload]

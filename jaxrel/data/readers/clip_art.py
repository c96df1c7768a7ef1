"""Drawings of the Open Clip Art Library."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxrel.data.readers.pictures import read_pictures
from jaxrel.data.readers.samples import Samples

__all__ = ["CLIP_ART_FOLDERS", "CLIP_ART_SIDE", "LARGEST_CLIP_ART", "read_clip_art"]

CLIP_ART_FOLDERS = (
    "animals",
    "buildings",
    "computer",
    "food",
    "geography",
    "people",
    "plants",
    "recreation",
    "tools",
    "transportation",
)
"""The topics with 70 drawings or more whose classes differ in what is drawn."""

CLIP_ART_SIDE = 96
LARGEST_CLIP_ART = 300_000
"""Files of at least this many bytes are left out; one of the larger files has 623 million pixels."""


def read_clip_art(folder: Path) -> Samples:
    """Read the drawings of ten topics, at any depth, each put on a white square and resized to 96 pixels.

    Files of 300 kB and more are left out.

    Raises:
        FileNotFoundError: the folder, or that of a topic within, does not exist.
        ValueError: no file can be read.
    """
    files, labels = [], []
    for label, topic in enumerate(CLIP_ART_FOLDERS):
        if not (folder / topic).is_dir():
            raise FileNotFoundError(f"{folder / topic} does not exist")
        of_topic = [file for file in sorted((folder / topic).rglob("*.png")) if file.stat().st_size < LARGEST_CLIP_ART]
        files += of_topic
        labels += [label] * len(of_topic)
    pixels, kept, skipped = read_pictures(files, side=CLIP_ART_SIDE, fit="pad")
    return Samples(pixels, np.array(labels, dtype=np.int32)[kept], skipped=skipped)

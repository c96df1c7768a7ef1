"""Readers of labelled images and texts, one module per format.

Each returns samples and labels as they are stored; they are checked by :mod:`jaxrel.data.loading`.
"""

from __future__ import annotations

from jaxrel.data.readers.arrays import read_csv, read_idx, read_idx_folder, read_npz, read_numpy_pickle
from jaxrel.data.readers.clip_art import read_clip_art
from jaxrel.data.readers.folders import read_class_folders
from jaxrel.data.readers.hugging_face import read_hub, read_saved
from jaxrel.data.readers.paths import read_path
from jaxrel.data.readers.pictures import read_pictures
from jaxrel.data.readers.rated_sentences import read_rated_sentences
from jaxrel.data.readers.samples import AbsentError, ClassSamples, Samples
from jaxrel.data.readers.tables import read_orange_tables, read_table
from jaxrel.data.readers.tensorflow_datasets import read_tfds
from jaxrel.data.readers.wordnet import read_noun_definitions

__all__ = [
    "AbsentError",
    "ClassSamples",
    "Samples",
    "read_class_folders",
    "read_clip_art",
    "read_csv",
    "read_hub",
    "read_idx",
    "read_idx_folder",
    "read_noun_definitions",
    "read_npz",
    "read_numpy_pickle",
    "read_orange_tables",
    "read_path",
    "read_pictures",
    "read_rated_sentences",
    "read_saved",
    "read_table",
    "read_tfds",
]

"""Labelled images and texts: known sets, the user's files and data set hubs, all split by one rule.

:func:`load` gives one split of a data set by name or path, :func:`load_splits` both, as :class:`ImageData` or
:class:`TextData`. The known sets are in :mod:`jaxrel.data.catalogue`, file formats and hubs in
:mod:`jaxrel.data.readers`, the rule of the split in :mod:`jaxrel.data.splitting`. These sets are
held in memory; :func:`stream` opens pictures that are not.
"""

from __future__ import annotations

from jaxrel._core.text_samples import Word
from jaxrel.data.catalogue import DataSet
from jaxrel.data.images import ImageData
from jaxrel.data.labelled import LabelledData, Modality, Split
from jaxrel.data.loading import DataError, check_name, describe, is_path, load, load_splits, names, source_state
from jaxrel.data.streaming import StreamedImages, stream
from jaxrel.data.texts import TextData

__all__ = [
    "DataError",
    "DataSet",
    "ImageData",
    "LabelledData",
    "Modality",
    "Split",
    "StreamedImages",
    "TextData",
    "Word",
    "check_name",
    "describe",
    "is_path",
    "load",
    "load_splits",
    "names",
    "source_state",
    "stream",
]

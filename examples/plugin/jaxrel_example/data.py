"""A data set that is computed: noisy stripes, to be told apart by their direction."""

from __future__ import annotations

import numpy as np

from jaxrel.data import DataSet
from jaxrel.data.readers import Samples

_SAMPLES, _SIDE = 600, 16


def _read() -> Samples:
    rng = np.random.default_rng(0)
    labels = np.arange(_SAMPLES) % 3
    rows, columns = np.mgrid[:_SIDE, :_SIDE]
    along = np.stack([rows, columns, rows + columns])[labels] + rng.integers(0, 4, (_SAMPLES, 1, 1))
    images = np.where(along % 4 < 2, 60, 190) + rng.integers(-60, 61, (_SAMPLES, _SIDE, _SIDE))
    return Samples(images.astype(np.uint8), labels)


STRIPES = DataSet(
    name="stripes",
    content="noisy stripes of three directions",
    class_names=("horizontal", "vertical", "diagonal"),
    fingerprints={_SAMPLES: None},
    licence="none needed",
    image_shape=(_SIDE, _SIDE, 1),
    read_asset=_read,
)

"""Labelled image sets: a registry, providers tried in order, and one split rule for all."""

from __future__ import annotations

from jaxrel.data.catalogue import DataSet
from jaxrel.data.images import ImageData
from jaxrel.data.loading import DataError, describe, load, names

__all__ = ["DataError", "DataSet", "ImageData", "describe", "load", "names"]

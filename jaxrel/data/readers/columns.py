"""Which columns of a hub's data set are the samples and the labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

__all__ = ["ColumnKind", "choose_splits", "find_columns"]

ColumnKind: TypeAlias = Literal["image", "text", "label", "other"]


def find_columns(
    kinds: Mapping[str, ColumnKind], *, preferred: tuple[str, str] | None = None
) -> tuple[str, Literal["image", "text"], str]:
    """Name and kind of the column of samples, and name of that of labels.

    Args:
        kinds: what each column holds; a label is one of named classes.
        preferred: columns of samples and labels that the set names itself, used where their kinds fit.

    Raises:
        ValueError: there is no column of labels, or of images or texts, or there are several of which none is named
            by `preferred` (of texts: none called "text").
    """
    samples = {name: kind for name, kind in kinds.items() if kind in ("image", "text")}
    labels = [name for name, kind in kinds.items() if kind == "label"]
    if preferred is not None and preferred[0] in samples and preferred[1] in labels:
        samples, labels = {preferred[0]: samples[preferred[0]]}, [preferred[1]]
    if len(samples) > 1 and "image" not in samples.values() and "text" in samples:
        samples = {"text": "text"}
    columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "none"
    for what, found in (("labels of named classes", labels), ("images or texts", list(samples))):
        if len(found) != 1:
            number = "no column" if not found else f"{len(found)} columns ({', '.join(found)})"
            raise ValueError(f"there is {number} of {what}, wanted one: the columns are {columns}")
    ((sample, kind),) = samples.items()
    return sample, "image" if kind == "image" else "text", labels[0]


def choose_splits(names: Collection[str]) -> list[str]:
    """The source's own splits that together make the set: train, validation and test; all where none is there."""
    return [name for name in ("train", "validation", "test") if name in names] or sorted(names)

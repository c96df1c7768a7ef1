"""The classes of each target that its best encoder confuses most, with thumbnails of confused samples."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrel._core.checks import checked_key
from jaxrel._core.memory_budget import limit_of
from jaxrel._core.size_classes import in_size_class
from jaxrel.metrics.held_out_discriminant import held_out_predictions, whole_bytes
from jaxrel.study.draws import DrawnSamples, KeptClasses, underlying
from jaxrel.study.page.content import Part
from jaxrel.study.sources import NamedSource, Source
from jaxrel.task import Task

__all__ = ["Confusion", "TargetConfusions", "confusions_of", "most_confused"]

# At most 8 * 4 * 4 thumbnails of 1 to 8 kB.
_MOST_TARGETS, _MOST_PAIRS, _MOST_SAMPLES = 8, 4, 4
_SIDE = 72  # pixels

_NO_LABELS = "The labels of the target were not used, and without labels no class is confused with another."
_NO_SOURCE = (
    "The page was made without the data set, so confused samples are unknown: the pages of jaxrel rank and jaxrel "
    "study show them."
)


class Confusion(NamedTuple):
    """Samples of one class that are predicted as another one.

    Attributes:
        actual: name of their class.
        predicted: name of the class that is predicted for them.
        share: how often a sample of the class is predicted so, from 0 to 1.
        rows: samples that are, those that are most often first.
        pictures: thumbnails of these samples as data URIs; none if there are none.
    """

    actual: str
    predicted: str
    share: float
    rows: Sequence[int]
    pictures: Sequence[str] = ()


class TargetConfusions(NamedTuple):
    """The most confused classes of a target under one encoder, and what there is to say about them."""

    target: str
    encoder: str
    pairs: Sequence[Confusion] = ()
    note: str = ""


def confusions_of(parts: Iterable[Part], sources: Iterable[Source]) -> list[TargetConfusions]:
    """The most confused classes of each target under its best encoder; a note says what is missing, and why.

    Args:
        parts: results, with the best encoder of each target.
        sources: the data sets of the results. Features are read from the store, and never extracted.
    """
    # Of a target with class names, the source that has their labels comes last.
    known = {source.name: source for source in sources if not isinstance(source, DrawnSamples | KeptClasses)}
    best = {target: (encoder, part) for part in parts for target, encoder in part.best.items()}
    found = [
        _of_target(target, encoder, part, known.get(target))
        for target, (encoder, part) in list(best.items())[:_MOST_TARGETS]
    ]
    if len(best) > len(found):
        *found, last = found
        left_out = f"{len(best) - _MOST_TARGETS} more targets are left out, to keep the page small."
        found.append(last._replace(note=f"{last.note} {left_out}".strip()))
    return found


def most_confused(task: Task, *, key: int) -> list[Confusion]:
    """The pairs of classes confused most often by the discriminants of :func:`jaxrel.transferability_score`.

    Args:
        task: a task with labels of some or all samples. Samples without a label, and the only sample of a class, have
            no part in it.
        key: that of the score.

    Raises:
        ValueError: the task is stored and does not fit into 2 GiB.
    """
    limit = limit_of(None, in_memory=task.in_memory)
    if limit is not None and whole_bytes(task) > limit:
        raise ValueError(f"its {task.num_samples:,} samples do not fit into {limit:,} bytes")
    padded = in_size_class(task.of_labelled().loaded())
    classes, num_classes = padded.labelled
    found = held_out_predictions(padded.features, classes, padded.weights, checked_key(key), num_classes=num_classes)
    predictions, labels, weights = map(np.asarray, (found, classes, padded.weights))
    sizes = np.bincount(labels[weights > 0], minlength=num_classes)
    wrong = (predictions != labels) & (weights > 0) & (sizes[labels] > 1)
    codes = np.where(wrong, labels * num_classes + predictions, -1)
    pairs, places = np.unique(codes[wrong], return_inverse=True)
    mass = np.bincount(places, np.broadcast_to(weights, wrong.shape)[wrong])
    actual, predicted = np.divmod(pairs, num_classes)
    shares = mass / (len(predictions) * np.bincount(labels, weights, minlength=num_classes)[actual])
    names = list(map(str, task.class_names or range(num_classes)))
    return [
        Confusion(names[actual[pair]], names[predicted[pair]], float(shares[pair]), _rows(codes == pairs[pair]))
        for pair in np.argsort(-shares, kind="stable")[:_MOST_PAIRS]
    ]


def _rows(confused: np.ndarray) -> list[int]:
    """The samples confused in most repeats."""
    counts = np.count_nonzero(confused, axis=0)
    rows: list[int] = np.argsort(-counts, kind="stable")[: min(_MOST_SAMPLES, np.count_nonzero(counts))].tolist()
    return rows


def _of_target(target: str, encoder: str, part: Part, source: Source | None) -> TargetConfusions:
    if part.settings is None or source is None:
        return TargetConfusions(target, encoder, note=_NO_SOURCE)
    if part.settings.label_free:
        return TargetConfusions(target, encoder, note=_NO_LABELS)
    try:
        source.check(encoder, views=False, held_out=False)
        task = source.features(encoder, _only_stored).train
        if task.labels is None:
            return TargetConfusions(target, encoder, note=_NO_LABELS)
        pairs = most_confused(task, key=part.settings.seed)
    except Exception as error:  # Scores must reach the page, whatever happens to the data set meanwhile.
        return TargetConfusions(target, encoder, note=f"Confused classes are unknown: {str(error).rstrip('.')}.")
    if not pairs:
        return TargetConfusions(target, encoder, note="No sample is confused: all are predicted correctly.")
    try:
        pictures = _pictures(underlying(source), sorted({row for pair in pairs for row in pair.rows}))
    except Exception as error:
        return TargetConfusions(target, encoder, pairs, f"There are no thumbnails: {str(error).rstrip('.')}.")
    return TargetConfusions(
        target, encoder, [pair._replace(pictures=[pictures[row] for row in pair.rows]) for pair in pairs]
    )


def _only_stored(what: str, done: int, total: int) -> None:
    """Raise ValueError if features have to be extracted, which may take hours."""
    if done < total:
        raise ValueError(f"{what} has features that are not in the store of this machine")


def _pictures(source: Source, rows: Sequence[int]) -> Mapping[int, str]:
    """A thumbnail of each row as a data URI.

    Raises:
        ValueError: why there is none.
    """
    if not isinstance(source, NamedSource):
        raise ValueError("only features were passed, and no samples")
    samples = source.parts[0]
    if samples.modality != "images":
        raise ValueError(f"the samples are {samples.modality}")
    if importlib.util.find_spec("PIL") is None:
        raise ValueError("they need Pillow, pip install pillow")
    return {row: _data_uri(samples.samples[row : row + 1][0]) for row in rows}


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    grey = image.shape[-1] == 1
    picture = Image.fromarray(image[..., 0] if grey else image)
    picture.thumbnail((_SIDE, _SIDE))
    kind = "png" if grey else "jpeg"
    stream = io.BytesIO()
    picture.save(stream, kind, optimize=True, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"

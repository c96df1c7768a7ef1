"""Targets with class names: a teacher labels their samples, and every encoder is scored on these labels."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxrel import encoders
from jaxrel.data.readers.samples import lines_of, read_text
from jaxrel.storage.fingerprints import remembered
from jaxrel.study.draws import DataSetPart
from jaxrel.study.remembered import Remembered
from jaxrel.study.sources import NamedSource, Progress, Source, Split, restricted_to, samples_fingerprint, silent
from jaxrel.task import Task

__all__ = ["TEACHER", "NamedClasses", "default_teacher", "named_classes", "read_class_names"]

TEACHER = "all-minilm-l6-v2"
"""The default teacher for texts."""

_log = logging.getLogger(__name__)

Prompts = Mapping[str, Sequence[str]]


class _Names(NamedTuple):
    """The class names of the training and of the held-out samples."""

    train: np.ndarray
    held_out: np.ndarray | None


@dataclass(frozen=True)
class NamedClasses(DataSetPart):
    """A data set whose samples are labelled with the nearest class name; its own labels are not used.

    Attributes:
        seen: the data set as input of the teacher.
        teacher: the encoder that sees samples and names.
        prompts: prompts of each class.
        seed: of a teacher with random weights.
        found: returns the names that the teacher assigns to all samples.
    """

    seen: Source
    teacher: str
    prompts: Prompts
    seed: int
    found: Remembered[_Names]

    @property
    def target_labels(self) -> str:
        """The source of the labels."""
        return f"class names, by {self.teacher}"

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:
        """Check the data set, and also the teacher, which is to see the same samples as the encoder."""
        self.source.check(encoder, views=views, held_out=held_out)
        self.seen.check(self.teacher, views=False, held_out=held_out)
        if not isinstance(self.source, NamedSource):
            return
        taught, encoded = self.source.modality(self.teacher), self.source.modality(encoder)
        if taught and encoded and taught != encoded:
            raise ValueError(
                f"the teacher {self.teacher!r} sees {taught}, but {encoder!r} encodes {encoded} of {self.name!r}: pass "
                f"a teacher of {encoded}, or encoders of {taught}."
            )

    def fingerprint(self, encoder: str) -> str:
        """The fingerprints of the data set under the encoder and under the teacher, and of the prompts."""
        said = hashlib.sha256(json.dumps(list(self.prompts.items())).encode()).hexdigest()
        of_names = encoders.encoder_of_names(self.teacher)
        state = encoders.source_state(of_names, seed=self.seed)
        told = remembered(state, lambda: encoders.load(of_names, seed=self.seed).fingerprint)
        return "/".join([self.source.fingerprint(encoder), self.seen.fingerprint(self.teacher), told, said])

    def samples_fingerprint(self, task: Task) -> str:
        """A hash of the samples and of their assigned labels."""
        labels = np.asarray(task.labels).tobytes()
        return hashlib.sha256(samples_fingerprint(self.source, task).encode() + labels).hexdigest()

    def features(self, encoder: str, progress: Progress) -> Split:
        """The tasks with the teacher's labels, numbered by the names that occur among the training samples."""
        train, held_out = self.source.features(encoder, progress)
        names = self.found(self.teacher)
        named = train.with_labels(names.train)
        if held_out is None or names.held_out is None:
            return Split(named, None)
        return Split(named, held_out.with_labels(names.held_out).with_classes_of(named))

    def restricted_to(self, names: Collection[str]) -> NamedClasses:
        """The part that a worker needs for these encoders; the teacher runs once on each worker."""
        own, seen = restricted_to(names, self.source), restricted_to([self.teacher], self.seen)
        return dataclasses.replace(self, source=own, seen=seen)


def named_classes(
    source: Source, names: Prompts, teacher: str, *, seed: int, seen: Source | None = None
) -> NamedClasses:
    """A data set with these class names, labelled by this teacher; nothing is loaded yet.

    Args:
        source: the data set as input of the scored encoders.
        names: descriptions of each class, if any, by its name.
        teacher: the encoder that sees samples and names.
        seed: of a teacher with random weights.
        seen: the same samples as input of the teacher, if these differ in image size, for example. Default: `source`.

    Raises:
        ValueError: the teacher is unknown, or embeds no names.
    """
    encoders.check_name(encoders.encoder_of_names(teacher))
    prompts = encoders.class_prompts(names, modality=encoders.modality(teacher))
    seen = seen or source
    find = functools.partial(_names_of, restricted_to([teacher], seen), prompts, seed)
    return NamedClasses(source, seen, teacher, prompts, seed, Remembered(find))


def default_teacher(encoder_names: Sequence[str]) -> str:
    """The teacher for samples of these encoders.

    Raises:
        ValueError: they are not texts, or it is not known that they are.
    """
    try:
        kinds = {encoders.modality(name) for name in encoder_names}
    except ValueError:  # names of the user's own arrays
        kinds = set()
    if kinds != {"texts"}:
        raise ValueError(
            "class names need a teacher that embeds samples and names: pass teacher (--teacher), for images "
            "clip-image@CHECKPOINT, such as clip-image@openai/clip-vit-base-patch32, for texts any encoder of texts."
        )
    return TEACHER


def read_class_names(path: Path) -> dict[str, tuple[str, ...]]:
    """The class names in a text file, with the descriptions of each.

    Args:
        path: a file in UTF-8, or UTF-16 with a byte order mark. A line is `NAME` or `NAME<TAB>DESCRIPTION`; several
            lines with the same name are several descriptions of the class. Empty lines are skipped.

    Raises:
        ValueError: the file is no such text or names fewer than two classes, or a line has no name, an empty
            description, or a name that another line has, where one of both has no description.
        OSError: it cannot be read.
    """
    lines = lines_of(read_text(path))
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        before, tab, after = line.partition("\t")
        name, description = before.strip(), after.strip()
        if not name or (tab and not description):
            raise ValueError(f"{path}, line {number}: {line!r} is neither a name nor NAME<TAB>DESCRIPTION.")
        if name in found and not (description and found[name]):
            raise ValueError(
                f"{path}, line {number}: {name!r} is named before; classes with several lines have a description in "
                "each, after a tab."
            )
        found.setdefault(name, []).extend([description] if description else [])
    if len(found) < 2:
        raise ValueError(f"{path} names {len(found)} classes: pass a file with a line for each of two or more.")
    return {name: tuple(descriptions) for name, descriptions in found.items()}


def _names_of(source: Source, prompts: Prompts, seed: int, teacher: str) -> _Names:
    """The name nearest to each sample."""
    from jaxrel.pseudo_labels import ClassNames, pseudo_label

    _log.info("%s gives the samples of %s one of %d class names", teacher, source.name, len(prompts))
    names, known = np.array(list(prompts)), _class_embeddings(prompts, encoders.encoder_of_names(teacher), seed)

    def nearest(task: Task) -> np.ndarray:
        samples = task.rows(slice(None))
        unlabelled = Task(samples, weights=task.weights)
        found: np.ndarray = names[np.asarray(pseudo_label(unlabelled, ClassNames(samples, known)).labels)]
        return found

    train, held_out = source.features(teacher, silent)
    found = _Names(nearest(train), None if held_out is None else nearest(held_out))
    if unused := [name for name in prompts if name not in found.train]:
        _log.warning(
            "%s gives no sample of %s the class name %s: describe it, or leave it out",
            teacher,
            source.name,
            ", ".join(map(repr, unused)),
        )
    return found


def _class_embeddings(prompts: Prompts, encoder: str, seed: int) -> Float[np.ndarray, "k t"]:
    """The mean embedding of the prompts of each class, each scaled to unit length.

    Raises:
        ValueError: the encoder maps a prompt to the zero vector.
    """
    said = [prompt for of_class in prompts.values() for prompt in of_class]
    embeddings = np.asarray(encoders.extract_features(encoders.load(encoder, seed=seed), said), np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise ValueError(f"{encoder} has no features for {said[int(np.argmin(lengths))]!r}: use other words.")
    ends = np.cumsum([len(of_class) for of_class in prompts.values()])[:-1]
    return np.stack([part.mean(axis=0) for part in np.split(embeddings / lengths, ends)])

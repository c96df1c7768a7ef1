"""Parts of data sets for the axes of a study: fewer samples of a target, some classes of a reference."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import jax
import numpy as np

from jaxrel.study.sources import Progress, Source, Split, Views, restricted_to, samples_fingerprint, target_labels
from jaxrel.task import Task

__all__ = ["ALL_CLASSES", "DataSetPart", "DrawnSamples", "KeptClasses", "ReferenceClasses", "underlying"]

Rule = Literal["all", "nearest", "learned", "random", "named"]
_COUNTED = ("nearest", "learned", "random")


@dataclass(frozen=True)
class ReferenceClasses:
    """The choice of classes that are kept of a reference.

    Attributes:
        rule: "all"; or one of `jaxrel.relatedness.select_reference_classes`, which keeps `count` of them; or "named".
        names: class names or numbers, for the rule "named".
    """

    rule: Rule = "all"
    count: int = 0
    names: tuple[str, ...] = ()

    @classmethod
    def parsed(cls, text: str) -> Self:
        """Parse "all", "nearest:3", "learned:3", "random:3", or comma-separated names.

        Raises:
            ValueError: it is none of these.
        """
        rule, colon, count = text.partition(":")
        if text == "all":
            return cls()
        if colon and rule in _COUNTED:
            if not count.isdecimal() or int(count) < 1:
                raise ValueError(f"reference classes {text!r}: after {rule}: pass a number of classes, such as 3.")
            return cls(cast("Rule", rule), int(count))
        names = tuple(name.strip() for name in text.split(","))
        if not all(names):
            raise ValueError(f"reference classes {text!r}: pass all, nearest:3, learned:3, random:3 or class names.")
        return cls("named", len(names), names)

    def __str__(self) -> str:
        if self.rule == "named":
            return ",".join(self.names)
        return self.rule if self.rule == "all" else f"{self.rule}:{self.count}"

    def chosen_from(self, reference: Task, target: Task, *, seed: int) -> tuple[int, ...]:
        """The numbers of the chosen classes.

        Raises:
            ValueError: the reference has no such class, or fewer; the rule needs labels that the target lacks.
        """
        from jaxrel.relatedness import select_reference_classes

        if self.rule != "named":
            rule = cast("Literal['nearest', 'learned', 'random']", self.rule)
            beside = reference if rule == "random" else target  # the target may have no labels
            return select_reference_classes(reference, beside, num_classes=self.count, rule=rule, key=seed)
        _, num_classes = reference.labelled
        known = list(map(str, reference.class_names or range(num_classes)))
        if unknown := [name for name in self.names if name not in known]:
            raise ValueError(f"the reference has no class {', '.join(unknown)}: it has {', '.join(known)}.")
        return tuple(known.index(name) for name in self.names)


ALL_CLASSES = ReferenceClasses()


@dataclass(frozen=True)
class DataSetPart:
    """A part of a data set under the same name, with all views unless it overrides `views`."""

    source: Source

    @property
    def name(self) -> str:
        """That of the data set."""
        return self.source.name

    @property
    def target_labels(self) -> str:
        """Those of the data set."""
        return target_labels(self.source)

    def check(self, encoder: str, *, views: bool, held_out: bool) -> None:
        """As the data set."""
        self.source.check(encoder, views=views, held_out=held_out)

    def views(self, encoder: str, progress: Progress) -> Views:
        """Those of the data set."""
        return self.source.views(encoder, progress)


@dataclass(frozen=True)
class DrawnSamples(DataSetPart):
    """A data set with a draw of its training samples; the held-out samples are unchanged.

    Draws with one seed are nested: the first 100 of 300 are the draw of 100. Draws keep the shares of the classes, up
    to one sample, unless `labels_looked_at` is False; samples of unknown class come last.
    """

    num_samples: int
    seed: int
    labels_looked_at: bool

    def fingerprint(self, encoder: str) -> str:
        """That of the data set, and of the draw."""
        return "/".join([self.source.fingerprint(encoder), *self._drawn])

    def samples_fingerprint(self, task: Task) -> str:
        """Likewise, of which samples there are."""
        told = "/".join([samples_fingerprint(self.source, task), *self._drawn])
        return hashlib.sha256(told.encode()).hexdigest()

    def features(self, encoder: str, progress: Progress) -> Split:
        """Of the samples that were drawn."""
        train, held_out = self.source.features(encoder, progress)
        rows = self._rows(train)
        labels = None if train.labels is None else np.asarray(train.labels)[rows]
        drawn = Task(
            train.rows(rows),
            labels,
            weights=np.asarray(train.weights)[rows],
            num_classes=train.num_classes,
            class_names=train.class_names,
        )
        return Split(drawn, held_out)

    def views(self, encoder: str, progress: Progress) -> Views:
        """Of the samples that were drawn."""
        rows = self._rows(self.source.features(encoder, progress).train)
        first, second = self.source.views(encoder, progress)
        return first[rows], second[rows]

    def inputs(self, encoder: str, progress: Progress) -> tuple[Any, Any]:
        """Of the samples that were drawn."""
        rows = self._rows(self.source.features(encoder, progress).train)
        train, held_out = self.source.inputs(encoder, progress)  # type: ignore[attr-defined]
        return jax.tree.map(lambda leaf: leaf[rows], train), held_out

    def restricted_to(self, names: Collection[str]) -> DrawnSamples:
        """What a worker needs for these encoders."""
        return DrawnSamples(restricted_to(names, self.source), self.num_samples, self.seed, self.labels_looked_at)

    @property
    def _drawn(self) -> list[str]:
        return [f"{self.num_samples} samples", f"seed {self.seed}", f"by labels: {self.labels_looked_at}"]

    def _rows(self, task: Task) -> np.ndarray:
        live = np.flatnonzero(np.asarray(task.weights) > 0)
        if live.size < self.num_samples:
            raise ValueError(f"{self.name!r} has {live.size} training samples, so {self.num_samples} cannot be drawn.")
        shuffled = np.random.default_rng(self.seed).permutation(live)
        if task.labels is None or not self.labels_looked_at:
            return np.sort(shuffled[: self.num_samples])
        # The samples of each class are equally spaced on the unit interval, and a prefix of the interval is drawn.
        labels = np.asarray(task.labels)[shuffled]
        order = np.argsort(labels, kind="stable")
        _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
        places = np.empty(live.size)
        places[order] = (np.arange(live.size) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes)
        # Samples of known class are drawn before others, as in the draw from a data set.
        return np.sort(shuffled[np.lexsort((places, labels < 0))[: self.num_samples]])


@dataclass(frozen=True)
class KeptClasses(DataSetPart):
    """A reference restricted to some classes, chosen on its training samples and those of a target."""

    target: Source
    classes: ReferenceClasses
    seed: int

    def fingerprint(self, encoder: str) -> str:
        """Those of both data sets, and of the choice."""
        parts = [self.source.fingerprint(encoder), str(self.classes)]
        if self.classes.rule in ("nearest", "learned"):
            parts.append(self.target.fingerprint(encoder))
        return "/".join([*parts, f"seed {self.seed}"])

    def features(self, encoder: str, progress: Progress) -> Split:
        """Of the classes that are kept."""
        from jaxrel.relatedness import restricted_to_classes

        train, held_out = self.source.features(encoder, progress)
        chosen = self.classes.chosen_from(train, self.target.features(encoder, progress).train, seed=self.seed)
        return Split(
            restricted_to_classes(train, chosen),
            None if held_out is None else restricted_to_classes(held_out, chosen),
        )

    def restricted_to(self, names: Collection[str]) -> KeptClasses:
        """What a worker needs for these encoders."""
        own, target = restricted_to(names, self.source), restricted_to(names, self.target)
        return KeptClasses(own, target, self.classes, self.seed)


def underlying(source: Source) -> Source:
    """The data set of a part."""
    while isinstance(source, DataSetPart):
        source = source.source
    return source

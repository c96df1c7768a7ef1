"""Classes of samples as numbers 0 .. K - 1, from whatever users name them by.

Which classes there are, and their order:

- text, truth values: the names that occur, sorted; categories of a column of a table: those that occur, in its order;
- integers without gaps: themselves, without names; with gaps: those that occur, in order, named by their numbers.

`class_names` or `num_classes` say it instead, so that parts of one data set agree in which number means what.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxrel._core.arrays import is_real, on_device, to_array

__all__ = [
    "Classes",
    "check_all_named",
    "checked_classes",
    "class_numbers",
    "encoded_labels",
    "largest_class",
    "missing_labels",
    "renumbering",
]


Names = tuple[str, ...] | None


class Classes(NamedTuple):
    """The class of each sample, how many classes there are, and what they are called."""

    labels: Int[Array, " n"]
    num_classes: int
    names: Names


def encoded_labels(
    labels: Any,
    live: Bool[np.ndarray, " n"] | None,
    num_samples: int,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    name: str = "labels",
    count_name: str = "num_classes",
) -> Classes:
    """The classes of `num_samples` samples; where a sample is not live, its label is not looked at.

    Args:
        labels: `(n,)` or `(n, 1)` integers, floating-point numbers that are integers, text, truth values or categories.
        live: which samples exist; None inside a transformation, where values are unknown.
        num_samples: n.
        num_classes: with integers, the class count: they are not renumbered.
        class_names: the classes in order. With integers, also numbers that occur as names.
        name, count_name: what the user knows `labels` and `num_classes` as.

    Raises:
        ValueError: for another shape, a label that is missing, negative, beyond 32 bits, no integer, of no class, and
            where the class count cannot be known.
    """
    num_classes, names = checked_classes(num_classes, class_names, count_name=count_name)
    labels, declared = _declared(labels)
    array = _one_column(name, to_array(name, labels), num_samples)
    if isinstance(array, jax.core.Tracer) or live is None:
        count = num_classes if names is None else len(names)
        if not jnp.issubdtype(array.dtype, jnp.integer):
            raise ValueError(
                f"{name} must be integers inside jit or vmap, got dtype {array.dtype}: pass those outside."
            )
        if count is None:
            raise ValueError(f"{count_name} must be given inside jit or vmap: label values are unknown there.")
        return Classes(on_device(array, np.int32), count, names)
    encoder = _Encoder(name, count_name, live)
    values = np.asarray(array)
    if declared is None and values.dtype.kind not in "bUO":
        return encoder.of_integers(encoder.integers(values), num_classes, names)
    positions, found = encoder.names_of(values) if declared is None else (encoder.declared(values, declared), declared)
    return encoder.of_names(positions, found, num_classes, names)


def checked_classes(
    num_classes: Any, class_names: Sequence[Any] | None, *, count_name: str = "num_classes"
) -> tuple[int | None, Names]:
    """A class count of at least 1 and as many names, each of them or None; a ValueError says what is wrong."""
    names = None if class_names is None else tuple(map(str, class_names))
    if num_classes is None:
        return None, names
    try:
        count = operator.index(num_classes)
    except TypeError as error:
        raise ValueError(f"{count_name} must be an integer, got {num_classes!r}.") from error
    if count < 1:
        raise ValueError(f"{count_name} must be at least 1, got {count}.")
    if names is not None and count != len(names):
        raise ValueError(f"class_names has {len(names)} names for {count} classes: pass one name for each class.")
    return count, names


def largest_class(labels: Any, live: Bool[np.ndarray, " n"] | None = None) -> int:
    """How many samples the largest class has, of labels that `encoded_labels` takes; all count where live is None."""
    values = np.asarray(to_array("labels", labels)).reshape(-1)
    values = values if live is None else values[live]
    values = values.astype(str) if values.dtype.kind == "O" else values
    return int(np.unique(values, return_counts=True)[1].max(initial=1))


def missing_labels(labels: Any, live: Bool[np.ndarray, " n"], *, name: str = "labels") -> Bool[np.ndarray, " n"]:
    """Which of the samples that exist are marked as of unknown class: by -1, None, NaN or NA.

    No shape or type is refused here.

    Raises:
        ValueError: labels are -1 and 1.
    """
    column, _ = _declared(labels)
    array = to_array(name, column)
    if isinstance(array, jax.core.Tracer) or array.size != live.size:
        return np.zeros_like(live)
    values = np.asarray(array).reshape(-1)
    if values.dtype.kind == "O":
        return live & np.array([value is None or value != value or value == -1 for value in values.tolist()])
    if not is_real(values.dtype):
        return np.zeros_like(live)
    if np.array_equal(np.unique(values[live]), [-1, 1]):
        raise ValueError(
            f"{name} are -1 and 1, and -1 marks a sample of unknown class: for two classes pass {name} > 0, for one "
            "class and others unknown 0 in place of 1."
        )
    return live & ((values != values) | (values == -1))


def class_numbers(names: Names, num_classes: int) -> tuple[str, ...]:
    """The names of classes, which are their numbers where they have none."""
    return tuple(map(str, range(num_classes))) if names is None else names


def renumbering(
    own: Names, num_own: int, known: Names, num_known: int
) -> tuple[Int[np.ndarray, " k"], tuple[str, ...]] | None:
    """Of each class the number of the known class of its name, and what all classes are called then.

    New names follow the known ones. Classes without names are called by their numbers, which is no name where the
    others have real ones. None where the numbers are those already.

    Raises:
        ValueError: where only one side has names that are not numbers, and where two classes share a name.
    """
    if own == known:
        return None
    mine, others = class_numbers(own, num_own), class_numbers(known, num_known)
    if (own is None or known is None) and not all(name.isdecimal() for name in (*mine, *others)):
        named = others if own is None else mine
        raise ValueError(
            f"classes are {_listed(named)} in one task, without names in the other: pass class_names to both."
        )
    if len(set(mine)) < len(mine) or len(set(others)) < len(others):
        raise ValueError(f"classes {_listed(mine)} and {_listed(others)} are not all called differently: rename them.")
    names = (*others, *(name for name in mine if name not in others))
    number = {name: index for index, name in enumerate(names)}
    return None if mine == names else (np.array([number[name] for name in mine]), names)


def check_all_named(what: str, names: Names, num_known: int) -> None:
    """A ValueError where classes are numbered by name among fewer than there are known: which ones is not known."""
    if names is not None and len(names) < num_known:
        raise ValueError(
            f"{what} has the classes {_listed(names)}, the transformation knows {num_known}: number them as it does, "
            "task.with_classes_of(training_task)."
        )


def _declared(labels: Any) -> tuple[Any, list[str] | None]:
    """A column, and the names of the classes that its own type lists; then the column has their positions."""
    if hasattr(labels, "columns") and len(labels.columns) == 1:
        labels = labels[labels.columns[0]]
    categories: Any = getattr(getattr(labels, "dtype", None), "categories", None)
    if hasattr(categories, "__array__"):
        names = [_category_name(category) for category in categories]
        codes = getattr(getattr(labels, "cat", labels), "codes", None)
        if codes is None:  # of polars, which has no positions
            position = {name: number for number, name in enumerate(names)}
            codes = np.array([position.get(value, -1) for value in labels.to_list()])
        return codes, names
    listed = getattr(getattr(labels, "features", None), "names", None)  # of a column of a Hugging Face data set
    return labels, None if listed is None else list(listed)


def _category_name(category: Any) -> str:
    """As a label of this value is named; whole numbers are without a point."""
    return str(int(category)) if isinstance(category, float) and category.is_integer() else str(category)


def _one_column(name: str, array: Any, num_samples: int) -> Any:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 2:
        raise ValueError(
            f"{name} must have shape (n,), got {array.shape}: for one-hot labels pass "
            f"numpy.asarray({name}).argmax(axis=1); several labels a sample are tasks of their own, Task(features, "
            "labels[:, j]); regression targets are for jaxrel.metrics.logme_regression_score(features, targets)."
        )
    if array.shape != (num_samples,):
        raise ValueError(f"{name} must have shape ({num_samples},), a label for each sample, got {array.shape}.")
    return array


@dataclass(frozen=True)
class _Encoder:
    """Labels whose values are known, as numbers of classes."""

    name: str
    count_name: str
    live: Bool[np.ndarray, " n"]

    def refuse(self, bad: Bool[np.ndarray, " n"], what: Callable[[int], str], advice: str) -> None:
        """A ValueError for the first of the bad labels."""
        rows = np.flatnonzero(bad)
        if rows.size:
            raise ValueError(f"{self.name}[{rows[0]}] is {what(rows[0])} ({rows.size} such labels): {advice}")

    def integers(self, values: np.ndarray) -> Int[np.ndarray, " n"]:
        """Labels as integers, each checked as it was given; 0 where a sample is not live."""
        as_text = f"numpy.asarray({self.name}).astype(str)"
        if not is_real(values.dtype):
            raise ValueError(
                f"{self.name} must be integers or names of classes, got dtype {values.dtype}: for names pass {as_text}."
            )
        if jnp.issubdtype(values.dtype, jnp.floating):
            values = np.where(self.live, values.astype(np.float64), 0)
            absent = "remove these samples, or give them weight 0."
            self.refuse(~np.isfinite(values), lambda row: f"{values[row]} or missing", absent)
            self.refuse(
                values != np.round(values),
                lambda row: f"{values[row]}, which is no class",
                "a regression target is scored by jaxrel.metrics.logme_regression_score(features, targets), or as "
                f"classes by numpy.digitize({self.name}, numpy.quantile({self.name}, [0.25, 0.5, 0.75])).",
            )
        values = np.where(self.live, values, 0)
        most = np.iinfo(np.int32).max
        self.refuse(
            values < 0,
            lambda row: f"{values[row]}, outside 0 .. {most}",
            "number the classes from 0; remove these samples, or give them weight 0.",
        )
        self.refuse(
            values > most,
            lambda row: f"{values[row]}, outside 0 .. {most}",
            f"if these are the names of classes, pass {as_text}.",
        )
        return values.astype(np.int64)

    def of_integers(self, values: Int[np.ndarray, " n"], num_classes: int | None, names: Names) -> Classes:
        ids = np.unique(values[self.live])
        if names is not None and num_classes is None:
            values, ids = self.named_numbers(values, ids, names)
        count = num_classes if names is None else len(names)
        if count is None and ids[-1] + 1 == ids.size:
            count = ids.size
        if count is None:  # There are gaps.
            return self.classes(np.searchsorted(ids, values), ids.size, tuple(map(str, ids.tolist())))
        self.refuse(
            self.live & (values >= count),
            lambda row: f"{values[row]}, outside 0 .. {count - 1}",
            f"number the classes from 0, or pass a larger {self.count_name}."
            if names is None
            else f"class_names has {count} names; number the classes from 0, or pass one name for each class.",
        )
        return self.classes(values, count, names)

    def named_numbers(
        self, values: Int[np.ndarray, " n"], ids: Int[np.ndarray, " i"], names: tuple[str, ...]
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " i"]]:
        """Integers that are names as positions among these; others as they are."""
        number = {name: index for index, name in enumerate(names)}
        found = np.array([number.get(str(value), -1) for value in ids])
        if (found == ids).all() or (found < 0).all():
            return values, ids
        by_position = ids[-1] < len(names)
        if (found < 0).any() or by_position:
            raise ValueError(
                f"{self.name} are numbers, and so are class_names ({_listed(names)}), of which they are "
                f"{'names as well as positions' if by_position else 'some but not all'}: pass {self.name} as text, "
                f"numpy.asarray({self.name}).astype(str), if they are names, {self.count_name} if they are positions."
            )
        return found[np.minimum(np.searchsorted(ids, values), ids.size - 1)], found

    def names_of(self, values: np.ndarray) -> tuple[Int[np.ndarray, " n"], list[str]]:
        """Positions among the names that occur, in sorted order; -1 where a label is missing."""
        present = self.live & (values != np.array(None)) if values.dtype.kind == "O" else self.live
        names, positions = np.unique(values[present].astype(str), return_inverse=True)
        found = np.full(values.shape, -1)
        found[present] = positions
        return found, names.tolist()

    def declared(self, values: np.ndarray, names: Sequence[str]) -> Int[np.ndarray, " n"]:
        """Positions among declared names as integers; -1 where a label is missing."""
        positions = np.where(np.isnan(values), -1, values).astype(np.int64)
        what = f"outside the {len(names)} classes that its type declares"
        self.refuse(positions >= len(names), lambda row: f"{positions[row]}, {what}", "mend the type.")
        return positions

    def of_names(
        self, positions: Int[np.ndarray, " n"], found: Sequence[str], num_classes: int | None, names: Names
    ) -> Classes:
        """Renumbers positions among `found` as those among `names`, or among the ones that occur."""
        absent = "remove these samples, or give them weight 0."
        self.refuse(self.live & (positions < 0), lambda _: "missing", absent)
        if names is None and num_classes == len(found):
            names = tuple(found)
        if names is None:
            names = tuple(found[position] for position in np.unique(positions[self.live]))
        if num_classes not in (None, len(names)):
            raise ValueError(
                f"{self.count_name} is {num_classes}, {self.name} are the names of {len(names)} classes "
                f"({_listed(names)}): leave out {self.count_name}, or pass a Task with class_names."
            )
        if len(set(names)) < len(names):
            raise ValueError(f"classes {_listed(names)} are not all called differently, which labels by name need.")
        number = {name: index for index, name in enumerate(names)}
        labels = np.array([*(number.get(name, -1) for name in found), -1])[positions]
        self.refuse(
            self.live & (labels < 0),
            lambda row: f"{found[positions[row]]!r}, which is not in class_names",
            f"these are {_listed(names)}; add it, or remove these samples.",
        )
        return self.classes(labels, len(names), names)

    def classes(self, labels: Int[np.ndarray, " n"], num_classes: int, names: Names) -> Classes:
        inside = self.live & (labels >= 0) & (labels < num_classes)
        return Classes(on_device(np.where(inside, labels, 0), np.int32), num_classes, names)


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")

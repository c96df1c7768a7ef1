"""A task: the features of samples, in memory or stored, with their labels and weights.

Padding and masking work the same way everywhere: a sample of weight 0 is ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.arrays import is_real, on_device, real_array, to_array
from jaxrel._core.checks import is_traced
from jaxrel._core.labels import checked_classes, encoded_labels, missing_labels, renumbering
from jaxrel._core.programs import compiled
from jaxrel._core.size_classes import in_host_memory, with_rows

__all__ = ["Rows", "Task"]


class Rows(Protocol):
    """A source of features that is read on demand, such as `numpy.memmap` or `jaxrel.storage.features.Table`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and their width."""

    @property
    def dtype(self) -> Any:
        """Data type of the rows."""

    def __getitem__(self, rows: Any, /) -> Any:
        """The rows of a slice, or of an array of integers."""


@jax.tree_util.register_pytree_with_keys_class
class Task:
    """The samples of one classification task, as features of one encoder.

    Args:
        features: `(n, d)` real numbers, n >= 1 and d >= 1: an array, a torch tensor, a table or a list of rows. float64
            is kept where JAX has 64-bit types enabled; everything else becomes float32 (bfloat16 and float16 are
            upcast). A masked, NA or null value counts as NaN. `Rows` (a `numpy.memmap`, a table of the feature store)
            stay on disk and are read and checked when they are used: `rows` reads some of them, `loaded` all.
        labels: `(n,)` integers or class names: text, categories of a table, or booleans. Pass None if the labels are
            unknown, and -1 (or None, NaN or NA) for a single sample of unknown class. The names that occur are numbered
            in sorted order, categories in their own order. Integers `0 .. num_classes - 1` stay as they are. If some
            integers below the largest do not occur, the others are renumbered in ascending order and their original
            numbers become the class names.
        weights: `(n,)` non-negative numbers with a finite positive sum; None means 1 each. A weight of 2 counts the
            sample twice, a weight of 0 is padding (its features and label are ignored). Only ratios of weights matter.
        num_classes: the number of classes. If it is given, integers are not renumbered; None counts those that occur.
        class_names: one name for each class, in the order of the class numbers. For held-out samples that may lack
            some classes, pass the names of the training task, or align the classes with `with_classes_of`.

    Raises:
        ValueError: for wrong shapes, values that are not finite (as given or in the dtype used), labels that are below
            -1, out of range or not classes, and weights that are negative or all 0. Inside a transformation (`jit`,
            `vmap`) values are unknown: only shapes and dtypes are checked, `num_classes` is required, and every sample
            must have a label.

    A task in which only some samples have labels is `partly_labelled`. `transferability_score` uses all of its samples;
    functions that need every label raise a ValueError; `of_labelled` gives the unlabelled samples weight 0.

    A `Task` is an immutable pytree: its arrays are leaves; the class count, the class names and `partly_labelled` are
    static.

    Examples:
        >>> task = Task([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], ["cat", "dog", "cat"])
        >>> task
        Task(features(3, 2), 2 classes)
        >>> task.labels.tolist(), task.class_names
        ([0, 1, 0], ('cat', 'dog'))
    """

    _source: Any
    labels: Int[Array, " n"] | None
    weights: Float[Array, " n"]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    partly_labelled: bool
    """Whether some samples have a label and others have -1."""

    def __init__(  # noqa: D107 (described by the class)
        self,
        features: Float[ArrayLike, "n d"] | Any,
        labels: Int[ArrayLike, " n"] | Any | None = None,
        *,
        weights: Float[ArrayLike, " n"] | Any | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        numbers: Any = features if _is_stored(features) else real_array("features", features)
        if len(numbers.shape) != 2 or 0 in numbers.shape:
            raise ValueError(
                f"features must have shape (n, d) with n >= 1 and d >= 1, got {numbers.shape}: "
                "pass one row for each sample (flatten images first)."
            )
        weights_array = _as_weights(weights, numbers.shape[0])
        live = None if is_traced(weights_array) else np.asarray(weights_array) > 0
        if not _is_stored(numbers):
            numbers = _as_features(numbers, live)
        classes: tuple[Any, int | None, tuple[str, ...] | None]
        unknown = np.zeros(numbers.shape[0], bool)
        if labels is not None and live is not None:
            unknown = missing_labels(labels, live)
        if labels is None or (live is not None and (unknown == live).all()):
            classes, unknown = (None, *checked_classes(num_classes, class_names)), np.zeros_like(unknown)
        else:
            known = None if live is None else live & ~unknown
            classes = encoded_labels(labels, known, numbers.shape[0], num_classes=num_classes, class_names=class_names)
        numbered, partly = classes[0], bool(unknown.any())
        if partly:
            numbered = on_device(np.where(unknown, -1, np.asarray(numbered)), np.int32)
        self._set(numbers, numbered, weights_array, *classes[1:], partly)
        object.__setattr__(self, "weights", weights_array.astype(self.dtype))

    def _set(self, source: Any, labels: Any, weights: Any, *static: Any) -> None:
        names = "_source", "labels", "weights", "num_classes", "class_names", "partly_labelled"
        for name, value in zip(names, (source, labels, weights, *static), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Task cannot be changed (attribute {name!r}): make a new one.")

    def __repr__(self) -> str:
        shape = getattr(self._source, "shape", None)
        labelled = "unlabelled" if self.labels is None else f"{self.num_classes} classes"
        labelled += ", partly labelled" if self.partly_labelled else ""
        return f"Task({'features' if self.in_memory else 'stored features'}{shape}, {labelled})"

    def __reduce__(self) -> tuple[Any, ...]:
        arrays = (self._source, self.labels, self.weights)
        sent = (np.asarray(array) if isinstance(array, jax.Array) else array for array in arrays)
        return _received, (self._static, *sent)

    @property
    def _static(self) -> tuple[Any, ...]:
        return self.num_classes, self.class_names, self.partly_labelled

    @property
    def in_memory(self) -> bool:
        """Whether the features are in memory. If they are not, each access to `features` reads all of them."""
        return not _is_stored(self._source)

    @property
    def features(self) -> Float[Array, "*b n d"]:
        """All features, checked. Batch axes that a transformation adds come first."""
        features: Array = self.loaded()._source
        return features

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the features in computations."""
        return np.dtype(_computed_type(self._source)) if _is_stored(self._source) else self._source.dtype

    @property
    def num_samples(self) -> int:
        """Number of rows of `features`, padding included."""
        return int(self._source.shape[0])

    @property
    def num_features(self) -> int:
        """Width d of the features."""
        return int(self._source.shape[1])

    def loaded(self) -> Task:
        """The same task with all features checked and in memory; the task itself if they already are."""
        if not _is_stored(self._source):
            return self
        features = _as_features(np.asarray(self._source[:]), np.asarray(self.weights) > 0)
        return self.replaced(features=features)

    def rows(self, which: slice | Int[np.ndarray, " k"]) -> Float[np.ndarray, "k d"]:
        """Some rows of the features as a NumPy array, unchecked. Rows of weight 0 are returned as zeros."""
        with np.errstate(over="ignore"):  # An overflow becomes inf, which the checks reject.
            found = np.asarray(self._source)[which] if self.in_memory else np.asarray(self._source[which], self.dtype)
        live = np.asarray(self.weights)[which] > 0
        return found if live.all() else np.where(live[:, None], found, 0)

    def fingerprint(self) -> str:
        """A hash of the samples. For a table of the feature store, it hashes what determines the rows."""
        digest = hashlib.sha256(f"{self.num_classes} {self.class_names}".encode())
        told = getattr(self._source, "fingerprint", None)
        for leaf in (told or self._source, self.labels, self.weights):
            if isinstance(leaf, str):
                digest.update(leaf.encode())
            elif leaf is not None:
                array = np.ascontiguousarray(leaf)
                digest.update(f"{array.dtype.str}{array.shape}".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()

    def class_weights(self, num_classes: int) -> Float[np.ndarray, " k"]:
        """Total weight of each of the first `num_classes` classes, in float64."""
        weights = np.asarray(self.weights, np.float64)
        return np.bincount(np.asarray(self.labels), weights, num_classes)[:num_classes]

    def blocks(self, name: str, rows_at_once: int) -> Iterator[tuple[slice, Float[np.ndarray, "k d"]]]:
        """All rows in order, block by block, each with its position. A value that is not finite is a ValueError."""
        for start in range(0, self.num_samples, rows_at_once):
            part = slice(start, min(start + rows_at_once, self.num_samples))
            found = self.rows(part)
            if not self.in_memory and not np.isfinite(found).all():
                row, column = np.argwhere(~np.isfinite(found))[0]
                raise ValueError(
                    f"{name}.features[{start + row}, {column}] is {found[row, column]}: remove or impute such samples, "
                    "or give them weight 0."
                )
            yield part, found

    def check_values(self, name: str, rows_at_once: int) -> None:
        """Read stored features once and raise the ValueErrors of `blocks`."""
        for _ in () if self.in_memory else self.blocks(name, rows_at_once):
            pass

    @property
    def labelled(self) -> tuple[Int[Array, " n"], int]:
        """Labels and class count. A label that is unknown, even of one sample, is a ValueError."""
        if self.labels is None or self.num_classes is None:
            raise ValueError("this task has no labels: pass Task(features, labels).")
        if self.partly_labelled:
            raise ValueError(
                f"{self._first_unlabelled} missing: transferability_score(task) alone takes samples without a label; "
                "leave them out, or give them weight 0, as task.of_labelled() does."
            )
        return self.labels, self.num_classes

    @property
    def _first_unlabelled(self) -> str:
        if is_traced(self.labels, self.weights):
            return "labels of some samples are"
        live = np.asarray(self.weights) > 0
        rows = np.flatnonzero((np.asarray(self.labels) < 0) & live)
        return f"labels[{rows[0]}] and {rows.size - 1:,} other of {np.count_nonzero(live):,} labels are"

    def of_labelled(self) -> Task:
        """The task with weight 0 for samples without a label; the task itself if all samples have a label, or none."""
        if not self.partly_labelled or self.labels is None:
            return self
        # NumPy selects concrete labels, which saves a compilation for each size.
        library: Any = jnp if is_traced(self.labels, self.weights) else np
        labels = library.maximum(self.labels, 0)
        weights = library.where(library.asarray(self.labels) >= 0, self.weights, 0)
        children = self._source, on_device(labels, np.int32), on_device(weights, self.weights.dtype)
        return Task.tree_unflatten((self.num_classes, self.class_names, False), children)

    def replaced(self, *, features: Array | None = None, weights: Array | None = None) -> Task:
        """The same samples with other features or weights, without validation: for use inside kernels."""
        features = self._source if features is None else features
        weights = self.weights if weights is None else weights
        return Task.tree_unflatten(self._static, (features, self.labels, weights))

    def with_labels(self, labels: Int[ArrayLike, " n"] | Any) -> Task:
        """The same samples with other labels, integers or names. Invalid labels are a ValueError."""
        return Task(self._source, labels, weights=self.weights)

    def with_classes_of(self, known: Task) -> Task:
        """The same samples with classes numbered as in another task; classes are matched by name.

        Use it if two samples of one data set were numbered separately, each by the classes that occur in it. Classes
        that the other task lacks come last. A class without a name goes by its number.

        Raises:
            ValueError: if only one of the tasks has names that are not numbers, as the classes cannot be matched.
        """
        return self.with_classes(known.class_names, known.of_labelled().labelled[1])

    def with_classes(self, class_names: tuple[str, ...] | None, num_classes: int) -> Task:
        """Like `with_classes_of`, but takes the class names and the class count of the other task."""
        labels, own_count = self.of_labelled().labelled
        changes = renumbering(self.class_names, own_count, class_names, num_classes)
        if changes is None:
            return self
        numbers, names = changes
        renumbered = jnp.asarray(numbers, jnp.int32)[labels]
        if self.partly_labelled:
            renumbered = jnp.where(jnp.asarray(self.labels) < 0, -1, renumbered)
        children = (self._source, renumbered, self.weights)
        return Task.tree_unflatten((len(names), names, self.partly_labelled), children)

    def padded(self, num_samples: int) -> Task:
        """The same task padded by rows of weight 0 to `num_samples` rows, so that several sizes share a compilation."""
        extra = num_samples - self.num_samples
        if extra < 0:
            raise ValueError(f"cannot pad {self.num_samples} samples to {num_samples}: pass a larger number.")
        return jax.tree.map(lambda rows: with_rows(rows, num_samples), self)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        """Arrays as leaves; the class count, the names and whether it is partly labelled are static."""
        key = jax.tree_util.GetAttrKey
        children = (
            (key("features"), self.loaded()._source),
            (key("labels"), self.labels),
            (key("weights"), self.weights),
        )
        return children, self._static

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: tuple[Any, ...]) -> Task:
        """Rebuild without validation: JAX also passes tracers and placeholders here."""
        task = object.__new__(cls)
        task._set(*children, *aux)
        return task


def _received(static: tuple[Any, ...], *arrays: Any) -> Task:
    """Rebuild a task from another process. float64 is kept even if JAX has no 64-bit types enabled here."""
    with jax.enable_x64(True):
        return Task.tree_unflatten(
            static, tuple(jnp.asarray(array) if type(array) is np.ndarray else array for array in arrays)
        )


def _is_stored(features: Any) -> bool:
    """Whether the features are read on demand: rows of real numbers that are not an array in memory."""
    if isinstance(features, np.memmap):
        return is_real(features.dtype)
    if isinstance(features, np.ndarray | jax.Array) or hasattr(features, "__dlpack__"):
        return False
    dtype = getattr(features, "dtype", None)
    readable = hasattr(features, "__array__") and hasattr(features, "__getitem__")
    return readable and isinstance(dtype, np.dtype) and is_real(dtype) and len(getattr(features, "shape", ())) == 2


def _computed_type(features: Any) -> type:
    """float64 if the features have it and JAX has it enabled, float32 otherwise."""
    wide = features.dtype == np.float64 and jax.config.jax_enable_x64  # type: ignore[attr-defined]
    return np.float64 if wide else np.float32


def _position(index: tuple[np.ndarray, ...]) -> str:
    return ", ".join(str(int(axis[0])) for axis in index)


def _as_features(features: Any, live: np.ndarray | None) -> Array:
    with np.errstate(over="ignore"):  # An overflow becomes inf, which is refused below.
        array = _copied(features, _computed_type(features))
    if is_traced(array) or live is None:
        return jnp.asarray(array)
    if not _all_finite(array, live):
        bad = np.nonzero(~np.isfinite(np.asarray(array)) & live[:, None])
        original = np.asarray(features)[bad[0][0], bad[1][0]]
        raise ValueError(
            f"features[{_position(bad)}] is {original}{' or missing' if np.isnan(original) else ''}, not a finite "
            f"{array.dtype} ({bad[0].size} such values): remove or impute these samples, give them weight 0, or "
            "rescale the features."
        )
    if isinstance(array, np.ndarray):
        array[~live] = 0
        return jax.device_put(array)
    return array if live.all() else jnp.where(jnp.asarray(live)[:, None], array, 0)


def _copied(features: Any, dtype: Any) -> np.ndarray | Array:
    """The features in the dtype used for computation. NumPy arrays stay on the host until they are checked."""
    return np.array(features, dtype) if isinstance(features, np.ndarray) else on_device(features, dtype)


def _all_finite(features: Float[Array, "n d"] | np.ndarray, live: np.ndarray) -> bool:
    """Check features on their device: copying wide features to the host would take longer than scoring them."""
    if in_host_memory(features):
        array = np.asarray(features)
        # The minimum and the maximum are NaN if any value is.
        return bool(np.isfinite([array.min(), array.max()]).all() or np.isfinite(array[live]).all())
    return bool(_all_finite_on_device(features, jnp.asarray(live)))


@compiled
def _all_finite_on_device(features: Float[Array, "n d"], live: Bool[Array, " n"]) -> Bool[Array, ""]:
    return jnp.all(jnp.isfinite(features) | ~live[:, None])


def _as_weights(weights: Any, num_samples: int) -> Array:
    if weights is None:
        return on_device(np.ones(num_samples))  # Unlike `jnp.ones`, this compiles nothing.
    array = to_array("weights", weights)
    if array.shape != (num_samples,):
        raise ValueError(f"weights must have shape ({num_samples},) as features has that many rows, got {array.shape}.")
    if is_traced(array):
        return jnp.asarray(array)
    values = np.asarray(array if array.dtype == np.bool_ else real_array("weights", array), np.float64)
    bad = np.nonzero(~(np.isfinite(values) & (values >= 0)))
    if bad[0].size:
        position = _position(bad)
        raise ValueError(f"weights[{position}] is {values[bad[0][0]]}: pass finite numbers >= 0.")
    if values.max(initial=0.0) <= 0:
        raise ValueError("weights are all 0: no sample is left; pass at least one positive weight.")
    return on_device(values / values.max())

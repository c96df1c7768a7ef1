"""A task: features of samples, their labels and weights.

Padding and masking have one mechanism everywhere: a sample of weight 0 does not exist.
"""

from __future__ import annotations

import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

__all__ = ["Task"]


@jax.tree_util.register_pytree_with_keys_class
class Task:
    """Samples of one classification task, as an encoder sees them.

    Args:
        features: `(n, d)` real numbers, n >= 1 and d >= 1. float64 is kept where JAX has 64-bit types enabled,
            anything else becomes float32 (bfloat16 and float16 are upcast).
        labels: `(n,)` integers `0 .. num_classes - 1`, or None where they are unknown.
        weights: `(n,)` non-negative numbers of finite positive sum; None means 1 each. A weight of 2 is the sample
            twice, a weight of 0 is padding (its features and label are ignored). Only their ratios matter.
        num_classes: the class count; None means the largest label plus one.
        class_names: one name for each class, for reports.

    Raises:
        ValueError: for wrong shapes, values that are not finite (here or in the dtype used), labels that are not
            integers or out of range, weights that are negative or all 0. Inside a transformation (`jit`, `vmap`)
            the values are unknown, so only shapes and dtypes are checked, and `num_classes` must be given.

    A `Task` is a pytree: arrays are leaves, the class count and names are static. It cannot be changed.
    """

    features: Float[Array, "n d"]
    labels: Int[Array, " n"] | None
    weights: Float[Array, " n"]
    num_classes: int | None
    class_names: tuple[str, ...] | None

    def __init__(  # noqa: D107 (described by the class)
        self,
        features: Float[ArrayLike, "n d"],
        labels: Int[ArrayLike, " n"] | None = None,
        *,
        weights: Float[ArrayLike, " n"] | None = None,
        num_classes: int | None = None,
        class_names: tuple[str, ...] | list[str] | None = None,
    ) -> None:
        weights_array = _as_weights(weights, _shape(features, "features"))
        live = None if _is_traced(weights_array) else np.asarray(weights_array) > 0
        features_array = _as_features(features, live)
        labels_array = None if labels is None else _as_labels(labels, features_array.shape[0])
        if labels_array is not None:
            num_classes = _class_count(labels_array, num_classes, live)
        names = None if class_names is None else tuple(str(name) for name in class_names)
        if names is not None and num_classes is not None and len(names) != num_classes:
            raise ValueError(
                f"class_names has {len(names)} names for {num_classes} classes: pass one name for each class."
            )
        self._set(features_array, labels_array, weights_array.astype(features_array.dtype), num_classes, names)

    def _set(self, features: Any, labels: Any, weights: Any, num_classes: Any, class_names: Any) -> None:
        object.__setattr__(self, "features", features)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "num_classes", num_classes)
        object.__setattr__(self, "class_names", class_names)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Task cannot be changed (attribute {name!r}): make a new one.")

    def __repr__(self) -> str:
        shape = getattr(self.features, "shape", None)
        labelled = "unlabelled" if self.labels is None else f"{self.num_classes} classes"
        return f"Task(features{shape}, {labelled})"

    @property
    def num_samples(self) -> int:
        """Rows of `features`, padding included."""
        return int(self.features.shape[0])

    @property
    def num_features(self) -> int:
        """Width d of the features."""
        return int(self.features.shape[1])

    @property
    def labelled(self) -> tuple[Int[Array, " n"], int]:
        """Labels and class count; a ValueError where they are unknown."""
        if self.labels is None or self.num_classes is None:
            raise ValueError("this task has no labels: pass Task(features, labels).")
        return self.labels, self.num_classes

    def replaced(self, *, features: Array | None = None, weights: Array | None = None) -> Task:
        """The same samples with other features or weights, without validation: for use inside kernels."""
        features = self.features if features is None else features
        weights = self.weights if weights is None else weights
        return Task.tree_unflatten((self.num_classes, self.class_names), (features, self.labels, weights))

    def padded(self, num_samples: int) -> Task:
        """The same task with rows of weight 0 appended, `num_samples` in all, so that sizes share a compilation."""
        extra = num_samples - self.num_samples
        if extra < 0:
            raise ValueError(f"cannot pad {self.num_samples} samples to {num_samples}: pass a larger number.")
        labels = None if self.labels is None else jnp.pad(self.labels, (0, extra))
        task = object.__new__(Task)
        task._set(
            jnp.pad(self.features, ((0, extra), (0, 0))),
            labels,
            jnp.pad(self.weights, (0, extra)),
            self.num_classes,
            self.class_names,
        )
        return task

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[Any, ...]]:
        """Arrays as leaves; the class count and names are static."""
        key = jax.tree_util.GetAttrKey
        children = (
            (key("features"), self.features),
            (key("labels"), self.labels),
            (key("weights"), self.weights),
        )
        return children, (self.num_classes, self.class_names)

    @classmethod
    def tree_unflatten(cls, aux: tuple[Any, ...], children: tuple[Any, ...]) -> Task:
        """Rebuild without validation: JAX also passes tracers and placeholders here."""
        task = object.__new__(cls)
        task._set(*children, *aux)
        return task


def _is_traced(value: object) -> bool:
    return isinstance(value, jax.core.Tracer)


def _shape(value: Any, name: str) -> tuple[int, ...]:
    try:
        return tuple(np.shape(value))
    except ValueError as error:
        raise ValueError(f"{name} must be one rectangular array: {error}.") from error


def _position(index: tuple[np.ndarray, ...]) -> str:
    return ", ".join(str(int(axis[0])) for axis in index)


def _as_features(features: Any, live: np.ndarray | None) -> Array:
    shape = _shape(features, "features")
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"features must have shape (n, d) with n >= 1 and d >= 1, got {shape}: "
            "pass one row for each sample (flatten images first)."
        )
    dtype = features.dtype if hasattr(features, "dtype") else np.asarray(features).dtype
    if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
        raise ValueError(f"features must be real numbers, got dtype {dtype}: pass floating-point features.")
    wide = dtype == np.float64 and jax.config.jax_enable_x64  # type: ignore[attr-defined]
    with np.errstate(over="ignore"):  # An overflow becomes inf, which is refused below.
        array = jnp.asarray(features, dtype=jnp.float64 if wide else jnp.float32)
    if not _is_traced(array) and live is not None:
        if not _all_finite(array, live):
            bad = np.nonzero(~np.isfinite(np.asarray(array)) & live[:, None])
            original = np.asarray(features)[bad[0][0], bad[1][0]]
            raise ValueError(
                f"features[{_position(bad)}] is {original}, not a finite {array.dtype} ({bad[0].size} such values): "
                "remove or impute these samples, or rescale the features."
            )
        if not live.all():
            array = jnp.where(jnp.asarray(live)[:, None], array, 0)
    return array


@jax.jit
def _all_finite(features: Float[Array, "n d"], live: Bool[Array, " n"]) -> Bool[Array, ""]:
    """On the device that holds the features: copied to the host, wide ones would take longer than their score."""
    return jnp.all(jnp.isfinite(features) | ~live[:, None])


def _as_labels(labels: Any, num_samples: int) -> Array:
    shape = _shape(labels, "labels")
    if len(shape) == 2:
        raise ValueError(
            f"labels must have shape (n,), got {shape}: multi-label and regression targets are not supported; "
            "for one-hot labels pass labels.argmax(axis=1), for several labels a sample score each as a task of its "
            "own, Task(features, labels[:, j])."
        )
    if shape != (num_samples,):
        raise ValueError(f"labels must have shape ({num_samples},) as features has that many rows, got {shape}.")
    dtype = labels.dtype if hasattr(labels, "dtype") else np.asarray(labels).dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers 0 .. num_classes - 1, got dtype {dtype}: "
            "convert class indices with labels.astype(int); a regression target is not supported: bin it into classes, "
            "numpy.digitize(labels, numpy.quantile(labels, [0.25, 0.5, 0.75]))."
        )
    if not _is_traced(labels):
        values = np.asarray(labels)
        if values.size and int(values.max()) > np.iinfo(np.int32).max:
            position = int(values.argmax())
            raise ValueError(f"labels[{position}] is {values[position]}: renumber the classes from 0.")
    return jnp.asarray(labels, dtype=jnp.int32)


def _class_count(labels: Array, num_classes: int | None, live: np.ndarray | None) -> int:
    if num_classes is not None:
        try:
            num_classes = operator.index(num_classes)
        except TypeError as error:
            raise ValueError(f"num_classes must be an integer, got {num_classes!r}.") from error
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
    if _is_traced(labels) or live is None:
        if num_classes is None:
            raise ValueError("num_classes must be given inside jit or vmap: label values are unknown there.")
        return num_classes
    values = np.asarray(labels)
    count = int(values[live].max()) + 1 if num_classes is None else num_classes
    bad = np.nonzero(((values < 0) | (values >= count)) & live)
    if bad[0].size:
        position = _position(bad)
        raise ValueError(
            f"labels[{position}] is {values[bad[0][0]]}, outside 0 .. {count - 1} ({bad[0].size} such labels): "
            "number the classes from 0, or pass a larger num_classes."
        )
    return count


def _as_weights(weights: Any, features_shape: tuple[int, ...]) -> Array:
    num_samples = features_shape[0] if features_shape else 0
    if weights is None:
        return jnp.ones(num_samples)
    shape = _shape(weights, "weights")
    if shape != (num_samples,):
        raise ValueError(f"weights must have shape ({num_samples},) as features has that many rows, got {shape}.")
    if _is_traced(weights):
        return jnp.asarray(weights)
    values = np.asarray(weights)
    if values.dtype == np.bool_:
        values = values.astype(np.float32)
    if not jnp.issubdtype(values.dtype, jnp.floating) and not jnp.issubdtype(values.dtype, jnp.integer):
        raise ValueError(f"weights must be real numbers, got dtype {values.dtype}.")
    values = values.astype(np.float64)
    bad = np.nonzero(~(np.isfinite(values) & (values >= 0)))
    if bad[0].size:
        position = _position(bad)
        raise ValueError(f"weights[{position}] is {values[bad[0][0]]}: pass finite numbers >= 0.")
    if values.max(initial=0.0) <= 0:
        raise ValueError("weights are all 0: no sample is left; pass at least one positive weight.")
    return jnp.asarray(values / values.max())

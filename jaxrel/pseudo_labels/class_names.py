"""Class names as supervision: a sample gets the class whose name is nearest in the space of a teacher."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jaxrel._core.arrays import on_device, real_array
from jaxrel._core.checks import is_traced
from jaxrel.pseudo_labels.strategies import Known

__all__ = ["ClassNames", "class_similarity"]

_HIGHEST = jax.lax.Precision.HIGHEST


def class_similarity(
    samples: Float[Array, "n t"], names: Float[Array, "k t"] | Float[Array, "k p t"]
) -> Float[Array, "n k"]:
    """Cosine of each sample with each class, of which several prompts are averaged at unit length. Pure."""
    prompts = _normalised(names if names.ndim == 3 else names[:, None])
    classes = _normalised(jnp.mean(prompts, axis=1))
    return jnp.matmul(_normalised(samples), classes.T, precision=_HIGHEST)


@dataclass(frozen=True, eq=False, repr=False)
class ClassNames:
    r"""Zero-shot classes (Radford et al., ICML 2021): the nearest name in the joint space of an image-text teacher.

        share_ij = 1[j = argmax_l cos(s_i, c_l)],   or softmax_j(cos(s_i, c_j) / temperature)

    with `c_j` the mean of the prompts of class j, each first scaled to unit length. The labels do not depend on the
    encoder that is evaluated.

    Args:
        samples: `(n, t)`, teacher embeddings of the target samples, in the order of the target features (followed by
            those of `evaluate_on`, if any). Rows of weight 0 are ignored.
        names: `(k, t)`, names or descriptions of the k classes by the same teacher, or `(k, p, t)` with p prompts of
            each.
        temperature: of the softmax; CLIP was trained at about 0.01. None is the nearest name alone.

    Raises:
        ValueError: arrays of other shapes or widths, fewer than two classes, a temperature that is not positive; an
            entry that is not finite or a row that is 0, which has no direction; prompts of a class that cancel. When
            called: another number of samples or of classes than the target has. Inside `jit` and `vmap` values are not
            checked.

    Deviation: none of the logit scale that CLIP learned; it changes no nearest name, and is `1 / temperature`.
    """

    samples: Float[ArrayLike, "n t"]
    names: Float[ArrayLike, "k t"] | Float[ArrayLike, "k p t"]
    temperature: float | None = None

    def __post_init__(self) -> None:
        """Check what does not need the target."""
        samples, names = (real_array(f"ClassNames.{name}", getattr(self, name)) for name in ("samples", "names"))
        for name, array, ranks in (("samples", samples, (2,)), ("names", names, (2, 3))):
            if array.ndim not in ranks or 0 in array.shape:
                expected = "(n, t)" if name == "samples" else "(k, t) or (k, p, t)"
                raise ValueError(f"ClassNames.{name} must have shape {expected}, got {array.shape}.")
        if samples.shape[1] != names.shape[-1]:
            raise ValueError(
                f"ClassNames.samples have width {samples.shape[1]} and names {names.shape[-1]}: embed both with the "
                "same teacher."
            )
        if len(names) < 2:
            raise ValueError("ClassNames.names has one class: pass at least two, as there is nothing to tell apart.")
        if self.temperature is not None and not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature is {self.temperature}: pass a positive number such as 0.01, or None.")
        _check_directions("names", names)
        if names.ndim == 3 and not is_traced(names):
            _check_directions("the means over prompts of names", jnp.mean(_normalised(_real(names)), axis=1).round(6))
        object.__setattr__(self, "samples", _real(samples))
        object.__setattr__(self, "names", _real(names))

    def __repr__(self) -> str:
        """Without the arrays."""
        soft = "" if self.temperature is None else f", temperature={self.temperature:g}"
        return f"ClassNames({self.num_classes} classes{soft})"

    @property
    def num_classes(self) -> int:
        """Number of names, and so of classes."""
        return np.shape(self.names)[0]

    def __call__(self, known: Known, key: PRNGKeyArray, *, num_classes: int) -> Float[Array, "n k"]:
        """One-hot shares, or softmax where there is a temperature."""
        del key
        samples, names = jnp.asarray(self.samples), jnp.asarray(self.names)
        if num_classes != self.num_classes:
            raise ValueError(
                f"ClassNames has {self.num_classes} names, but num_classes is {num_classes}: leave num_classes out, or "
                "name every class."
            )
        if len(samples) != len(known.features):
            raise ValueError(
                f"ClassNames.samples has {len(samples)} rows, the target {len(known.features)} samples: pass a row for "
                "each, and those of evaluate_on after them."
            )
        if not is_traced(samples, known.weights):
            _check_directions("samples", np.asarray(samples), np.asarray(known.weights) > 0)
        similarity = class_similarity(jnp.where(known.weights[:, None] > 0, samples, 1), names)
        if self.temperature is None:
            shares = jax.nn.one_hot(jnp.argmax(similarity, axis=1), num_classes)
        else:
            shares = jax.nn.softmax(similarity / self.temperature, axis=1)
        return shares.astype(known.features.dtype)


def _real(array: np.ndarray | jax.Array) -> Array:
    return on_device(array, jnp.result_type(float))


def _normalised(vectors: Float[Array, "... t"]) -> Float[Array, "... t"]:
    """At unit length; scaled by the largest entry first, whose square may not be finite."""
    scaled = vectors / jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)
    return scaled / jnp.linalg.norm(scaled, axis=-1, keepdims=True)


def _check_directions(name: str, vectors: Float[ArrayLike, "*_ t"], live: np.ndarray | bool = True) -> None:
    """Raise ValueError where a vector is not finite or 0, unless its values are unknown."""
    if is_traced(vectors):
        return
    size = np.abs(np.asarray(vectors)).max(axis=-1)
    bad = np.argwhere(~(np.isfinite(size) & (size > 0)) & live)
    if bad.size:
        place = ", ".join(map(str, bad[0]))
        raise ValueError(
            f"ClassNames: row [{place}] of {name} is 0 or not finite ({len(bad)} such rows), and has no direction: "
            "leave out what the teacher cannot embed."
        )

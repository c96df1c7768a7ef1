"""The results of transferability metrics and their status codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.status import HasStatus, StatusBits

__all__ = ["Score", "ScoreStatus", "make_score"]


class ScoreStatus(StatusBits):
    """Status bits of a score: errors, and limits on what the value means."""

    OK = 0
    INVALID_INPUT = (
        1,
        "a sample of positive weight has a value that is not finite, a label out of range or invalid probabilities, "
        "or the weights are negative, not finite, beyond the dtype or all 0; the score is NaN: call outside of jit "
        "to see where.",
    )
    UNDEFINED = (
        2,
        "too few samples (or distinct ones) to define the score, or numbers that the dtype cannot hold; the score is "
        "NaN: pass more samples, or rescale what is very large or small.",
    )
    UNBOUNDED = (
        4,
        "the features fit the labels exactly, up to rounding, so that the score has no maximum: it is that of the "
        "least noise that the dtype resolves, to be compared within one dtype only.",
    )
    NOT_CONVERGED = (
        8,
        "the solver behind the score stopped before it converged, so that the score is approximate: "
        "pass a larger epsilon where there is one, or use float64.",
    )
    SINGLE_CLASS = (
        16,
        "all samples have the same class, so that the score says nothing about telling classes apart: "
        "pass samples of two classes or more.",
    )
    CONSTANT_FEATURES = (
        32,
        "all samples have the same features or probabilities, up to rounding, so that the score says nothing about "
        "them: has the encoder collapsed, or is there one sample only?",
    )
    SINGLE_ENCODER = (
        64,
        "the score compares the encoders of a model zoo, but there is only one: pass the components of two or more.",
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Score(HasStatus):
    """A batch of scores.

    Attributes:
        value: the scores; finite, or NaN if the status says so.
        status: `ScoreStatus` bits, 0 on success.
    """

    value: Float[Array, "*b"]
    status: Int[Array, "*b"]

    statuses: ClassVar = ScoreStatus

    def __float__(self) -> float:
        return float(self.value)


def make_score(
    value: Float[Array, ""],
    status: Int[Array, ""],
    *,
    valid: Bool[ArrayLike, ""] = True,
    undefined: Bool[ArrayLike, ""] = False,
    unbounded: Bool[ArrayLike, ""] = False,
    converged: Bool[ArrayLike, ""] = True,
) -> Score:
    """The score of a kernel. It is NaN if the input is invalid, or if the value is undefined or beyond the dtype.

    Args:
        value: the computed value.
        status: status of the input, as `Sample.status`.
        valid: whether the rest of the input is valid too.
        undefined, unbounded, converged: properties of the value.
    """
    valid = jnp.asarray(valid) & (status & ScoreStatus.INVALID_INPUT == 0)
    defined = ~jnp.asarray(undefined) & jnp.isfinite(value)
    status = (
        status
        | jnp.where(defined, 0, ScoreStatus.UNDEFINED)
        | jnp.where(defined & jnp.asarray(unbounded), ScoreStatus.UNBOUNDED, 0)
        | jnp.where(defined & ~jnp.asarray(converged), ScoreStatus.NOT_CONVERGED, 0)
    )
    status = jnp.where(valid, status, ScoreStatus.INVALID_INPUT)
    return Score(jnp.where(valid & defined, value, jnp.nan), status.astype(jnp.int32))

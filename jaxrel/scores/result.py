"""What a transferability metric returns, and what its status means."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

__all__ = ["MESSAGES", "Score", "ScoreStatus", "make_score"]


class ScoreStatus(enum.IntFlag):
    """What went wrong; several can hold at once."""

    OK = 0
    INVALID_INPUT = 1
    UNDEFINED = 2
    UNBOUNDED = 4
    NOT_CONVERGED = 8


MESSAGES = {
    ScoreStatus.INVALID_INPUT: (
        "a sample of positive weight has a value that is not finite, a label out of range or probabilities that are "
        "none, or the weights are negative, not finite or all 0; the score is NaN: call outside of jit to learn where."
    ),
    ScoreStatus.UNDEFINED: "too few samples (or distinct ones) to define the score, which is NaN: pass more samples.",
    ScoreStatus.UNBOUNDED: (
        "the features fit the labels of a class exactly, up to rounding, so that the score is +inf: "
        "pass more samples, or compare these encoders by regularised_h_score."
    ),
    ScoreStatus.NOT_CONVERGED: (
        "the solver behind the score stopped before it converged, so that the score is approximate: "
        "pass a larger epsilon where there is one, or use float64."
    ),
}


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Score:
    """A batch of scores.

    Attributes:
        value: NaN or infinite only where the status says so.
        status: `ScoreStatus` bits, 0 when all is well.
    """

    value: Float[Array, "*b"]
    status: Int[Array, "*b"]

    def __float__(self) -> float:
        return float(self.value)

    @property
    def messages(self) -> tuple[str, ...]:
        """What the status says, once for each kind of trouble anywhere in the batch; empty when all is well."""
        found = int(np.bitwise_or.reduce(np.asarray(self.status), axis=None))
        return tuple(message for flag, message in MESSAGES.items() if found & flag)


def make_score(
    value: Float[Array, ""],
    *,
    valid: Bool[Array, ""],
    undefined: Bool[ArrayLike, ""] = False,
    unbounded: Bool[ArrayLike, ""] = False,
    converged: Bool[ArrayLike, ""] = True,
) -> Score:
    """The score of a kernel, NaN where the input is invalid or the score undefined, +inf where it is unbounded."""
    undefined = valid & jnp.asarray(undefined)
    defined = valid & ~undefined
    unbounded = defined & jnp.asarray(unbounded)
    status = (
        jnp.where(valid, 0, ScoreStatus.INVALID_INPUT)
        | jnp.where(undefined, ScoreStatus.UNDEFINED, 0)
        | jnp.where(unbounded, ScoreStatus.UNBOUNDED, 0)
        | jnp.where(defined & ~jnp.asarray(converged), ScoreStatus.NOT_CONVERGED, 0)
    )
    return Score(jnp.where(defined, jnp.where(unbounded, jnp.inf, value), jnp.nan), status.astype(jnp.int32))

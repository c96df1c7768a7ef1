"""What a transport solver returns, and what its status means."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Array, Float, Int

__all__ = ["MESSAGES", "SinkhornResult", "TransportError", "TransportStatus", "messages_of"]


class TransportStatus(enum.IntFlag):
    """What went wrong; several can hold at once. `lower` and `upper` stay valid unless the message says otherwise."""

    OK = 0
    NOT_CONVERGED = 1
    PRECISION_FLOOR = 2
    GAP_NOT_CERTIFIED = 4
    INFEASIBLE = 8
    FORBIDDEN_MASS = 16
    UNEQUAL_MASS = 32
    NOT_FINITE = 64
    BLOCK_OVERFLOW = 128


MESSAGES = {
    TransportStatus.NOT_CONVERGED: (
        "the marginal error is above the tolerance after max_sweeps: raise max_sweeps, tolerance or epsilon."
    ),
    TransportStatus.PRECISION_FLOOR: (
        "the tolerance is below what the dtype can resolve at this epsilon; iterated to that floor: "
        "use float64, a larger epsilon or a larger tolerance."
    ),
    TransportStatus.GAP_NOT_CERTIFIED: (
        "the interval [lower, upper] is wider than relative_gap: raise max_sweeps, ask for less, or use float64."
    ),
    TransportStatus.INFEASIBLE: "no plan avoids the pairs of infinite cost: the optimum is infinite.",
    TransportStatus.FORBIDDEN_MASS: (
        "the plan still has mass on pairs of infinite cost, so that a feasible plan was not shown to exist; "
        "[lower, upper] holds if one does: raise max_sweeps or use float64."
    ),
    TransportStatus.UNEQUAL_MASS: (
        "a and b have different sums, the result is NaN: normalise them, or use unbalanced_sinkhorn."
    ),
    TransportStatus.NOT_FINITE: (
        "the cost has a NaN or -inf, or the weights are negative or not finite; the result is NaN."
    ),
    TransportStatus.BLOCK_OVERFLOW: (
        "a block holds more points than there is room for, so that upper is infinite: "
        "shuffle the points (key), or use a larger block_size."
    ),
}


class TransportError(RuntimeError):
    """A transport problem failed; the message names it."""


def messages_of(status: Int[Array, "*b"]) -> tuple[str, ...]:
    """What the bits of a status say, once for each kind of trouble anywhere in the batch."""
    found = int(np.bitwise_or.reduce(np.asarray(status), axis=None))
    return tuple(message for flag, message in MESSAGES.items() if found & flag)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SinkhornResult:
    """Optimal transport of a batch of problems: value, certified interval, potentials.

    Attributes:
        value: entropic optimum `min_P <P, C> + epsilon KL(P | a b^T)`, in units of the cost times the mass.
            Differentiable with respect to cost, points and weights by the envelope rule; nothing else here is.
        lower, upper: contain the exact, unregularised optimum of the cost array as given, rounding included.
        f, g: dual potentials, `P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)` for weights of sum 1; 0 at masked
            points, centred so that `<a, f> = <b, g>`.
        epsilon: regularisation of the potentials, in units of the cost.
        num_iters: Sinkhorn sweeps (pairs of updates).
        marginal_error: `sum_i |sum_j P_ij - a_i|` of the entropic plan for weights of sum 1; its columns are exact.
        status: `TransportStatus` bits, 0 when all is well.
    """

    value: Float[Array, "*b"]
    lower: Float[Array, "*b"]
    upper: Float[Array, "*b"]
    f: Float[Array, "*b n"]
    g: Float[Array, "*b m"]
    epsilon: Float[Array, "*b"]
    num_iters: Int[Array, "*b"]
    marginal_error: Float[Array, "*b"]
    status: Int[Array, "*b"]

    @property
    def messages(self) -> tuple[str, ...]:
        """What the status says, once for each kind of trouble anywhere in the batch; empty when all is well."""
        return messages_of(self.status)

    def raise_if_failed(self) -> SinkhornResult:
        """Return self, or raise a `TransportError` that names the first failing problem of the batch."""
        status = np.asarray(self.status)
        failing = np.argwhere(status != 0)
        if failing.size:
            index = tuple(int(i) for i in failing[0])
            texts = [message for flag, message in MESSAGES.items() if int(status[index]) & flag]
            where = f"problem {index if len(index) != 1 else index[0]}: " if index else ""
            raise TransportError(f"{where}{' '.join(texts)} ({len(failing)} of {status.size} problems failed)")
        return self

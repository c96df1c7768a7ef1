"""The interface between the solver loop and a batch of transport problems, however its costs are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jaxtyping import Array, Bool, Float

from jaxrel.transport.certificates import Certificate

__all__ = ["IterationFunction", "Iterations", "Operator", "ScaledProblem", "forbidden_cost"]

Iterations = tuple[Float[Array, "*b n"], Float[Array, "*b m"], Float[Array, "*b"], Any]
IterationFunction = Callable[[Any, Array, Array, Array, Array, Array], Iterations]


class Operator(Protocol):
    """The operations of a batch of problems that the solver loop uses.

    Costs are about 1 in size; the weights `a` (*b, n) and `b` (*b, m) sum to 1, and potentials are -inf where weights
    are 0.
    """

    @property
    def a(self) -> Float[Array, "*b n"]:
        """Weights of the rows."""

    @property
    def b(self) -> Float[Array, "*b m"]:
        """Weights of the columns."""

    def soft_min_rows(self, g: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b n"]:
        """`f_i = -eps log sum_j b_j exp((g_j - C_ij) / eps)`."""

    def soft_min_columns(self, f: Float[Array, "*b n"], epsilon: Float[Array, "*b"]) -> Float[Array, "*b m"]:
        """`g_j = -eps log sum_i a_i exp((f_i - C_ij) / eps)`."""

    def plan(self, f: Float[Array, "*b n"], g: Float[Array, "*b m"], epsilon: Float[Array, "*b"]) -> Any:
        """The plan of two potentials, in the form that `certificate` accepts."""

    def certificate(self, plan: Any, g: Float[Array, "*b m"]) -> Certificate:
        """The certified interval from a plan and a potential."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ScaledProblem:
    """A batch in the units of an operator.

    Attributes:
        operator: costs divided by `scale`, a power of two at or above the largest finite cost.
        mean_size: mean of |C| under a b^T, over allowed pairs, after the division.
        start_epsilon: where epsilon scaling begins, after the division.
        invalid: problems whose cost has a NaN or -inf.
        blocked: problems in which some point with weight has no allowed pair.
    """

    operator: Operator
    scale: Float[Array, "*b"]
    mean_size: Float[Array, "*b"]
    start_epsilon: Float[Array, "*b"]
    invalid: Bool[Array, "*b"]
    blocked: Bool[Array, "*b"]


def forbidden_cost(n: int, m: int) -> float:
    """The price of a forbidden pair if allowed pairs cost at most 1 in size.

    Moving mass from a forbidden pair along a cycle of at most min(n, m) allowed pairs, each of which replaces another,
    saves more than it can cost. The optimum therefore avoids forbidden pairs whenever a feasible plan does.
    """
    return 2.0 + 2.0 * min(n, m)

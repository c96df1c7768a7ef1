"""Softmax regression with a ridge, to the minimum: Newton's method, its systems solved by conjugate gradients.

For evidence that needs the curvature at the minimum, as of PACTran. Where a tolerance of the gradient is enough,
`fit_head` needs a seventh to a twenty-fifth of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Fit", "fit_softmax"]

_MAX_STEPS = 100
_MAX_HALVINGS = 30
_MAX_SOLVER_STEPS = 100
_SOLVER_TOLERANCE = 1e-3
_LOOSEST_TOLERANCE = 0.1
_LARGEST_SLOPE = 0.5  # Uphill at the end of a step, relative to downhill at its start.
_Parameters = tuple[Array, Array]  # Slopes (d, c) and biases (c,).


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Fit:
    """A softmax regression, at the samples it was fitted to.

    Attributes:
        parameters: slopes `(d, c)` on the features and biases `(c,)`.
        gradient: of the objective; about 0.
        objective: mean cross-entropy plus ridge, in nats.
        others: probabilities, with 0 for the right class of a sample.
        losses: cross-entropy of each sample; the right class has `exp(-losses)`.
    """

    parameters: _Parameters
    gradient: _Parameters
    objective: Float[Array, ""]
    others: Float[Array, "n c"]
    losses: Float[Array, " n"]

    def curvatures(self, memberships: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """`p (1 - p)` of each probability."""
        own = jnp.exp(-self.losses) * jnp.sum(self.others, axis=1)
        return self.others * (1 - self.others) + memberships * own[:, None]


def fit_softmax(
    features: Float[Array, "n d"],
    memberships: Float[Array, "n c"],
    shares: Float[Array, " n"],
    ridge: Float[Array, ""],
) -> Fit:
    r"""The minimum of `sum_i shares_i -log softmax(W^T x_i + b)_{y_i} + ridge / 2 ||W||_F^2`.

    Args:
        features: best uncorrelated, as principal components: the solver is preconditioned by their variances.
        memberships: one-hot classes; a class without samples has probability 0.
        shares: weights of the samples, of sum 1.
        ridge: positive.

    Everything is relative to the right class of a sample: where its probability is 1 up to rounding, what is left of
    loss, gradient and curvature is known to full relative precision. So they are for separable features and a small
    ridge, where a solver that subtracts probabilities from 1 stalls.

    About 10 Newton steps, more where the ridge is small for the scale of the features, of up to 100 products with the
    features each: `O(n d c)` operations a product.
    """
    counts = shares @ memberships
    present = counts > 0
    num_present = jnp.sum(present)
    variances = shares @ features**2

    def centred(parameters: _Parameters) -> _Parameters:
        """Of mean 0 over the classes. Any other mean changes no probability: what rounding puts there must not grow."""
        slopes, biases = parameters
        means = jnp.sum(slopes, axis=1, keepdims=True) / num_present, jnp.sum(biases) / num_present
        return jnp.where(present, slopes - means[0], 0), jnp.where(present, biases - means[1], 0)

    def at(parameters: _Parameters) -> Fit:
        slopes, biases = parameters
        logits = features @ slopes + biases
        gaps = logits - jnp.sum(memberships * logits, axis=1, keepdims=True)
        gaps = jnp.where((memberships == 0) & present, gaps, -jnp.inf)
        # For one class all gaps are -inf, and so is this.
        losses = jnp.logaddexp(0, jax.nn.logsumexp(gaps, axis=1))
        others = jnp.exp(gaps - losses[:, None])
        residuals = shares[:, None] * (others - memberships * jnp.sum(others, axis=1, keepdims=True))
        gradient = centred((features.T @ residuals + ridge * slopes, jnp.sum(residuals, axis=0)))
        objective = shares @ losses + ridge / 2 * jnp.sum(slopes**2)
        return Fit(parameters, gradient, objective, others, losses)

    def hessian(fit: Fit, direction: _Parameters) -> _Parameters:
        slopes, biases = direction
        logits = features @ slopes + biases
        relative = logits - jnp.sum(memberships * logits, axis=1, keepdims=True)
        mean = jnp.sum(fit.others * relative, axis=1, keepdims=True)
        own = memberships * jnp.exp(-fit.losses)[:, None]
        change = shares[:, None] * (fit.others * (relative - mean) - own * mean)
        return features.T @ change + ridge * slopes, jnp.sum(change, axis=0)

    def unfinished(state: tuple[Fit, Float[Array, ""], Bool[Array, ""], Int[Array, ""]]) -> Bool[Array, ""]:
        fit, least, rising, count = state
        return (count < _MAX_STEPS) & (least > tolerance * fit.objective) & ~rising

    def step(
        state: tuple[Fit, Float[Array, ""], Bool[Array, ""], Int[Array, ""]],
    ) -> tuple[Fit, Float[Array, ""], Bool[Array, ""], Int[Array, ""]]:
        fit, least, _, count = state
        curvature = shares @ fit.curvatures(memberships)
        scales = (variances[:, None] * curvature + ridge, jnp.where(curvature > 0, curvature, 1))
        downhill = (-fit.gradient[0], -fit.gradient[1])
        # Far from the minimum a better direction would be the minimum of a quadratic that the objective is not.
        accuracy = jnp.clip(least / fit.objective, _SOLVER_TOLERANCE**2, _LOOSEST_TOLERANCE**2)
        direction = _solution(
            lambda vector: hessian(fit, vector),
            downhill,
            accuracy,
            lambda residual: centred((residual[0] / scales[0], residual[1] / scales[1])),
        )
        decrement = _product(downhill, direction)
        # A decrement below the rounding of the objective falls on until it is rounding itself. From there a step leads
        # anywhere along directions that nothing but a small ridge bounds.
        rising = (least <= rounding * fit.objective) & (decrement >= least)
        following = _line_search(at, fit, direction)
        fit = jax.tree.map(lambda new, old: jnp.where(rising, old, new), following, fit)
        return fit, jnp.minimum(least, decrement), rising, count + 1

    # The objective is above its minimum by half of the decrement, but curvatures by its root.
    eps = jnp.finfo(features.dtype).eps
    tolerance, rounding = eps**1.5, 32 * eps
    log_counts = jnp.where(present, jnp.log(jnp.where(present, counts, 1)), 0)
    start = at((jnp.zeros((features.shape[1], counts.size), features.dtype), log_counts))
    infinite = jnp.asarray(jnp.inf, features.dtype)
    begun = (start, infinite, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    fit, *_ = jax.lax.while_loop(unfinished, step, begun)
    return fit


def _solution(
    matrix: Callable[[_Parameters], _Parameters],
    right_side: _Parameters,
    accuracy: Float[Array, ""],
    preconditioned: Callable[[_Parameters], _Parameters],
) -> _Parameters:
    """Of a positive semidefinite system, by conjugate gradients, until the squared residual falls to this share."""

    def unfinished(state: Any) -> Bool[Array, ""]:
        _, _, _, energy, count = state
        return (count < _MAX_SOLVER_STEPS) & (energy > accuracy * first_energy)

    def step(state: Any) -> Any:
        solution, residual, conjugate, energy, count = state
        image = matrix(conjugate)
        curved = _product(conjugate, image)
        length = jnp.where(curved > 0, energy / jnp.where(curved > 0, curved, 1), 0)
        solution, residual = _moved(solution, length, conjugate), _moved(residual, -length, image)
        # Without curvature nothing is left to gain.
        new_energy = jnp.where(curved > 0, _product(residual, preconditioned(residual)), 0)
        conjugate = _moved(preconditioned(residual), new_energy / energy, conjugate)
        return solution, residual, conjugate, new_energy, count + 1

    first = preconditioned(right_side)
    first_energy = _product(right_side, first)
    zero = (jnp.zeros_like(first[0]), jnp.zeros_like(first[1]))
    start = (zero, right_side, first, first_energy, jnp.zeros((), jnp.int32))
    solution, *_ = jax.lax.while_loop(unfinished, step, start)
    return solution


def _line_search(at: Callable[[_Parameters], Fit], fit: Fit, direction: _Parameters) -> Fit:
    """The first of the steps 1, 1/2, 1/4, ... that does not go much beyond the minimum along the direction.

    The slope says so: the objective changes by less than its rounding before the slope does.
    """
    slope = _product(fit.gradient, direction)

    def unfinished(state: tuple[Fit, Float[Array, ""]]) -> Bool[Array, ""]:
        trial, length = state
        beyond = ~(_product(trial.gradient, direction) <= -_LARGEST_SLOPE * slope)
        return beyond & (length > 0.5**_MAX_HALVINGS)

    def halved(state: tuple[Fit, Float[Array, ""]]) -> tuple[Fit, Float[Array, ""]]:
        _, length = state
        return at(_moved(fit.parameters, length / 2, direction)), length / 2

    whole = jnp.ones((), slope.dtype)
    trial, _ = jax.lax.while_loop(unfinished, halved, (at(_moved(fit.parameters, whole, direction)), whole))
    return trial


def _product(a: _Parameters, b: _Parameters) -> Float[Array, ""]:
    return jnp.sum(a[0] * b[0]) + jnp.sum(a[1] * b[1])


def _moved(a: _Parameters, factor: Float[Array, ""], b: _Parameters) -> _Parameters:
    return a[0] + factor * b[0], a[1] + factor * b[1]

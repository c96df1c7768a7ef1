"""The optimisers of `Joint`: Adam on minibatches with or without early stopping, or L-BFGS on one sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxrel._core.optimise import minimise
from jaxrel.heads import Head
from jaxrel.relatedness.feature_maps import AffineMap
from jaxrel.relatedness.methods.joint_objective import Parameters, objective, validation_bound
from jaxrel.relatedness.minibatches import Minibatch, Sampler

if TYPE_CHECKING:
    from jaxrel.relatedness.methods.joint import Joint

__all__ = ["learned"]

_CHECKS = 10  # of the validation bound, evenly spread over the steps
_PATIENCE = 5  # checks without improvement before early stopping
_LOGIT_RATE = 10.0  # To leave out a class, the logits of Q must move from 0 to about 10.


def learned(
    start: Parameters,
    best: Parameters,
    sampler: Sampler,
    aside: Sampler | None,
    prior: Float[Array, " t"],
    ridge: Float[Array, ""],
    key: PRNGKeyArray,
    method: Joint,
) -> tuple[Parameters, Float[Array, ""]]:
    """The parameters after learning, and their validation bound (infinite without a validation split)."""

    def trainable(parameters: Parameters) -> tuple[Head | None, Head | AffineMap | None, Array | None]:
        return (
            parameters.head if method.learns_head else None,
            parameters.map if method.setting != "fixed" else None,
            parameters.logits if method.setting == "learned" else None,
        )

    def merged(values: tuple[Any, Any, Any]) -> Parameters:
        head, moved, logits = values
        return Parameters(
            start.head if head is None else head,
            start.map if moved is None else moved,
            start.logits if logits is None else logits,
            start.support,
        )

    def loss(values: Any, batch: Minibatch) -> Float[Array, ""]:
        return objective(merged(values), batch, prior, ridge, method)

    def judged(parameters: Parameters) -> Float[Array, ""]:
        unknown = jnp.asarray(jnp.inf, prior.dtype)
        return unknown if aside is None else validation_bound(parameters, aside, prior, method)

    values = trainable(start)
    if all(value is None for value in values):
        return best, judged(best)
    if method.solver == "lbfgs":
        batch = sampler.draw(start.conditional(), None)
        solved = minimise(lambda v: loss(v, batch), values, max_iterations=method.num_steps)
        found = merged(solved)
        return (found, judged(found)) if aside is None else _better((best, judged(best)), (found, judged(found)))

    def draw(values: Any, index: Int[Array, ""]) -> Minibatch:
        return sampler.draw(merged(values).conditional(), jax.random.fold_in(key, index))

    adam = _Adam(loss, draw, method)
    if aside is None:
        return merged(adam.run(values, 0, method.num_steps)), judged(start)
    return _early_stopped(adam, values, (best, judged(best)), lambda v: (merged(v), judged(merged(v))), method)


_Judged = tuple[Parameters, Float[Array, ""]]


def _better(old: _Judged, new: _Judged) -> _Judged:
    improves = new[1] < old[1]
    return jax.tree.map(lambda a, b: jnp.where(improves, a, b), new, old)


@dataclass(frozen=True)
class _Adam:
    """Adam on fresh minibatches, with cosine decay of the step size to 0."""

    loss: Callable[[Any, Minibatch], Float[Array, ""]]
    draw: Callable[[Any, Int[Array, ""]], Minibatch]
    method: Joint

    def init(self, values: Any) -> Any:
        import optax

        return optax.scale_by_adam().init(values)

    def step(self, index: Int[Array, ""], carry: tuple[Any, Any]) -> tuple[Any, Any]:
        import optax

        values, state = carry
        gradient = jax.grad(self.loss)(values, self.draw(values, index))
        update, state = optax.scale_by_adam().update(gradient, state)
        rate = self.method.learning_rate * (1 + jnp.cos(jnp.pi * index / self.method.num_steps)) / 2
        rates = (rate, rate, _LOGIT_RATE * rate)
        moved = tuple(
            jax.tree.map(lambda x, change, speed=speed: x - speed * change, part, changes)
            for part, changes, speed in zip(values, update, rates, strict=True)
        )
        return moved, state

    def run(self, values: Any, first: Any, end: Any, state: Any = None) -> Any:
        state = self.init(values) if state is None else state
        return jax.lax.fori_loop(first, end, self.step, (values, state))[0]


def _early_stopped(adam: _Adam, values: Any, best: _Judged, judge: Callable[[Any], _Judged], method: Joint) -> _Judged:
    """The best of `_CHECKS` evenly spread validations; stops after `_PATIENCE` of them without improvement."""

    def unfinished(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        check, waited, *_ = carry
        return (check < _CHECKS) & (waited < _PATIENCE)

    def advance(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        check, waited, trained, best = carry
        first, end = (method.num_steps * (check + k) // _CHECKS for k in (0, 1))
        trained = jax.lax.fori_loop(first, end, adam.step, trained)
        new = judge(trained[0])
        waited = jnp.where(new[1] < best[1], 0, waited + 1)
        return check + 1, waited, trained, _better(best, new)

    zero = jnp.zeros((), jnp.int32)
    best = (best[0], jnp.where(jnp.isfinite(best[1]), best[1], jnp.inf))
    return jax.lax.while_loop(unfinished, advance, (zero, zero, (values, adam.init(values)), best))[3]

"""The objective of `Joint`: the bound on a minibatch as a function of the head, the map and the coupling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Bool, Float

from jaxrel.heads import Head, cross_entropy
from jaxrel.relatedness.bound import log_label_map
from jaxrel.relatedness.class_maps import pruned
from jaxrel.relatedness.coupling import label_coupling, label_map, label_mismatch
from jaxrel.relatedness.feature_maps import AffineMap
from jaxrel.relatedness.ground_costs import ground_cost
from jaxrel.relatedness.minibatches import Minibatch, Sampler
from jaxrel.transport import certified_interval, entropic_plan, mean_cost, rough_potential

if TYPE_CHECKING:
    from jaxrel.relatedness.methods.joint import Joint

__all__ = ["Parameters", "objective", "validation_bound"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Parameters:
    """The learned parameters, and the given support of Q. Without logits each row of Q has one reference class."""

    head: Head
    map: Head | AffineMap  # M, m in prediction space; A, b in feature space
    logits: Float[Array, "t r"] | None
    support: Bool[Array, "t r"]

    def conditional(self) -> Float[Array, "t r"]:
        """Q."""
        if self.logits is None:
            return self.support.astype(self.head.weights.dtype)
        return jax.nn.softmax(jnp.where(self.support, self.logits, -jnp.inf), axis=1)

    def target_map(self) -> Head:
        """M, m: free parameters in prediction space, derived from A, b in feature space."""
        return self.map if isinstance(self.map, Head) else self.map.carried(self.head)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Terms:
    """The bound on a minibatch before transport is solved: losses, label mismatch and the transport problems."""

    without_transport: Float[Array, ""]
    cost: Float[Array, "t s s"]
    a: Float[Array, "t s"]
    squares: Float[Array, ""]


def _terms(
    parameters: Parameters,
    conditional: Float[Array, "t r"],
    batch: Minibatch,
    prior: Float[Array, " t"],
    method: Joint,
) -> _Terms:
    target_map = parameters.target_map()
    coupling = label_coupling(prior, conditional)
    log_map = log_label_map(label_map(coupling, prior))
    a = batch.weights(conditional)
    u = parameters.head(batch.z)
    losses = cross_entropy(u, batch.classes)
    x, y = (u, target_map(batch.t)) if isinstance(parameters.map, Head) else (parameters.map(batch.z), batch.t)
    cost = ground_cost(method.cost, method.space).between(x, y, log_map, target_map)
    return _Terms(
        without_transport=prior @ jnp.sum(a * losses, axis=1) + label_mismatch(coupling, jnp.exp(log_map)),
        cost=cost,
        a=a,
        squares=jnp.sum(target_map.weights**2) + (jnp.sum(parameters.head.weights**2) if method.learns_head else 0),
    )


def objective(
    parameters: Parameters, batch: Minibatch, prior: Float[Array, " t"], ridge: Float[Array, ""], method: Joint
) -> Float[Array, ""]:
    """The three-term bound on a minibatch plus the ridge, with the derivative of transport by the envelope rule.

    The derivative of the transport cost with respect to the ground cost is the plan. With respect to the weights of the
    reference points, through which Q is learned, it is the (centred) potential f.
    """
    terms = _terms(parameters, parameters.conditional(), batch, prior, method)
    cost, a = jax.lax.stop_gradient((terms.cost, terms.a))
    b = jnp.full_like(a, 1 / a.shape[1])
    epsilon = method.epsilon * _scale(cost, a, b)
    f = rough_potential(cost, a, b, epsilon=epsilon, num_iterations=method.sinkhorn_iterations)
    plan = entropic_plan(cost, a, b, f, epsilon)
    potential = f - jnp.mean(f, axis=1, keepdims=True)
    transport = jnp.sum(plan * terms.cost, axis=(1, 2)) + jnp.sum((terms.a - a) * potential, axis=1)
    if method.solver == "lbfgs":
        # A line search needs the function that has this derivative: the entropic value <P, C> + epsilon KL, in which
        # epsilon is proportional to the mean cost.
        independent = a[:, :, None] * b[:, None, :]
        divergence = jnp.sum(xlogy(plan, plan) - xlogy(plan, independent), axis=(1, 2))
        transport = transport + method.epsilon * _scale(terms.cost, terms.a, b) * divergence
    return prior @ transport + terms.without_transport + ridge / 2 * terms.squares


def _scale(cost: Float[Array, "t s s"], a: Float[Array, "t s"], b: Float[Array, "t s"]) -> Float[Array, " t"]:
    return jnp.maximum(mean_cost(cost, a, b), jnp.finfo(cost.dtype).tiny * 2**24)


def validation_bound(
    parameters: Parameters, aside: Sampler, prior: Float[Array, " t"], method: Joint
) -> Float[Array, ""]:
    """The certified bound on an evenly spread subsample of the validation split."""
    conditional = pruned(parameters.conditional())
    terms = _terms(parameters, conditional, aside.draw(conditional, None), prior, method)
    b = jnp.full_like(terms.a, 1 / terms.a.shape[1])
    epsilon = method.epsilon / 4 * _scale(terms.cost, terms.a, b)
    f = rough_potential(terms.cost, terms.a, b, epsilon=epsilon, num_iterations=4 * method.sinkhorn_iterations)
    _, upper = certified_interval(terms.cost, terms.a, b, entropic_plan(terms.cost, terms.a, b, f, epsilon), f)
    bound = prior @ upper + terms.without_transport
    return jnp.where(jnp.isfinite(bound), bound, jnp.inf)

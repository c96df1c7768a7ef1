"""Class-stratified minibatches: for each target class a cloud of reference points and one of target points."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxrel.relatedness.blocks import ClassOrder, class_order, sample_members
from jaxrel.task import Task

__all__ = ["Minibatch", "Sampler", "sampler_of"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Minibatch:
    """Features of s points for each target class.

    `classes` are the classes of the reference points `z`, which were drawn from the distribution `drawn_by` over the
    reference classes. The target points `t` have weight 1 / s each.
    """

    z: Float[Array, "t s d"]
    classes: Int[Array, "t s"]
    drawn_by: Float[Array, "t s"]
    t: Float[Array, "t s d"]

    def weights(self, conditional: Float[Array, "t r"]) -> Float[Array, "t s"]:
        """Weights of the reference points for a coupling Q. Each row sums to 1 for the Q it was drawn from."""
        return jnp.take_along_axis(conditional, self.classes, axis=1) / self.drawn_by / self.classes.shape[1]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("reference", "target", "reference_classes", "target_classes"),
    meta_fields=("num_points",),
)
@dataclass(frozen=True)
class Sampler:
    """Draws minibatches of `num_points` points for each target class."""

    reference: Task
    target: Task
    reference_classes: ClassOrder
    target_classes: ClassOrder
    num_points: int

    def draw(self, conditional: Float[Array, "t r"], key: PRNGKeyArray | None) -> Minibatch:
        """Points drawn by Q and the weights of the samples, stratified, or evenly spread without a key."""
        shape = (2, conditional.shape[0], self.num_points)
        # One number in each of s equal strata.
        jitter = (
            jnp.full(shape, 0.5, conditional.dtype)
            if key is None
            else jax.random.uniform(key, shape, conditional.dtype)
        )
        across, within = (jnp.arange(self.num_points) + jitter) / self.num_points
        upper = jnp.cumsum(conditional, axis=1)
        drawn = jnp.sum(across[:, :, None] >= upper[:, None, :], axis=2)
        # The last class with positive mass takes what rounding leaves above the running total.
        last = conditional.shape[1] - 1 - jnp.argmax(conditional[:, ::-1] > 0, axis=1)
        drawn = jnp.minimum(drawn, last[:, None])
        width = jnp.take_along_axis(conditional, drawn, axis=1)
        below = jnp.take_along_axis(upper, drawn, axis=1) - width
        inside = jnp.clip((across - below) / width, 0, 1)
        own = jnp.broadcast_to(jnp.arange(shape[1])[:, None], drawn.shape)
        return Minibatch(
            z=self.reference.features[sample_members(self.reference_classes, drawn, inside)],
            classes=drawn,
            drawn_by=jax.lax.stop_gradient(width),
            t=self.target.features[sample_members(self.target_classes, own, within)],
        )


def sampler_of(reference: Task, target: Task, num_points: int) -> Sampler:
    """The sampler of two labelled tasks with a sample in every class."""
    return Sampler(
        reference=reference,
        target=target,
        reference_classes=class_order(*reference.labelled, reference.weights),
        target_classes=class_order(*target.labelled, target.weights),
        num_points=num_points,
    )

"""Strategies that assign classes to unlabelled target samples: frozen configs that map the inputs to class shares.

A strategy is called as `strategy(known, key, num_classes=k)` and returns shares `(n, k)` whose rows sum to 1. `Known`
has its inputs. A strategy of your own is any function with this signature. The attributes `needs_views` and
`needs_reference` declare its inputs, so that a missing one is an error before any work; `num_classes` is the number of
classes if the strategy defines its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxrel._core.standardisation import standardisation_of
from jaxrel.heads import fit_head
from jaxrel.pseudo_labels.gaussian_mixture import Covariance, gaussian_mixture
from jaxrel.pseudo_labels.kmeans import kmeans
from jaxrel.pseudo_labels.view_whitening import view_whitening
from jaxrel.task import Task
from jaxrel.transport import entropic_plan, mean_cost, sinkhorn_potentials, squared_distance

__all__ = [
    "GaussianMixture",
    "KMeans",
    "Known",
    "ReferenceHead",
    "Strategy",
    "TransportedClasses",
    "ViewClusters",
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Known:
    """The inputs of a strategy: a target task without labels.

    Attributes:
        features, weights: of the target samples.
        views: features of two augmented views of the same samples, row by row, or None.
        reference: the reference task, with labels, or None.
    """

    features: Float[Array, "n d"]
    weights: Float[Array, " n"]
    views: tuple[Float[Array, "n d"], Float[Array, "n d"]] | None = None
    reference: Task | None = None

    @property
    def standardised(self) -> Float[Array, "n d"]:
        """Target features of mean 0 and variance 1."""
        return standardisation_of(self.features, self.weights)(self.features)


@runtime_checkable
class Strategy(Protocol):
    """A map from `Known` to the share of each class in each sample."""

    def __call__(self, known: Known, key: PRNGKeyArray, *, num_classes: int) -> Float[Array, "n k"]:
        """Shares of the classes, rows that sum to 1."""


@dataclass(frozen=True)
class KMeans:
    """Clusters of the standardised features; see `kmeans`."""

    num_restarts: int = 4

    def __call__(self, known: Known, key: PRNGKeyArray, *, num_classes: int) -> Float[Array, "n k"]:
        """One-hot shares."""
        clusters = kmeans(
            known.standardised, known.weights, key, num_clusters=num_classes, num_restarts=self.num_restarts
        )
        return jax.nn.one_hot(clusters.labels, num_classes, dtype=known.features.dtype)


@dataclass(frozen=True)
class GaussianMixture:
    """Components of a mixture of Gaussians on the standardised features; see `gaussian_mixture`."""

    covariance: Covariance = "diagonal"
    num_restarts: int = 4

    def __call__(self, known: Known, key: PRNGKeyArray, *, num_classes: int) -> Float[Array, "n k"]:
        """Probability of each component."""
        mixture = gaussian_mixture(
            known.standardised,
            known.weights,
            key,
            num_components=num_classes,
            covariance=self.covariance,
            num_restarts=self.num_restarts,
        )
        return mixture.responsibilities


@dataclass(frozen=True)
class ViewClusters:
    """Clusters along the directions in which samples differ more than augmented views of the same sample.

    K-means on the leading directions of `view_whitening`, which divides by the scatter of the views where linear
    discriminant analysis divides by the unknown scatter within classes. Clusters on raw features follow whatever varies
    most, and favour encoders that have learned less.
    """

    num_directions: int = 30
    shrinkage: float = 0.1
    num_restarts: int = 4

    needs_views: ClassVar[bool] = True

    def __call__(self, known: Known, key: PRNGKeyArray, *, num_classes: int) -> Float[Array, "n k"]:
        """One-hot shares."""
        if known.views is None:
            raise ValueError("ViewClusters needs views: pass the features of two augmented views of the samples.")
        whitening = view_whitening(
            known.features,
            *known.views,
            known.weights,
            num_directions=self.num_directions,
            shrinkage=self.shrinkage,
        )
        clusters = kmeans(
            whitening(known.features),
            known.weights,
            key,
            num_clusters=num_classes,
            num_restarts=self.num_restarts,
        )
        return jax.nn.one_hot(clusters.labels, num_classes, dtype=known.features.dtype)


@dataclass(frozen=True)
class ReferenceHead:
    """Predictions of the reference head: target samples get reference classes.

    Softmax regression on the standardised reference features, applied to the target features standardised by their own
    statistics, which is the transformation before learning. The published method uses pseudo-labels of the transformed
    head; its code has none, so it is unknown how often they were updated. Here they are computed once.
    """

    ridge: float = 0.01

    needs_reference: ClassVar[bool] = True

    def __call__(self, known: Known, key: PRNGKeyArray, *, num_classes: int) -> Float[Array, "n k"]:
        """Softmax of the head's logits."""
        del key
        reference = _reference_of(known, num_classes, "ReferenceHead")
        standardise = standardisation_of(reference.features, reference.weights)
        head = fit_head(reference.replaced(features=standardise(reference.features)), ridge=self.ridge)
        return jax.nn.softmax(head(known.standardised), axis=1)


@dataclass(frozen=True)
class TransportedClasses:
    """Reference classes by transport: a target sample gets the classes of the reference mass transported to it.

    The entropic plan between the standardised features of both tasks, at squared Euclidean cost, divided by the mass
    of each target sample: `share_jc = sum_{i in c} pi_ij / sum_i pi_ij`. `epsilon` is relative to the mean cost. Memory
    is n m, for the plan.
    """

    epsilon: float = 0.02
    num_iterations: int = 100

    needs_reference: ClassVar[bool] = True

    def __call__(self, known: Known, key: PRNGKeyArray, *, num_classes: int) -> Float[Array, "n k"]:
        """Soft shares."""
        del key
        reference = _reference_of(known, num_classes, "TransportedClasses")
        standardise = standardisation_of(reference.features, reference.weights)
        cost = squared_distance(standardise(reference.features), known.standardised)
        a, b = (weights / jnp.sum(weights) for weights in (reference.weights, known.weights))
        scale = mean_cost(cost, a, b)
        scale = jnp.where(scale > 0, scale, 1)
        epsilon = self.epsilon * scale
        f, _ = sinkhorn_potentials(cost, a, b, epsilon=epsilon, num_iterations=self.num_iterations, start_epsilon=scale)
        labels, _ = reference.labelled
        # A uniform weight of the target: its columns then sum to 1, those of weight 0 included.
        shares = entropic_plan(cost, a, jnp.ones_like(b), f, epsilon)
        return shares.T @ jax.nn.one_hot(labels, num_classes, dtype=cost.dtype)


def _reference_of(known: Known, num_classes: int, name: str) -> Task:
    if known.reference is None:
        raise ValueError(f"{name} needs the reference task: pass reference.")
    _, num_reference = known.reference.labelled
    if num_reference != num_classes:
        raise ValueError(
            f"{name} gives target samples the {num_reference} classes of the reference, but num_classes is "
            f"{num_classes}: leave num_classes out, or choose another strategy."
        )
    return known.reference

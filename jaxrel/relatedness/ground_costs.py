r"""Ground costs: upper bounds on the rise of the loss from a reference point to a target point.

With `ell_k` the loss of the transformed head on target class k, the bound holds for any cost with

    ell_k(v_j) - ell_k(u_i) <= scale * cost_ij      for all reference points i and target points j.

Each cost is one class. Pass an instance of your own as `method.cost`, or give it a name in `GROUND_COSTS`.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrel.heads import Head
from jaxrel.transport import PointCloud, cost_array, euclidean_cost, feature_distance, range_cost
from jaxrel.transport.costs import feature_distance_error, margin_between, margin_points

__all__ = [
    "GROUND_COSTS",
    "Euclidean",
    "FeatureDistance",
    "GroundCost",
    "Margin",
    "Range",
    "Space",
    "cost_names",
    "ground_cost",
]

Space = Literal["prediction", "feature"]


class GroundCost(abc.ABC):
    """A ground cost, as a function of two clouds of points: `(*b, n, c)` against `(*b, m, c)` gives `(*b, n, m)`.

    A subclass is a frozen dataclass. Its fields are static: a new value recompiles.

    Attributes:
        name: the name of the cost.
        space: `"prediction"` compares logits u and v, `"feature"` mapped reference features `A z + b` and target
            features.
        roundings: relative error of a cost of the size of the cloud, and of its scale, in roundings per coordinate.
    """

    name: ClassVar[str]
    space: ClassVar[Space] = "prediction"
    roundings: ClassVar[int] = 0

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "*b n c"], y: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
        """Non-negative costs between the points of `cloud`, before they are scaled."""

    @abc.abstractmethod
    def size(self, points: Float[Array, "*b n c"]) -> Float[Array, "*b n"]:
        """A number for each point such that the cost between two points is at most the sum of their numbers.

        For a cost that is a norm of the difference, it is the norm of the point.
        """

    def cloud(
        self,
        x: Float[Array, "*b n c"],
        y: Float[Array, "*b m c"],
        log_map_row: Float[Array, "*b r"],  # noqa: ARG002
    ) -> PointCloud:
        """The points in coordinates that determine the cost.

        A cost that depends on the target class through log B_k appends what it needs as further coordinates.
        """
        return PointCloud(x, y, self)

    def scale(self, target_map: Head) -> Float[Array, ""] | float:  # noqa: ARG002
        """A factor of all costs that depends only on the head."""
        return 1.0

    def between(
        self,
        x: Float[Array, "*b n c"],
        y: Float[Array, "*b m c"],
        log_map_row: Float[Array, "*b r"],
        target_map: Head,
    ) -> Float[Array, "*b n m"]:
        """The scaled costs between reference points x and target points y of one target class."""
        return self.scale(target_map) * cost_array(self.cloud(x, y, log_map_row))


@dataclass(frozen=True)
class Margin(GroundCost):
    """`max_c delta_c - <softmax(u + log B_k), delta>` with `delta = v - u`: directed, the tightest known."""

    name = "margin"

    def __call__(self, x: Float[Array, "*b n c"], y: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
        """See `margin_cost`."""
        return margin_between(x, y)

    def size(self, points: Float[Array, "*b n c"]) -> Float[Array, "*b n"]:
        """`margin(u, v) <= range(u, v) <= range(u, 0) + range(0, v)`."""
        return Range().size(points)

    def cloud(
        self, x: Float[Array, "*b n c"], y: Float[Array, "*b m c"], log_map_row: Float[Array, "*b r"]
    ) -> PointCloud:
        """Append the softmax to the logits."""
        return PointCloud(*margin_points(x, y, log_map_row), self)


@dataclass(frozen=True)
class Range(GroundCost):
    """`max_c delta_c - min_c delta_c`."""

    name = "range"

    def __call__(self, x: Float[Array, "*b n c"], y: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
        """See `range_cost`."""
        return range_cost(x, y)

    def size(self, points: Float[Array, "*b n c"]) -> Float[Array, "*b n"]:
        """The range of the logits."""
        return jnp.max(points, axis=-1) - jnp.min(points, axis=-1)


@dataclass(frozen=True)
class Euclidean(GroundCost):
    """`sqrt(2) ||delta - mean(delta)||_2`."""

    name = "euclidean"

    def __call__(self, x: Float[Array, "*b n c"], y: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
        """See `euclidean_cost`."""
        return euclidean_cost(x, y)

    def size(self, points: Float[Array, "*b n c"]) -> Float[Array, "*b n"]:
        """The cost to the origin."""
        return _to_origin(self, points)


@dataclass(frozen=True)
class FeatureDistance(GroundCost):
    """`tau(M) ||A z + b - t||_2` with `tau = max_kl ||m_k - m_l||_2`, which includes A^-1 through `M = W A^-1`."""

    name = "euclidean"
    space = "feature"
    # For the expanded norm: the largest distance of two rows is at least half the sum of their norms about the mean.
    roundings = 4

    def __call__(self, x: Float[Array, "*b n c"], y: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
        """See `feature_distance`."""
        return feature_distance(x, y)

    def error(self, x: Float[Array, "*b n c"], y: Float[Array, "*b m c"]) -> Float[Array, "*b n m"]:
        """Bound on the error of the expanded norm, for certificates; see `PointCloud`."""
        return feature_distance_error(x, y)

    def size(self, points: Float[Array, "*b n c"]) -> Float[Array, "*b n"]:
        """The distance to the origin."""
        return _to_origin(self, points)

    def scale(self, target_map: Head) -> Float[Array, ""]:
        """tau."""
        return target_map.lipschitz


def _to_origin(cost: GroundCost, points: Float[Array, "*b n c"]) -> Float[Array, "*b n"]:
    return cost(points, jnp.zeros_like(points[..., :1, :]))[..., 0]


GROUND_COSTS: tuple[GroundCost, ...] = (Margin(), Range(), Euclidean(), FeatureDistance())
"""The named costs; in each space the tightest comes first."""


def cost_names(*spaces: Space) -> tuple[str, ...]:
    """Names of the costs of these spaces."""
    return tuple(dict.fromkeys(cost.name for cost in GROUND_COSTS if cost.space in spaces))


def ground_cost(cost: str | GroundCost | None, space: Space) -> GroundCost:
    """The cost with this name in a space, the tightest for None; a `GroundCost` is returned as it is.

    Raises:
        ValueError: for a name that does not exist in the space, or a cost of another space.
    """
    if isinstance(cost, GroundCost) and cost.space == space:
        return cost
    for known in GROUND_COSTS:
        if known.space == space and cost in (known.name, None):
            return known
    raise ValueError(f"cost must be one of {cost_names(space)} in {space} space, or a GroundCost of it, got {cost!r}.")

"""Problems whose cost is a function of points: the cost array is formed one tile at a time, or not at all."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float

from jaxrel.transport.costs import (
    CostFunction,
    feature_distance,
    feature_distance_error,
    squared_distance,
    squared_distance_error,
)

__all__ = ["CostFunction", "PointCloud", "cost_array"]


_DENSE_ENTRIES = 2**24
_TILE = 1024
_NAMED_COSTS: dict[str, tuple[CostFunction, CostFunction]] = {
    "euclidean": (feature_distance, feature_distance_error),
    "squared_euclidean": (squared_distance, squared_distance_error),
}


@functools.partial(jax.tree_util.register_dataclass, data_fields=("x", "y"), meta_fields=("cost", "tile"))
@dataclass(frozen=True)
class PointCloud:
    """Two clouds of points and the cost between them.

    Attributes:
        x: (*b, n, d); y: (*b, m, d).
        cost: `"euclidean"`, `"squared_euclidean"`, an ott-jax cost function, or a function that maps points
            (*b, n, d), (*b, m, d) to costs (*b, n, m). A function must be hashable; the same one is never traced twice.
            Certificates allow for the rounding of the named costs. The costs of a function are treated as exact, unless
            it has an attribute `error`, a function of the same points that bounds the error of the costs.
        tile: side of the square tiles in which the cost is formed. The memory of the solver is n + m + tile^2. None
            forms the whole array if it has at most 2^24 entries per problem (64 MiB in float32), and uses tiles of
            1,024 otherwise.
    """

    x: Float[Array, "*b n d"]
    y: Float[Array, "*b m d"]
    cost: str | CostFunction = "euclidean"
    tile: int | None = None

    @property
    def cost_function(self) -> CostFunction:
        """The function behind `cost`."""
        if isinstance(self.cost, str):
            if self.cost not in _NAMED_COSTS:
                raise ValueError(f"unknown cost {self.cost!r}: use one of {sorted(_NAMED_COSTS)} or a function.")
            return _NAMED_COSTS[self.cost][0]
        if hasattr(self.cost, "all_pairs"):
            from jaxrel.transport.ott_adapter import cost_function

            return cost_function(self.cost)
        return self.cost

    @property
    def cost_error(self) -> CostFunction | None:
        """Bound on the error of the costs, as a function of the points; None if costs are treated as exact."""
        return _NAMED_COSTS[self.cost][1] if isinstance(self.cost, str) else getattr(self.cost, "error", None)

    @property
    def tile_side(self) -> int | None:
        """Side of the tiles; None if the whole array is formed."""
        entries = self.x.shape[-2] * self.y.shape[-2]
        return _TILE if self.tile is None and entries > _DENSE_ENTRIES else self.tile


def cost_array(cloud: PointCloud) -> Float[Array, "*b n m"]:
    """The whole cost array of a point cloud."""
    return cloud.cost_function(cloud.x, cloud.y)

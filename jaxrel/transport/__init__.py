"""Batched optimal transport: costs, solvers with certificates, special cases that are exact, class assignment."""

from jaxrel.transport.classes import assign_classes, class_pair_costs
from jaxrel.transport.certificates import certified_interval, round_to_marginals
from jaxrel.transport.costs import euclidean_cost, feature_distance, margin_cost, range_cost, squared_distance
from jaxrel.transport.log_domain import entropic_plan, mean_cost, sinkhorn_potentials
from jaxrel.transport.point_clouds import PointCloud, cost_array
from jaxrel.transport.result import SinkhornResult, TransportError, TransportStatus
from jaxrel.transport.sinkhorn import SinkhornConfig, sinkhorn

__all__ = [
    "PointCloud",
    "SinkhornConfig",
    "SinkhornResult",
    "TransportError",
    "TransportStatus",
    "assign_classes",
    "certified_interval",
    "class_pair_costs",
    "cost_array",
    "entropic_plan",
    "euclidean_cost",
    "feature_distance",
    "margin_cost",
    "mean_cost",
    "range_cost",
    "round_to_marginals",
    "sinkhorn",
    "sinkhorn_potentials",
    "squared_distance",
]

"""Batched optimal transport: ground costs, entropic potentials, certificates, class assignment."""

from jaxrel.transport.assignment import assign_classes, class_pair_costs
from jaxrel.transport.certificates import certified_interval, round_to_marginals
from jaxrel.transport.costs import euclidean_cost, feature_distance, margin_cost, range_cost
from jaxrel.transport.sinkhorn import entropic_plan, mean_cost, sinkhorn_potentials

__all__ = [
    "assign_classes",
    "certified_interval",
    "class_pair_costs",
    "entropic_plan",
    "euclidean_cost",
    "feature_distance",
    "margin_cost",
    "mean_cost",
    "range_cost",
    "round_to_marginals",
    "sinkhorn_potentials",
]

"""Batched optimal transport: costs, solvers with certificates, exact special cases, and class assignment."""

from jaxrel.transport.blockwise import BlockwiseInterval, blockwise_interval
from jaxrel.transport.certificates import certified_interval, round_to_marginals
from jaxrel.transport.class_distances import class_distances, gather_classes
from jaxrel.transport.classes import assign_classes, class_pair_costs
from jaxrel.transport.costs import euclidean_cost, feature_distance, margin_cost, range_cost, squared_distance
from jaxrel.transport.divergence import SelfTerm, SinkhornDivergence, self_term, sinkhorn_divergence
from jaxrel.transport.exact import AssignmentResult, assignment
from jaxrel.transport.fixed_iterations import entropic_plan, mean_cost, rough_potential, sinkhorn_potentials
from jaxrel.transport.gaussian import bures_distances, gaussian_moments
from jaxrel.transport.ott_adapter import cost_function
from jaxrel.transport.point_clouds import PointCloud, cost_array
from jaxrel.transport.result import SinkhornResult, TransportStatus
from jaxrel.transport.sinkhorn import SinkhornConfig, sinkhorn

__all__ = [
    "AssignmentResult",
    "BlockwiseInterval",
    "PointCloud",
    "SelfTerm",
    "SinkhornConfig",
    "SinkhornDivergence",
    "SinkhornResult",
    "TransportStatus",
    "assign_classes",
    "assignment",
    "blockwise_interval",
    "bures_distances",
    "certified_interval",
    "class_distances",
    "class_pair_costs",
    "cost_array",
    "cost_function",
    "entropic_plan",
    "euclidean_cost",
    "feature_distance",
    "gather_classes",
    "gaussian_moments",
    "margin_cost",
    "mean_cost",
    "range_cost",
    "rough_potential",
    "round_to_marginals",
    "self_term",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_potentials",
    "squared_distance",
]

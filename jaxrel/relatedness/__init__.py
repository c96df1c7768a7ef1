"""Task-relatedness: `task_relatedness`, its kernels and its results."""

from jaxrel.relatedness.api import evaluate_bound, task_relatedness
from jaxrel.relatedness.budgets import BUDGETS, HEAD_RIDGES, validation_bounds
from jaxrel.relatedness.explanation import Explanation, explain, plot_coupling
from jaxrel.relatedness.feature_maps import FeatureMap, LowRankFeatureMap
from jaxrel.relatedness.ground_costs import Euclidean, FeatureDistance, GroundCost, Margin, Range
from jaxrel.relatedness.in_memory import block_sizes
from jaxrel.relatedness.methods import Joint, Method, Paper
from jaxrel.relatedness.reference_classes import restricted_to_classes, select_reference_classes
from jaxrel.relatedness.resampling import bound_resamples
from jaxrel.relatedness.result import (
    ClassTerms,
    ComputedWith,
    PublishedEstimate,
    Relatedness,
    Status,
    Transformation,
)

__all__ = [
    "BUDGETS",
    "HEAD_RIDGES",
    "ClassTerms",
    "ComputedWith",
    "Euclidean",
    "Explanation",
    "FeatureDistance",
    "FeatureMap",
    "GroundCost",
    "Joint",
    "LowRankFeatureMap",
    "Margin",
    "Method",
    "Paper",
    "PublishedEstimate",
    "Range",
    "Relatedness",
    "Status",
    "Transformation",
    "block_sizes",
    "bound_resamples",
    "evaluate_bound",
    "explain",
    "plot_coupling",
    "restricted_to_classes",
    "select_reference_classes",
    "task_relatedness",
    "validation_bounds",
]

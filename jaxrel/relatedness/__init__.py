"""Task-relatedness: `task_relatedness`, its kernels and its results."""

from jaxrel.relatedness.api import task_relatedness
from jaxrel.relatedness.bound import evaluate_bound
from jaxrel.relatedness.budgets import BUDGETS, validation_bounds
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
from jaxrel.relatedness.stored_tasks import StoredTask
from jaxrel.relatedness.streaming import evaluate_bound_in_blocks, task_relatedness_in_blocks

__all__ = [
    "BUDGETS",
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
    "StoredTask",
    "Transformation",
    "block_sizes",
    "bound_resamples",
    "evaluate_bound",
    "evaluate_bound_in_blocks",
    "explain",
    "plot_coupling",
    "restricted_to_classes",
    "select_reference_classes",
    "task_relatedness",
    "task_relatedness_in_blocks",
    "validation_bounds",
]

"""Task-relatedness: the verb, its kernels and its results."""

from jaxrel.relatedness.bound import evaluate_bound
from jaxrel.relatedness.budgets import BUDGETS, validation_bounds
from jaxrel.relatedness.explanation import Explanation, explain, plot_coupling
from jaxrel.relatedness.feature_maps import FeatureMap, LowRankFeatureMap
from jaxrel.relatedness.joint import fit_joint, joint_relatedness
from jaxrel.relatedness.large import evaluate_bound_in_blocks, task_relatedness_in_blocks
from jaxrel.relatedness.methods import Joint, Paper
from jaxrel.relatedness.paper import evaluate_paper, fit_paper, paper_relatedness
from jaxrel.relatedness.reference_classes import restricted_to_classes, select_reference_classes
from jaxrel.relatedness.resampling import bound_resamples
from jaxrel.relatedness.result import (
    ClassTerms,
    ComputedWith,
    PublishedEstimate,
    Relatedness,
    RelatednessError,
    Status,
    Transformation,
)
from jaxrel.relatedness.stored_tasks import StoredTask
from jaxrel.relatedness.verb import block_sizes, task_relatedness

__all__ = [
    "BUDGETS",
    "ClassTerms",
    "ComputedWith",
    "Explanation",
    "FeatureMap",
    "Joint",
    "LowRankFeatureMap",
    "Paper",
    "PublishedEstimate",
    "Relatedness",
    "RelatednessError",
    "Status",
    "StoredTask",
    "Transformation",
    "block_sizes",
    "bound_resamples",
    "evaluate_bound",
    "evaluate_bound_in_blocks",
    "evaluate_paper",
    "explain",
    "fit_joint",
    "fit_paper",
    "joint_relatedness",
    "paper_relatedness",
    "plot_coupling",
    "restricted_to_classes",
    "select_reference_classes",
    "task_relatedness",
    "task_relatedness_in_blocks",
    "validation_bounds",
]

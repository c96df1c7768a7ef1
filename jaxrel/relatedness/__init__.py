"""Task-relatedness: the verb, its kernels and its results."""

from jaxrel.relatedness.bound import evaluate_bound
from jaxrel.relatedness.joint import fit_joint, joint_relatedness
from jaxrel.relatedness.methods import Joint
from jaxrel.relatedness.resampling import bound_resamples
from jaxrel.relatedness.result import (
    ComputedWith,
    FeatureMap,
    Relatedness,
    RelatednessError,
    Status,
    Transformation,
)
from jaxrel.relatedness.verb import block_sizes, task_relatedness

__all__ = [
    "ComputedWith",
    "FeatureMap",
    "Joint",
    "Relatedness",
    "RelatednessError",
    "Status",
    "Transformation",
    "block_sizes",
    "bound_resamples",
    "evaluate_bound",
    "fit_joint",
    "joint_relatedness",
    "task_relatedness",
]

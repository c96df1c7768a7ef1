"""How a transformation is learned: the abstract method, and those there are."""

from jaxrel.relatedness.methods.base import Method
from jaxrel.relatedness.methods.joint import Joint, fit_joint, joint_relatedness
from jaxrel.relatedness.methods.paper import Paper, evaluate_paper, fit_paper, paper_relatedness

__all__ = [
    "Joint",
    "Method",
    "Paper",
    "evaluate_paper",
    "fit_joint",
    "fit_paper",
    "joint_relatedness",
    "paper_relatedness",
]

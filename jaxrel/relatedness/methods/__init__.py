"""How a transformation is learned: the abstract method, and those there are."""

from jaxrel.relatedness.methods.base import Method
from jaxrel.relatedness.methods.joint import Joint
from jaxrel.relatedness.methods.paper import Paper

__all__ = ["Joint", "Method", "Paper"]

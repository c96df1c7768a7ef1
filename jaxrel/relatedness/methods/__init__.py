"""Methods to learn a transformation: the base class and its implementations."""

from jaxrel.relatedness.methods.base import Method
from jaxrel.relatedness.methods.joint import Joint
from jaxrel.relatedness.methods.paper import Paper

__all__ = ["Joint", "Method", "Paper"]

"""The base class of methods, which learn a transformation and evaluate its bound."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Literal, Self

from jaxtyping import PRNGKeyArray

from jaxrel.heads import Head
from jaxrel.relatedness.bound import Contributions, evaluate_bound_with_contributions
from jaxrel.relatedness.ground_costs import GroundCost, Space
from jaxrel.relatedness.result import Relatedness, Transformation
from jaxrel.task import Task

__all__ = ["SETTINGS", "STATIC", "Method", "Setting"]

STATIC = {"static": True}  # Structure of a method: hashed, not traced.
SETTINGS = ("learned", "learned_features", "fixed")

Setting = Literal["learned", "learned_features", "fixed"]


class Method(abc.ABC):
    """Base class of the methods that `task_relatedness` accepts.

    A method of your own is a frozen dataclass, registered by `jax.tree_util.register_dataclass`, that defines `fit`.
    Its fields are either numbers, which are traced, or structure, which is hashed (`metadata={"static": True}`). The
    attributes below may be fields too. `fit` and `evaluate` are pure functions of arrays that run under `jit`.

    Attributes:
        space: the space, `"prediction"` or `"feature"`, in which points are transported.
        cost: the ground cost of the bound, a name or a `GroundCost`; None uses the tightest of the space.
        certificate_gap: target relative gap between the ends of the certified transport cost of each target class.
        certificate_iterations: the largest number of Sinkhorn iterations for this gap.
    """

    space: Space = "feature"
    cost: str | GroundCost | None = None
    certificate_gap: float = 0.01
    certificate_iterations: int = 2000

    def check(self, reference: Task, target: Task, head: Head | None, init: Transformation | None) -> None:  # noqa: ARG002
        """Raise a ValueError for arguments the method cannot use. Values are concrete and tasks not yet padded."""
        if init is not None:
            raise ValueError(
                f"init is for a method that starts from it, such as Joint(...), not {type(self).__name__}."
            )

    def resolved(self, reference: Task, target: Task, key: PRNGKeyArray) -> Self:  # noqa: ARG002
        """The method with data-dependent options replaced by numbers. Called before anything is traced."""
        return self

    def within(self, fits: Callable[[int], bool]) -> Self:  # noqa: ARG002
        """The method with minibatches that fit into memory: `fits(n)` is whether n points of each class do."""
        return self

    @abc.abstractmethod
    def fit(
        self, reference: Task, target: Task, head: Head | None, key: PRNGKeyArray, init: Transformation | None = None
    ) -> Transformation:
        """Learn the transformation on labelled training samples, which may be padded by samples of weight 0.

        `head` is a head on raw reference features, or None; `init` is the transformation to start from, or None.
        """

    def evaluate(
        self, transformation: Transformation, reference: Task, target: Task, block_sizes: tuple[int, int] | None
    ) -> tuple[Relatedness, Contributions]:
        """Every term of the bound on these samples, see `evaluate_bound`, and the contribution of each sample."""
        return evaluate_bound_with_contributions(
            transformation, reference, target, method=self, block_sizes=block_sizes
        )

    def for_evaluation(self) -> Method:
        """An equivalent method for evaluation, without the structure that only learning uses.

        Methods with the same result share the compiled evaluation.
        """
        return self

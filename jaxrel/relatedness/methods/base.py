"""What a method is: how a transformation is learned, and how its bound is evaluated."""

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
    """What `task_relatedness` takes as `method`.

    One's own is a frozen dataclass, registered by `jax.tree_util.register_dataclass`, with a `fit`. Its fields are
    numbers, which are traced, or structure, which is hashed (`metadata={"static": True}`); the attributes below may be
    fields as well. `fit` and `evaluate` are pure functions of arrays that run under `jit`.

    Attributes:
        space: what a step of learning transports.
        cost: the ground cost of the bound, a name or a `GroundCost`; None takes the tightest of the space.
        certificate_gap: relative gap aimed at between the ends of the certified transport cost of each target class.
        certificate_iterations: Sinkhorn iterations that may be spent on it.
    """

    space: Space = "feature"
    cost: str | GroundCost | None = None
    certificate_gap: float = 0.01
    certificate_iterations: int = 2000

    def check(self, reference: Task, target: Task, head: Head | None, init: Transformation | None) -> None:  # noqa: ARG002
        """Raise a ValueError for what the method cannot start from; values are concrete, tasks not yet padded."""
        if init is not None:
            raise ValueError(
                f"init is for a method that starts from it, such as Joint(...), not {type(self).__name__}."
            )

    def resolved(self, reference: Task, target: Task, key: PRNGKeyArray) -> Self:  # noqa: ARG002
        """The method with numbers in place of options that depend on the data; called before anything is traced."""
        return self

    def within(self, fits: Callable[[int], bool]) -> Self:  # noqa: ARG002
        """The method with minibatches that fit into memory: `fits` says whether so many points of each class do."""
        return self

    @abc.abstractmethod
    def fit(
        self, reference: Task, target: Task, head: Head | None, key: PRNGKeyArray, init: Transformation | None = None
    ) -> Transformation:
        """Learn the transformation on labelled training samples, which may be padded by samples of weight 0.

        `head` is a head on raw reference features, or None; `init` is where learning starts, if anywhere.
        """

    def evaluate(
        self, transformation: Transformation, reference: Task, target: Task, block_sizes: tuple[int, int] | None
    ) -> tuple[Relatedness, Contributions]:
        """Every term of the bound on these samples, see `evaluate_bound`, and what each sample adds to it."""
        return evaluate_bound_with_contributions(
            transformation, reference, target, method=self, block_sizes=block_sizes
        )

    def for_evaluation(self) -> Method:
        """A method that evaluates alike, without structure that only learning depends on.

        Methods for which it is the same share the compiled evaluation.
        """
        return self

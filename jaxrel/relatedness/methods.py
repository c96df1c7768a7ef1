"""How the transformation is learned: small frozen configs, passed to the one verb."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

__all__ = ["RIDGES", "Joint"]

RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)

STATIC = {"static": True}  # Structure of a method: hashed, not traced.

Space = Literal["prediction", "feature"]
Cost = Literal["margin", "range", "euclidean"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Joint:
    """Direct minimisation of the bound over the head, the target map and the coupling, in one loop.

    What gives structure is static (a change recompiles); numbers are traced (a change does not).

    Attributes:
        space: `"prediction"` transports logits (M is free, no inverse); `"feature"` transports features by A, b and
            pays tau(M) with M = W A^-1.
        cost: ground cost. Prediction space: `"margin"` (tightest), `"range"`, `"euclidean"`. Feature space: only
            `"euclidean"`, times tau. None takes the tightest of the space.
        learn_head: learn the reference head along, or keep it.
        standardise: per-domain zero mean and unit variance, statistics of the training samples; see
            `standardisation_of` for its floor, which near-dead units of a network make necessary.
        points_per_class: points of each target class, and as many of the reference, in a step's minibatch; None
            picks the largest up to 100 that keeps the ground cost below about 2 million terms.
        ridge: `ridge / 2 (||W||^2 + ||M||^2)` in the objective, in nats. None takes the one of `RIDGES` with the
            smallest loss of the transformed head on every fourth training sample of each target class, kept aside:
            the rule, not the number, is then the same for every encoder (a ridge that suits 200 features of 4,000
            samples leaves 1,280 features of 1,000 samples hopelessly overfitted). The result records the number.
        head_ridge: ridge of the reference head where it has to be fitted. It decides the Lipschitz constant of a
            head that is kept fixed, and with it the distribution mismatch.
        num_steps: Adam steps.
        learning_rate: of Adam, falling to 0 along a cosine.
        epsilon: entropic regularisation of a step, relative to the mean cost.
        num_sweeps: Sinkhorn sweeps in a step.
        certificate_epsilon, certificate_sweeps: the same for the final evaluation. The bound holds for any values,
            1 sweep included; better ones make it smaller.
    """

    space: Space = field(default="prediction", metadata=STATIC)
    cost: Cost | None = field(default=None, metadata=STATIC)
    learn_head: bool = field(default=True, metadata=STATIC)
    standardise: bool = field(default=True, metadata=STATIC)
    points_per_class: int | None = field(default=None, metadata=STATIC)
    ridge: float | None = None
    head_ridge: float = 2.5
    num_steps: int = 300
    learning_rate: float = 1e-2
    epsilon: float = 0.1
    num_sweeps: int = 20
    certificate_epsilon: float = 0.01
    certificate_sweeps: int = 200

    def __post_init__(self) -> None:
        """Resolve the default cost; refuse unknown options and numbers out of range."""
        if self.space not in ("prediction", "feature"):
            raise ValueError(f"space must be 'prediction' or 'feature', got {self.space!r}.")
        allowed = ("margin", "range", "euclidean") if self.space == "prediction" else ("euclidean",)
        if self.cost is None:
            object.__setattr__(self, "cost", allowed[0])
        if self.cost not in allowed:
            raise ValueError(f"cost must be one of {allowed} in {self.space} space, got {self.cost!r}.")
        for name in ("learn_head", "standardise"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        points = self.points_per_class
        if points is not None and (isinstance(points, bool) or not isinstance(points, int) or points < 1):
            raise ValueError(f"points_per_class must be an integer of at least 1 or None, got {points!r}.")
        for name in ("num_steps", "num_sweeps", "certificate_sweeps"):
            self._check_number(name, least=0 if name == "num_steps" else 1, whole=True)
        for name in ("ridge", "head_ridge", "learning_rate", "epsilon", "certificate_epsilon"):
            if name != "ridge" or self.ridge is not None:
                self._check_number(name, least=0.0, positive="ridge" not in name)

    def _check_number(self, name: str, *, least: float, whole: bool = False, positive: bool = False) -> None:
        value: Any = getattr(self, name)
        if not isinstance(value, bool | int | float | str | np.number | None):
            return  # A tracer, an array, or a placeholder of a tree transformation: its value is not ours to see.
        number = _finite_number(value)
        if number is None or (whole and number != int(number)):
            raise ValueError(f"{name} must be {'an integer' if whole else 'a finite number'}, got {value!r}.")
        if number < least or (positive and number <= 0):
            raise ValueError(f"{name} must be {'positive' if positive else f'at least {least}'}, got {value!r}.")


def _finite_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        return None
    return float(value)

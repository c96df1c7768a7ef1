"""How the transformation is learned: small frozen configs, passed to the one verb."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

__all__ = ["RIDGES", "ClassMap", "Joint", "Paper", "Setting"]

RIDGES = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)

STATIC = {"static": True}  # Structure of a method: hashed, not traced.

Setting = Literal["learned", "learned_features", "fixed"]
Space = Literal["prediction", "feature"]
Cost = Literal["margin", "range", "euclidean"]
ClassMap = Literal["assigned", "soft", "identity"] | tuple[int | tuple[int, ...], ...]

_SETTINGS = ("learned", "learned_features", "fixed")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Joint:
    """Direct minimisation of the bound over the head, the target map and the coupling, in one loop.

    What gives structure is static (a change recompiles); numbers are traced (a change does not).

    Attributes:
        setting: `"learned"` learns the coupling Q and the map, `"learned_features"` the map alone, `"fixed"` nothing:
            A = I, b = 0, in prediction space M = W, m = w0.
        space: `"prediction"` transports logits (M is free, no inverse); `"feature"` transports features by A, b and
            pays tau(M) with M = W A^-1, so that A cannot collapse the features for nothing.
        cost: ground cost. Prediction space: `"margin"` (tightest), `"range"`, `"euclidean"`. Feature space: only
            `"euclidean"`, times tau. None takes the tightest of the space.
        learn_head: learn the reference head along, or keep it. None learns it in the setting `"learned"`.
        class_map: which reference classes may stand for which target class, the support of Q. `"assigned"`: each target
            class has its own, at the least total transport cost, and shares none (see `assign_classes`). `"soft"`: all
            of them, from a start halfway between the assigned ones and a softmax of the transport costs.
            `"identity"`: class k stands for class k (for shared labels). Or, for each target class, one reference class
            or a tuple of several.
        feature_rank: rank of A - I in feature space; None learns the full matrix.
        solver: `"adam"` on minibatches; `"lbfgs"` on one fixed sample of `points_per_class`, deterministic.
        early_stopping: keep every fourth training sample of each class aside, return the step with the smallest bound
            on them, stop when it no longer falls. The bound it found is `Transformation.validation_bound`.
        standardise: per-domain zero mean and unit variance, statistics of the training samples; see
            `standardisation_of` for its floor, which near-dead units of a network make necessary.
        points_per_class: points of each target class, and as many of the reference, in a step's minibatch; None
            picks the largest up to 100 that keeps the ground cost below about 2 million terms. Small tasks learn
            faster, and no worse, with as many as a class has.
        ridge: `ridge / 2 (||W||^2 + ||M||^2)` in the objective, in nats (weight decay). None takes the one of `RIDGES`
            with the smallest loss of the transformed head on every fourth training sample of each target class, kept
            aside: the rule, not the number, is then the same for every encoder (a ridge that suits 200 features of
            4,000 samples leaves 1,280 features of 1,000 samples hopelessly overfitted). The result records the number.
        head_ridge: ridge of the reference head where it has to be fitted. It decides the Lipschitz constant of a
            head that is kept fixed, and with it the distribution mismatch.
        lipschitz_budget: the largest `Head.lipschitz` of a reference head that is fitted and kept, on standardised
            features; it holds exactly. `"validated"` takes the one of `BUDGETS` with the smallest bound on training
            samples kept aside, which a reference that is easy and near wants large, and one that is far small. The
            verb resolves it, kernels take numbers.
        num_steps: steps of Adam, iterations of L-BFGS at most.
        learning_rate: of Adam, falling to 0 along a cosine; ten times as large for the logits of Q.
        epsilon: entropic regularisation of a step, relative to the mean cost.
        num_sweeps: Sinkhorn sweeps in a step.
        certificate_gap: relative gap aimed at between the ends of the certified transport cost of each target class.
            Where that cost is a thousandth of the largest ground cost, the allowance for rounding in float32 is wider;
            the ends say what was reached.
        certificate_sweeps: sweeps that may be spent on it. The bound holds after any number, 1 included, and is
            smaller after more.
    """

    setting: Setting = field(default="learned", metadata=STATIC)
    space: Space = field(default="prediction", metadata=STATIC)
    cost: Cost | None = field(default=None, metadata=STATIC)
    learn_head: bool | None = field(default=None, metadata=STATIC)
    class_map: ClassMap = field(default="assigned", metadata=STATIC)
    feature_rank: int | None = field(default=None, metadata=STATIC)
    solver: Literal["adam", "lbfgs"] = field(default="adam", metadata=STATIC)
    early_stopping: bool = field(default=False, metadata=STATIC)
    standardise: bool = field(default=True, metadata=STATIC)
    points_per_class: int | None = field(default=None, metadata=STATIC)
    ridge: float | None = None
    head_ridge: float = 2.5
    lipschitz_budget: float | jax.Array | Literal["validated"] | None = None
    num_steps: int = 300
    learning_rate: float = 1e-2
    epsilon: float = 0.1
    num_sweeps: int = 20
    certificate_gap: float = 0.01
    certificate_sweeps: int = 2000

    def __post_init__(self) -> None:
        """Resolve defaults that depend on each other; refuse unknown options and numbers out of range."""
        _check_choice("setting", self.setting, _SETTINGS)
        _check_choice("space", self.space, ("prediction", "feature"))
        _check_choice("solver", self.solver, ("adam", "lbfgs"))
        allowed = ("margin", "range", "euclidean") if self.space == "prediction" else ("euclidean",)
        if self.cost is None:
            object.__setattr__(self, "cost", allowed[0])
        if self.cost not in allowed:
            raise ValueError(f"cost must be one of {allowed} in {self.space} space, got {self.cost!r}.")
        _check_class_map(self.class_map)
        for name in ("learn_head", "standardise", "early_stopping"):
            if not isinstance(getattr(self, name), bool) and (name != "learn_head" or self.learn_head is not None):
                raise ValueError(f"{name} must be True or False, got {getattr(self, name)!r}.")
        _check_count("points_per_class", self.points_per_class)
        _check_count("feature_rank", self.feature_rank)
        if self.feature_rank is not None and self.space == "prediction":
            raise ValueError("feature_rank belongs to space='feature': prediction space has no feature map.")
        for name in ("num_steps", "num_sweeps", "certificate_sweeps"):
            _check_number(name, getattr(self, name), least=0 if name == "num_steps" else 1, whole=True)
        for name in ("ridge", "head_ridge", "learning_rate", "epsilon", "certificate_gap"):
            if name != "ridge" or self.ridge is not None:
                _check_number(name, getattr(self, name), least=0.0, positive="ridge" not in name)
        self._check_budget()

    def _check_budget(self) -> None:
        if self.lipschitz_budget is None:
            return
        if self.learns_head:
            raise ValueError("lipschitz_budget needs learn_head=False: a head that is learned keeps no budget.")
        if self.lipschitz_budget != "validated":
            _check_number("lipschitz_budget", self.lipschitz_budget, least=0.0, positive=True)

    @property
    def learns_head(self) -> bool:
        """Whether the reference head changes."""
        return self.setting == "learned" if self.learn_head is None else self.learn_head


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Paper:
    r"""The alternating scheme of the published code, its documented defects mended.

    Each step draws a class-stratified minibatch, finds the transport plan between mapped reference and target features,
    holds it fixed and takes one step of five Adam optimisers (A, Abar, b, logits of B, logits of D) on

        H(B, D) + sum_c D_c loss_c + 2 <plan, ||A z + b - t||^2 + Lambda ||B e_c - e_k||^2> + ||P_T - B D||^2
          + ||A Abar - I||_F^2 + ||Abar A - I||_F^2,        H(B, D) = - sum_c D_c sum_k B_kc log B_kc.

    Features are standardised per domain. Starts: A = Abar = I, b = 0, logits of B uniform in (0, 1), logits of D at the
    reference prior. The reference head, where none is given, is fitted with a gradient penalty. The result has both the
    published estimate (`result.published`) and the certified bound, for the coupling J = B D with its rows moved
    to the target prior, the map A, b, and the exact tau(W A^-1).

    Attributes:
        setting: `"learned"` learns A, b, B and D; `"learned_features"` A and b, with B a permutation (the class
            assignment of least transport cost) and D the prior it carries; `"fixed"` nothing.
        preset: `"small"`: batches of 500, 1,001 steps, 1e-4 for D, gradient norm 0.2 of the head; `"large"`: batches of
            1,500, 2,001 steps, 1e-3 for D, gradient norm 0.02. Resolves every field below that is None when the method
            is made; `dataclasses.replace` keeps these numbers, so make a new one for another preset.
        batch_size: samples of each task in a step, divided equally among the classes (at least one each).
        num_steps, learning_rate, prior_learning_rate: of Adam; the last for the logits of D.
        label_weight: Lambda in the gradient. In the plan it is infinite, see below.
        plan_gap: relative gap to which a step's plans are certified.
        gradient_norm, penalty: of the head that is fitted, see `gradient_penalised_head`.
        certificate_gap, certificate_sweeps: as in `Joint`.

    Source: Mehra, Zhang, Hamm, NeurIPS 2024, and the code published with it. Mended: B log B is 0 where B is 0 (it was
    NaN for a permutation). Lambda = 1e8 inside a cost drowns float32: the plan is lexicographic instead, the limit for
    Lambda to infinity, classes first (by the label distance), then samples within the pairs of classes that the class
    plan couples. Classes never abort nor drop out: every class has the same number of points in a batch, weighted by D
    and P_T, instead of int(batch * prior) of them. Plans are entropic to `plan_gap` instead of exact. The certified
    bound weighs classes by P_T and has A^-1 in tau; the estimate does neither, as published.
    """

    setting: Setting = field(default="learned", metadata=STATIC)
    preset: Literal["small", "large"] = field(default="small", metadata=STATIC)
    batch_size: int = field(default=None, metadata=STATIC)  # type: ignore[assignment]
    num_steps: int = None  # type: ignore[assignment]
    learning_rate: float = 1e-2
    prior_learning_rate: float = None  # type: ignore[assignment]
    label_weight: float = None  # type: ignore[assignment]
    plan_gap: float = 0.02
    gradient_norm: float = None  # type: ignore[assignment]
    penalty: float = None  # type: ignore[assignment]
    certificate_gap: float = 0.01
    certificate_sweeps: int = 2000

    cost = "euclidean"

    def __post_init__(self) -> None:
        """Resolve the preset; refuse unknown options and numbers out of range."""
        _check_choice("setting", self.setting, _SETTINGS)
        _check_choice("preset", self.preset, tuple(_PRESETS))
        for name, value in _PRESETS[self.preset].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        _check_count("batch_size", self.batch_size)
        _check_number("num_steps", self.num_steps, least=0, whole=True)
        _check_number("certificate_sweeps", self.certificate_sweeps, least=1, whole=True)
        for name in ("label_weight", "gradient_norm", "penalty"):
            _check_number(name, getattr(self, name), least=0.0)
        for name in ("learning_rate", "prior_learning_rate", "plan_gap", "certificate_gap"):
            _check_number(name, getattr(self, name), least=0.0, positive=True)


_PRESETS: dict[str, dict[str, Any]] = {
    "small": {
        "batch_size": 500,
        "num_steps": 1001,
        "prior_learning_rate": 1e-4,
        "label_weight": 1e8,
        "gradient_norm": 0.2,
        "penalty": 1e10,
    },
    "large": {
        "batch_size": 1500,
        "num_steps": 2001,
        "prior_learning_rate": 1e-3,
        "label_weight": 1e6,
        "gradient_norm": 0.02,
        "penalty": 1e4,
    },
}


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {value!r}.")


def _check_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be an integer of at least 1 or None, got {value!r}.")


def _check_class_map(class_map: Any) -> None:
    if isinstance(class_map, tuple) and class_map:
        groups = [group if isinstance(group, tuple) else (group,) for group in class_map]
        if all(group and all(type(c) is int and c >= 0 for c in group) for group in groups):
            return
    elif class_map in ("assigned", "soft", "identity"):
        return
    raise ValueError(
        "class_map must be 'assigned', 'soft', 'identity' or a tuple with, for each target class, a reference class or "
        f"a tuple of reference classes, got {class_map!r}."
    )


def _check_number(name: str, value: Any, *, least: float, whole: bool = False, positive: bool = False) -> None:
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

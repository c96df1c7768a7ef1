"""The solvers that benchmarks/transport.py compares, and the one measure by which it judges them all.

Every solver gives potentials f on the first cloud and the regularisation epsilon they belong to. `true_errors` makes of
them a feasible dual and a feasible plan in float64 and compares both with the exact optimum, so that no solver is
judged by its own figures.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

__all__ = [
    "DISTRIBUTIONS",
    "POT_METHODS",
    "OttSetting",
    "Problems",
    "compiled",
    "exact_optima",
    "exact_problems",
    "geomloss_potentials",
    "installed_versions",
    "ott_solver",
    "ott_streamed",
    "pot_potentials",
    "problems_of",
    "timed",
    "true_errors",
]

DISTRIBUTIONS = {"pot": "POT", "ott": "ott-jax", "geomloss": "geomloss"}
# Float32 saves time, but the kernel of the first two underflows earlier in it.
POT_METHODS = (
    ("sinkhorn", np.float64),
    ("sinkhorn", np.float32),
    ("sinkhorn_stabilized", np.float64),
    ("sinkhorn_stabilized", np.float32),
    ("sinkhorn_log", np.float32),
)
ExactProblem = tuple[np.ndarray, np.ndarray, np.ndarray]  # a, b, cost
ROWS = 512  # of a cost array that `true_errors` handles at once


@dataclass(frozen=True)
class Problems:
    """A batch of problems: points (k n d), weights (k n) that sum to 1 and Euclidean costs (k n m), all float32."""

    x: np.ndarray
    y: np.ndarray
    a: np.ndarray
    b: np.ndarray
    cost: np.ndarray

    @property
    def mean_cost(self) -> np.ndarray:
        """Cost of the independent coupling, the unit of epsilon: (k)."""
        return np.einsum("kn,knm,km->k", self.a, self.cost, self.b, dtype=np.float64)


def problems_of(x: np.ndarray, y: np.ndarray, a: np.ndarray | None = None, b: np.ndarray | None = None) -> Problems:
    """Problems between clouds x (k n d) and y (k m d), of equal weights unless they are given."""
    a, b = (
        np.full(points.shape[:2], 1 / points.shape[1]) if weights is None else weights
        for points, weights in ((x, a), (y, b))
    )
    x, y, a, b = (array.astype(np.float32) for array in (x, y, a, b))
    cost = np.stack([cdist(first, second) for first, second in zip(x, y, strict=True)])
    return Problems(x, y, a, b, cost.astype(np.float32))


def exact_problems(problems: Problems, dtype: Any = np.float64) -> list[ExactProblem]:
    """Each problem as POT wants it: weights of equal sums, float64 for its exact solver."""
    found = []
    for a, b, cost in zip(problems.a, problems.b, problems.cost, strict=True):
        a, b = (weights / weights.sum(dtype=np.float64) for weights in (a.astype(np.float64), b.astype(np.float64)))
        found.append((a.astype(dtype), b.astype(dtype), cost.astype(dtype)))
    return found


def exact_optima(problems: Sequence[ExactProblem]) -> np.ndarray:
    """The exact optimum of each problem, by POT's network simplex in a Python loop."""
    import ot

    return np.array([float(ot.emd2(a, b, cost, numItermax=10**9)) for a, b, cost in problems])


def true_errors(
    cost: np.ndarray, a: np.ndarray, b: np.ndarray, f: np.ndarray, epsilon: float, exact: float
) -> tuple[float, float]:
    """How far the dual and the plan that f gives are below and above the exact optimum, relative to it; NaN for a NaN.

    Dual: `g_j = min_i C_ij - f_i`, then `f_i = min_j C_ij - g_j`, value `<a, f> + <b, g>`. Plan: `P_ij = b_j softmax_i(
    (f_i - C_ij) / epsilon + log a_i)`, whose columns are right; rows that are too heavy are scaled down and what is
    missing is spread as a product (Altschuler, Weed, Rigollet, NeurIPS 2017). cost: (n m), computed in float64.
    """
    f = np.where(a > 0, f, -np.inf).astype(np.float64)
    if not np.isfinite(f[a > 0]).all() or not epsilon > 0:
        return np.nan, np.nan
    a, b = a.astype(np.float64) / a.sum(dtype=np.float64), b.astype(np.float64) / b.sum(dtype=np.float64)
    blocks = [slice(start, start + ROWS) for start in range(0, len(a), ROWS)]
    largest, total = np.full(len(b), -np.inf), np.zeros(len(b))
    for block in blocks:
        slack = f[block, None] - cost[block].astype(np.float64)
        raised = np.maximum(largest, slack.max(0))
        total = total * np.exp((largest - raised) / epsilon) + a[block] @ np.exp((slack - raised) / epsilon)
        largest = raised
    g = -largest
    lower, primal, spread_cost, missing = b @ g, 0.0, np.zeros(len(b)), 0.0
    column_sums = np.zeros(len(b))
    for block in blocks:
        rows = cost[block].astype(np.float64)
        lower += a[block] @ (rows - g).min(1)
        plan = np.exp((f[block, None] - rows + g) / epsilon) * a[block, None] * (b / total)
        sums = plan.sum(1)
        plan *= (a[block] / np.maximum(sums, np.maximum(a[block], 1e-300)))[:, None]
        primal += float(np.vdot(plan, rows))
        column_sums += plan.sum(0)
        missing_rows = np.maximum(a[block] - plan.sum(1), 0)
        spread_cost += missing_rows @ rows
        missing += missing_rows.sum()
    upper = primal + (spread_cost @ np.maximum(b - column_sums, 0) / missing if missing > 0 else 0)
    return float(1 - lower / exact), float(upper / exact - 1)


def installed_versions(peers: Sequence[str]) -> dict[str, str]:
    """Versions of those peers that can be imported; POT is needed for the exact optimum and always in."""
    modules = {"pot": ("ot",), "ott": ("ott",), "geomloss": ("geomloss", "torch")}
    return {
        peer: version(DISTRIBUTIONS[peer])
        for peer in peers
        if all(importlib.util.find_spec(module) for module in modules[peer])
    }


def compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    """`function` compiled for `arguments`, waiting for what it returns; and the seconds that compiling took."""
    start = time.perf_counter()
    executable = jax.jit(function).lower(*arguments).compile()
    return lambda *values: jax.block_until_ready(executable(*values)), time.perf_counter() - start


def timed(run: Callable[[], Any], *, repeats: int = 3, budget: float) -> tuple[Any, float]:
    """What `run` returns and its median warm seconds; a first run longer than `budget` is the only one."""
    start = time.perf_counter()
    value = jax.block_until_ready(run())
    first = time.perf_counter() - start
    return value, first if first > budget else float(np.median([_seconds(run) for _ in range(repeats)]))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


@dataclass(frozen=True)
class OttSetting:
    """How ott-jax is run.

    Attributes:
        log_domain: `lse_mode`.
        decay: epsilon falls by this factor each iteration, from the mean cost to its target; 1 keeps it constant.
        momentum: weight of the update; 1 is plain Sinkhorn.
        inner_iterations: iterations between two looks at the error.
        iterations: exactly so many (a scan, which under vmap spares the error and waiting for the slowest),
            or None: until the threshold, at most `limit`.
    """

    log_domain: bool = True
    decay: float = 1.0
    momentum: float = 1.0
    inner_iterations: int = 10
    iterations: int | None = None
    limit: int = 2000


def ott_solver(setting: OttSetting) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
    """`(cost (n m), a, b, epsilon relative to the mean cost, threshold) -> (f, absolute epsilon, converged)`.

    In the kernel domain the least cost is subtracted first: it changes nothing but keeps exp(-C / epsilon) from
    underflowing for as long as a constant can.
    """
    # Imported by name: their annotations forbid the traced numbers that the solver takes.
    epsilon_scheduler, geometry, linear_problem, acceleration, sinkhorn = _ott(
        "geometry.epsilon_scheduler",
        "geometry.geometry",
        "problems.linear.linear_problem",
        "solvers.linear.acceleration",
        "solvers.linear.sinkhorn",
    )

    count = setting.iterations
    limits: dict[str, Any] = (
        {"max_iterations": setting.limit, "inner_iterations": setting.inner_iterations}
        if count is None
        else {"min_iterations": count, "max_iterations": count, "inner_iterations": count}
    )
    if setting.momentum != 1:
        limits["momentum"] = acceleration.Momentum(value=setting.momentum)

    def solve(
        cost: jax.Array, a: jax.Array, b: jax.Array, epsilon: jax.Array, threshold: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        target = epsilon * (a @ cost @ b)
        schedule = (
            target if setting.decay == 1 else epsilon_scheduler.Epsilon(target, init=1 / epsilon, decay=setting.decay)
        )
        cost = cost if setting.log_domain else cost - jnp.min(cost)
        problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=cost, epsilon=schedule), a=a, b=b)
        output = sinkhorn.Sinkhorn(lse_mode=setting.log_domain, threshold=threshold, **limits)(problem)
        # Its plan is exp((f + g - C) / epsilon), without the weights as factors.
        return output.f - target * jnp.log(a), target, output.converged

    return solve


def ott_streamed(
    x: jax.Array, y: jax.Array, epsilon: jax.Array, threshold: jax.Array, *, batch_size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """ott-jax without a cost array: `PointCloud(batch_size=...)`, equal weights, log domain, constant epsilon."""
    costs, pointcloud, linear_problem, sinkhorn = _ott(
        "geometry.costs", "geometry.pointcloud", "problems.linear.linear_problem", "solvers.linear.sinkhorn"
    )
    mean = jnp.mean(pointcloud.PointCloud(x[:batch_size], y, cost_fn=costs.Euclidean()).cost_matrix)
    cloud = pointcloud.PointCloud(x, y, cost_fn=costs.Euclidean(), batch_size=batch_size, epsilon=epsilon * mean)
    output = sinkhorn.Sinkhorn(threshold=threshold)(linear_problem.LinearProblem(cloud))
    return output.f, epsilon * mean, output.converged


def _ott(*modules: str) -> list[Any]:
    return [importlib.import_module(f"ott.{module}") for module in modules]


def pot_potentials(
    method: str, problems: Sequence[ExactProblem], epsilon: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(f, absolute epsilon, converged)` of `ot.sinkhorn` in a Python loop; tolerance of the marginal in the 1-norm.

    POT measures the marginal in the 2-norm, which is smaller by about the square root of the number of points.
    """
    import ot

    potentials, epsilons, converged = [], [], []
    for a, b, cost in problems:
        absolute = epsilon * float(a @ cost @ b)
        threshold = tolerance / np.sqrt(len(b))
        with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
            _, log = ot.sinkhorn(a, b, cost, absolute, method=method, stopThr=threshold, warn=False, log=True)
            log_u = {"sinkhorn": lambda log: np.log(log["u"]), "sinkhorn_log": lambda log: log["log_u"]}.get(
                method, lambda log: log["logu"]
            )(log)
            potentials.append(absolute * (log_u - np.log(a)))
        epsilons.append(absolute)
        converged.append(bool(log["err"]) and log["err"][-1] <= threshold)
    return np.array(potentials), np.array(epsilons), np.array(converged)


def geomloss_potentials(
    epsilon: float, *, scaling: float, diameter: float | None = None, cost: np.ndarray | None = None
) -> Callable[..., Any]:
    """`(a, x, b, y) -> (f, g)` of geomloss, tensorized, torch tensors with or without a batch axis.

    Its blur is epsilon for a cost |x - y|, in units of the cost and the same for the whole batch. With `cost` (k n m)
    given, the points are only told apart by their first coordinate, 0 for x: geomloss asks for C(x, y) and C(y, x).
    """
    torch, geomloss = importlib.import_module("torch"), importlib.import_module("geomloss")
    options: dict[str, Any] = {}
    if cost is not None:
        forward = torch.from_numpy(cost)
        backward = forward.transpose(1, 2).contiguous()
        options["cost"] = lambda x, _: forward if float(x.reshape(-1)[0]) == 0 else backward
    loss = geomloss.SamplesLoss(
        "sinkhorn",
        p=1,
        blur=epsilon,
        scaling=scaling,
        diameter=diameter,
        debias=False,
        potentials=True,
        backend="tensorized",
        **options,
    )
    return loss.__call__

"""Ground costs: upper bounds of the change of the loss, with and without a name, in every evaluation."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from problems import brute_force, random_problem

from jaxrel import Joint, Task, task_relatedness
from jaxrel.relatedness import Margin, evaluate_bound, ground_costs
from jaxrel.relatedness.bound import class_loss, transport_points
from jaxrel.relatedness.ground_costs import GROUND_COSTS, ground_cost
from jaxrel.transport.costs import margin_cost, range_cost


@dataclass(frozen=True)
class TwiceTheMargin(Margin):
    """An upper bound as well, if a loose one."""

    name = "twice-the-margin"

    def __call__(self, x, y):
        return 2 * super().__call__(x, y)

    def size(self, points):
        return 2 * super().size(points)


COSTS = (*GROUND_COSTS, TwiceTheMargin())


def problem_for(cost, seed=0, **options):
    return random_problem(seed, num_target=2, num_reference=3, coupling="soft", space=cost.space, **options)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: f"{cost.space}-{cost.name}")
class TestEveryCost:
    def test_it_bounds_the_change_of_the_loss(self, cost):
        for seed in range(5):
            problem = problem_for(cost, seed)
            t = problem.transformation
            method = Joint(space=cost.space, cost=cost)
            found, x, y = transport_points(t, problem.reference, problem.target, method)
            assert found == cost
            u, v = t.reference_logits(problem.reference.features), t.target_logits(problem.target.features)
            log_row = jnp.log(t.label_map[0])
            change = class_loss(v, log_row)[None] - class_loss(u, log_row)[:, None]
            assert (change <= cost.between(x, y, log_row, t.target_map) + 1e-9).all()

    def test_no_two_points_cost_more_than_their_sizes(self, cost):
        rng = np.random.default_rng(0)
        x, y = (jnp.asarray(scale * rng.normal(size=(20, 4))) for scale in (1.0, 3.0))
        costs = cost.between(x, y, jnp.log(jnp.asarray([0.1, 0.2, 0.3, 0.4])), problem_for(cost).transformation.head)
        sizes = (cost.scale(problem_for(cost).transformation.head) * cost.size(points) for points in (x, y))
        assert (costs <= jnp.add.outer(*sizes) + 1e-9).all()


def evaluate_blockwise(monkeypatch):
    monkeypatch.setattr("jaxrel.relatedness.class_transport.LARGEST_PLAN", 16)
    monkeypatch.setattr("jaxrel.relatedness.class_transport._BLOCK", 4)
    return evaluate_bound


def evaluate_streamed(monkeypatch):
    monkeypatch.setattr("jaxrel.relatedness.streaming.plan.fits_whole", lambda *_: False)
    return functools.partial(evaluate_bound, memory_budget=2**31)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "evaluate",
    [lambda _: jax.jit(evaluate_bound), pytest.param(evaluate_blockwise, marks=pytest.mark.slow), evaluate_streamed],
)
def test_a_cost_of_ones_own_is_evaluated_like_the_others(evaluate, monkeypatch):
    problem = problem_for(TwiceTheMargin(), held_out=False, padded=14)
    method = Joint(cost=TwiceTheMargin(), certificate_gap=1e-3)
    result = evaluate(monkeypatch)(problem.transformation, problem.reference, problem.target, method=method)
    exact = 2 * brute_force(problem, "margin")["transport"]
    assert float(result.distribution_mismatch_lower) <= exact <= float(result.distribution_mismatch)
    assert float(result.target_loss) <= float(result.tight_bound) <= float(result.bound)


def test_it_is_learned_with_and_recorded():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    reference, target = (Task(np.eye(3)[labels] + rng.normal(size=(60, 3)), labels) for _ in range(2))
    method = Joint(cost=TwiceTheMargin(), num_steps=10, ridge=0.01)
    result = task_relatedness(reference, target, method=method).raise_if_failed()
    assert float(result.target_loss) <= float(result.tight_bound) <= float(result.bound)
    assert result.computed_with.method.cost == TwiceTheMargin()


def test_a_name_takes_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"cost must be one of \('margin', .*\) in prediction space"):
        Joint(cost="twice-the-margin")
    monkeypatch.setattr(ground_costs, "GROUND_COSTS", COSTS)
    assert Joint(cost="twice-the-margin").cost == "twice-the-margin"
    assert ground_cost("twice-the-margin", "prediction") == TwiceTheMargin()
    assert "twice-the-margin" in ground_costs.cost_names("prediction")


def test_a_cost_of_another_space_is_refused():
    with pytest.raises(ValueError, match="in feature space, or a GroundCost of it, got TwiceTheMargin"):
        Joint(space="feature", cost=TwiceTheMargin())
    problem = random_problem(0, num_target=2, num_reference=3, coupling="soft", space="feature")
    with pytest.raises(ValueError, match="in feature space"):
        evaluate_bound(problem.transformation, problem.reference, problem.target, method=Joint(cost=TwiceTheMargin()))


@pytest.mark.parametrize("cost", [range_cost, lambda u, v: margin_cost(u, v, jnp.zeros(4))])
def test_derivatives_are_those_of_finite_differences(cost):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        points = tuple(jnp.asarray(rng.normal(size=(n, 4))) for n in (5, 6))
        check_grads(cost, points, order=1, modes=("fwd", "rev"), rtol=1e-5)

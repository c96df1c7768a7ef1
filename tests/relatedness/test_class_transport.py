"""Plans too large for one cost array: blockwise plans certify the same bound."""

from __future__ import annotations

import numpy as np
import pytest
from problems import brute_force, random_problem

from jaxrel import Joint, Task, task_relatedness
from jaxrel.relatedness import evaluate_bound
from jaxrel.relatedness.result import Status

COSTS = ["margin", "range", "euclidean", "feature"]


def method_for(cost):
    return Joint(space="feature") if cost == "feature" else Joint(cost=cost)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("jaxrel.relatedness.class_transport.LARGEST_PLAN", 16)
    monkeypatch.setattr("jaxrel.relatedness.class_transport._BLOCK", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64", "small_blocks")
@pytest.mark.parametrize("cost", COSTS)
def test_the_blockwise_bound_is_above_the_exact_one_and_above_the_loss(cost):
    for seed in range(3):
        problem = random_problem(
            seed,
            num_target=2,
            num_reference=3,
            coupling="soft",
            space="feature" if cost == "feature" else "prediction",
            held_out=False,
            padded=14,
        )
        result = evaluate_bound(problem.transformation, problem.reference, problem.target, method=method_for(cost))
        truth = brute_force(problem, cost)
        if int(result.status) == Status.BLOCK_OVERFLOW:
            assert np.isposinf(result.bound)
            continue
        assert int(result.status) == Status.OK
        assert float(result.distribution_mismatch_lower) == 0
        assert truth["transport"] - 1e-9 <= float(result.distribution_mismatch)
        assert float(result.target_loss) <= float(result.tight_bound)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_one_block_is_the_dense_plan(monkeypatch):
    problem = random_problem(0, num_target=2, num_reference=2, coupling="soft", held_out=False, padded=12)
    dense = evaluate_bound(problem.transformation, problem.reference, problem.target, method=Joint())
    monkeypatch.setattr("jaxrel.relatedness.class_transport.LARGEST_PLAN", 1)
    blockwise = evaluate_bound(problem.transformation, problem.reference, problem.target, method=Joint())
    np.testing.assert_allclose(blockwise.bound, dense.bound, rtol=0.02)
    assert float(blockwise.distribution_mismatch_lower) == 0 < float(dense.distribution_mismatch_lower)


@pytest.mark.slow
def test_many_classes_and_samples():
    """Gathered logits of many classes fused into a reduction have crashed the compiler's code."""
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 32
    reference, target = (
        Task((np.eye(32)[labels] * 3 + rng.normal(size=(4000, 32))).astype(np.float32), labels) for _ in range(2)
    )
    method = Joint(setting="fixed", class_map="identity", head_ridge=0.01)
    result = task_relatedness(reference, target, method=method).raise_if_failed()
    assert float(result.target_loss) <= float(result.tight_bound) <= float(result.bound) + 1e-5
    # With a permutation the loss of the transformed head is the loss of the head: T1 is an equality.
    np.testing.assert_allclose(result.transformed_reference_loss, result.reweighted_reference_loss, rtol=1e-5)

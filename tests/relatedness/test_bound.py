"""What holds exactly on every input: T1 to T4, the order of the costs, the held-out rules, the certificate."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import brute_force, cost_matrix, entropy, feature_cost_matrix, random_problem

from jaxrel import Joint, Task
from jaxrel.relatedness import evaluate_bound
from jaxrel.relatedness.bound import class_loss
from jaxrel.relatedness.coupling import label_coupling, label_map, label_mismatch
from jaxrel.relatedness.result import Status

ROUNDING = 1e-9  # float64; terms are of size 1 to 1e3

evaluate = functools.cache(lambda: jax.jit(evaluate_bound, static_argnames="block_sizes"))

SIZES = [(3, 2), (1, 4)]
sizes = st.sampled_from(SIZES)
# Every cost at one pair of sizes, and one of each space at both: each pair with a cost is a program to compile.
sizes_and_costs = st.sampled_from(
    [(SIZES[0], cost) for cost in ("margin", "range", "euclidean", "feature")]
    + [(SIZES[1], cost) for cost in ("margin", "feature")]
)
seeds = st.integers(0, 2**32 - 1)
couplings = st.sampled_from(["soft", "hard", "sparse"])
scales = st.sampled_from([0.0, 0.1, 1.0, 10.0])
iterations = st.sampled_from([1, 2, 50])


def method_for(cost: str, num_iterations: int) -> Joint:
    return Joint(
        space="feature" if cost == "feature" else "prediction",
        cost="euclidean" if cost == "feature" else cost,
        certificate_iterations=num_iterations,
    )


@pytest.mark.usefixtures("x64")
class TestInequalities:
    @settings(max_examples=150)
    @given(
        sizes_and_costs,
        seeds,
        couplings,
        scales,
        iterations,
        st.booleans(),
    )
    @example((SIZES[0], "margin"), 0, "hard", 1.0, 1, True)
    def test_terms_are_exact_and_ordered(self, size_and_cost, seed, coupling, scale, num_iterations, held_out):
        size, cost = size_and_cost
        problem = random_problem(
            seed,
            num_target=size[0],
            num_reference=size[1],
            coupling=coupling,
            scale=scale,
            held_out=held_out,
            space="feature" if cost == "feature" else "prediction",
        )
        result = evaluate()(
            problem.transformation, problem.reference, problem.target, method=method_for(cost, num_iterations)
        )
        truth = brute_force(problem, cost)
        if np.isinf(truth["transport"]):
            assert np.isposinf(result.bound)
            assert int(result.status) == Status.LOST_REFERENCE_CLASS
            return
        assert int(result.status) == Status.OK
        size = 1 + truth["reweighted"] + truth["transport"] + truth["target_loss"]
        for name, value in {
            "reweighted_reference_loss": truth["reweighted"],
            "label_mismatch": truth["mismatch"],
            "transformed_reference_loss": truth["transformed"],
            "target_loss": truth["target_loss"],
        }.items():
            np.testing.assert_allclose(getattr(result, name), value, atol=ROUNDING * size, err_msg=name)
        # The certificate contains the exact optimum.
        assert result.distribution_mismatch_lower <= truth["transport"] + ROUNDING * size
        assert truth["transport"] <= result.distribution_mismatch + ROUNDING * size
        # T1, T2, T3.
        assert result.transformed_reference_loss <= (
            result.reweighted_reference_loss + result.label_mismatch + ROUNDING * size
        )
        assert truth["target_loss"] <= truth["transformed"] + truth["transport"] + ROUNDING * size
        assert result.target_loss <= result.tight_bound + ROUNDING * size
        assert result.tight_bound <= result.bound + ROUNDING * size
        np.testing.assert_allclose(
            result.bound,
            result.reweighted_reference_loss + result.label_mismatch + result.distribution_mismatch,
            rtol=1e-12,
        )

    @settings(max_examples=40)
    @given(sizes, seeds, couplings)
    def test_margin_is_tighter_than_range_than_euclidean_and_than_feature_space(self, size, seed, coupling):
        problem = random_problem(
            seed, num_target=size[0], num_reference=size[1], coupling=coupling, space="feature", held_out=False
        )
        exact = {cost: brute_force(problem, cost)["transport"] for cost in ("margin", "range", "euclidean", "feature")}
        assert exact["margin"] <= exact["range"] + ROUNDING
        assert exact["range"] <= exact["euclidean"] + ROUNDING
        # For M = W A^-1 the bound in prediction space is never looser than the one in feature space.
        assert exact["range"] <= exact["feature"] + ROUNDING
        # The same at any plan: entry by entry.
        t = problem.transformation
        u = np.asarray(t.reference_logits(problem.reference.features))
        v = np.asarray(t.target_logits(problem.target.features))
        for row in np.asarray(t.label_map):
            margin, range_, euclidean = (cost_matrix(name, u, v, row) for name in ("margin", "range", "euclidean"))
            assert (margin <= range_ + ROUNDING).all()
            assert (range_ <= euclidean + ROUNDING).all()
            assert (range_ <= feature_cost_matrix(problem) + ROUNDING).all()

    @settings(max_examples=100)
    @given(sizes, seeds, couplings)
    def test_label_mismatch_is_at_least_the_excess_entropy(self, size, seed, coupling):
        """T4, and T1's other half: any other label map pays more than B = J / D."""
        rng = np.random.default_rng(seed)
        problem = random_problem(seed, num_target=size[0], num_reference=size[1], coupling=coupling)
        Q, prior = np.asarray(problem.transformation.conditional), rng.dirichlet(np.ones(size[0]))
        J = label_coupling(jnp.asarray(prior), jnp.asarray(Q))
        mismatch = float(label_mismatch(J, label_map(J, jnp.asarray(prior))))
        joint, column = np.asarray(J), np.asarray(J).sum(0)
        assert mismatch == pytest.approx(entropy(joint) - entropy(column), abs=ROUNDING)  # H(Y_T | Y_R)
        assert mismatch >= max(0.0, entropy(prior) - np.log(size[1])) - ROUNDING
        assert (abs(mismatch) < 1e-12) == bool(((joint > 0).sum(0) <= 1).all())
        assert float(label_mismatch(J, problem.transformation.label_map)) >= mismatch - ROUNDING

    @settings(max_examples=30)
    @given(seeds, st.sampled_from([1, 3]))
    def test_label_step_is_an_equality_for_a_permutation(self, seed, num_classes):
        rng = np.random.default_rng(seed)
        problem = random_problem(
            seed, num_target=num_classes, num_reference=num_classes, coupling="hard", held_out=False
        )
        permutation = jnp.asarray(np.eye(num_classes)[rng.permutation(num_classes)])
        prior = jnp.bincount(problem.target.labels, problem.target.weights, length=num_classes)
        J = label_coupling(prior / prior.sum(), permutation)
        transformation = dataclasses.replace(
            problem.transformation, conditional=permutation, coupling=J, label_map=label_map(J, prior / prior.sum())
        )
        result = evaluate()(transformation, problem.reference, problem.target, method=Joint())
        assert 0 <= float(result.label_mismatch) < 1e-12
        assert float(result.tight_bound) == pytest.approx(float(result.bound), rel=1e-12)

    def test_label_map_is_column_stochastic_and_unused_columns_are_the_prior(self):
        prior = jnp.array([0.25, 0.75])
        B = label_map(label_coupling(prior, jnp.array([[1.0, 0, 0], [0.5, 0.5, 0]])), prior)
        np.testing.assert_allclose(B.sum(0), 1)
        np.testing.assert_allclose(B[:, 2], prior)

    def test_mass_without_a_label_map_costs_infinity(self):
        J = jnp.array([[0.5, 0.0], [0.25, 0.25]])
        assert np.isposinf(label_mismatch(J, jnp.array([[0.0, 0.5], [1.0, 0.5]])))
        assert np.isfinite(label_mismatch(jnp.array([[0.0, 0.5], [0.25, 0.25]]), jnp.array([[0.0, 0.5], [1.0, 0.5]])))


@pytest.mark.parametrize("num_iterations", [1, 100])
@pytest.mark.parametrize("seed", range(20))
def test_the_bound_holds_in_float32(seed, num_iterations):
    problem = random_problem(seed, num_target=3, num_reference=2, coupling="soft", scale=5.0)
    result = evaluate()(
        problem.transformation, problem.reference, problem.target, method=method_for("margin", num_iterations)
    )
    truth = brute_force(problem, "margin")
    if np.isinf(truth["transport"]):
        assert np.isposinf(result.bound)
        return
    assert result.bound.dtype == jnp.float32
    assert result.distribution_mismatch_lower <= truth["transport"] <= result.distribution_mismatch
    assert truth["target_loss"] <= result.tight_bound
    rounding = 1e-5 * (1 + truth["reweighted"])
    assert result.tight_bound <= result.bound + rounding


@pytest.mark.usefixtures("x64")
class TestHeldOut:
    def problem(self):
        return random_problem(3, num_target=2, num_reference=2, coupling="hard", held_out=False)

    def test_a_target_class_never_seen_in_training_gives_an_infinite_bound(self):
        problem = self.problem()
        features, labels, weights = (np.asarray(leaf) for leaf in jax.tree.leaves(problem.target))
        labels = labels.copy()
        labels[0] = 2
        target = Task(features, labels, weights=weights, num_classes=3)
        result = evaluate()(problem.transformation, problem.reference, target, method=Joint())
        assert np.isposinf(result.bound)
        assert np.isposinf(result.tight_bound)
        assert int(result.status) == Status.UNSEEN_TARGET_CLASS
        with pytest.raises(RuntimeError, match="never seen in training"):
            result.raise_if_failed()

    def test_an_extra_class_without_samples_changes_nothing(self):
        problem = self.problem()
        features, labels, weights = (np.asarray(leaf) for leaf in jax.tree.leaves(problem.target))
        target = Task(features, labels, weights=weights, num_classes=3)
        before = evaluate()(problem.transformation, problem.reference, problem.target, method=Joint())
        after = evaluate()(problem.transformation, problem.reference, target, method=Joint())
        assert int(after.status) == Status.OK
        np.testing.assert_allclose(after.bound, before.bound, rtol=1e-12)

    def test_a_block_too_small_certifies_nothing(self):
        problem = self.problem()
        result = evaluate()(
            problem.transformation, problem.reference, problem.target, method=Joint(), block_sizes=(1, 1)
        )
        assert np.isposinf(result.bound)
        assert int(result.status) == Status.SUPPORT_TOO_SMALL

    def test_smaller_blocks_that_hold_everything_change_nothing(self):
        problem = random_problem(5, num_target=2, num_reference=2, coupling="sparse")
        live = [int((np.asarray(t.weights) > 0).sum()) for t in (problem.reference, problem.target)]
        full = evaluate()(problem.transformation, problem.reference, problem.target, method=Joint())
        tight = evaluate()(
            problem.transformation, problem.reference, problem.target, method=Joint(), block_sizes=(live[0], live[1])
        )
        assert int(tight.status) == Status.OK
        np.testing.assert_allclose(tight.distribution_mismatch, full.distribution_mismatch, rtol=1e-9)

    def test_the_failing_batch_index_is_named(self):
        problem = self.problem()
        good = evaluate()(problem.transformation, problem.reference, problem.target, method=Joint())
        batch = dataclasses.replace(good, status=jnp.array([0, 0, Status.NOT_FINITE]))
        with pytest.raises(RuntimeError, match="Relatedness 2: "):
            batch.raise_if_failed()
        assert good.raise_if_failed() is good
        assert good.messages == ()


@pytest.mark.usefixtures("x64")
def test_exact_transport_is_within_one_percent_of_the_certified_interval():
    """The default iterations certify a gap that is worth reporting."""
    rng = np.random.default_rng(0)
    problem = random_problem(1, num_target=2, num_reference=2, coupling="soft", padded=10)
    features = rng.normal(size=(200, 3))
    labels = np.arange(200) % 2
    reference, target = Task(features, labels), Task(features[::-1] * 1.5 + 0.3, labels)
    result = evaluate()(problem.transformation, reference, target, method=Joint())
    lower, upper = float(result.distribution_mismatch_lower), float(result.distribution_mismatch)
    assert 0 < upper - lower < 0.02 * upper


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_the_loss_of_large_logits_does_not_cancel(offset):
    logits, log_row = np.array([offset, offset + 1], np.float32), np.log(np.array([0.25, 0.1], np.float32))
    expected = -np.log((0.25 + 0.1 * np.exp(1)) / (1 + np.exp(1)))
    assert float(class_loss(jnp.asarray(logits), jnp.asarray(log_row))) == pytest.approx(expected, rel=1e-6)

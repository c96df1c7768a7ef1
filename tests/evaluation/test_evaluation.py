"""Correlations against SciPy, intervals by coverage, baselines against known values and plain simulations."""

from __future__ import annotations

import json
import warnings

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrel import evaluation
from jaxrel.evaluation import STATISTICS
from jaxrel.evaluation.rank_correlation import weighted_kendall_tau

SCIPY = {
    "kendall_tau": lambda score, truth: scipy.stats.kendalltau(score, truth).statistic,
    "weighted_kendall_tau_symmetric": lambda score, truth: scipy.stats.weightedtau(score, truth).statistic,
    "weighted_kendall_tau_by_truth": lambda score, truth: scipy.stats.weightedtau(truth, score, rank=None).statistic,
    "spearman": lambda score, truth: scipy.stats.spearmanr(score, truth).statistic,
    "pearson": lambda score, truth: scipy.stats.pearsonr(score, truth).statistic,
    "top_1_regret": lambda score, truth: np.max(truth) - np.mean(truth[score == np.max(score)]),
}
RANK_STATISTICS = [name for name in STATISTICS if name != "pearson"]
NUM_ENCODERS = 9


def of_scipy(name, score, truth):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant inputs
        return SCIPY[name](np.asarray(score, float), np.asarray(truth, float))


def tied(num_encoders=NUM_ENCODERS):
    return st.lists(st.integers(-3, 3), min_size=num_encoders, max_size=num_encoders)


def problem(shape, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=shape)
    return truth + noise * rng.normal(size=shape), truth


def assert_tree_close(tree, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), tree, other)


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@hypothesis.given(score=tied(), truth=tied())
@hypothesis.settings(max_examples=30)
def test_scipy_gives_the_same_with_ties(name, dtype, score, truth):
    with jax.enable_x64(dtype == np.float64):
        value = STATISTICS[name](np.array(score, dtype), np.array(truth, dtype))
        assert value.dtype == dtype
        tolerance = 1e-12 if dtype == np.float64 else 2e-6
        np.testing.assert_allclose(value, of_scipy(name, score, truth), atol=tolerance)


@pytest.mark.parametrize("name", STATISTICS)
def test_scipy_gives_the_same_without_ties_and_in_batches(name, x64):
    score, truth = problem((2, 5, 40))
    expected = [
        [of_scipy(name, *pair) for pair in zip(*batch, strict=True)] for batch in zip(score, truth, strict=True)
    ]
    np.testing.assert_allclose(STATISTICS[name](score, truth), expected, atol=1e-12)
    np.testing.assert_allclose(jax.vmap(jax.vmap(STATISTICS[name]))(score, truth), expected, atol=1e-12)
    broadcast = STATISTICS[name](score, truth[0, 0])
    np.testing.assert_allclose(broadcast[1, 3], of_scipy(name, score[1, 3], truth[0, 0]), atol=1e-12)


def test_the_conventions_of_the_weighted_tau_differ_and_mirror_each_other(x64):
    score, truth = problem(NUM_ENCODERS)
    by_truth, by_score, symmetric = (
        weighted_kendall_tau(score, truth, convention=convention)
        for convention in ("by_truth", "by_score", "symmetric")
    )
    np.testing.assert_allclose(by_score, scipy.stats.weightedtau(score, truth, rank=None).statistic)
    np.testing.assert_allclose(by_score, weighted_kendall_tau(truth, score, convention="by_truth"))
    np.testing.assert_allclose(symmetric, (by_truth + by_score) / 2)
    assert abs(by_truth - by_score) > 0.01
    # rank=None is not the position in the array, which is rank=False: that equals by_truth for sorted truths only.
    order = np.argsort(-truth)
    by_position = scipy.stats.weightedtau(truth[order], score[order], rank=False).statistic
    np.testing.assert_allclose(by_position, by_truth)
    assert abs(scipy.stats.weightedtau(truth, score, rank=False).statistic - by_truth) > 0.01


@pytest.mark.parametrize("name", STATISTICS)
def test_masked_encoders_do_not_exist(name, x64):
    score, truth = problem((4, 10))
    where = np.random.default_rng(1).random((4, 10)) < 0.7
    holes = np.where(where, 0, np.nan)
    masked = STATISTICS[name](score + holes, truth - holes, where=where)
    expected = [of_scipy(name, *(values[row][where[row]] for values in (score, truth))) for row in range(4)]
    np.testing.assert_allclose(masked, expected, atol=1e-12)


@pytest.mark.parametrize("name", STATISTICS)
def test_the_order_of_the_encoders_does_not_matter(name):
    score, truth = problem(NUM_ENCODERS)
    order = np.random.default_rng(2).permutation(NUM_ENCODERS)
    np.testing.assert_allclose(STATISTICS[name](score[order], truth[order]), STATISTICS[name](score, truth), atol=1e-6)


@pytest.mark.parametrize("name", RANK_STATISTICS)
def test_only_the_order_of_the_scores_matters(name):
    score, truth = problem(NUM_ENCODERS)
    expected = STATISTICS[name](score, truth)
    np.testing.assert_allclose(STATISTICS[name](np.exp(3 * score), truth), expected, atol=1e-6)
    score[score.argmin()] = -np.inf
    np.testing.assert_allclose(STATISTICS[name](score, truth), expected, atol=1e-6)


@pytest.mark.parametrize("name", STATISTICS)
def test_what_is_undefined_is_nan(name):
    truth = np.arange(float(NUM_ENCODERS))
    assert np.isnan(STATISTICS[name](np.where(truth == 2, np.nan, truth), truth))
    if name != "top_1_regret":
        assert np.isnan(STATISTICS[name](np.full_like(truth, 0.1), truth))
        assert np.isnan(STATISTICS[name](truth, np.full_like(truth, 0.1)))
        assert np.isnan(STATISTICS[name](truth, truth, where=truth == 2))
        np.testing.assert_allclose(STATISTICS[name](truth, truth), 1, atol=1e-6)
        np.testing.assert_allclose(STATISTICS[name](-truth, truth), -1, atol=1e-6)


def test_the_regret_is_the_mean_over_tied_choices():
    assert evaluation.top_1_regret([3, 1, 3, 0], [0.5, 0.9, 0.7, 0.1]) == pytest.approx(0.3)
    assert evaluation.top_1_regret([3, 9, 3, 0], [0.5, 0.9, 0.7, 0.1]) == pytest.approx(0)


def test_pearson_survives_every_scale():
    score, truth = problem(NUM_ENCODERS)
    expected = of_scipy("pearson", score, truth)
    for scale in (1e-30, 1e30):
        np.testing.assert_allclose(evaluation.pearson((score * scale).astype(np.float32), truth), expected, atol=1e-5)


def test_new_numbers_are_not_traced_again():
    traces = []

    @jax.jit
    def intervals(scores, truth, confidence, seed):
        traces.append(1)
        return evaluation.bootstrap_intervals(scores, truth, confidence=confidence, num_resamples=25, key=seed)

    for seed in range(3):
        result = intervals(*problem((8, 3), seed), 0.9 - seed / 10, seed)
    assert len(traces) == 1
    expected = evaluation.bootstrap_intervals(*problem((8, 3), 2), confidence=0.7, num_resamples=25, key=2)
    assert_tree_close(result, expected, atol=1e-6)


def resampled(name, scores, truth, num_resamples, seed):
    """The same draws with the pairs of SciPy's copies."""
    num_encoders = len(truth)
    draws = jax.random.randint(jax.random.key(seed), (num_resamples, num_encoders), 0, num_encoders, jnp.int32)
    return np.array(
        [[of_scipy(name, scores[d, t], truth[d, t]) for t in range(truth.shape[1])] for d in np.asarray(draws)]
    )


@pytest.mark.parametrize("name", ["kendall_tau", "weighted_kendall_tau_by_truth", "spearman"])
def test_the_bootstrap_is_that_of_a_loop(name, x64):
    scores, truth = problem((7, 3))
    result = evaluation.bootstrap_intervals(scores, truth, statistic=name, confidence=0.8, num_resamples=50, key=5)
    values = resampled(name, scores, truth, 50, 5)
    expected = np.nanquantile(values, [0.1, 0.9], axis=0)
    np.testing.assert_allclose([result.per_target.lower, result.per_target.upper], expected, atol=1e-12)
    expected = np.nanquantile(values.mean(axis=1), [0.1, 0.9])
    np.testing.assert_allclose([result.mean.lower, result.mean.upper], expected, atol=1e-12)
    np.testing.assert_allclose(result.mean.estimate, np.mean(result.per_target.estimate))


def test_a_duplicate_is_no_pair_of_its_own(x64):
    """Multiplicities over pairs of distinct encoders give the tau-b of the copies."""
    score, truth = problem(8)
    counts = np.array([2, 0, 1, 3, 1, 0, 1, 0])
    signs = np.sign(np.subtract.outer(score, score) * np.subtract.outer(truth, truth))
    expected = counts @ signs @ counts / (counts.sum() ** 2 - (counts**2).sum())
    copies = evaluation.kendall_tau(np.repeat(score, counts), np.repeat(truth, counts))
    np.testing.assert_allclose(copies, expected)


def test_scores_in_a_batch_share_the_resamples_of_a_single_one():
    scores, truth = problem((8, 3))
    batch = np.stack([scores, -scores, truth])
    together = evaluation.bootstrap_intervals(batch, truth, num_resamples=25)
    alone = evaluation.bootstrap_intervals(scores, truth, num_resamples=25)
    np.testing.assert_allclose(together.mean.lower[0], alone.mean.lower, atol=1e-6)
    np.testing.assert_allclose(together.mean.upper[0], -together.mean.lower[1], atol=1e-6)
    assert together.per_target.estimate.shape == (3, 3)


def test_resamples_in_which_a_statistic_is_undefined_are_left_out_and_counted():
    scores, truth = problem((2, 1))
    result = evaluation.bootstrap_intervals(scores, truth, num_resamples=400)
    np.testing.assert_allclose(result.mean.undefined, 0.5, atol=0.1)
    assert result.mean.lower == result.mean.upper == result.mean.estimate
    constant = evaluation.bootstrap_intervals(np.ones((2, 1)), truth, num_resamples=400)
    assert np.isnan(constant.mean.lower)
    assert constant.mean.undefined == 1


def test_the_bootstrap_covers():
    """Pearson's correlation of two targets with known values, 40 encoders."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 40, 2))
    scores = truth + rng.normal(size=truth.shape)

    def covers(scores, truth):
        result = evaluation.bootstrap_intervals(
            scores, truth, statistic="pearson", confidence=0.9, num_resamples=300
        ).mean
        return (result.lower < np.sqrt(0.5)) & (result.upper > np.sqrt(0.5))

    assert 0.83 < np.mean(jax.jit(jax.vmap(covers))(scores, truth)) < 0.96


def test_the_paired_difference_is_narrower_than_its_parts():
    scores, truth = problem((25, 3), noise=0.5)
    near = scores + 0.05 * problem((25, 3), 3)[0]
    options = {"num_resamples": 300}
    difference = evaluation.compare_scores(scores, near, truth, **options).difference
    single = evaluation.bootstrap_intervals(scores, truth, **options).mean
    other = evaluation.bootstrap_intervals(near, truth, **options).mean
    np.testing.assert_allclose(difference.estimate, single.estimate - other.estimate, atol=1e-6)
    assert difference.upper - difference.lower < (single.upper - single.lower) / 2
    worse = evaluation.compare_scores(-truth, truth, truth, **options)
    assert worse.share_below_zero == 1
    itself = evaluation.compare_scores(scores, scores, truth, **options)
    assert itself.difference.lower == itself.difference.upper == itself.share_below_zero == 0


def test_the_null_of_kendalls_tau_has_its_known_deviation():
    num_encoders, num_targets = 10, 4
    truth = np.repeat(problem((num_encoders, 1))[1], num_targets, axis=1)
    known = np.sqrt(2 * (2 * num_encoders + 5) / (9 * num_encoders * (num_encoders - 1)))
    independent = evaluation.null_distribution(truth, same_for_all_targets=False, num_draws=8000)
    np.testing.assert_allclose(independent.standard_deviation, known / np.sqrt(num_targets), rtol=0.03)
    # Where the accuracies agree between targets, averaging over them does not help chance.
    shared = evaluation.null_distribution(truth, num_draws=8000)
    np.testing.assert_allclose(shared.standard_deviation, known, rtol=0.03)
    np.testing.assert_allclose(shared.mean, 0, atol=4 * known / np.sqrt(8000))
    np.testing.assert_allclose(shared.quantiles[1], -shared.quantiles[3], atol=0.05)


@pytest.mark.parametrize("name", STATISTICS)
def test_a_truth_without_noise_has_no_ceiling(name):
    truth = np.repeat(0.1 * np.random.default_rng(0).integers(0, 9, (1, 8, 3)), 3, axis=0)
    result = evaluation.ceiling(truth, statistic=name, num_draws=25)
    np.testing.assert_allclose(result.mean.estimate, 0 if name == "top_1_regret" else 1, atol=1e-5)
    np.testing.assert_allclose(result.mean.lower, result.mean.upper, atol=1e-5)


def test_the_ceiling_is_that_of_the_true_accuracies(x64):
    rng = np.random.default_rng(0)
    num_encoders, num_seeds, num_test = 300, 3, 2000
    accuracy = 0.7 + 0.02 * rng.normal(size=(num_encoders, 2))

    def seeds(count):
        """One test set for all seeds of an encoder, and noise of training for each."""
        sampling = rng.normal(size=accuracy.shape) * np.sqrt(accuracy * (1 - accuracy) / num_test)
        return accuracy + sampling + 0.02 * rng.normal(size=(count, *accuracy.shape))

    expected = np.mean(
        [[of_scipy("kendall_tau", *pair) for pair in zip(accuracy.T, seeds(num_seeds).mean(0).T, strict=True)]
         for _ in range(20)]
    )  # fmt: skip
    observed = seeds(num_seeds)
    result = evaluation.ceiling(observed, num_test=num_test, num_draws=20).mean
    assert 0.3 < expected < 0.7
    np.testing.assert_allclose(result.estimate, expected, atol=0.03)
    assert result.lower < result.estimate < result.upper
    assert evaluation.ceiling(observed, num_draws=20).mean.estimate > result.estimate + 0.05


def test_noise_alone_leaves_nothing_to_predict(x64):
    truth = 0.7 + 0.01 * np.random.default_rng(3).normal(size=(3, 300, 2))
    result = evaluation.ceiling(truth, num_test=500, num_draws=20).mean
    assert abs(result.estimate) < 0.05


def test_leave_one_target_out_is_that_of_a_loop():
    truth = np.random.default_rng(0).integers(0, 5, (8, 4)).astype(float)
    ranks = (scipy.stats.rankdata(truth, axis=0) - 1) / 7
    expected = np.stack([np.delete(ranks, target, axis=1).mean(axis=1) for target in range(4)], axis=1)
    np.testing.assert_allclose(evaluation.leave_one_target_out_rank(truth), expected, atol=1e-6)
    where = np.ones((8, 4), bool)
    where[3, 1:] = False
    masked = evaluation.leave_one_target_out_rank(np.where(where, truth, np.nan), where=where)
    assert masked[3, 0] == 0.5
    rows = np.delete(truth, 3, axis=0)[:, 1:]
    expected = ((scipy.stats.rankdata(rows, axis=0) - 1) / 6).mean(axis=1)
    np.testing.assert_allclose(np.delete(masked[:, 0], 3), expected, atol=1e-6)


def test_evaluate_score_has_every_statistic():
    scores, truth = problem((8, 3))
    result = evaluation.evaluate_score(scores, truth, num_resamples=25)
    for name in STATISTICS:
        intervals = getattr(result, name)
        expected = [of_scipy(name, scores[:, target], truth[:, target]) for target in range(3)]
        np.testing.assert_allclose(intervals.per_target.estimate, expected, atol=1e-5)
        np.testing.assert_allclose(intervals.mean.estimate, np.mean(expected), atol=1e-5)
        assert intervals.mean.lower <= intervals.mean.upper
    shifted = evaluation.evaluate_score(scores + 1e7, truth, num_resamples=25)  # no float32 holds these
    assert_tree_close(shifted, result, atol=1e-5)


def test_a_score_that_is_missing_is_named_or_last():
    scores, truth = problem((8, 3))
    scores[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"scores\[4, 1\] is nan, for encoder 4 on target 1"):
        evaluation.evaluate_score(scores, truth)
    worst = evaluation.evaluate_score(scores, truth, missing="worst", num_resamples=25)
    lowest = np.where(np.isnan(scores), -99, scores)
    expected = evaluation.evaluate_score(lowest, truth, num_resamples=25)
    for name in RANK_STATISTICS:
        assert_tree_close(getattr(worst, name), getattr(expected, name), atol=1e-6)
    assert np.isnan(worst.pearson.mean.estimate)
    where = np.isfinite(scores)
    masked = evaluation.evaluate_score(scores, truth, where=where, num_resamples=25).kendall_tau.per_target
    expected = of_scipy("kendall_tau", scores[where[:, 1], 1], truth[where[:, 1], 1])
    np.testing.assert_allclose(masked.estimate[1], expected, atol=1e-6)


def test_the_table_holds_scores_and_baselines():
    scores, truth = problem((8, 3), noise=0.3)
    seeds = np.stack([truth + 0.01, truth, truth - 0.02 * scores])
    table = evaluation.evaluate_scores(
        {"first": scores, "constant": np.ones_like(scores)}, seeds, num_resamples=25, confidence=0.9
    )
    json.dumps(table.rows, allow_nan=False)
    kinds = [row["kind"] for row in table.rows]
    assert kinds == ["score", "score", "baseline", "null", "ceiling"]
    first, constant, static, *_ = table.rows
    mean = seeds.mean(axis=0)
    single = evaluation.evaluate_score(scores, mean, num_resamples=25, confidence=0.9)
    assert first["spearman"]["upper"] == pytest.approx(float(single.spearman.mean.upper), abs=1e-5)
    paired = first["kendall_tau"]["estimate"] - static["kendall_tau"]["estimate"]
    assert first["difference"]["estimate"] == pytest.approx(paired, abs=1e-5)
    assert constant["pearson"]["estimate"] is None
    text = table.to_text()
    assert text.count("\n") == 6
    assert all(row["name"] in text for row in table.rows)
    assert "undefined" in text
    assert "[0.9 interval]" in text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t: evaluation.kendall_tau(s, t[:, :1]), "one entry for each"),
        (lambda s, t: evaluation.kendall_tau(np.ones((2, 4)), np.ones((3, 4))), "do not broadcast"),
        (lambda s, t: weighted_kendall_tau(s, t, convention="acc"), "by_truth"),
        (lambda s, t: evaluation.bootstrap_intervals(s, t, statistic="tau"), "pass one of kendall_tau"),
        (lambda s, t: evaluation.bootstrap_intervals(s, t, confidence=95), "confidence is 95"),
        (lambda s, t: evaluation.bootstrap_intervals(s, t, num_resamples=0), "at least 1"),
        (lambda s, t: evaluation.bootstrap_intervals(s, t, num_resamples=1.5), "an integer"),
        (lambda s, t: evaluation.bootstrap_intervals(s, t, key=-1), "key must be .* got -1"),
        (lambda s, t: evaluation.bootstrap_intervals(s, t[None]), "mean over seeds"),
        (lambda s, t: evaluation.bootstrap_intervals(s[:1], t[:1]), "m >= 2"),
        (lambda s, t: evaluation.bootstrap_intervals(s, t, where=t[0] > 0), "where has shape"),
        (lambda s, t: evaluation.compare_scores(s, s[:, 0], t), "baseline has shape"),
        (lambda s, t: evaluation.ceiling(t), "the accuracies of each of s seeds"),
        (lambda s, t: evaluation.ceiling(t[None]), "one seed"),
        (lambda s, t: evaluation.ceiling(t[None] + 9, num_test=10), "outside"),
        (lambda s, t: evaluation.ceiling(t[None], num_test=0), "at least 1"),
        (lambda s, t: evaluation.ceiling(t[None], num_test=np.ones(3)), "for each of 2 targets"),
        (lambda s, t: evaluation.leave_one_target_out_rank(t[:, :1]), "one target"),
        (lambda s, t: evaluation.evaluate_score(s[0], t[0]), "truth has shape"),
        (lambda s, t: evaluation.evaluate_score(s, t, missing="last"), "missing is 'last'"),
        (lambda s, t: evaluation.evaluate_score(s, t, where=np.arange(8).reshape(4, 2) < 3), "target 1 has 1"),
        (lambda s, t: evaluation.evaluate_score(s, t / (t > t.min())), "truth"),
        (lambda s, t: evaluation.evaluate_scores({}, t), "at least one"),
        (lambda s, t: evaluation.evaluate_scores({"random order": s}, t), "other than"),
        (lambda s, t: evaluation.evaluate_scores({"a": s[:2]}, t), r"scores\['a'\] has shape"),
    ],
)
def test_misuse_is_named(call, message):
    scores, truth = problem((4, 2))
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call(scores, truth)


CLOSE = {
    "integers beyond 2^24": 20_000_000 + np.arange(8),
    "a common offset": -1234567.3 + 0.05 * np.arange(8),
    "below the normal numbers of float32": 1e-40 * np.arange(1, 9),
    "beyond float32": 1e300 * np.arange(1, 9),
    "gaps of all sizes": np.array([0, 1e-9, 2e-9, 1, 1e9, 1e9 + 1, 1e20, 1e20 + 1e5]),
}


@pytest.mark.parametrize("values", CLOSE.values(), ids=CLOSE)
def test_concrete_values_are_compared_in_the_digits_they_come_in(values):
    rng = np.random.default_rng(0)
    score, truth = rng.permutation(values), rng.permutation(values)
    for name, statistic in STATISTICS.items():
        unit = values.max() if name == "pearson" else 1
        expected = pytest.approx(of_scipy(name, score / unit, truth / unit), rel=1e-6, abs=1e-6)
        if not (name == "top_1_regret" and values.max() > np.finfo(np.float32).max):
            assert float(statistic(score, truth)) == expected
            of_columns = evaluation.bootstrap_intervals(score[:, None], truth[:, None], statistic=name, num_resamples=2)
            assert float(of_columns.mean.estimate) == expected
    others = evaluation.leave_one_target_out_rank(np.stack([truth, score], axis=1))
    np.testing.assert_allclose(others[:, 0], (scipy.stats.rankdata(score) - 1) / 7, atol=1e-6)

"""The explanation of a bound: its arrays against brute force, its text and its picture."""

from __future__ import annotations

import dataclasses
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from problems import Problem, cost_matrix, feature_cost_matrix, random_problem
from scipy.special import log_softmax, logsumexp, xlogy

import jaxrel
from jaxrel import Joint, Relatedness, explain
from jaxrel.relatedness import Explanation, Paper, Status, evaluate_bound, plot_coupling

BOUND_TERMS = ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch")
TERMS = (*BOUND_TERMS, "target_loss")


def three_by_four(seed: int, space: str = "prediction") -> Problem:
    return random_problem(seed, num_target=3, num_reference=4, coupling="sparse", held_out=False, space=space)


@pytest.fixture(scope="module", params=["prediction", "feature"])
def evaluated(request: pytest.FixtureRequest) -> tuple[Problem, Relatedness, Relatedness]:
    """A problem, its result and another result for the same class counts."""
    method = Joint() if request.param == "prediction" else Paper()
    with jax.enable_x64(True):
        evaluate = jax.jit(evaluate_bound)
        problem, other = (three_by_four(seed, request.param) for seed in (0, 1))
        result, baseline = (evaluate(p.transformation, p.reference, p.target, method=method) for p in (problem, other))
        return problem, result, baseline


@pytest.fixture
def result(evaluated: tuple[Problem, Relatedness, Relatedness]) -> Relatedness:
    return evaluated[1]


def terms_by_class(problem: Problem) -> dict[str, np.ndarray]:
    """The share of every target class in each term, sample by sample, with exact transport."""
    t = jax.tree.map(np.asarray, problem.transformation)
    z, c, w = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(problem.reference))
    x, k, s = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(problem.target))
    c, k = c.astype(int), k.astype(int)
    u, v = z @ t.head.weights.T + t.head.bias, x @ t.target_map.weights.T + t.target_map.bias
    terms = {term: np.zeros(len(t.conditional)) for term in TERMS}
    for i, Q in enumerate(t.conditional):
        members = (k == i) & (s > 0)
        prior, B = s[members].sum() / s.sum(), t.label_map[i]
        cloud = np.array([Q[c[n]] * w[n] / w[c == c[n]].sum() if w[n] > 0 else 0.0 for n in range(len(w))])
        costs = cost_matrix("margin", u, v, B) if t.feature_map is None else feature_cost_matrix(problem)
        own = s[members] / s[members].sum()
        used = cloud > 0
        transport = ot.emd2(cloud[used] / cloud.sum(), own, np.ascontiguousarray(costs[used][:, members]))
        with np.errstate(divide="ignore"):
            losses = logsumexp(v, axis=1) - logsumexp(v + np.log(B), axis=1)
        terms["reweighted_reference_loss"][i] = -prior * sum(
            cloud[n] * log_softmax(u[n])[c[n]] for n in np.flatnonzero(used)
        )
        terms["label_mismatch"][i] = -prior * xlogy(Q, np.where(Q > 0, B, 1)).sum()
        terms["distribution_mismatch"][i] = prior * transport
        terms["target_loss"][i] = s[members] @ losses[members] / s.sum()
    return terms


def synthetic(result: Relatedness, num_target: int, num_reference: int, *, absent: int = 0) -> Relatedness:
    """A result with made-up terms for as many classes as asked for, the last `absent` without samples."""
    rng = np.random.default_rng(num_target)
    prior = rng.dirichlet(np.ones(num_target - absent))
    prior = np.concatenate([prior, np.zeros(absent)])
    shares = {term: prior * rng.gamma(2.0, 1.0, num_target) for term in TERMS}
    Q = np.eye(num_reference)[np.arange(num_target) % num_reference]
    return dataclasses.replace(
        result,
        coupling=prior[:, None] * Q,
        class_terms=dataclasses.replace(result.class_terms, **shares, reference_loss=np.ones(num_reference)),
        bound=sum(shares[term].sum() for term in BOUND_TERMS),
        **{term: share.sum() for term, share in shares.items()},
    )


def with_coupling(explanation: Explanation, coupling: list[list[float]]) -> Explanation:
    return dataclasses.replace(explanation, coupling=np.asarray(coupling, np.float64))


def table_rows(text: str) -> list[str]:
    """The lines of the first table that begin a row, total included."""
    table = text.split("The largest term")[0].splitlines()
    return [line for line in table if re.search(r"\d%", line)]


class TestArrays:
    def test_class_terms_are_those_of_brute_force(self, evaluated):
        problem, result, _ = evaluated
        terms, truth = explain(result).class_terms, terms_by_class(problem)
        for name in ("reweighted_reference_loss", "label_mismatch", "target_loss"):
            np.testing.assert_allclose(terms[name], truth[name], rtol=1e-9, atol=1e-9, err_msg=name)
        exact, certified = truth["distribution_mismatch"], terms["distribution_mismatch"]
        assert (exact <= certified + 1e-9).all()
        assert (certified <= 1.03 * exact + 1e-9).all()

    def test_shares_sum_to_the_reported_terms(self, result):
        explanation = explain(result)
        for term in TERMS:
            total = float(getattr(result, term))
            assert explanation.class_terms[term].sum() == pytest.approx(total, rel=1e-6, abs=1e-6)
            assert explanation.totals[term] == total
        assert explanation.bound_share.sum() == pytest.approx(float(result.bound), rel=1e-6, abs=1e-6)
        mean = explanation.target_prior @ explanation.class_bound
        assert mean == pytest.approx(float(result.bound), rel=1e-6, abs=1e-6)

    def test_priors_and_conditional_are_those_of_the_samples(self, evaluated):
        problem, result, _ = evaluated
        explanation = explain(result)
        weights = np.bincount(np.asarray(problem.target.labels), np.asarray(problem.target.weights), 3)
        np.testing.assert_allclose(explanation.target_prior, weights / weights.sum(), rtol=1e-12)
        np.testing.assert_allclose(explanation.conditional, problem.transformation.conditional, rtol=1e-9)
        np.testing.assert_allclose(explanation.reference_prior, np.asarray(result.coupling).sum(0))
        np.testing.assert_allclose(explanation.reference_loss, result.class_terms.reference_loss)

    def test_a_class_without_samples_has_no_bound_of_its_own(self, result):
        explanation = explain(synthetic(result, 4, 3, absent=1))
        assert np.isnan(explanation.class_bound[3])
        assert np.isnan(explanation.conditional[3]).all()
        assert np.isfinite(explanation.class_bound[:3]).all()
        last, total = table_rows(str(explanation))[-2:]
        assert last.split() == ["3", "0.0%", "-", *["0.0000"] * 5, "-"]
        assert total.startswith("total")

    def test_everything_lies_on_the_host(self, result):
        explanation = explain(result)
        arrays = [explanation.coupling, explanation.reference_loss, *explanation.class_terms.values()]
        assert {type(array) for array in arrays} == {np.ndarray}


class TestText:
    def test_most_expensive_class_first_and_a_total(self, result):
        explanation = explain(result, target_names=["cat", "dog", "owl"])
        order = np.argsort(-explanation.bound_share)
        *rows, total = table_rows(explanation.to_text())
        assert [row.split()[0] for row in rows] == [("cat", "dog", "owl")[k] for k in order]
        reported = [explanation.totals[term] for term in ("bound", *BOUND_TERMS, "bound", "target_loss")]
        assert total.split()[0] == "total"
        np.testing.assert_allclose([float(cell) for cell in total.split()[2:8]], reported, rtol=1e-2)
        k = order[0]
        shown = [float(cell) for cell in rows[0].split()[2:8]]
        terms = [explanation.class_terms[term][k] for term in BOUND_TERMS]
        expected = [explanation.class_bound[k], *terms, sum(terms), explanation.class_terms["target_loss"][k]]
        np.testing.assert_allclose(shown, expected, rtol=1e-2)

    def test_leaning(self, result):
        names = ["a", "b", "c", "d"]
        explanation = explain(result, reference_names=names)
        coupling = [[0.455, 0.0, 0.045, 0.0], [0.1, 0.05, 0.05, 0.05], [0.02, 0.22, 0.01, 0.0]]
        text = str(with_coupling(explanation, coupling))
        flat = " ".join(text.split())
        assert "a (0.91), c (0.09)" in flat
        assert "b (0.88), a (0.08)" in flat
        for item in ("a (0.40)", "b (0.20)", "c (0.20)", "others (0.20)"):  # never broken in two
            assert item in text

    def test_leaning_on_very_many_classes(self, result):
        many = synthetic(result, 2, 100)
        uniform = np.full((2, 100), 0.5 / 100)
        assert str(explain(dataclasses.replace(many, coupling=uniform))).count("100 classes < 0.05") == 3

    def test_what_dominates(self, result):
        many = synthetic(result, 3, 4)
        terms = dataclasses.replace(
            many.class_terms,
            label_mismatch=np.array([6.0, 1.0, 1.0]),
            distribution_mismatch=np.ones(3) / 3,
            reweighted_reference_loss=np.ones(3) / 3,
        )
        many = dataclasses.replace(
            many,
            class_terms=terms,
            label_mismatch=8.0,
            distribution_mismatch=1.0,
            reweighted_reference_loss=1.0,
            bound=10.0,
            coupling=np.array([[0.25, 0, 0, 0], [0, 0.5, 0, 0], [0, 0.25, 0, 0]]),
        )
        text = " ".join(str(explain(many, target_names=["x", "y", "z"])).split())
        assert "The largest term is the label mismatch, 80% of the bound." in text
        assert "Half of the bound is carried by 1 of 3 target classes, which make up 25% of the target: x." in text
        assert "No target class leans on 2 reference classes: 2, 3." in text

    def test_a_bound_of_zero(self, result):
        nothing = dict.fromkeys((*TERMS, "bound"), 0.0)
        none = dict.fromkeys(TERMS, np.zeros(3))
        zero = dataclasses.replace(result, **nothing, class_terms=dataclasses.replace(result.class_terms, **none))
        assert "The bound is 0." in str(explain(zero))

    def test_more_than_25_classes_are_summed_in_one_row(self, result):
        explanation = explain(synthetic(result, 40, 5))
        *rows, others, total = table_rows(str(explanation))
        order = np.argsort(-explanation.bound_share)
        assert [int(row.split()[0]) for row in rows] == order[:25].tolist()
        rest = order[25:]
        assert others.startswith("15 other classes")
        cells = others.split()[3:]
        assert cells[0] == f"{explanation.target_prior[rest].sum():.1%}"
        share = explanation.bound_share[rest].sum()
        assert float(cells[1]) == pytest.approx(share / explanation.target_prior[rest].sum(), rel=1e-3)
        assert float(cells[5]) == pytest.approx(share, rel=1e-3)
        assert total.split()[1] == "100.0%"

    def test_change_from_a_baseline(self, evaluated):
        _, result, baseline = evaluated
        explanation = explain(result, baseline=baseline)
        assert set(explanation.change) == {*TERMS, "bound"}
        for term, (before, after) in explanation.change.items():
            assert before == float(getattr(baseline, term))
            assert after == float(getattr(result, term))
            row = re.search(rf"^{term.replace('_', ' ')} +(\S+) +(\S+) +([+-]\S+)$", str(explanation), re.M)
            assert row is not None
            expected = [before, after, after - before]
            np.testing.assert_allclose([float(cell) for cell in row.groups()], expected, atol=1e-2)
        assert explain(result).change is None
        assert "baseline" not in str(explain(result))

    def test_text_is_plain_wherever_it_runs(self, evaluated, monkeypatch):
        _, result, baseline = evaluated
        plain = str(explain(result, baseline=baseline))
        for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "40"}.items():
            monkeypatch.setenv(name, value)
        text = str(explain(result, baseline=baseline))
        assert text == plain
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= 100
        assert not any(line != line.rstrip() for line in text.splitlines())

    def test_names_are_shown_as_they_are(self, result):
        names = ["[red]tomato", ":smile:", "a name too long for one line of its column"]
        text = str(explain(result, target_names=names))
        assert "[red]tomato" in text
        assert ":smile:" in text
        assert all(word in text for word in names[2].split())


class TestRefusals:
    def test_batched(self, result):
        batch = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), result)
        with pytest.raises(ValueError, match=r"result is batched.*jax\.tree\.map\(lambda x: x\[i\], result\)"):
            explain(batch)
        with pytest.raises(ValueError, match="baseline is batched"):
            explain(result, baseline=batch)
        np.testing.assert_allclose(explain(jax.tree.map(lambda x: x[1], batch)).coupling, result.coupling, rtol=1e-6)

    def test_failed(self, result):
        failed = dataclasses.replace(result, status=jnp.array(int(Status.NOT_FINITE)))
        with pytest.raises(ValueError, match=r"result failed.*the optimisation diverged"):
            explain(failed)
        with pytest.raises(ValueError, match=r"baseline failed.*the optimisation diverged"):
            explain(result, baseline=failed)

    def test_baseline_of_other_tasks(self, result):
        with pytest.raises(ValueError, match=r"same tasks.*\(3, 5\).*\(3, 4\)"):
            explain(result, baseline=synthetic(result, 3, 5))

    @pytest.mark.parametrize("names", [["a", "b"], "abc"])
    def test_names_that_do_not_fit(self, result, names):
        with pytest.raises(ValueError, match="target_names must be one name for each of the 3 classes"):
            explain(result, target_names=names)
        with pytest.raises(ValueError, match="reference_names must be one name for each of the 4 classes"):
            explain(result, reference_names=names)


class TestPicture:
    @pytest.mark.parametrize("shape", [(2, 2), (3, 150)])
    def test_a_file_is_written(self, result, tmp_path, shape):
        explanation = explain(
            synthetic(result, *shape, absent=1),
            reference_names=[f"a $long name_{c} of a class" for c in range(shape[1])],
        )
        figure = plot_coupling(explanation, tmp_path / "coupling.png")
        assert (tmp_path / "coupling.png").read_bytes().startswith(b"\x89PNG")
        matrix, *_ = figure.axes
        np.testing.assert_allclose(matrix.images[0].get_array(), explanation.coupling)
        assert [label.get_text() for label in matrix.get_yticklabels()] == list(explanation.target_names)

    def test_bars_add_up_to_the_bound(self, result):
        explanation = explain(result)
        figure = plot_coupling(explanation)
        bars = next(axis for axis in figure.axes if axis.get_xlabel().startswith("contribution"))
        widths = [bar.get_width() for bar in bars.patches]  # type: ignore[attr-defined]
        assert sum(widths) == pytest.approx(float(result.bound), rel=1e-6)
        np.testing.assert_allclose(bars.lines[0].get_xdata(), explanation.class_terms["target_loss"])

    def test_missing_matplotlib_is_said(self, result, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(ImportError, match=r"pip install 'jaxrel\[plot\]'"):
            plot_coupling(explain(result))


def test_exported():
    assert jaxrel.explain is jaxrel.relatedness.explain


def test_records_of_classes_are_the_most_expensive_ones(result: Relatedness) -> None:
    explanation = explain(synthetic(result, 6, 4, absent=1))
    records = explanation.class_records()
    assert [record["bound"] for record in records] == sorted(explanation.bound_share[:5].tolist(), reverse=True)
    assert records[:2] == explanation.class_records(most=2)
    for record in records:
        place = int(record["class"])
        assert record["leans_on"] == [[str(place % 4), 1.0]]
        assert sum(record[term] for term in BOUND_TERMS) == pytest.approx(record["bound"])
        assert record["bound"] == pytest.approx(record["prior"] * record["class_bound"])
        assert record["target_loss"] == explanation.class_terms["target_loss"][place]

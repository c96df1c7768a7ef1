"""The measure by which benchmarks/transport.py judges all solvers, and a quick run of a part."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import numpy as np
import ot
import pytest
from paths import BENCHMARKS


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("transport_peers")


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    cost = np.linalg.norm(rng.normal(size=(40, 1, 3)) - rng.normal(size=(1, 30, 3)), axis=-1)
    return cost, rng.dirichlet(np.ones(40)), rng.dirichlet(np.ones(30))


def test_optimal_potentials_leave_no_error_on_the_dual_side(peers, problem):
    cost, a, b = problem
    exact, log = ot.emd2(a, b, cost, log=True)
    lower, upper = peers.true_errors(cost, a, b, log["u"], 1e-3, exact)
    assert lower == pytest.approx(0, abs=1e-12)
    assert upper >= 0


def test_errors_are_those_of_the_rounded_plan_and_the_dual(peers, problem, monkeypatch):
    """Against a plan rounded by definition, the array cut into blocks of rows or not."""
    cost, a, b = problem
    epsilon, exact = 0.2, ot.emd2(a, b, cost)
    f = np.random.default_rng(1).normal(size=40) * 0.1
    plan = a[:, None] * np.exp((f[:, None] - cost) / epsilon)
    plan *= b / plan.sum(0)
    plan *= np.minimum(1, a / plan.sum(1))[:, None]
    missing_a, missing_b = a - plan.sum(1), b - plan.sum(0)
    plan += np.outer(missing_a, missing_b) / missing_a.sum()
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-15)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-15)
    g = (cost - f[:, None]).min(0)
    dual = a @ (cost - g).min(1) + b @ g
    for rows in (7, 512):
        monkeypatch.setattr(peers, "ROWS", rows)
        lower, upper = peers.true_errors(cost, a, b, f, epsilon, exact)
        assert lower == pytest.approx(1 - dual / exact)
        assert upper == pytest.approx(np.vdot(plan, cost) / exact - 1)
        assert lower > 0
        assert upper > 0


def test_points_without_weight_do_not_count(peers, problem):
    cost, a, b = problem
    f = np.random.default_rng(1).normal(size=41)
    expected = peers.true_errors(cost, a, b, f[:40], 0.2, 1.0)
    larger = np.vstack([cost, np.zeros(30)])
    assert peers.true_errors(larger, np.append(a, 0), b, f, 0.2, 1.0) == pytest.approx(expected)


def test_potentials_that_are_not_finite_have_no_error(peers, problem):
    cost, a, b = problem
    assert np.isnan(peers.true_errors(cost, a, b, np.full(40, np.nan), 0.1, 1.0)).all()


@pytest.mark.slow
def test_quick_run(tmp_path):
    output = tmp_path / "transport.json"
    script = str(BENCHMARKS / "transport.py")
    options = ["--quick", "--only", "large", "--peers", "pot", "--output", str(output)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, script, *options], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "jaxrel" in done.stdout
    (case,) = json.loads(output.read_text())["large"]
    assert {run["contestant"] for run in case["runs"]} == {"jaxrel dense"}
    assert all(run["upper_error"] >= 0 for run in case["runs"] if "seconds" in run)

"""Tasks that are streamed: in blocks against brute force, the one-piece certificate, and itself on other devices."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import brute_force, random_problem

from jaxrel import Joint, Paper, Task, task_relatedness
from jaxrel.relatedness import Relatedness, Status, evaluate_bound
from jaxrel.relatedness.streaming import devices, losses, memory, plan, transport
from jaxrel.relatedness.streaming.cuts import cut_together, stratified_order
from jaxrel.relatedness.streaming.learning import subsample
from jaxrel.storage.features import FeatureStore

METHOD = Joint(ridge=0.01, num_steps=20, certificate_gap=0.05)  # in a quarter of the time of the default gap
BUDGET = 2**31
TERMS = (
    "bound",
    "tight_bound",
    "reweighted_reference_loss",
    "label_mismatch",
    "distribution_mismatch",
    "distribution_mismatch_lower",
    "transformed_reference_loss",
    "target_loss",
    "target_accuracy",
)


@pytest.fixture(autouse=True, scope="module")
def streamed() -> Iterator[None]:
    """Nothing fits whole, so that small tasks with a budget are streamed as large ones are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "fits_whole", lambda *_: False)
        yield


def evaluate_streamed(*arguments: Any, **options: Any) -> Relatedness:
    return evaluate_bound(*arguments, **{"memory_budget": BUDGET, "method": METHOD} | options)


@pytest.fixture
def tiny_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of at most 4 by 4 samples, so that small tasks are cut as large ones are."""
    for name, value in (("_LARGEST_SIDE", 4), ("_SMALLEST_SIDE", 4), ("_LARGEST_SKEW", 0), ("_ENTRIES_ON_CPU", 32)):
        monkeypatch.setattr(memory, name, value)


def terms(result: Relatedness) -> np.ndarray:
    return np.array([getattr(result, name) for name in TERMS], np.float64)


def samples(n: int, *, shift: float = 0.0, seed: int = 0, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, n - num_classes)])
    centres = 3 * np.random.default_rng(99).normal(size=(num_classes, 6))
    return (centres[labels] + rng.normal(size=(n, 6)) + shift).astype(np.float32), labels


# Cuts


@given(
    st.integers(1, 60), st.integers(1, 60), st.integers(3, 12), st.integers(3, 12), st.booleans(), st.integers(0, 2**16)
)
def test_blocks_have_equal_mass_on_both_sides_and_add_up_to_the_clouds(
    n: int, m: int, rows: int, columns: int, uneven: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a, b = (np.exp(4 * uneven * rng.normal(size=k)) for k in (n, m))
    x, y = rng.permutation(n), rng.permutation(m)
    blocks = list(cut_together(x, a[x], y, b[y], rows=rows, columns=columns))
    found_a, found_b = np.zeros(n), np.zeros(m)
    for block in blocks:
        assert block.x.size <= rows
        assert block.y.size <= columns
        assert block.mass > 0
        assert (block.a > 0).all()
        assert (block.b > 0).all()
        for weights in (block.a, block.b):
            assert weights.sum() == pytest.approx(1, abs=1e-12)
        np.add.at(found_a, block.x, block.mass * block.a)
        np.add.at(found_b, block.y, block.mass * block.b)
    np.testing.assert_allclose(found_a, a / a.sum(), atol=1e-14)
    np.testing.assert_allclose(found_b, b / b.sum(), atol=1e-14)
    if n <= rows and m <= columns:
        assert len(blocks) == 1
    elif not uneven:  # no more than the room for points at the cuts makes necessary
        assert len(blocks) == max(-(-n // (rows - 2)), -(-m // (columns - 2)))


def test_every_stretch_of_an_order_has_its_share_of_each_class() -> None:
    rng = np.random.default_rng(0)
    labels = np.sort(rng.choice(4, 1000, p=[0.5, 0.3, 0.15, 0.05]))
    weights = np.where(np.arange(1000) % 10 == 0, 0.0, 1.0)
    order = stratified_order(labels, weights, rng)
    assert sorted(order) == np.flatnonzero(weights).tolist()
    share = np.bincount(labels[order]) / order.size
    for start in range(0, order.size - 100, 37):
        counts = np.bincount(labels[order[start : start + 100]], minlength=4)
        assert np.abs(counts - 100 * share).max() <= 2
    assert not np.array_equal(order, stratified_order(labels, weights, rng))


# Against brute force and the certificate in one piece


@pytest.mark.usefixtures("x64", "tiny_blocks")
@pytest.mark.parametrize("space", ["prediction", "feature"])
@pytest.mark.parametrize("coupling", ["hard", "sparse", "soft"])
def test_terms_are_exact_and_transport_is_between_its_ends(space: str, coupling: str) -> None:
    method = Joint(space=space, certificate_gap=1e-3)
    exceeded = 0.0
    for seed in range(6):
        problem = random_problem(
            seed, num_target=3, num_reference=4, coupling=coupling, space=space, held_out=True, padded=40
        )
        result = evaluate_streamed(problem.transformation, problem.reference, problem.target, method=method, key=seed)
        exact = brute_force(problem, "feature" if space == "feature" else "margin")
        np.testing.assert_allclose(
            [result.reweighted_reference_loss, result.label_mismatch, result.transformed_reference_loss],
            [exact["reweighted"], exact["mismatch"], exact["transformed"]],
            rtol=1e-10,
        )
        assert float(result.target_loss) == pytest.approx(exact["target_loss"], rel=1e-10)
        if not np.isfinite(exact["transport"]):
            assert np.isinf(result.bound)
            continue
        upper, lower = float(result.distribution_mismatch), float(result.distribution_mismatch_lower)
        assert lower <= exact["transport"] <= upper
        assert result.target_loss <= result.tight_bound
        exceeded = max(exceeded, upper / exact["transport"])
    assert exceeded > 1.05  # there were blocks indeed


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_one_block_is_the_certificate_in_one_piece() -> None:
    method = Joint(certificate_gap=1e-4)
    problem = random_problem(3, num_target=3, num_reference=3, coupling="soft", padded=24)
    result = evaluate_streamed(problem.transformation, problem.reference, problem.target, method=method)
    whole = jax.jit(evaluate_bound)(problem.transformation, problem.reference, problem.target, method=method)
    np.testing.assert_allclose(terms(result), terms(whole), rtol=2e-4)
    for name in ("reweighted_reference_loss", "label_mismatch", "transformed_reference_loss", "target_loss"):
        np.testing.assert_allclose(getattr(result.class_terms, name), getattr(whole.class_terms, name), rtol=1e-9)
    np.testing.assert_allclose(result.class_terms.reference_loss, whole.class_terms.reference_loss, rtol=1e-9)
    np.testing.assert_allclose(result.coupling, whole.coupling, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("cost", ["margin", "range", "euclidean"])
def test_one_block_is_the_exact_optimum_of_any_cost(cost: str) -> None:
    problem = random_problem(3, num_target=3, num_reference=3, coupling="soft", padded=24)
    method = Joint(cost=cost, certificate_gap=1e-4)
    result = evaluate_streamed(problem.transformation, problem.reference, problem.target, method=method)
    np.testing.assert_allclose(result.distribution_mismatch, brute_force(problem, cost)["transport"], rtol=2e-4)


@pytest.fixture(scope="module")
def learned() -> tuple[Task, Task, Relatedness]:
    reference, target = Task(*samples(150)), Task(*samples(110, shift=1.0, seed=1))
    return reference, target, task_relatedness(reference, target, memory_budget=BUDGET, method=METHOD)


@pytest.mark.slow
def test_learned_on_everything_it_is_task_relatedness(learned: tuple[Task, Task, Relatedness]) -> None:
    reference, target, result = learned
    plain = task_relatedness(reference, target, method=METHOD)
    for one, other in zip(jax.tree.leaves(result.transformation), jax.tree.leaves(plain.transformation), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(terms(result), terms(plain), rtol=2e-3, atol=1e-3)
    assert result.distribution_mismatch >= plain.distribution_mismatch_lower
    assert dataclasses.replace(result.computed_with, method=METHOD) == plain.computed_with


@pytest.mark.slow
def test_weights_are_samples_that_are_there_several_times(
    learned: tuple[Task, Task, Relatedness],
) -> None:
    reference, target, result = learned
    counts = np.arange(target.num_samples) % 3
    features = np.asarray(target.features)
    weighted = Task(features, target.labels, weights=counts)
    repeated = Task(np.repeat(features, counts, axis=0), np.repeat(target.labels, counts))
    one, other = (
        evaluate_streamed(result.transformation, reference, task, method=METHOD) for task in (weighted, repeated)
    )
    np.testing.assert_allclose(terms(one), terms(other), rtol=0.02, atol=2e-3)
    np.testing.assert_allclose(one.target_loss, other.target_loss, rtol=1e-5)


# Sharded, and from anywhere


def in_tiny_blocks(learned: tuple[Task, Task, Relatedness], **options: object) -> Relatedness:
    reference, target, result = learned
    return evaluate_streamed(result.transformation, reference, target, **options)


@pytest.mark.usefixtures("tiny_blocks")
@pytest.mark.slow
def test_the_number_of_devices_changes_nothing(learned: tuple[Task, Task, Relatedness]) -> None:
    one = in_tiny_blocks(learned)
    several = in_tiny_blocks(learned, mesh=jax.make_mesh((2, 2), ("a", "b")))
    np.testing.assert_allclose(terms(several), terms(one), rtol=1e-5, atol=1e-6)
    assert one.distribution_mismatch > 1.05 * learned[2].distribution_mismatch


@pytest.mark.usefixtures("tiny_blocks")
def test_more_blocks_are_more_calls_of_the_same_programs(learned: tuple[Task, Task, Relatedness]) -> None:
    in_tiny_blocks(learned)
    before = [f._cache_size() for f in (transport._with_blocks, losses._with_losses, devices._over_devices)]
    more = Task(*samples(301, seed=5)), Task(*samples(207, seed=6)), learned[2]
    calls: list[tuple[str, int, int]] = []
    in_tiny_blocks(more, method=dataclasses.replace(METHOD, certificate_gap=0.02), progress=lambda *c: calls.append(c))
    after = [f._cache_size() for f in (transport._with_blocks, losses._with_losses, devices._over_devices)]
    assert after == before
    assert [done for what, done, _ in calls if "transport" in what] == list(range(1, len(calls)))
    assert calls[-1][1] == calls[-1][2]


@pytest.mark.usefixtures("tiny_blocks")
def test_a_seed_gives_its_numbers(learned: tuple[Task, Task, Relatedness]) -> None:
    one, again, other = (in_tiny_blocks(learned, key=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(terms(one), terms(again))
    assert one.distribution_mismatch != other.distribution_mismatch
    np.testing.assert_allclose(one.target_loss, other.target_loss, rtol=1e-5)


def test_features_may_come_from_anywhere(learned: tuple[Task, Task, Relatedness], tmp_path: Path) -> None:
    reference, target, result = learned
    features = np.asarray(target.features)
    path = tmp_path / "features"
    np.memmap(path, np.float32, "w+", shape=features.shape)[:] = features
    table = FeatureStore(tmp_path / "store").table({"of": "test"}, shape=features.shape, shard_size=32)
    for shard in range(table.num_shards):
        table.write(shard, features[table.span(shard)])
    for source in (np.memmap(path, np.float32, "r", shape=features.shape), table, jnp.asarray(features)):
        found = evaluate_streamed(result.transformation, reference, Task(source, target.labels), method=METHOD)
        np.testing.assert_array_equal(terms(found), terms(result))


def test_padding_may_hold_anything(learned: tuple[Task, Task, Relatedness]) -> None:
    reference, target, result = learned
    features = np.concatenate([np.full((5, 6), np.nan, np.float32), target.features])
    padded = Task(features, np.pad(target.labels, (5, 0)), weights=np.pad(target.weights, (5, 0)))
    found = evaluate_streamed(result.transformation, reference, padded, method=METHOD)
    np.testing.assert_allclose(terms(found), terms(result), rtol=1e-3, atol=1e-4)


def test_a_lost_reference_class_is_reported(learned: tuple[Task, Task, Relatedness]) -> None:
    reference, target, result = learned
    without = Task(reference.features, reference.labels, weights=reference.labels != 0, num_classes=3)
    found = evaluate_streamed(result.transformation, without, target, method=METHOD)
    assert found.status == Status.LOST_REFERENCE_CLASS
    assert np.isinf(found.bound)
    assert np.isfinite(found.label_mismatch)


# Learning


def test_a_subsample_has_every_class_and_the_prior_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(5, 2000, p=[0.6, 0.3, 0.09, 0.009, 0.001])
    labels[:5] = np.arange(5)
    weights = rng.choice([0.0, 1.0, 3.0], 2000)
    weights[:5] = 1
    task = Task(rng.normal(size=(2000, 2)), labels, weights=weights)
    part = subsample(task, 100, rng)
    assert 95 <= part.num_samples <= 105
    share = np.bincount(np.asarray(part.labels), np.asarray(part.weights))
    np.testing.assert_allclose(share / share.sum(), np.bincount(labels, weights) / weights.sum(), rtol=1e-5)


def test_held_out_samples_are_evaluated_with_what_was_learned(
    learned: tuple[Task, Task, Relatedness],
) -> None:
    held_out = Task(*samples(130, seed=2)), Task(*samples(100, shift=1.0, seed=3))
    result = task_relatedness(*learned[:2], evaluate_on=held_out, memory_budget=BUDGET, method=METHOD)
    again = evaluate_streamed(learned[2].transformation, *held_out, method=METHOD)
    np.testing.assert_array_equal(terms(result), terms(again))
    assert result.computed_with.evaluated_on == "held-out samples"
    assert result.computed_with.num_target == 100
    assert result.target_loss <= result.tight_bound <= result.bound
    assert result.target_loss != learned[2].target_loss


# Budgets and bad input


def test_a_budget_that_is_too_small_says_what_would_do(learned: tuple[Task, Task, Relatedness]) -> None:
    reference, target, result = learned
    with pytest.raises(ValueError, match="memory_budget of 1,000 bytes is too small") as caught:
        evaluate_streamed(result.transformation, reference, target, method=METHOD, memory_budget=1000)
    least = int(re.findall(r"take ([\d,]+) bytes", str(caught.value))[0].replace(",", ""))
    found = evaluate_streamed(result.transformation, reference, target, method=METHOD, memory_budget=least)
    assert found.distribution_mismatch >= result.distribution_mismatch_lower
    with pytest.raises(ValueError, match=f"{least:,}"):
        evaluate_streamed(result.transformation, reference, target, method=METHOD, memory_budget=least - 1)
    with pytest.raises(ValueError, match="too small"):
        task_relatedness(reference, target, memory_budget=1000)


@pytest.mark.slow
def test_what_fits_is_taken_whole(learned: tuple[Task, Task, Relatedness], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "fits_whole", memory.fits_whole)
    reference, target, _ = learned
    kept = [Task(stored(np.asarray(task.features)), task.labels) for task in (reference, target)]
    whole = task_relatedness(reference, target, method=METHOD)
    for result in (task_relatedness(*kept, method=METHOD), task_relatedness(*kept, method=METHOD, memory_budget=2**30)):
        np.testing.assert_array_equal(terms(result), terms(whole))
        assert result.computed_with == whole.computed_with
    told = []
    small = task_relatedness(*kept, method=METHOD, memory_budget=2**19, progress=lambda *call: told.append(call))
    assert told[0] == ("learning", 1, 1)
    assert small.target_loss <= small.tight_bound
    with pytest.raises(ValueError, match="whole number of bytes"):
        task_relatedness(*kept, memory_budget=2e9)


@pytest.mark.slow
def test_any_method_is_streamed(learned: tuple[Task, Task, Relatedness]) -> None:
    reference, target, _ = learned
    method = Paper(num_steps=3)
    result = task_relatedness(reference, target, method=method, memory_budget=BUDGET)
    whole = task_relatedness(reference, target, method=method)
    np.testing.assert_allclose(terms(result), terms(whole), rtol=0.03, atol=1e-3)
    assert result.published is None


@settings(max_examples=200)
@given(st.integers(2**22, 2**34), st.integers(1, 10**6), st.integers(1, 10**6), st.integers(2, 2048), st.integers(1, 8))
def test_sizes_keep_within_the_budget(budget: int, n: int, m: int, width: int, num_devices: int) -> None:
    work = memory.Workload(n + m, width, 10, 10, 4, num_devices, on_cpu=True)
    try:
        memory.checked_budget(budget, work, METHOD)
    except ValueError:
        return
    sizes = memory.block_sizes_within(budget, work, (n, m))
    assert work.state + work.block_bytes(sizes.rows, sizes.columns, sizes.at_once, sizes.blocks_per_call) <= budget
    num_samples, _ = memory.learned_within(budget, work, METHOD)
    assert work.state + work.learning_bytes(num_samples) <= budget
    more = memory.block_sizes_within(2 * budget, work, (n, m))
    assert more.rows * more.columns >= sizes.rows * sizes.columns


def stored(rows: np.ndarray) -> np.memmap:
    """Rows in a file of their own."""
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, rows.dtype, "w+", shape=rows.shape)
    mapped[:] = rows
    return mapped


def bad_inputs() -> Iterator[tuple[str, dict[str, object], str]]:
    good = samples(30)
    spoilt = good[0].copy()
    spoilt[7, 2] = np.nan
    yield "not finite", {"target": Task(stored(spoilt), good[1])}, r"target.features\[7, 2\] is nan"
    yield "no labels", {"target": Task(good[0])}, "target has no labels"
    yield "an array", {"reference": good[0]}, "reference must be a Task, got ndarray"
    yield "width", {"target": Task(good[0][:, :5], good[1])}, "5 features"
    yield "class without sample", {"target": Task(*good, num_classes=4)}, "no sample of class 3"
    unknown = Task(*good), Task(good[0], good[1] + 1)
    yield "unknown class", {"evaluate_on": unknown[::-1]}, r"evaluate_on\[0\] labels\[2\] is 3"
    yield "unknown target class", {"evaluate_on": unknown}, r"learned from classes 0 .. 2"
    yield "no pair", {"evaluate_on": unknown[0]}, "must be a pair"
    yield "method", {"method": "joint"}, "must be a Joint"
    yield "key", {"key": -1}, "key must be .* an integer from 0"


@pytest.mark.parametrize(("options", "message"), [pytest.param(o, m, id=name) for name, o, m in bad_inputs()])
def test_bad_input_is_refused(options: dict[str, object], message: str) -> None:
    given = {"reference": Task(*samples(30)), "target": Task(*samples(30)), "method": METHOD} | options
    with pytest.raises(ValueError, match=message):
        task_relatedness(**given, memory_budget=BUDGET)


# In processes of their own

PROGRAM = """
import sys
import jax
import numpy as np
jax.config.update("jax_num_cpu_devices", 8)
from jaxrel import Joint, Task, task_relatedness

def anonymous():
    return int(open("/proc/self/status").read().partition("RssAnon:")[2].split()[0]) * 1024

def task(seed):
    labels = np.arange(int(sys.argv[1])) % 4
    rng = np.random.default_rng(seed)
    return Task((rng.normal(size=(labels.size, 64)) + labels[:, None]).astype(np.float32), labels)

tasks = task(0), task(1)
options = {"method": Joint(ridge=0.01, num_steps=5), "memory_budget": int(sys.argv[2])}
jax.block_until_ready(jax.numpy.ones(3) + 1)
before, peak = anonymous(), 0
def watch(*_):
    global peak
    peak = max(peak, anonymous())
for n in (1, 2, 4, 8):
    mesh = jax.make_mesh((n,), ("d",), devices=jax.devices()[:n])
    result = task_relatedness(*tasks, mesh=mesh, progress=watch, **options)
    print(float(result.bound), float(result.target_loss), result.status, peak - before)
"""


@pytest.mark.slow
def test_eight_devices_and_memory() -> None:
    budget = 256 * 2**20
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "40000", str(budget)], check=True, capture_output=True, text=True
    )
    found = np.array([[float(number) for number in line.split()] for line in done.stdout.splitlines()])
    assert found.shape == (4, 4)
    np.testing.assert_allclose(found[:, 1], found[0, 1], rtol=1e-5)
    # A device's share of the budget has smaller blocks where there are more devices.
    assert (found[:, 0] <= 1.1 * found[0, 0]).all()
    assert (found[:, 2] == 0).all()
    assert found[0, 3] <= budget + 600 * 2**20  # and what compiling takes

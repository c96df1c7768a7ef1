"""Moments collected batch by batch give the metrics of all samples at once, in every transformation of JAX."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from jaxrel.metrics import METRICS, STREAMED, Moments, Score, ScoreStatus, gbc_score, logme_score, moments

CLASSES, WIDTH, SAMPLES = 4, 5, 64
# Of float32 scores: both ways round each sum to about sqrt(n) * 6e-8 of the scale of the features, and the metrics
# multiply it by the condition number of the covariance, about 30 here.
SINGLE = 2e-4


def problem(dtype: Any = np.float32, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels (class 2 is late and rare) and weights, some 0."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, 3], SAMPLES)
    labels[-5:] = 2
    features = rng.normal(size=(SAMPLES, WIDTH)) @ rng.normal(size=(WIDTH, WIDTH))
    features += rng.normal(size=(CLASSES, WIDTH))[labels] + 3
    return features.astype(dtype), labels, rng.integers(0, 3, SAMPLES).astype(dtype)


def whole(name: str, features: Any, labels: Any, weights: Any) -> Score:
    metric = METRICS[name]
    if metric.label_free:
        return metric.function(features, weights=weights)
    return metric.function(features, labels, weights=weights, num_classes=CLASSES)


def start(features: Any, **options: Any) -> Moments:
    return moments.init(features.shape[-1], CLASSES, features.dtype, **options)


def collected(features: Any, labels: Any, weights: Any, cuts: Any, **options: Any) -> Moments:
    """The moments of the blocks between the cuts."""
    state = start(features, **options)
    for block in np.split(np.arange(len(features)), cuts):
        state = moments.update(state, features[block], labels[block], weights[block])
    return state


# Between them they read all of a state, and few metrics are soon compiled.
OF_EVERY_MOMENT = ("regularised_h_score", "gbc")


def check(
    state: Moments, features: Any, labels: Any, weights: Any, rtol: float, names: Sequence[str] = tuple(STREAMED)
) -> None:
    for name in names:
        found, expected = moments.compute(name, state), whole(name, features, labels, weights)
        np.testing.assert_allclose(found.value, expected.value, rtol=rtol, atol=rtol * 1e-2, err_msg=name)
        assert int(found.status) == int(expected.status), name
        assert found.value.dtype == features.dtype


@pytest.mark.slow
@settings(max_examples=20)
@given(st.lists(st.sampled_from(range(0, SAMPLES + 1, 8)), max_size=6).map(sorted), st.integers(0, 99))
def test_any_blocks_give_the_scores_of_all_samples_in_float64(cuts, seed):
    with jax.enable_x64(True):
        sample = problem(np.float64, seed)
        check(collected(*sample, cuts), *sample, 1e-10)


@pytest.mark.parametrize("factored", [pytest.param(True, marks=pytest.mark.slow), False])
def test_blocks_give_the_scores_of_all_samples_in_float32(factored):
    sample = problem()
    check(collected(*sample, [0, 16, 16, 48], factored=factored), *sample, SINGLE)


@pytest.mark.slow
def test_directions_that_are_rounding_stay_so_in_float32():
    features, labels, weights = problem()
    features = np.concatenate([features, features[:, ::-1], 2 * features], axis=1)
    check(collected(features, labels, weights, range(8, SAMPLES, 8)), features, labels, weights, SINGLE)


def test_absent_samples_may_be_anything():
    features, labels, weights = problem()
    spoilt = np.where(weights[:, None] > 0, features, np.nan)
    check(collected(spoilt, np.where(weights > 0, labels, 99), weights, [32]), features, labels, weights, SINGLE)


@pytest.mark.parametrize("kind", ["constant", "one class", "one feature constant", "huge", "tiny", "far away"])
def test_statuses_are_those_of_all_samples(kind):
    features, labels, weights = problem()
    if kind == "constant":
        features = np.full_like(features, 7.1)
    elif kind == "one class":
        labels = np.full_like(labels, 1)
    elif kind == "one feature constant":
        features[:, 2] = 7.1
    elif kind == "far away":
        features += np.float32(1000)
    else:
        features = features * np.float32(1e30 if kind == "huge" else 1e-30)
    state = collected(features, labels, weights, [16, 32])
    for name in STREAMED:
        found, expected = moments.compute(name, state), whole(name, features, labels, weights)
        assert int(found.status) == int(expected.status), name
        np.testing.assert_allclose(found.value, expected.value, rtol=2e-3, atol=1e-3, err_msg=name)


def leaves_equal(a: Moments, b: Moments, rtol: float) -> None:
    """Equal moments: triangular factors may differ by signs of rows."""
    scatters = [state.scatter.T @ state.scatter if state.factored else state.scatter for state in (a, b)]
    np.testing.assert_allclose(*scatters, rtol=rtol, atol=rtol * np.abs(scatters[0]).max())
    for name in ("class_sizes", "means", "squares", "third", "fourth", "origin", "unit", "valid"):
        found, expected = (np.asarray(getattr(state, name), np.float64) for state in (a, b))
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max(), err_msg=name)


@pytest.mark.parametrize("factored", [pytest.param(True, marks=pytest.mark.slow), False])
def test_merging_is_associative_and_the_state_without_samples_is_neutral(factored, x64):
    features, labels, weights = problem(np.float64)
    nothing = start(features, factored=factored)
    parts = [
        moments.update(nothing, *(array[span] for array in (features, labels, weights)))
        for span in (slice(0, 10), slice(10, 40), slice(40, 64))
    ]
    a, b, c = parts
    left = moments.merge(moments.merge(a, b), c)
    leaves_equal(left, moments.merge(a, moments.merge(b, c)), 1e-12)
    leaves_equal(left, collected(features, labels, weights, [25], factored=factored), 1e-12)
    leaves_equal(moments.merge(nothing, a), a, 1e-14)
    leaves_equal(moments.merge(a, nothing), a, 1e-14)
    check(moments.merge(c, moments.merge(b, a)), features, labels, weights, 1e-10, OF_EVERY_MOMENT)


def in_blocks(*arrays: np.ndarray, count: int) -> list[np.ndarray]:
    return [array.reshape(count, -1, *array.shape[1:]) for array in arrays]


def test_scan_and_vmap_collect():
    sample = problem()
    blocks = in_blocks(*sample, count=4)

    @jax.jit
    def scanned(blocks: Any) -> Moments:
        return jax.lax.scan(lambda state, block: (moments.update(state, *block), None), start(blocks[0]), blocks)[0]

    check(scanned(blocks), *sample, SINGLE)
    each = jax.vmap(functools.partial(moments.update, start(sample[0])))(*blocks)
    scores = jax.vmap(functools.partial(moments.compute, "lfc"))(each)
    assert scores.value.shape == (4,)
    # One encoder in each entry of the batch.
    features = np.stack([sample[0], sample[0][:, ::-1] ** 2])
    both = jax.vmap(lambda rows: moments.compute("h_score", moments.update(start(rows), rows, *sample[1:])))(features)
    for rows, value in zip(features, both.value, strict=True):
        np.testing.assert_allclose(value, whole("h_score", rows, *sample[1:]).value, rtol=SINGLE)
    merged = jax.vmap(lambda state: moments.merge_across(state, "blocks"), axis_name="blocks", out_axes=None)(each)
    check(merged, *sample, SINGLE)


def of_shard(*shard: Any) -> Moments:
    return moments.merge_across(moments.update(start(shard[0]), *shard), "devices")


@pytest.mark.parametrize("factored", [pytest.param(True, marks=pytest.mark.slow), False])
def test_shard_map_merges_over_devices(factored):
    sample = problem()
    spec = PartitionSpec("devices")

    def scored(*shard: Any) -> tuple[Moments, Score]:
        state = moments.update(start(shard[0], factored=factored), *shard)
        state = moments.merge_across(state, "devices")
        return state, moments.compute("logme", state)

    mesh = Mesh(jax.devices()[:4], "devices")
    state, score = jax.jit(jax.shard_map(scored, mesh=mesh, in_specs=spec, out_specs=PartitionSpec()))(*sample)
    check(jax.device_get(state), *sample, SINGLE)  # by the programs for one device, which other tests have compiled
    np.testing.assert_allclose(score.value, whole("logme", *sample).value, rtol=SINGLE)


def test_pmap_merges_over_devices():
    sample = problem()
    merged = jax.pmap(of_shard, axis_name="devices")(*in_blocks(*sample, count=4))
    for leaf in jax.tree.leaves(merged):
        assert all((np.asarray(leaf[0]) == np.asarray(leaf[device])).all() for device in range(1, 4))
    check(jax.tree.map(lambda leaf: leaf[0], merged), *sample, SINGLE)


def test_functions_and_their_options_are_taken():
    sample = problem()
    state = collected(*sample, [32])
    assert moments.compute(logme_score, state) == moments.compute("logme", state)
    options = {"covariance": "diagonal", "logarithm": True}
    expected = gbc_score(*sample[:2], weights=sample[2], num_classes=CLASSES, **options)
    np.testing.assert_allclose(moments.compute(gbc_score, state, **options).value, expected.value, rtol=SINGLE)


def test_without_labels_there_are_the_label_free_metrics():
    features, _, weights = problem()
    state = moments.update(moments.init(WIDTH), features, weights=weights)
    expected = whole("rankme", features, None, weights)
    np.testing.assert_allclose(moments.compute("rankme", state).value, expected.value, rtol=SINGLE)


def spoilt(kind: str) -> Moments:
    features, labels, weights = problem()
    if kind == "nothing":
        return start(features)
    if kind == "feature":
        features[40] = np.nan
        weights[40] = 1
    elif kind == "label":
        labels[:] = CLASSES
    else:
        weights[3] = -1 if kind == "negative weight" else np.nan
    return collected(features, labels, weights, [32])


@pytest.mark.parametrize("kind", ["nothing", "feature", "label", "negative weight", "weight"])
def test_what_is_not_valid_is_carried_along(kind):
    with pytest.raises(ValueError, match="no samples" if kind == "nothing" else "check what was passed to update"):
        moments.compute("rankme", spoilt(kind))
    for name in ("rankme", "gbc"):
        score = jax.jit(functools.partial(moments.compute, name))(spoilt(kind))
        assert score.status == ScoreStatus.INVALID_INPUT
        assert jnp.isnan(score.value)


def test_what_does_not_fit_is_refused():
    features, labels, weights = problem()
    state = start(features)
    for arguments, message in (
        ((features[0],), r"shape \(m, 5\)"),
        ((features[:, :3],), r"shape \(m, 5\)"),
        ((features, labels / 2), "labels must be integers"),
        ((features, labels[:3]), r"labels must have shape \(64,\)"),
        ((features, labels, weights[:3]), r"weights must have shape \(64,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            moments.update(state, *arguments)
    with pytest.raises(ValueError, match="num_features must be at least 1"):
        moments.init(0)
    with pytest.raises(ValueError, match="states must be alike"):
        moments.merge(state, moments.init(WIDTH, CLASSES, factored=False))
    with pytest.raises(ValueError, match="transrate cannot be had block by block"):
        moments.compute("transrate", state)
    with pytest.raises(ValueError, match="unknown metric 'nothing'"):
        moments.compute("nothing", state)

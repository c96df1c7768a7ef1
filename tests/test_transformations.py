"""Public functions inside `jit`, `vmap` and `pmap` are what they are outside, also with traced seeds."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import Joint, Task, task_relatedness, transferability_score
from jaxrel.metrics import METRICS, ScoreStatus, Transferability
from jaxrel.pseudo_labels import KMeans, ReferenceHead

DRAWN = [name for name in METRICS if "key" in inspect.signature(METRICS[name].function).parameters]
FAST = Joint(num_steps=5, ridge=0.01)


def sample(seed: int, *, n: int = 80, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    return (1.5 * np.eye(3, d)[labels] + rng.normal(size=(n, d))).astype(np.float32), labels.astype(np.int32)


def every_array() -> dict[str, np.ndarray]:
    (features, labels), (reference, reference_labels) = sample(0), sample(1)
    return {
        "features": features,
        "labels": labels,
        "reference_features": reference,
        "reference_labels": reference_labels,
        "first_view": features + 0.1,
        "second_view": features - 0.1 * reference,
    }


def test_all_metrics_that_draw_are_here() -> None:
    assert {"task_relatedness", "cross_view", "transferability", "nleep"} <= set(DRAWN)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "transferability" else pytest.mark.slow) for name in DRAWN]
)
def test_metrics_over_traced_seeds(name: str) -> None:
    metric, data = METRICS[name], every_array()
    arrays = [data[need] for need in metric.needs]
    parameters = inspect.signature(metric.function).parameters
    counts = {key: 3 for key in ("num_classes", "reference_num_classes") if key in parameters}
    traces: list[None] = []

    @jax.jit
    def over_seeds(seeds: Any, *arrays: Any) -> Any:
        traces.append(None)
        return jax.vmap(lambda seed: metric.function(*arrays, key=seed, **counts))(seeds)

    many = over_seeds(jnp.array([3, 4]), *arrays)
    np.testing.assert_allclose(many.value, [metric.function(*arrays, key=seed).value for seed in (3, 4)], rtol=5e-3)
    over_seeds(jnp.array([5, 6]), *arrays)
    assert len(traces) == 1
    np.testing.assert_allclose(metric.function(*arrays, key=jax.random.key(3)).value, many.value[0], rtol=5e-3)


def check_same(found: Transferability, expected: list[Transferability]) -> None:
    for name in ("value", "accuracy", "majority", "hits", "lower", "upper"):
        want = np.stack([np.asarray(getattr(one, name)) for one in expected])
        np.testing.assert_allclose(
            getattr(found, name), want, atol=0.02 if name in ("lower", "upper") else 1e-5, err_msg=name
        )
    moments = [
        [(resamples.mean(), resamples.std()) for resamples in map(np.asarray, batch)]
        for batch in (found.resamples, [one.resamples for one in expected])
    ]
    np.testing.assert_allclose(*moments, atol=5e-3)  # drawn by JAX and by NumPy
    assert found.messages == ()


def scored(features: Any, seed: Any) -> Transferability:
    return transferability_score(Task(features, sample(0)[1], num_classes=3), key=seed)


@pytest.mark.slow
def test_transferability_with_labels() -> None:
    features = np.stack([sample(seed)[0] for seed in range(4)])
    seeds = np.arange(4)
    expected = [scored(rows, int(seed)) for rows, seed in zip(features, seeds, strict=True)]
    check_same(jax.jit(jax.vmap(scored))(features, seeds), expected)
    spread = jax.pmap(scored)(features, seeds)
    assert len(spread.value.sharding.device_set) == 4
    check_same(spread, expected)
    keys = jax.vmap(jax.random.key)(seeds)
    check_same(jax.jit(jax.vmap(scored))(features, keys), [scored(*one) for one in zip(features, keys, strict=True)])


def test_transferability_of_what_outside_is_refused() -> None:
    @jax.jit
    def of_labels(labels: Any) -> Transferability:
        return transferability_score(Task(sample(0)[0], labels, num_classes=80), num_resamples=20)

    found = of_labels(jnp.arange(80))
    assert np.isnan([found.value, found.lower, found.upper]).all()
    assert int(found.status) == ScoreStatus.UNDEFINED
    with pytest.raises(ValueError, match="num_classes must be given inside jit"):
        jax.jit(lambda labels: transferability_score(Task(sample(0)[0], labels)).value)(sample(0)[1])


@pytest.mark.slow
def test_transferability_without_labels() -> None:
    features, noise = (np.stack([sample(seed)[0] for seed in seeds]) for seeds in ((0, 1), (2, 3)))

    def scored(features: Any, noise: Any, seed: Any) -> Transferability:
        views = features + 0.1 * noise, features - 0.1 * noise
        return transferability_score(Task(features), views=views, key=seed, num_resamples=20)

    found = jax.jit(jax.vmap(scored))(features, noise, jnp.arange(2))
    expected = [scored(*one) for one in zip(features, noise, range(2), strict=True)]
    np.testing.assert_allclose(found.value, [float(one) for one in expected], atol=1e-5)
    np.testing.assert_allclose(found.hits, [one.hits for one in expected], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("labels", [KMeans(), ReferenceHead(), sample(0)[1]], ids=["clusters", "reference", "given"])
@pytest.mark.parametrize("views", [False, True])
def test_relatedness_without_labels(labels: Any, views: bool) -> None:
    features = np.stack([sample(seed)[0] for seed in (0, 1)])
    reference = Task(*sample(2))

    def related(features: Any, seed: Any) -> Any:
        seen = (features + 0.1, features - 0.1) if views else None
        target = Task(features, num_classes=3)
        prior = (0.5, 0.3, 0.2)
        options = {"method": FAST, "views": seen, "key": seed, "class_prior": prior}
        return task_relatedness(reference, target, pseudo_labels=labels, **options).bound

    found = jax.jit(jax.vmap(related))(features, jnp.arange(2))
    np.testing.assert_allclose(found, [related(*one) for one in zip(features, range(2), strict=True)], rtol=5e-3)

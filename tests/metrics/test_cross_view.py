"""The cross-view probe: against numpy, for encoders that keep or lose what matters, absent samples, batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrel.metrics.cross_view import cross_view_hits, probe_hits

N, D = 80, 5
COUNTS = (3, 6)


def encoder(seed, *, nuisance=0.0, n=N):
    """Three classes on two features; the other features are noise that every view draws anew."""
    rng = np.random.default_rng(seed)
    classes = np.array([[3, 0], [-3, 3], [-3, -3]])[rng.permutation(np.arange(n) % 3)]

    def view():
        noise = rng.normal(size=(n, D)) * np.where(np.arange(D) < 2, 0.3, 1)
        return (np.hstack([classes, np.zeros((n, D - 2))]) + noise + nuisance * rng.normal(size=(n, D))).astype("f4")

    return tuple(view() for _ in range(3))


def hits(arrays, weights=None):
    weights = jnp.ones(len(arrays[0])) if weights is None else weights
    return cross_view_hits(*map(jnp.asarray, arrays), weights, jax.random.key(0), cluster_counts=COUNTS)


def test_the_probe_against_numpy():
    rng = np.random.default_rng(0)
    features, views = rng.normal(size=(N, D)), rng.normal(size=(2, N, D))
    labels = rng.integers(0, 4, (3, N))
    weights = rng.choice([0.0, 1.0, 2.0], N)
    second = rng.random(N) < 0.5
    arrays = map(jnp.asarray, (features, views, labels, weights, second))
    found = np.asarray(probe_hits(*arrays, num_classes=4, ridge=0.5), np.float64)
    halves = [np.flatnonzero(half & (weights > 0)) for half in (second, ~second)]
    for own, other in (halves, halves[::-1]):
        shares = weights[other] / weights[other].sum()
        mean = shares @ features[other]
        centred = features[other] - mean
        gram = centred.T @ (shares[:, None] * centred) + 0.5 * np.eye(D)
        for position, row in enumerate(labels):
            indicators = np.eye(4)[row[other]]
            slopes = np.linalg.solve(gram, centred.T @ (shares[:, None] * (indicators - shares @ indicators)))
            told = np.argmax((views[:, own] - mean) @ slopes + shares @ indicators, axis=-1)
            np.testing.assert_allclose(found[position, own], (told == row[own]).mean(axis=0))


def test_an_encoder_that_leaves_out_what_augmentation_changes_is_better():
    clean, lost = (float(jnp.mean(hits(encoder(0, nuisance=level)))) for level in (0.0, 20.0))
    assert clean > lost + 0.2


def test_an_absent_sample_does_not_exist():
    arrays = encoder(0)
    weights = np.ones(N, np.float32)
    weights[[3, 10, 40, 41]] = 0
    rubbish = tuple(np.where(weights[:, None] > 0, array, np.float32(1e6)) for array in arrays)
    expected = np.mean(hits([array[weights > 0] for array in arrays]))
    np.testing.assert_allclose(weights @ np.asarray(hits(rubbish, weights)) / weights.sum(), expected, atol=0.02)


def test_a_batch_of_encoders():
    batch = [encoder(seed, nuisance=seed / 2) for seed in range(3)]
    stacked = [jnp.stack(arrays) for arrays in zip(*batch, strict=True)]
    together = jax.vmap(lambda *arrays: hits(arrays))(*stacked)
    for position, arrays in enumerate(batch):
        np.testing.assert_allclose(np.mean(together[position]), np.mean(hits(arrays)), atol=0.03)


def test_scale_is_irrelevant():
    arrays = encoder(1, nuisance=1.0)
    for scale in (1e-10, 1e10):
        scaled = [array * np.float32(scale) for array in arrays]
        np.testing.assert_allclose(np.mean(hits(scaled)), np.mean(hits(arrays)), atol=0.03)


def test_samples_in_a_periodic_order_are_not_split_by_it():
    """Were halves every other sample, neither would have the clusters of the other."""
    rng = np.random.default_rng(0)
    centres = 10 * rng.normal(size=(6, D))[np.arange(N) % 6]
    views = [(centres + 0.3 * rng.normal(size=(N, D))).astype("f4") for _ in range(3)]
    assert float(jnp.mean(hits(views))) > 0.7

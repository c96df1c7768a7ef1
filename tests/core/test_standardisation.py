"""Standardisation at every scale, with constant features and with units that hardly ever fire."""

from __future__ import annotations

import numpy as np
import pytest

from jaxrel import Task
from jaxrel._core.standardisation import standardisation_of


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_it_survives_every_scale_and_constant_features(scale):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 3)) + 5
    features[:, 1] = 2.5
    task = Task((features * scale).astype(np.float32), weights=np.arange(500) % 3)
    standardised = np.asarray(standardisation_of(task.features, task.weights)(task.features))
    weights = np.asarray(task.weights) / np.asarray(task.weights).sum()
    np.testing.assert_allclose(weights @ standardised, 0, atol=1e-4)
    np.testing.assert_allclose(weights @ standardised**2, [1, 0, 1], atol=1e-4)


def test_a_unit_that_hardly_fired_in_training_cannot_decide_a_held_out_sample():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(1000, 10)).astype(np.float32)
    features[:, 3] = 0
    features[17, 3] = 1e-5
    task = Task(features)
    held_out = np.zeros((1, 10), np.float32)
    held_out[0, 3] = 1.0
    floored = standardisation_of(task.features, task.weights)(held_out)
    bare = standardisation_of(task.features, task.weights, smallest_scale=0.0)(held_out)
    assert 9 < abs(float(floored[0, 3])) < 12  # a tenth of the typical deviation, which is 0.95
    assert abs(float(bare[0, 3])) > 1e6
    np.testing.assert_allclose(np.delete(floored, 3), np.delete(bare, 3))


def test_every_feature_constant():
    task = Task(np.full((4, 2), 1e20))
    np.testing.assert_allclose(standardisation_of(task.features, task.weights)(task.features), 0, atol=1e-6)

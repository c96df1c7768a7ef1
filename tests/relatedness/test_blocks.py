"""Gathering and sampling of class blocks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxrel.relatedness.blocks import class_order, heaviest, members, sample_members, within_class_rank

LABELS = jnp.array([1, 0, 1, 2, 0, 1, 0])
WEIGHTS = jnp.array([1.0, 2.0, 3.0, 1.0, 0.0, 4.0, 6.0])


def test_members_are_the_live_samples_of_each_class():
    classes = class_order(LABELS, 3, WEIGHTS)
    np.testing.assert_array_equal(classes.start, [0, 2, 5, 6])  # the padding comes behind all classes
    index, weights = members(classes, WEIGHTS, 4)
    found = [sorted(np.asarray(row)[np.asarray(w) > 0].tolist()) for row, w in zip(index, weights, strict=True)]
    assert found == [[1, 6], [0, 2, 5], [3]]
    np.testing.assert_allclose(weights.sum(1), [8, 8, 1])


def test_ranks_within_a_class_have_no_mixed_integers_in_float64(x64):
    ranks = within_class_rank(LABELS, class_order(LABELS, 3, jnp.ones(7)))
    np.testing.assert_array_equal(ranks, [0, 0, 1, 0, 1, 2, 2])


def test_samples_are_drawn_in_proportion_to_their_weights():
    num_slots = 8000
    uniform = jnp.broadcast_to((jnp.arange(num_slots) + 0.5) / num_slots, (3, num_slots))
    own = jnp.broadcast_to(jnp.arange(3)[:, None], uniform.shape)
    drawn = np.asarray(sample_members(class_order(LABELS, 3, WEIGHTS), own, uniform))
    share = np.stack([np.bincount(row, minlength=7) / num_slots for row in drawn])
    expected = np.array([[0, 2, 0, 0, 0, 0, 6], [1, 0, 3, 0, 0, 4, 0], [0, 0, 0, 8, 0, 0, 0]]) / 8
    np.testing.assert_allclose(share, expected, atol=1e-3)


def test_the_ends_of_the_unit_interval_stay_inside_the_class():
    classes = class_order(LABELS, 3, WEIGHTS)
    for position in (0.0, 1.0):
        drawn = sample_members(classes, jnp.arange(3)[:, None], jnp.full((3, 1), position))
        np.testing.assert_array_equal(LABELS[drawn[:, 0]], jnp.arange(3))


def test_the_heaviest_samples_keep_their_weights():
    weights = jnp.array([[0.1, 0.0, 0.5, 0.4], [0.0, 1.0, 0.0, 0.0]])
    index, heavy = heaviest(weights, 2)
    np.testing.assert_allclose(heavy, [[0.5, 0.4], [1.0, 0.0]])
    np.testing.assert_array_equal(index[0], [2, 3])
    np.testing.assert_array_equal(heaviest(weights, 9)[1], weights)

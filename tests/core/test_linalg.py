"""Spectra from Gram matrices in float64, held to decompositions of the matrix itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import Joint, Paper, Task, task_relatedness
from jaxrel._core import linalg
from jaxrel.metrics import METRICS, cross_view_score
from jaxrel.relatedness.methods import Method


@pytest.mark.parametrize("width", [1, 40, 600])
def test_gram_matrices_in_double_resolve_small_singular_values(width):
    """Of 1e-6 of the largest, in several blocks too, and in a batch; 64-bit types are not enabled."""
    rng = np.random.default_rng(0)
    matrix = (rng.normal(size=(width + 50, width)) * np.logspace(0, -6, width)).astype(np.float32)
    expected = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    resolved = expected > 1e-6 * expected[0]
    values = jax.jit(linalg.in_double(linalg.gram_eigenvalues))
    squares, vectors = jax.jit(linalg.in_double(linalg.gram_eigenvectors))(matrix)
    assert squares.dtype == np.float32
    for found in (values(matrix), squares, jax.vmap(values)(matrix[None])[0]):
        roots = np.sqrt(np.asarray(found, np.float64))
        np.testing.assert_allclose(roots[resolved], expected[resolved], rtol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(matrix @ np.asarray(vectors), axis=0)[:1], expected[:1], rtol=1e-5)


def test_solutions_and_their_derivatives_are_those_of_numpy():
    rng = np.random.default_rng(0)
    matrices = (rng.normal(size=(3, 5, 5)) + 4 * np.eye(5)).astype(np.float32)
    right_sides = rng.normal(size=(3, 5, 2)).astype(np.float32)

    def size(solve, matrix, right_side):
        return jnp.sum(solve(matrix, right_side) ** 2)

    for arguments in (0, 1):
        found, expected = (
            jax.jit(jax.vmap(jax.value_and_grad(partial(size, solve), arguments)))(matrices, right_sides)
            for solve in (linalg.solve, jnp.linalg.solve)
        )
        for ours, peer in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, peer, rtol=2e-4, atol=1e-5)
    lower = np.tril(matrices[0])
    for transposed, matrix in ((False, lower), (True, lower.T)):
        found = linalg.triangular_solve(lower, right_sides[0], transposed=transposed)
        np.testing.assert_allclose(found, np.linalg.solve(matrix, right_sides[0]), rtol=1e-4, atol=1e-5)
    found = linalg.least_squares(right_sides[0], matrices[0, 0])
    np.testing.assert_allclose(found, np.linalg.lstsq(right_sides[0], matrices[0, 0])[0], rtol=1e-4, atol=1e-5)


CLASSES, LABELS = 3, np.arange(24) % 3
LABELLED = [name for name, metric in METRICS.items() if set(metric.needs) <= {"features", "labels"}]


def relatedness(method: Method, features):
    tasks = (Task(each, LABELS, num_classes=CLASSES) for each in (features, -features))
    return task_relatedness(*tasks, method=method)


def scored(name: str, features):
    given = {"features": features, "labels": LABELS}
    options = {"num_classes": CLASSES} if "labels" in METRICS[name].needs else {}
    return METRICS[name].function(*(given[need] for need in METRICS[name].needs), **options)


def views(features):
    return cross_view_score(features, features[::-1], -features)


PROGRAMS: dict[str, Callable[..., Any]] = {
    **{name: partial(scored, name) for name in LABELLED},
    "cross_view": views,
    "feature_space": partial(relatedness, Joint(space="feature", num_steps=1)),
    "low_rank": partial(relatedness, Joint(space="feature", feature_rank=2, num_steps=1)),
    "paper": partial(relatedness, Paper(num_steps=1)),
}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices have no LAPACK")
@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_calls_lapack_for_a_batch(name):
    """Two such calls at once can wait for each other for good."""
    batch = np.random.default_rng(0).normal(size=(2, LABELS.size, 4)).astype(np.float32)
    program = jax.jit(jax.vmap(PROGRAMS[name])).lower(batch).as_text()
    for call in re.findall(r"custom_call @lapack_.*", program):
        shapes = re.findall(r"tensor<((?:\d+x)*)[a-z]", call)
        assert max(shape.count("x") for shape in shapes) <= 2, call

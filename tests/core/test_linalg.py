"""Spectra from Gram matrices in float64, held to decompositions of the matrix itself."""

import jax
import numpy as np
import pytest

from jaxrel._core import linalg


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

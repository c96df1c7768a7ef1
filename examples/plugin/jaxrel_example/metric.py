"""Correlation ratio: the share of the variance of the features that lies between classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrel.metrics import Metric, Score, ScoreStatus


def correlation_ratio_score(features: Any, labels: Any, *, weights: Any = None, num_classes: int) -> Score:
    """`sum_c n_c ||m_c - m||^2 / sum_i ||x_i - m||^2`, 0 to 1; higher is better.

    It is called inside `jit`, once for each encoder: features `(n, d)`, labels `(n,)` from 0 to `num_classes - 1`,
    weights `(n,)` counts, of which 0 is padding.
    """
    counts = jnp.ones(len(features)) if weights is None else weights
    memberships = jax.nn.one_hot(labels, num_classes) * counts[:, None]
    sizes = jnp.sum(memberships, axis=0)
    mean = counts @ features / jnp.sum(counts)
    means = memberships.T @ (features - mean) / jnp.maximum(sizes, 1e-9)[:, None]
    total = counts @ jnp.sum((features - mean) ** 2, axis=1)
    value = sizes @ jnp.sum(means**2, axis=1) / total
    return Score(value, jnp.where(total > 0, ScoreStatus.OK, ScoreStatus.UNDEFINED))


CORRELATION_RATIO = Metric("correlation_ratio", correlation_ratio_score, ("features", "labels"), "Fisher, 1925")

"""The label coupling J, the prior D, the label map B, and their label mismatch."""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int

from jaxrel.transport.certificates import SUM_WIDTH

__all__ = [
    "class_prior",
    "class_totals",
    "held_out_conditional",
    "label_coupling",
    "label_map",
    "label_mismatch",
    "mismatch_by_class",
]


def class_totals(labels: Int[Array, " n"], num_classes: int, weights: Float[Array, " n"]) -> Float[Array, " k"]:
    """Total weight of each class, summed block by block to the depth given by `sum_depth`."""
    rest = -labels.shape[0] % SUM_WIDTH
    labels, weights = (jnp.pad(values, (0, rest)).reshape(-1, SUM_WIDTH) for values in (labels, weights))
    blocks = jnp.zeros((labels.shape[0], num_classes), weights.dtype)
    return jnp.sum(blocks.at[jnp.arange(labels.shape[0])[:, None], labels].add(weights), axis=0)


def class_prior(labels: Int[Array, " n"], num_classes: int, weights: Float[Array, " n"]) -> Float[Array, " k"]:
    """Share of each class in the total weight."""
    totals = class_totals(labels, num_classes, weights)
    return totals / jnp.sum(totals)


def label_coupling(prior: Float[Array, " t"], conditional: Float[Array, "t r"]) -> Float[Array, "t r"]:
    """`J_kc = P_T(k) Q_kc`. Rows sum to the target prior by construction, so no penalty has to be tuned."""
    return prior[:, None] * conditional


def label_map(coupling: Float[Array, "t r"], prior: Float[Array, " t"]) -> Float[Array, "t r"]:
    """`B_kc = J_kc / D_c` with D_c the column sum. A column without mass is P_T, so B is column-stochastic."""
    column = jnp.sum(coupling, axis=0)
    used = column > 0
    # J_kc / D_c may round to just above 1 where they are equal, and its entropy to just below 0.
    share = jnp.minimum(coupling / jnp.where(used, column, 1), 1)
    return jnp.where(used, share, prior[:, None])


def label_mismatch(coupling: Float[Array, "t r"], label_map: Float[Array, "t r"]) -> Float[Array, ""]:
    """`- sum_kc J_kc log B_kc` with 0 log 0 = 0: infinite where J_kc > 0 = B_kc.

    At B = J / D it is the conditional entropy H(Y_T | Y_R); for any other B it is larger.
    """
    return jnp.sum(mismatch_by_class(coupling, label_map))


def mismatch_by_class(coupling: Float[Array, "t r"], label_map: Float[Array, "t r"]) -> Float[Array, " t"]:
    """The summands of `label_mismatch` that belong to each target class."""
    positive = label_map > 0
    # With the sign inside the sum, a permutation gives 0.0, not -0.0.
    paid = -xlogy(coupling, jnp.where(positive, label_map, 1))
    return jnp.sum(jnp.where(positive | (coupling <= 0), paid, jnp.inf), axis=1)


def held_out_conditional(conditional: Float[Array, "t r"], reference_totals: Float[Array, " r"]) -> Float[Array, "t r"]:
    """Q on held-out samples: reference classes without samples are removed and each row is renormalised.

    A row that loses all its classes stays 0; the caller reports it.
    """
    present = jnp.where(reference_totals > 0, conditional, 0)
    total = jnp.sum(present, axis=1, keepdims=True)
    return jnp.where(total > 0, present / jnp.where(total > 0, total, 1), 0)

r"""PACTran: the negative of a PAC-Bayesian bound on the loss of a classifier of the target classes.

There are three families of classifiers, each with its prior and posterior: distributions over target classes for each
source class (Dirichlet), positive weights of target classes for each source class (gamma), linear layers (Gaussian).

Source of all: Ding, Chen, Levinboim, Changpinyo, Soricut, "PACTran: PAC-Bayesian metrics for estimating the
transferability of pretrained models to classification tasks", ECCV 2022, and the authors' code. Theirs are losses, with
the opposite sign. They divide by the largest label plus one, whereas here only classes that occur are counted, so a
class without samples has no effect. Their constants of 1e-10 that keep logarithms finite are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxrel._core.size_classes import pads_samples
from jaxrel.heads.newton import fit_softmax
from jaxrel.metrics.decomposition import Components, Decomposition, principal_components
from jaxrel.metrics.differentiation import no_derivative
from jaxrel.metrics.kernels import kernel
from jaxrel.metrics.result import Score, make_score
from jaxrel.metrics.validation import (
    LabelledSample,
    checked_labelled_probabilities,
    checked_labelled_sample,
    checked_positive_number,
)

__all__ = ["pactran_dirichlet_score", "pactran_gamma_score", "pactran_gaussian_score"]

_ITERATIONS = 10
# Size of features, or one over it, at which the ridge is next to the rounding of float32.
_LARGEST = 2.0**23


@pads_samples
def pactran_dirichlet_score(
    source_probabilities: Float[ArrayLike, "n s"],
    labels: Int[ArrayLike, " n"],
    *,
    concentration: Float[ArrayLike, ""] = 1.0,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    r"""PACTran with a Dirichlet prior, in nats for a sample and class; higher is better.

    The model is `p(y | x) = sum_z s_z(x) v_zy` with a distribution v_z over the C classes for each source class z, the
    prior `v_z ~ Dirichlet(a)` with `a_y = concentration * n_y / n`, and s the source probabilities. With posteriors
    `Dirichlet(b_z)` and responsibilities q_iz, alternately updated 10 times,

        score = 1 / (n C) [sum_z (log B(b_z) - log B(a)) - sum_iz q_iz log(q_iz / s_iz)],   B the beta function.

    Args:
        source_probabilities: `(n, s)`, rows of sum 1: predictions of the source model's own head, or responsibilities
            of a mixture fitted to features.
        labels: `(n,)` integers.
        concentration: sum of the parameters of the prior. A new value does not recompile.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice.
        num_classes: class count; needed inside `jit` and `vmap`.

    Returns:
        A `Score`, at most 0 up to the error after 10 updates; 0 for one class.

    Raises:
        ValueError: for a concentration that is not positive, else see
            `checked_labelled_probabilities`.

    Source and deviations: see the module. `O(n s C)` operations.
    """
    sample = checked_labelled_probabilities(source_probabilities, labels, weights, num_classes)
    return _dirichlet(sample, checked_positive_number("concentration", concentration, sample.features.dtype))


@kernel
def _dirichlet(sample: LabelledSample, concentration: Float[Array, ""]) -> Score:
    present = (sample.class_sizes > 0)[:, None]
    prior = _prior(sample, concentration)

    def evidence(posterior: Float[Array, "c s"]) -> Float[Array, "n s"]:
        totals = jnp.sum(jnp.where(present, posterior, 0), axis=0)
        return sample.memberships @ digamma(posterior) - digamma(totals)

    posterior, divergence = _updated(sample, prior, evidence)
    gain = _log_beta(posterior, present) - _log_beta(prior, present)
    value = (jnp.sum(gain) - divergence) / (sample.total * jnp.sum(present))
    return make_score(value, sample.status)


@pads_samples
def pactran_gamma_score(
    source_probabilities: Float[ArrayLike, "n s"],
    labels: Int[ArrayLike, " n"],
    *,
    concentration: Float[ArrayLike, ""] = 1.0,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
) -> Score:
    r"""PACTran with a gamma prior, in nats for a sample and class; higher is better.

    The model is `p(y | x) = sum_z s_z v_zy / sum_zk s_z v_zk` with positive weights v, the prior `v_zy ~ Gamma(a_y, 1)`
    with `a_y = concentration * n_y / n`, and s the source probabilities. With posteriors `Gamma(b_zy, 1)`, expected
    denominators `l_i = sum_zk s_iz b_zk` and responsibilities q_iz, alternately updated 10 times,

        score = 1 / (n C) [sum_zy (log Gamma(b_zy) - log Gamma(a_y)) - sum_i (log l_i + sum_z q_iz log(q_iz / s_iz))]
                - (1 - 1 / C).

    The last term, which is the same for all encoders, is from the authors' code. Posteriors have rate 1, as there.

    Args, raises, complexity: as `pactran_dirichlet_score`.

    Returns:
        A `Score`, at most about `-(1 - 1 / C)`.
    """
    sample = checked_labelled_probabilities(source_probabilities, labels, weights, num_classes)
    return _gamma(sample, checked_positive_number("concentration", concentration, sample.features.dtype))


@kernel
def _gamma(sample: LabelledSample, concentration: Float[Array, ""]) -> Score:
    present = (sample.class_sizes > 0)[:, None]
    num_present = jnp.sum(present)
    prior = _prior(sample, concentration)
    posterior, divergence = _updated(sample, prior, lambda posterior: sample.memberships @ digamma(posterior))
    gain = jnp.sum(jnp.where(present, gammaln(posterior) - gammaln(prior), 0))
    expected = sample.features @ jnp.sum(jnp.where(present, posterior, 0), axis=0)
    # Samples of weight 0 have no probabilities.
    normaliser = sample.weights @ jnp.log(jnp.where(sample.weights > 0, expected, 1))
    value = (gain - normaliser - divergence) / (sample.total * num_present)
    return make_score(value - (1 - 1 / num_present), sample.status)


def _prior(sample: LabelledSample, concentration: Float[Array, ""]) -> Float[Array, "c 1"]:
    """1 for a class without samples, which the callers leave out."""
    sizes = sample.class_sizes
    return jnp.where(sizes > 0, concentration * sizes / sample.total, 1)[:, None]


def _updated(
    sample: LabelledSample,
    prior: Float[Array, "c 1"],
    evidence: Callable[[Float[Array, "c s"]], Float[Array, "n s"]],
) -> tuple[Float[Array, "c s"], Float[Array, ""]]:
    """Parameters of the posterior and `sum_iz q_iz log(q_iz / s_iz)` after the updates."""
    # Rows of weight 0 are 0; any finite number does there.
    possible = (sample.features > 0) | (sample.weights[:, None] == 0)
    log_source = jnp.where(possible, jnp.log(jnp.where(sample.features > 0, sample.features, 1)), -jnp.inf)

    def posterior_of(responsibilities: Float[Array, "n s"]) -> Float[Array, "c s"]:
        return prior + sample.memberships.T @ (sample.weights[:, None] * responsibilities)

    def iterate(_: Any, responsibilities: Float[Array, "n s"]) -> Float[Array, "n s"]:
        return jax.nn.softmax(log_source + evidence(posterior_of(responsibilities)))

    before_last = jax.lax.fori_loop(0, _ITERATIONS - 1, iterate, sample.features)
    posterior = posterior_of(before_last)
    terms = evidence(posterior)
    logits = log_source + terms
    responsibilities = jax.nn.softmax(logits)
    divergences = jnp.sum(responsibilities * terms, axis=1) - jax.nn.logsumexp(logits, axis=1)
    return posterior, sample.weights @ divergences


def _log_beta(parameters: Float[Array, "c s"], present: Bool[Array, "c 1"]) -> Float[Array, " s"]:
    total = jnp.sum(jnp.where(present, parameters, 0), axis=0)
    return jnp.sum(jnp.where(present, gammaln(parameters), 0), axis=0) - gammaln(total)


@no_derivative
@pads_samples
def pactran_gaussian_score(
    features: Float[ArrayLike, "n d"],
    labels: Int[ArrayLike, " n"],
    *,
    inverse_ridge: Float[ArrayLike, ""] = 1.0,
    prior_variance: Float[ArrayLike, ""] = 10.0,
    weights: Float[ArrayLike, " n"] | None = None,
    num_classes: int | None = None,
    decomposition: Decomposition | None = None,
) -> Score:
    r"""PACTran with a Gaussian prior of the weights of a linear layer, in nats; higher is better.

    With the minimum F of `mean_i -log softmax(W^T x_i + b)_{y_i} + ||W||_F^2 / (2 lambda n)`, x centred, and the
    probabilities p at it,

        score = -F - C sigma / (2 lambda n) log(1 + lambda n / (C d) sum_i (||x_i||^2 + 1) sum_c p_ic (1 - p_ic)).

    Args:
        features: `(n, d)`.
        labels: `(n,)` integers.
        inverse_ridge: lambda. The authors try 0.1, 1 and 10.
        prior_variance: sigma, d times the prior's variance of a weight. The authors try 10 and 100 times lambda; their
            published numbers are the best of the six on each task. Other numbers need no compilation.
        weights: `(n,)` counts; 0 is an absent sample, 2 the sample twice.
        num_classes: class count; needed inside `jit` and `vmap`.
        decomposition: `decompose(features, "centred", weights=weights)`, to share it between metrics; None computes it.

    Returns:
        A `Score`, at most 0, that is invariant to shifts and rotations. It depends on the scale of the features through
        the ridge and the curvature; features larger than `2^23 / sqrt(lambda n)` are scaled down to that, in any dtype.
        Constant features matter through d.

    Raises:
        ValueError: for options that are not positive, else see `checked_labelled_sample`.

    Source: see the module. F is minimised to rounding. The authors' L-BFGS starts at random and stops early: their
    values differ by up to 1 % from those of the minimum for features of unit scale, and by half for features a thousand
    times as large. As in their code the curvature is that of the sum of the losses, not of their mean.

    `O(n d min(n, d))` operations for principal components, `O(n min(n, d) C)` for each of some hundred steps.
    """
    sample = checked_labelled_sample(features, labels, weights, num_classes, shift_invariant=True)
    dtype = sample.features.dtype
    return _gaussian(
        sample,
        principal_components(sample, "centred", decomposition),
        checked_positive_number("inverse_ridge", inverse_ridge, dtype),
        checked_positive_number("prior_variance", prior_variance, dtype),
    )


@kernel
def _gaussian(
    sample: LabelledSample,
    principal: Components,
    inverse_ridge: Float[Array, ""],
    prior_variance: Float[Array, ""],
) -> Score:
    total = sample.total
    num_features = sample.features.shape[1]
    num_present = jnp.sum(sample.class_sizes > 0)
    components = principal.rows
    # Weights are fitted to features of unit size; their ridge must be distinguishable from 0 and infinity.
    sensitivity = jnp.clip(principal.size * jnp.sqrt(inverse_ridge * total), 1 / _LARGEST, _LARGEST)
    fit = fit_softmax(components, sample.memberships, sample.weights / total, sensitivity**-2)
    curvature = sample.weights * jnp.sum(fit.curvatures(sample.memberships), axis=1)
    of_weights = sensitivity**2 * (curvature @ jnp.sum(components**2, axis=1))
    of_biases = inverse_ridge * total * jnp.sum(curvature)
    volume = jnp.log1p((of_weights + of_biases) / (num_present * num_features))
    value = -fit.objective - num_present * prior_variance / (2 * inverse_ridge * total) * volume
    return make_score(value, sample.status)

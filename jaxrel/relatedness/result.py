"""What a relatedness computation returns."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrel.heads import Head
from jaxrel.pseudo_labels import PseudoLabels
from jaxrel.relatedness.feature_maps import AffineMap
from jaxrel.relatedness.methods import Joint, Paper
from jaxrel.standardisation import Standardisation

__all__ = [
    "MESSAGES",
    "ClassTerms",
    "ComputedWith",
    "PublishedEstimate",
    "Relatedness",
    "RelatednessError",
    "Status",
    "Transformation",
]


class Status(enum.IntFlag):
    """Status codes of a result: bits that add up; `MESSAGES` says what each means and what to do."""

    OK = 0
    NOT_FINITE = 1
    UNSEEN_TARGET_CLASS = 2
    LOST_REFERENCE_CLASS = 4
    SUPPORT_TOO_SMALL = 8
    BLOCK_OVERFLOW = 16


MESSAGES: dict[Status, str] = {
    Status.NOT_FINITE: (
        "the terms are not finite although every input is: the optimisation diverged; "
        "lower learning_rate or raise ridge."
    ),
    Status.UNSEEN_TARGET_CLASS: (
        "a target class of the held-out sample was never seen in training: the bound is infinite; "
        "train on samples of every class."
    ),
    Status.LOST_REFERENCE_CLASS: (
        "the held-out reference sample has none of the reference classes that some target class leans on: "
        "the bound is infinite; evaluate on a reference sample with every class."
    ),
    Status.SUPPORT_TOO_SMALL: (
        "block_sizes leaves out samples that carry weight, so no bound is certified: pass larger block_sizes."
    ),
    Status.BLOCK_OVERFLOW: (
        "a target class is too large for one plan, and its sample weights too uneven for blockwise plans, so no bound "
        "is certified: evaluate on fewer samples, or on samples of nearly equal weight."
    ),
}


class RelatednessError(RuntimeError):
    """A result whose status is not OK."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transformation:
    """The learned transformation from the reference task to the target task.

    `conditional` is Q (row k: over which reference classes target class k is spread), `coupling` J, `prior` D and
    `label_map` B of the training samples. `head` maps standardised reference features to reference logits u,
    `target_map` (M, m) standardised target features to reference logits v. `feature_map` (A, b) is None in prediction
    space, where M needs no inverse of A. `ridge` is the penalty the maps were learned with, `validation_bound` the
    bound on the training samples that were kept aside to choose among the steps (infinite where none were).
    """

    conditional: Float[Array, "t r"]
    coupling: Float[Array, "t r"]
    prior: Float[Array, " r"]
    label_map: Float[Array, "t r"]
    head: Head
    target_map: Head
    feature_map: AffineMap | None
    ridge: Float[Array, ""]
    validation_bound: Float[Array, ""]
    reference_standardisation: Standardisation
    target_standardisation: Standardisation

    def reference_logits(self, features: Float[Array, "n d"]) -> Float[Array, "n r"]:
        """`u = W z + w0` of raw reference features."""
        return self.head(self.reference_standardisation(features))

    def target_logits(self, features: Float[Array, "n d"]) -> Float[Array, "n r"]:
        """`v = M t + m` of raw target features."""
        return self.target_map(self.target_standardisation(features))

    def target_classes(self, logits: Float[Array, "n r"]) -> Int[Array, " n"]:
        """The class of largest probability under the transformed head, `argmax_k (B softmax(v))_k`."""
        highest = jax.lax.Precision.HIGHEST
        return jnp.argmax(jnp.matmul(jax.nn.softmax(logits), self.label_map.T, precision=highest), axis=-1)


@dataclass(frozen=True)
class ComputedWith:
    """What the numbers were computed with; the same for every encoder of a comparison, or they do not compare."""

    method: Joint | Paper | None = None
    seed: int | None = None
    evaluated_on: str | None = None
    num_reference: int | None = None
    num_target: int | None = None
    target_labels: str = "given"
    dtype: str | None = None
    version: str | None = None
    unit: str = "nats"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassTerms:
    """The share of every target class in the terms of the same name, which are the sums of these arrays.

    `reference_loss` is the mean loss of every reference class under the reference head, not weighted by D.
    """

    reweighted_reference_loss: Float[Array, " t"]
    label_mismatch: Float[Array, " t"]
    distribution_mismatch: Float[Array, " t"]
    transformed_reference_loss: Float[Array, " t"]
    target_loss: Float[Array, " t"]
    reference_loss: Float[Array, " r"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PublishedEstimate:
    """What the published code reports; an estimate, not a certificate.

    `bound = reweighted_reference_loss + label_mismatch + lipschitz * wasserstein`, with `lipschitz` the largest norm of
    an input gradient met on the samples (no inverse of A in it) and `wasserstein` the mean over target classes, each
    counted once, of the 1-Wasserstein distance of mapped reference and target features.
    """

    bound: Float[Array, ""]
    reweighted_reference_loss: Float[Array, ""]
    label_mismatch: Float[Array, ""]
    lipschitz: Float[Array, ""]
    wasserstein: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Relatedness:
    """Task-relatedness: certificates of the target loss of the transformed head, in nats.

    On the samples it was evaluated on, whatever they are,

        target_loss <= tight_bound <= bound
        bound       = reweighted_reference_loss + label_mismatch + distribution_mismatch
        tight_bound = transformed_reference_loss + distribution_mismatch

    `distribution_mismatch` is the upper end of an interval that contains the exact optimal transport cost;
    `distribution_mismatch_lower` is its lower end. What is bounded is the loss of the *transformed* head
    `t -> B softmax(M t + m)`, hence of the best head in any class that contains it, and the certificate is about
    these samples, not about the population they come from.

    `coupling` is J on the evaluated samples (held-out: the held-out prior with Q as learned). `class_terms` splits the
    terms by class, `published` is what the published code would have reported (method `Paper` only). Every field is an
    array, or made of arrays, that can be returned from `jit`, vmapped and stacked; `computed_with` is static.
    """

    bound: Float[Array, ""]
    tight_bound: Float[Array, ""]
    reweighted_reference_loss: Float[Array, ""]
    label_mismatch: Float[Array, ""]
    distribution_mismatch: Float[Array, ""]
    distribution_mismatch_lower: Float[Array, ""]
    transformed_reference_loss: Float[Array, ""]
    target_loss: Float[Array, ""]
    target_accuracy: Float[Array, ""]
    coupling: Float[Array, "t r"]
    class_terms: ClassTerms
    transformation: Transformation
    status: Int[Array, ""]
    published: PublishedEstimate | None = None
    pseudo_labels: PseudoLabels | None = None
    computed_with: ComputedWith = field(default=ComputedWith(), metadata={"static": True})

    @property
    def distribution_mismatch_upper(self) -> Float[Array, ""]:
        """The certified upper end, which is the `distribution_mismatch` reported."""
        return self.distribution_mismatch

    @property
    def messages(self) -> tuple[str, ...]:
        """What the status says, one text for each problem that occurs anywhere in the batch; empty if all is well."""
        codes = int(np.bitwise_or.reduce(np.asarray(self.status), axis=None))
        return tuple(text for code, text in MESSAGES.items() if codes & code)

    def raise_if_failed(self) -> Relatedness:
        """Return self, or raise a RelatednessError that names the first failing batch index."""
        status = np.asarray(self.status)
        failed = np.argwhere(status != int(Status.OK))
        if len(failed):
            index: Any = tuple(int(i) for i in failed[0])
            where = f" at batch index {index if len(index) > 1 else index[0]}" if index else ""
            texts = [text for code, text in MESSAGES.items() if int(status[index]) & code]
            raise RelatednessError(f"task-relatedness failed{where}: {' '.join(texts)}")
        return self

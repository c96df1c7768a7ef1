"""The results of task-relatedness."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxrel._core.standardisation import Standardisation, identity_standardisation
from jaxrel._core.status import HasStatus, StatusBits
from jaxrel.heads import Head
from jaxrel.pseudo_labels import PseudoLabels
from jaxrel.relatedness.coupling import label_coupling, label_map
from jaxrel.relatedness.feature_maps import AffineMap
from jaxrel.relatedness.ground_costs import Space

if TYPE_CHECKING:
    from jaxrel.relatedness.methods import Method

__all__ = [
    "ClassTerms",
    "ComputedWith",
    "PublishedEstimate",
    "Relatedness",
    "Status",
    "Transformation",
]


class Status(StatusBits):
    """Status codes of a result, as bits; `MESSAGES` says what each means and what to do."""

    OK = 0
    NOT_FINITE = (
        1,
        "the terms are not finite although every input is: the optimisation diverged (lower learning_rate or raise "
        "ridge), or samples lie so far from those learned from that their logits overflow.",
    )
    UNSEEN_TARGET_CLASS = (
        2,
        "a target class of the held-out sample was never seen in training: the bound is infinite; "
        "train on samples of every class.",
    )
    LOST_REFERENCE_CLASS = (
        4,
        "the held-out reference sample has none of the reference classes that some target class leans on: "
        "the bound is infinite; evaluate on a reference sample with every class.",
    )
    SUPPORT_TOO_SMALL = (
        8,
        "block_sizes leaves out samples that carry weight, so no bound is certified: pass larger block_sizes.",
    )
    BLOCK_OVERFLOW = (
        16,
        "a target class is too large for one plan, and its sample weights too uneven for blockwise plans, so no bound "
        "is certified: evaluate on fewer samples, or on samples of nearly equal weight.",
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Transformation:
    """The learned transformation from the reference task to the target task.

    `conditional` is Q (row k distributes target class k over the reference classes), `coupling` is J, `prior` D and
    `label_map` B, all of the training samples. `head` maps standardised reference features to reference logits u;
    `target_map` (M, m) maps standardised target features to reference logits v. `feature_map` (A, b) is None in
    prediction space, where M needs no inverse of A. `ridge` is the penalty that the maps were learned with.
    `validation_bound` is the bound on the validation split that early stopping used (infinite without one).
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

    @classmethod
    def of(
        cls,
        conditional: Float[Array, "t r"],
        target_prior: Float[Array, " t"],
        head: Head,
        target_map: Head,
        *,
        feature_map: AffineMap | None = None,
        ridge: Float[ArrayLike, ""] = 0.0,
        validation_bound: Float[ArrayLike, ""] = np.inf,
        reference_standardisation: Standardisation | None = None,
        target_standardisation: Standardisation | None = None,
    ) -> Self:
        """Build a transformation whose coupling, prior and label map follow from Q and a target prior.

        Features are used as they are if no standardisation is given.
        """
        dtype = conditional.dtype
        coupling = label_coupling(target_prior, conditional)
        identity = identity_standardisation(head.weights.shape[1], dtype)
        return cls(
            conditional=conditional,
            coupling=coupling,
            prior=jnp.sum(coupling, axis=0),
            label_map=label_map(coupling, target_prior),
            head=head,
            target_map=target_map,
            feature_map=feature_map,
            ridge=jnp.asarray(ridge, dtype),
            validation_bound=jnp.asarray(validation_bound, dtype),
            reference_standardisation=reference_standardisation or identity,
            target_standardisation=target_standardisation or identity,
        )

    @property
    def space(self) -> Space:
        """The space of transport: `"feature"` if there is a feature map, `"prediction"` otherwise."""
        return "prediction" if self.feature_map is None else "feature"

    def reference_logits(self, features: Float[Array, "*b d"]) -> Float[Array, "*b r"]:
        """`u = W z + w0` of raw reference features."""
        return self.head(self.reference_standardisation(features))

    def target_logits(self, features: Float[Array, "*b d"]) -> Float[Array, "*b r"]:
        """`v = M t + m` of raw target features."""
        return self.target_map(self.target_standardisation(features))

    def target_classes(self, logits: Float[Array, "*b r"]) -> Int[Array, "*b"]:
        """The most probable class under the transformed head, `argmax_k (B softmax(v))_k`."""
        highest = jax.lax.Precision.HIGHEST
        return jnp.argmax(jnp.matmul(jax.nn.softmax(logits), self.label_map.T, precision=highest), axis=-1)


@dataclass(frozen=True)
class ComputedWith:
    """How the numbers were computed. Only results with the same settings are comparable across encoders."""

    method: Method | None = None
    key: int | None = None
    evaluated_on: str | None = None
    num_reference: int | None = None
    num_target: int | None = None
    target_labels: str = "given"
    reference_classes: tuple[str, ...] | None = None
    target_classes: tuple[str, ...] | None = None
    dtype: str | None = None
    version: str | None = None
    unit: str = "nats"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassTerms:
    """The contribution of each target class to the terms of the same name, which are the sums of these arrays.

    `reference_loss` is the mean loss of each reference class under the reference head, not weighted by D.
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
    """The estimate that the published code reports. It is not a certificate.

    `bound = reweighted_reference_loss + label_mismatch + lipschitz * wasserstein`, with `lipschitz` the largest norm of
    an input gradient on the samples (without the inverse of A) and `wasserstein` the unweighted mean over target
    classes of the 1-Wasserstein distance between mapped reference features and target features.
    """

    bound: Float[Array, ""]
    reweighted_reference_loss: Float[Array, ""]
    label_mismatch: Float[Array, ""]
    lipschitz: Float[Array, ""]
    wasserstein: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Relatedness(HasStatus):
    """Certified bounds on the target loss of the transformed head, in nats.

    On the samples of the evaluation, whatever they are,

        target_loss <= tight_bound <= bound
        bound       = reweighted_reference_loss + label_mismatch + distribution_mismatch
        tight_bound = transformed_reference_loss + distribution_mismatch

    `distribution_mismatch` is the upper end of an interval that contains the exact optimal transport cost, and
    `distribution_mismatch_lower` is its lower end. The bound is on the loss of the *transformed* head
    `t -> B softmax(M t + m)`, and therefore on that of the best head in any class that contains it. It is certified for
    these samples, not for the population they come from.

    `coupling` is J on the samples of the evaluation (held-out: the held-out prior with the learned Q). `class_terms`
    splits the terms by class. `published` is the estimate of the published code (method `Paper` only). Every field is
    an array or a pytree of arrays that can be returned from `jit`, vmapped and stacked; `computed_with` is static.
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

    statuses: ClassVar = Status

    @property
    def distribution_mismatch_upper(self) -> Float[Array, ""]:
        """The certified upper end, which is reported as `distribution_mismatch`."""
        return self.distribution_mismatch

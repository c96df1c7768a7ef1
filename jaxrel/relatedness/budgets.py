"""The Lipschitz budget of a reference head, chosen by the bound it leads to."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxrel._core.programs import compiled
from jaxrel.task import Task

if TYPE_CHECKING:
    from jaxrel.relatedness.methods import Joint

__all__ = ["BUDGETS", "validated_budget", "validation_bounds"]

BUDGETS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # on standardised features


def validation_bounds(
    reference: Task, target: Task, budgets: Float[Array, " s"], key: PRNGKeyArray, *, method: Joint
) -> Float[Array, " s"]:
    """The validation bound of `Joint` for each Lipschitz budget of the reference head; pure.

    A small budget makes the reference loss large and the transport cheap, a large one the other way round.
    """

    def bound(budget: Float[Array, ""]) -> Float[Array, ""]:
        budgeted = dataclasses.replace(method, lipschitz_budget=budget, early_stopping=True)
        return budgeted.fit(reference, target, None, key).validation_bound

    return jax.lax.map(bound, budgets)


@compiled
def validated_budget(reference: Task, target: Task, key: PRNGKeyArray, *, method: Joint) -> Float[Array, ""]:
    """The budget out of `BUDGETS` with the smallest validation bound; pure."""
    budgets = jnp.asarray(BUDGETS, reference.features.dtype)
    return budgets[jnp.argmin(validation_bounds(reference, target, budgets, key, method=method))]

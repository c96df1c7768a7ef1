"""Choice of the Lipschitz budget, or the ridge, of a fixed reference head by the validation bound."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxrel._core.programs import compiled
from jaxrel.task import Task

if TYPE_CHECKING:
    from jaxrel.relatedness.methods import Joint

__all__ = ["BUDGETS", "CANDIDATES", "HEAD_RIDGES", "validated_number", "validation_bounds"]

BUDGETS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # on standardised features
HEAD_RIDGES = tuple(2.5**power for power in range(-5, 3))
CANDIDATES: Mapping[str, tuple[float, ...]] = {"lipschitz_budget": BUDGETS, "head_ridge": HEAD_RIDGES}
"""The candidates for `"validated"`, by field of `Joint`."""


def validation_bounds(
    reference: Task,
    target: Task,
    numbers: Float[Array, " s"],
    key: PRNGKeyArray,
    *,
    method: Joint,
    name: str = "lipschitz_budget",
) -> Float[Array, " s"]:
    """The validation bound of `Joint` for each candidate Lipschitz budget, or ridge, of the reference head. Pure.

    A small budget or a large ridge gives a large reference loss and cheap transport, and vice versa.
    """

    def bound(number: Float[Array, ""]) -> Float[Array, ""]:
        changes: dict[str, Any] = {name: number, "early_stopping": True}
        return dataclasses.replace(method, **changes).fit(reference, target, None, key).validation_bound

    return jax.lax.map(bound, numbers)


@partial(compiled, static_argnames="name")
def validated_number(reference: Task, target: Task, key: PRNGKeyArray, *, method: Joint, name: str) -> Float[Array, ""]:
    """The candidate of `CANDIDATES` with the smallest validation bound. Pure."""
    numbers = jnp.asarray(CANDIDATES[name], reference.features.dtype)
    return numbers[jnp.argmin(validation_bounds(reference, target, numbers, key, method=method, name=name))]

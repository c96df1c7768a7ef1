from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int
from shapes import checked

from jaxrel.metrics.kernels import unit_scale
from jaxrel.transport.log_domain import soft_min


@checked
def weighted(
    points: Float[Array, "n d"], weights: Float[Array, " n"], labels: Int[Array, " n"] | None = None
) -> Float[Array, " d"]:
    return jnp.asarray(weights) @ points


@checked
def as_given(values: Float[ArrayLike, " n"]) -> Float[Array, " k"]:
    return cast("Array", values)


POINTS, WEIGHTS = jnp.ones((5, 3)), jnp.ones(5)


def test_what_fits_passes():
    assert weighted(POINTS, WEIGHTS).shape == (3,)
    assert weighted(POINTS[:2], weights=WEIGHTS[:2], labels=jnp.zeros(2, int)).shape == (3,)
    assert weighted(np.ones((5, 3), np.float32), np.ones(5, np.float32), None).shape == (3,)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("points", (WEIGHTS, WEIGHTS)),
        ("points", (POINTS.astype(int), WEIGHTS)),
        ("points", (np.ones((5, 3), bool), WEIGHTS)),
        ("points", ([[1.0]], WEIGHTS)),
        ("weights", (POINTS, jnp.ones(4))),
        ("labels", (POINTS, WEIGHTS, WEIGHTS)),
        ("labels", (POINTS, WEIGHTS, jnp.zeros(4, int))),
    ],
)
def test_what_does_not_fit_is_named(name, arguments):
    with pytest.raises(AssertionError, match=rf"weighted: {name} does not fit"):
        weighted(*arguments)


def test_a_tuple_fits_in_every_part_or_not_at_all():
    @checked
    def ends(pair: tuple[Float[Array, " n"], Float[Array, " m"]] | None, rest: tuple[Float[Array, " n"], ...]) -> None:
        del pair, rest

    ends((WEIGHTS, WEIGHTS[1:]), (WEIGHTS, WEIGHTS))
    ends(None, ())
    for pair, rest, name in [
        ((WEIGHTS,), (), "pair"),
        (WEIGHTS, (), "pair"),
        ((WEIGHTS, POINTS), (), "pair"),
        ((WEIGHTS, WEIGHTS), (WEIGHTS, WEIGHTS[1:]), "rest"),
        (None, None, "rest"),
    ]:
        with pytest.raises(AssertionError, match=f"ends: {name} does not fit"):
            ends(pair, rest)


def test_results_fit_what_was_given_and_are_of_jax():
    @checked
    def wrong(values: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
        return values, values[1:]

    with pytest.raises(AssertionError, match="return does not fit"):
        wrong(WEIGHTS)
    with pytest.raises(AssertionError, match="return does not fit"):
        as_given(np.ones(3))
    assert as_given(WEIGHTS) is WEIGHTS


def test_what_a_function_checks_by_itself_is_left_to_it():
    with pytest.raises(AssertionError, match="return does not fit"):  # but not what it makes of it
        as_given("no array")


def test_transformations_and_methods():
    @dataclass(frozen=True, eq=False)
    class Scaled:
        scale: Float[Array, ""]

        @checked
        def __call__(self, x: Float[Array, " n"]) -> Float[Array, " n"]:
            return self.scale * x

        @property
        @checked
        def double(self) -> Float[Array, ""]:
            return jnp.stack([self.scale, self.scale])

    class Layer(nnx.Module):
        @checked
        def __init__(self, width: int) -> None:
            self.kernel = nnx.Param(jnp.ones((width, 2)))

        @checked
        def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b 2"]:
            return x @ self.kernel[...]

    gradient = jax.jit(jax.vmap(jax.grad(lambda x, w: weighted(x, w).sum())))
    assert gradient(POINTS[None], WEIGHTS[None]).shape == (1, 5, 3)
    assert functools.partial(weighted, weights=WEIGHTS)(POINTS).shape == (3,)
    scaled = Scaled(jnp.ones(()))
    assert jax.jit(scaled)(WEIGHTS).shape == (5,)
    assert nnx.jit(Layer(3))(POINTS).shape == (5, 2)
    for call in (jax.jit(scaled), nnx.jit(Layer(3)), jax.vmap(scaled)):
        with pytest.raises(AssertionError, match="x does not fit"):
            call(jnp.ones((5, 3, 1)))
    with pytest.raises(AssertionError, match="return does not fit"):
        _ = scaled.double


def test_functions_of_the_package_are_checked():
    with pytest.raises(AssertionError, match=r"kernels.unit_scale: features does not fit .*\n.*float32\(5,\)"):
        unit_scale(WEIGHTS)
    with pytest.raises(AssertionError, match=r"soft_min: weights does not fit"):
        soft_min(POINTS, jnp.ones(3), jnp.ones(4), jnp.ones(()), axis=-1)

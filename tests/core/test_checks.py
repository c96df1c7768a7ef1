"""Checks that several public functions share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel._core.checks import checked_key


@pytest.mark.parametrize(
    "key", [7, np.int64(7), np.uint32(7), jnp.asarray(7), jax.random.key(7), jax.random.PRNGKey(7)], ids=repr
)
def test_a_key_may_be_a_key_of_either_style_or_an_integer(key):
    assert checked_key(key) == jax.random.key(7)
    assert jax.jit(lambda: jax.random.bits(checked_key(key)))() == jax.random.bits(jax.random.key(7))


def test_a_key_may_be_traced():
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_array_equal(
        jax.vmap(lambda key: jax.random.bits(checked_key(key)))(keys), jax.vmap(jax.random.bits)(keys)
    )
    numbers = jax.vmap(lambda number: jax.random.bits(checked_key(number)))(jnp.arange(3))
    assert numbers[2] == jax.random.bits(jax.random.key(2))


@pytest.mark.parametrize("key", [-1, 2**32, 0.5, "0", None, jax.random.split(jax.random.key(0), 2)])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError, match=r"^key must be "):
        checked_key(key)

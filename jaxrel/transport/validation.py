"""Input checks of the solvers: shapes always, values if they are concrete."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrel._core.arrays import jax_array, truth_array
from jaxrel.transport.point_clouds import PointCloud

__all__ = ["checked_init", "checked_number", "checked_problem", "checked_weights"]


def checked_problem(
    cost: Any, a: Any, b: Any, where_a: Any, where_b: Any
) -> tuple[Float[Array, "*b n m"] | PointCloud, Float[Array, "*b n"], Float[Array, "*b m"]]:
    """Cost and weights as floating-point arrays of one dtype and batch, masks turned into weights of 0."""
    if isinstance(cost, PointCloud):
        x, y = (_floating(name, points) for name, points in (("x", cost.x), ("y", cost.y)))
        if x.ndim < 2 or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
            raise ValueError(f"x and y must be (*b, n, d) and (*b, m, d), got {x.shape} and {y.shape}.")
        if cost.tile is not None and (not isinstance(cost.tile, int) or cost.tile < 1):
            raise ValueError(f"tile must be a positive integer or None, got {cost.tile!r}.")
        dtype = jnp.promote_types(x.dtype, y.dtype)
        shape = (*x.shape[:-1], y.shape[-2])
        function = cost.cost_function
        checked: Any = PointCloud(
            x.astype(dtype), y.astype(dtype), cost.cost if isinstance(cost.cost, str) else function, cost.tile
        )
    else:
        checked = _floating("cost", cost)
        if checked.ndim < 2:
            raise ValueError(f"cost must be (*b, n, m), got shape {checked.shape}.")
        dtype, shape = checked.dtype, checked.shape
    if 0 in shape:
        raise ValueError(f"each side needs at least one point, got {shape}: mask points by where_a and where_b.")
    batch = shape[:-2]
    weights_a = checked_weights("a", a, where_a, (*batch, shape[-2]), dtype)
    weights_b = checked_weights("b", b, where_b, (*batch, shape[-1]), dtype)
    _check_values(checked, weights_a, weights_b)
    return checked, weights_a, weights_b


def checked_weights(name: str, weights: Any, where: Any, shape: tuple[int, ...], dtype: Any) -> Float[Array, "*b n"]:
    """Weights of this shape, 0 outside of `where`; None gives equal weights of sum 1."""
    mask = jnp.ones(shape, bool)
    if where is not None:
        mask = _broadcast(f"where_{name}", truth_array(f"where_{name}", where), shape)
    if weights is None:
        count = jnp.sum(mask, axis=-1, keepdims=True).astype(dtype)
        return jnp.where(mask, 1 / jnp.maximum(count, 1), 0).astype(dtype)
    weights = _broadcast(name, _floating(name, weights).astype(dtype), shape)
    if not isinstance(weights, jax.core.Tracer) and not isinstance(mask, jax.core.Tracer):
        bad = np.argwhere(np.asarray(mask & ~(jnp.isfinite(weights) & (weights >= 0))))
        if bad.size:
            index = tuple(int(i) for i in bad[0])
            raise ValueError(f"{name}{list(index)} is {weights[index]}: weights must be finite and not negative.")
    return jnp.where(mask, weights, 0)


def checked_number(name: str, value: Any, *, batch: tuple[int, ...], dtype: Any) -> Float[Array, "*b"] | None:
    """One positive number for each problem."""
    if value is None:
        return None
    number = _broadcast(name, jax_array(name, value).astype(dtype), batch)
    if not isinstance(number, jax.core.Tracer) and not bool(jnp.all(number > 0)):
        raise ValueError(f"{name} must be positive, got {value}.")
    return number


def checked_init(init: Any, a: Float[Array, "*b n"], b: Float[Array, "*b m"]) -> Float[Array, "*b m"] | None:
    """The initial potential g, passed as g or as a pair (f, g)."""
    if init is None:
        return None
    g = init[1] if isinstance(init, tuple | list) and len(init) == 2 else init
    g = jax_array("init", g).astype(b.dtype)
    if g.shape != b.shape:
        raise ValueError(f"init must hold potentials of shape {a.shape} and {b.shape}, got {g.shape} for the second.")
    return jax.lax.stop_gradient(jnp.where(jnp.isfinite(g), g, 0))


def _check_values(cost: Any, a: Float[Array, "*b n"], b: Float[Array, "*b m"]) -> None:
    leaves = jax.tree.leaves((cost, a, b))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return
    mass_a, mass_b = (np.sum(np.asarray(w, np.float64), axis=-1) for w in (a, b))
    rounding = 4 * (a.shape[-1] + b.shape[-1]) * float(jnp.finfo(a.dtype).eps)
    unequal = (mass_a > 0) & (mass_b > 0) & (np.abs(mass_a - mass_b) > rounding * np.maximum(mass_a, mass_b))
    if unequal.any():
        index = tuple(int(i) for i in np.argwhere(unequal)[0])
        raise ValueError(
            f"a sums to {mass_a[index]:g} and b to {mass_b[index]:g}{f' in problem {index}' if index else ''}: "
            "normalise them."
        )
    sides = (("x", cost.x, a), ("y", cost.y, b)) if isinstance(cost, PointCloud) else ()
    for name, points, weights in sides:
        _check_finite(name, jnp.where(weights[..., None] > 0, points, 0), "points must be finite.")
    if not isinstance(cost, PointCloud):
        live = (a > 0)[..., :, None] & (b > 0)[..., None, :]
        allowed = "a cost may be +inf (a forbidden pair), but not this."
        _check_finite("cost", jnp.where(live & ~jnp.isposinf(cost), cost, 0), allowed)


def _check_finite(name: str, values: Array, allowed: str) -> None:
    if not bool(jnp.all(jnp.isfinite(values))):
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(np.asarray(values)))[0])
        raise ValueError(f"{name}{list(index)} is {values[index]}: {allowed}")


def _floating(name: str, values: Any) -> Array:
    values = jax_array(name, values)
    # float16 and bfloat16 are upcast, because exponents of costs need the precision.
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _broadcast(name: str, values: Array, shape: tuple[int, ...]) -> Array:
    try:
        return jnp.broadcast_to(values, shape)
    except ValueError as error:
        raise ValueError(f"{name} has shape {values.shape}, expected {shape} (or what broadcasts to it).") from error

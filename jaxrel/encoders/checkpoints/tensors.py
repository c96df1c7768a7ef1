"""From tensors of a checkpoint, by their names, to the variables of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxrel.encoders.checkpoints.files import CheckpointError

__all__ = ["as_weights", "check_size", "find_prefix", "refuse_surplus", "take"]


_log = logging.getLogger(__name__)


def take(
    remaining: dict[str, np.ndarray],
    name: str,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    *,
    layout: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> np.ndarray:
    """A tensor as the value of a variable.

    Args:
        remaining: tensors that no variable has yet; loses this one.
        name: its name.
        shape: that of the variable.
        dtype: that of the variable.
        layout: brings the tensor to the variable's order of axes.

    Raises:
        CheckpointError: there is none of this name, or it has another shape or what :func:`as_weights` refuses.
    """
    if name not in remaining:
        raise CheckpointError(f"the checkpoint has no tensor {name!r}; it is not of this architecture")
    value = layout(remaining.pop(name))
    if value.shape != shape:
        raise CheckpointError(
            f"tensor {name!r} has shape {value.shape} (channels last, linear maps as (in, out)), expected {shape}; "
            "it is not of this architecture, or config.json, where there is one, describes another"
        )
    return as_weights(name, value, dtype)


def refuse_surplus(names: Iterable[str]) -> None:
    """Raise CheckpointError where names of tensors are left that no variable has."""
    if surplus := list(names):
        raise CheckpointError(f"the checkpoint has tensors this architecture lacks: {', '.join(surplus[:5])}")


def as_weights(name: str, tensor: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """A tensor of a checkpoint in the type of a network's variables.

    Raises:
        CheckpointError: it has no floating-point numbers, or one that is not finite in this type, or whose square is
            not: a layer that divides by a deviation then gives 0, and maxima and clipping turn NaN into 0 on a CPU, so
            that features would not show it.
    """
    if not jnp.issubdtype(tensor.dtype, jnp.floating):
        raise CheckpointError(f"tensor {name!r} has type {tensor.dtype}, expected floating-point numbers")
    with np.errstate(over="ignore"):
        weights = np.asarray(tensor, dtype)
    largest = float(jnp.finfo(jnp.promote_types(weights.dtype, jnp.float32)).max) ** 0.5
    usable = np.isfinite(weights) & (np.abs(weights) < largest)
    if not usable.all():
        place = np.unravel_index(np.argmin(usable), weights.shape)
        raise CheckpointError(
            f"tensor {name!r} holds {tensor[place]} at {tuple(map(int, place))}, which is no finite {weights.dtype} or "
            "has no finite square: the checkpoint is damaged, or its training diverged"
        )
    return weights


def check_size(num_weights: int, tensors: Mapping[str, np.ndarray], folder: Path) -> None:
    """Raise CheckpointError where config.json speaks of more weights than there are, before room is made for them."""
    held = sum(tensor.size for tensor in tensors.values())
    if num_weights > held:
        raise CheckpointError(
            f"{folder / 'config.json'} describes a network of more than {num_weights:,} numbers, but the checkpoint "
            f"has {held:,}: they do not belong together"
        )


# Copies of the network that is meant: MoCo's moving average, and what an attacker of `robustness` attacks.
_COPIES = (("encoder_k.", "encoder_q."), ("attacker.", ""))


def find_prefix(names: Iterable[str], anchor: str) -> str:
    """What the names of a network's tensors begin with in a checkpoint of a larger whole; "" where that is not known.

    Args:
        names: of all tensors in the checkpoint.
        anchor: the name that a tensor near the input has in the network alone, such as "conv1.weight".

    Raises:
        CheckpointError: there are several networks of this kind, and it is not known which is a copy of the other.
    """
    found = sorted(name.removesuffix(anchor) for name in names if f".{name}".endswith(f".{anchor}"))
    # A block inside the network may have a tensor of that name as well.
    outermost = [prefix for prefix in found if not any(prefix != other and prefix.startswith(other) for other in found)]
    known = [
        prefix
        for prefix in outermost
        if any(copy in prefix and prefix.replace(copy, kept) in outermost for copy, kept in _COPIES)
    ]
    if known:
        outermost = [prefix for prefix in outermost if prefix not in known]
        _log.info("of the networks after %s and %s the former is read", ", ".join(outermost), ", ".join(known))
    if len(outermost) > 1:
        raise CheckpointError(f"the checkpoint has {anchor!r} after each of {', '.join(outermost)}: save one of these")
    return outermost[0] if outermost else ""

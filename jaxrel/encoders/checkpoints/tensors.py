"""Maps tensors of a checkpoint, by name, to the variables of a network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxrel.encoders.checkpoints.files import CheckpointError

__all__ = ["as_weights", "check_size", "find_prefix", "refuse_surplus", "shape_of", "take"]


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
        remaining: tensors that are not yet assigned; this one is removed.
        name: its name.
        shape: shape of the variable.
        dtype: dtype of the variable.
        layout: converts the tensor to the variable's order of axes.

    Raises:
        CheckpointError: there is no tensor of this name, it has another shape, or :func:`as_weights` raises.
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


def shape_of(tensors: Mapping[str, np.ndarray], name: str, *, ndim: int) -> tuple[int, ...]:
    """Shape of a tensor.

    Raises:
        CheckpointError: there is no tensor of this name, or it has another number of axes.
    """
    if name not in tensors or tensors[name].ndim != ndim:
        raise CheckpointError(f"the checkpoint has no tensor {name!r} of {ndim} axes; it is not of this architecture")
    return tensors[name].shape


def refuse_surplus(names: Iterable[str]) -> None:
    """Raise CheckpointError if there are unassigned tensors."""
    if surplus := list(names):
        raise CheckpointError(f"the checkpoint has tensors this architecture lacks: {', '.join(surplus[:5])}")


def as_weights(name: str, tensor: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """A tensor of a checkpoint in the type of a network's variables.

    Raises:
        CheckpointError: it does not have floating-point numbers, or has one that is not finite in this type, or whose
            square is not. A layer that divides by a deviation would then return 0, and maxima and clipping turn NaN
            into 0 on a CPU, so that features would not show it.
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
    """Raise CheckpointError if config.json describes more weights than there are, before memory is allocated for
    them."""
    held = sum(tensor.size for tensor in tensors.values())
    if num_weights > held:
        raise CheckpointError(
            f"{folder / 'config.json'} describes a network of more than {num_weights:,} numbers, but the checkpoint "
            f"has {held:,}: they do not belong together"
        )


# Copies of the network to load: MoCo's moving average, and the model inside the attacker of `robustness`.
_COPIES = (("encoder_k.", "encoder_q."), ("attacker.", ""))


def find_prefix(names: Iterable[str], anchor: str) -> str:
    """The prefix of a network's tensor names in a checkpoint with other parts; "" if unknown.

    Args:
        names: names of all tensors in the checkpoint.
        anchor: name of a tensor near the input of the network without prefix, such as "conv1.weight".

    Raises:
        CheckpointError: there are several networks of this kind, and it is not known which is a copy of the other.
    """
    found = sorted(name.removesuffix(anchor) for name in names if f".{name}".endswith(f".{anchor}"))
    # A block inside the network may also have a tensor of that name.
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

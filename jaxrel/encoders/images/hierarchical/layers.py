"""Common parts of the networks: layers of a type, shapes read from tensors, and tensors assigned to variables."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrel.encoders.checkpoints.tensors import refuse_surplus, take
from jaxrel.encoders.encoder import EncoderOutput
from jaxrel.encoders.images.weights import as_variable

__all__ = ["Layers", "Shape", "accurate", "depths_of", "fill", "output"]

Shape = tuple[int, ...]


class Layers(NamedTuple):
    """Makers of layers whose variables and products are of one type."""

    linear: Callable[..., nnx.Linear]
    convolution: Callable[..., nnx.Conv]
    norm: Callable[..., nnx.LayerNorm]

    @classmethod
    def of(cls, dtype: DTypeLike) -> Layers:
        """Those of a type."""
        options: dict[str, Any] = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
        precise = options | {"precision": lax.Precision.HIGHEST}
        return cls(
            functools.partial(nnx.Linear, **precise),
            functools.partial(nnx.Conv, padding="VALID", **precise),
            functools.partial(nnx.LayerNorm, **options),
        )


def accurate(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """In float32 at least."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def output(features: Float[Array, "b d"], classifier: nnx.Linear | None) -> EncoderOutput:
    """Features and the logits of a classifier, if there is one."""
    logits = None if classifier is None else accurate(classifier(features))
    return EncoderOutput(accurate(features), logits)


def depths_of(tensors: Mapping[str, np.ndarray], stages: str) -> Shape:
    """Blocks of each stage.

    Args:
        tensors: those of the network.
        stages: pattern of the beginning of their names, with the numbers of a stage and of a block as groups.
    """
    blocks = {found.groups() for name in tensors if (found := re.match(stages, name))}
    counts = Counter(int(stage) for stage, _ in blocks)
    return tuple(counts[stage] for stage in sorted(counts))


def fill(network: nnx.Module, tensors: Mapping[str, np.ndarray], *, dtype: DTypeLike) -> None:
    """Set the variables of a network from tensors of the same names, kernels and scales from those called weight.

    Raises:
        CheckpointError: a tensor is missing, has another shape than its variable, or is left over.
    """
    remaining = dict(tensors)
    for path, variable in nnx.to_flat_state(nnx.state(network)):
        *layer, last = map(str, path)
        name = ".".join([*layer, "weight" if last in ("kernel", "scale") else last])
        layout = functools.partial(as_variable, shape=variable.shape, is_kernel=last == "kernel")
        variable.set_value(jnp.asarray(take(remaining, name, variable.shape, dtype, layout=layout)))
    refuse_surplus(remaining)

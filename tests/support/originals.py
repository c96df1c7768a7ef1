"""Networks beside recorded values of their originals."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy
from flax import nnx

from jaxrel.encoders import EncoderOutput


def relative_error(value: Any, expected: Any) -> float:
    expected = np.asarray(expected)
    return float(np.linalg.norm(np.asarray(value, np.float64) - expected) / np.linalg.norm(expected))


def apply(network: nnx.Module, images: np.ndarray) -> EncoderOutput:
    graph, state = nnx.split(network)
    return jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images)


def write_checkpoint(
    folder: Path,
    oracles: Mapping[str, np.ndarray],
    case: str,
    oracle_tensors: Callable[[dict[str, list[int]]], dict[str, np.ndarray]],
    *,
    dtype: Any = np.float64,
    tensors: dict[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Writes the folder of a case, with changed tensors (None leaves one out) and settings."""
    folder.mkdir(exist_ok=True)
    content = oracle_tensors(json.loads(str(oracles[f"{case}/shapes"]))) | (tensors or {})
    kept = {name: value.astype(dtype) for name, value in content.items() if value is not None}
    safetensors.numpy.save_file(kept, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(json.loads(str(oracles[f"{case}/config"])) | settings))
    return folder

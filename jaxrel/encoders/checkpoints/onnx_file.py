"""Reads the weights of ONNX models as arrays, with the `onnx` package; nothing of the graph is run.

An exporter that folds the transposition of a linear map's weights gives them a name of its own ("onnx::MatMul_470");
their layer is then found from the graph, where their product is added to a bias that has kept its name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from jaxrel.encoders.checkpoints.files import CheckpointError, import_extra

__all__ = ["read_initialisers"]


def read_initialisers(path: Path) -> dict[str, np.ndarray]:
    """The weights of a local ONNX model by the names of the network it was exported from.

    The weights `(in, out)` of a matrix product whose result is added to the initialiser "LAYER.bias" are returned as
    "LAYER.weight", `(out, in)` as in PyTorch; everything else is unchanged.

    Args:
        path: the .onnx file.

    Raises:
        CheckpointError: the file is damaged, keeps weights in other files, or gives one name to two arrays.
        ImportError: onnx is not installed.
    """
    onnx = import_extra("onnx", extra="onnx")
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # the parser raises errors of protobuf
        raise CheckpointError(f"{path} is not an ONNX model, or it is truncated or damaged ({error})") from error
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise CheckpointError(f"{path} keeps {tensor.name!r} in another file; save the model as a single file")
    try:
        arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    except Exception as error:  # lengths that differ from shapes, types without a name in NumPy
        raise CheckpointError(f"{path} has weights that cannot be read ({error})") from error
    for name, layer in _linear_layers(graph, arrays).items():
        if f"{layer}.weight" in arrays:
            raise CheckpointError(f"{path} has two weights of the linear map {layer!r}")
        arrays[f"{layer}.weight"] = arrays.pop(name).T
    return arrays


def _linear_layers(graph: Any, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """For each initialiser in a product, the layer whose bias is added to the product."""
    products = {
        node.output[0]: node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and len(node.input) == 2 and node.output and node.input[1] in arrays
    }
    layers = {}
    for node in graph.node:
        if node.op_type == "Add":
            for bias, product in (node.input, node.input[::-1]):
                if product in products and bias in arrays and bias.endswith(".bias"):
                    layers[products[product]] = bias.removesuffix(".bias")
    return layers

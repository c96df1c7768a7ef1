"""Parity of image encoders with their originals in PyTorch: how far are features off, in float64 and in float32?

For each layout of checkpoints, networks with the recorded weights see the recorded images (tests/fixtures, made by the
scripts there); the figure is the largest norm-wise relative error of the features over its cases and image sizes.
Prints a table and writes benchmarks/results/image_parity.json.

    python benchmarks/image_parity.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from flax import nnx

from jaxrel.encoders.images.hierarchical import load_hierarchical_network
from jaxrel.encoders.images.resnet import ResNet
from jaxrel.encoders.images.squeezenet import SqueezeNet
from jaxrel.encoders.images.vision_transformers import load_vision_transformer_network
from jaxrel.encoders.images.weights import load_torch_tensors
from jaxrel.storage.records import write_atomically

TESTS = Path(__file__).parents[1] / "tests"
RESULTS = Path(__file__).parent / "results" / "image_parity.json"


class Case(NamedTuple):
    """A network of a type, images for it, and the features of the original."""

    encoder: str
    original: str
    make: Callable[[Any], nnx.Module]
    images: np.ndarray
    expected: np.ndarray
    every: int = 1  # of the features, which were recorded


def main() -> None:
    """Measure, print and write."""
    jax.config.update("jax_enable_x64", True)
    sys.path.insert(0, str(TESTS))
    worst: dict[tuple[str, str], dict[str, float]] = {}
    for case in (*_convolutional(), *_of_checkpoints()):
        row = worst.setdefault((case.encoder, case.original), {"float64": 0.0, "float32": 0.0})
        for name in row:
            row[name] = max(row[name], _error(case, np.dtype(name)))
    rows = [{"encoder": encoder, "original": original, **errors} for (encoder, original), errors in worst.items()]
    print("| encoder | original | float64 | float32 |\n| --- | --- | --- | --- |")
    for (encoder, original), errors in worst.items():
        print(f"| `{encoder}` | {original} | {errors['float64']:.0e} | {errors['float32']:.0e} |")
    facts = {"machine": jax.devices()[0].platform, "jax": version("jax"), "rows": rows}
    write_atomically(RESULTS, json.dumps(facts, indent=2).encode() + b"\n")


def _error(case: Case, dtype: np.dtype[Any]) -> float:
    graph, state = nnx.split(case.make(dtype))
    apply = jax.jit(lambda state, images: nnx.merge(graph, state)(images).features)
    features = np.asarray(apply(state, case.images.astype(dtype)))[:, :: case.every]
    if features.dtype != dtype:
        raise RuntimeError(f"{case.encoder} gives features of {features.dtype}, expected {dtype}")
    return float(np.linalg.norm(features - case.expected) / np.linalg.norm(case.expected))


def _convolutional() -> Iterator[Case]:
    from fixtures import make_vision_oracles as fixtures

    oracles = np.load(TESTS / "fixtures" / "vision_oracles.npz", allow_pickle=False)
    for name, sizes in fixtures.SIZES.items():
        shapes = {key: tuple(map(int, shape.split(","))) if shape else () for key, shape in oracles[f"{name}/tensors"]}

        def make(dtype: Any, name: str = name, shapes: dict[str, tuple[int, ...]] = shapes) -> nnx.Module:
            rng = np.random.default_rng(0)
            is_resnet = name.startswith("resnet")
            network = (
                ResNet(int(name.removeprefix("resnet-")), num_logits=fixtures.NUM_LOGITS, rng=rng)
                if is_resnet
                else SqueezeNet(num_logits=fixtures.NUM_LOGITS, rng=rng)
            )
            tensors = {key: fixtures.random_tensor(key, shape) for key, shape in shapes.items()}
            load_torch_tensors(network.torch_names(), tensors, dtype=dtype)
            return network

        for size in sizes:
            expected = oracles[f"{name}/{size}/features"]
            encoder = "squeezenet-1.1" if name == "squeezenet" else name
            images = fixtures.oracle_images(size)
            yield Case(encoder, "PyTorch, torchvision's names", make, images, expected, fixtures.EVERY)


def _of_checkpoints() -> Iterator[Case]:
    from fixtures import make_clip_oracles, make_hierarchical_oracles, make_vision_transformer_oracles

    for module, file, load in (
        (make_vision_transformer_oracles, "vision_transformer_oracles.npz", load_vision_transformer_network),
        (make_hierarchical_oracles, "hierarchical_oracles.npz", load_hierarchical_network),
    ):
        oracles = np.load(TESTS / "fixtures" / file, allow_pickle=False)
        for case, (family, kind, _, sizes) in module.CASES.items():
            original = kind.replace("timm:", "timm ") if kind.startswith("timm:") else f"transformers {kind}"
            for size in sizes:
                make = _maker(oracles, case, module.oracle_tensors, load, family=family, image_size=size)
                yield Case(family, original, make, module.oracle_images(size), oracles[f"{case}/{size}/features"])
    oracles = np.load(TESTS / "fixtures" / "clip_oracles.npz", allow_pickle=False)
    module = make_vision_transformer_oracles
    for case in make_clip_oracles.CASES:
        make = _maker(oracles, case, module.oracle_tensors, load_vision_transformer_network, family="clip-image")
        yield Case("clip-image", "transformers CLIPModel", make, module.oracle_images(24), oracles[f"{case}/images"])


def _maker(
    oracles: Any, case: str, draw: Callable[..., dict[str, np.ndarray]], load: Callable[..., Any], **options: Any
) -> Callable[[Any], nnx.Module]:
    """Makes the network of a recorded checkpoint, from a folder."""

    def make(dtype: Any) -> nnx.Module:
        with tempfile.TemporaryDirectory() as folder:
            tensors = draw(json.loads(str(oracles[f"{case}/shapes"])))
            tensors = {name: np.asarray(value, np.float64) for name, value in tensors.items()}
            safetensors.numpy.save_file(tensors, Path(folder) / "model.safetensors")
            (Path(folder) / "config.json").write_text(str(oracles[f"{case}/config"]))
            network: nnx.Module = load(folder, dtype=dtype, **options)[0]
            return network

    return make


if __name__ == "__main__":
    main()

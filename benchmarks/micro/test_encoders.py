"""Batches through every encoder, beside PyTorch's eager mode on the same architecture; depthwise convolutions.

PyTorch's side is skipped where it cannot be imported:

    pip install torch transformers && pip install --no-deps efficientnet-lite-pytorch==0.1.0
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxrel.encoders import load_network
from jaxrel.encoders.images import layers
from jaxrel.encoders.texts import NETWORKS, load_packaged_network

DEPTHWISE = ("mobilenet-v2", "efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
CONVOLUTIONAL = ("resnet-18", "resnet-34", "resnet-50", "resnet-101", "resnet-152", "squeezenet-1.1")
TRANSFORMERS = ("vit-small-16", *NETWORKS)
QUICK = ("mobilenet-v2", "resnet-18", "paraphrase-minilm-l3-v2")
GROUPED = "XLA's grouped convolution"
SIDES = [
    pytest.param(name, by, marks=[pytest.mark.full] * (name not in QUICK))
    for name in (*DEPTHWISE, *CONVOLUTIONAL, *TRANSFORMERS)
    for by in ("jaxrel", "torch", *[GROUPED] * (name in DEPTHWISE))
]
TOKENS = 128
# (image size, channels, kernel size, stride) of EfficientNet-Lite0 at its native 224 pixels
LAYERS = ((112, 32, 3, 1), (112, 96, 3, 2), (56, 144, 3, 1), (28, 240, 5, 1), (14, 672, 5, 2), (7, 1152, 3, 1))
WAYS = {"jaxrel": layers.shifted_multiply_adds, GROUPED: layers.grouped_convolution}


def network_and_inputs(name: str, batch: int) -> tuple[nnx.Module, tuple[np.ndarray, ...]]:
    """An encoder of random weights with a batch of preprocessed images, or of tokens and their mask."""
    rng = np.random.default_rng(0)
    if name in NETWORKS:
        ids = rng.integers(1000, 20000, (batch, TOKENS), np.int32)
        return load_packaged_network(name, rng=rng), (ids, np.ones(ids.shape, bool))
    if name == "vit-small-16":
        return _vision_transformer(), (rng.normal(size=(batch, 224, 224, 3)).astype(np.float32),)
    network, preprocessing = load_network(f"{name}:random")
    side = preprocessing.image_size
    return network, (rng.normal(size=(batch, side, side, 3)).astype(np.float32),)


def _vision_transformer() -> nnx.Module:
    from jaxrel.encoders.images.vision_transformers.config import VisionTransformerConfig
    from jaxrel.encoders.images.vision_transformers.network import VisionTransformer

    sizes = {"width": 384, "num_layers": 12, "num_heads": 6, "hidden_width": 1536, "image_size": 224, "patch_size": 16}
    return VisionTransformer(VisionTransformerConfig("vit", epsilon=1e-12, activation="gelu", **sizes))  # type: ignore[arg-type]


def in_jax(name: str, batch: int, *, grouped: bool = False) -> Callable[[], Any]:
    """Features of a batch, compiled."""
    network, inputs = network_and_inputs(name, batch)
    graph, state = nnx.split(network)
    features = jax.jit(lambda state, *inputs: nnx.merge(graph, state)(*inputs).features)

    def call() -> Any:
        with mock.patch.object(layers, "depthwise_convolution", layers.grouped_convolution):
            return features(state, *inputs)

    return call if grouped else lambda: features(state, *inputs)


def in_torch(name: str, batch: int) -> Callable[[], Any]:
    """The same by the network that the tests hold the encoder to."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(os.cpu_count() or 1)
    _, inputs = network_and_inputs(name, batch)
    if name in TRANSFORMERS:
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 384, "intermediate_size": 1536}
        if name == "vit-small-16":
            config = transformers.ViTConfig(num_attention_heads=6, **sizes)
            network = transformers.ViTModel(config, add_pooling_layer=False)
        else:
            config = transformers.BertConfig(
                num_hidden_layers=NETWORKS[name].num_layers, num_attention_heads=12, **sizes
            )
            network = transformers.BertModel(config)
    elif name in DEPTHWISE:
        if name != "mobilenet-v2":
            pytest.importorskip("efficientnet_lite_pytorch")
        from fixtures.make_encoder_oracles import make_network

        network = make_network(name).float()
    else:
        from fixtures.make_vision_oracles import make_network

        network = make_network(name.removesuffix("-1.1"), num_logits=1000).float()
    network = network.eval()
    if name in NETWORKS:
        ids, mask = map(torch.from_numpy, inputs)
        call = functools.partial(network, ids.long(), attention_mask=mask.long())
    else:
        call = functools.partial(network, torch.from_numpy(inputs[0].transpose(0, 3, 1, 2).copy()))
    return torch.no_grad()(call)


@pytest.mark.parametrize(("name", "by"), SIDES)
def test_encoder(name: str, by: str, small: bool, measure: Callable[..., Any]) -> None:
    """A batch at the network's own resolution, or of 128 tokens each, in float32."""
    batch = 4 if small else 32
    call = in_torch(name, batch) if by == "torch" else in_jax(name, batch, grouped=by == GROUPED)
    measure(f"{name}, batch of {batch}", by, call)


@pytest.mark.parametrize("by", WAYS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_depthwise(layer: tuple[int, int, int, int], by: str, small: bool, measure: Callable[..., Any]) -> None:
    """What jaxrel computes on CPUs, beside what XLA makes of a depthwise convolution."""
    size, channels, kernel_size, stride = layer
    batch = 4 if small else 32
    rng = np.random.default_rng(0)
    x = jax.device_put(rng.normal(size=(batch, size, size, channels)).astype(np.float32))
    kernel = jax.device_put(rng.normal(size=(kernel_size, kernel_size, 1, channels)).astype(np.float32))
    pads = lax.padtype_to_pads((size, size), (kernel_size, kernel_size), (stride, stride), "SAME")
    compiled = jax.jit(functools.partial(WAYS[by], stride=stride, pads=pads))
    group = f"depthwise convolution, {batch} x {size} x {size} x {channels}, kernel {kernel_size}, stride {stride}"
    measure(group, by, lambda: compiled(x, kernel))

"""Vision networks: parity with the same networks in PyTorch, weight files, depth, mixed precision."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures.make_vision_oracles import EVERY, NUM_LOGITS, SIZES, oracle_images, random_tensor
from flax import nnx
from originals import relative_error
from paths import FIXTURES

from jaxrel import encoders
from jaxrel.encoders import EncoderOutput, Preprocessing, from_network
from jaxrel.encoders.images.layers import ConvBias, ConvNorm, max_pool
from jaxrel.encoders.images.resnet import ResidualNet, ResNet
from jaxrel.encoders.images.squeezenet import SqueezeNet
from jaxrel.encoders.images.weights import load_torch_tensors

RANDOM_NETWORKS = tuple(SIZES)


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "vision_oracles.npz", allow_pickle=False) as file:
        return dict(file)


def make_network(name: str, **options: Any) -> Any:
    rng = np.random.default_rng(0)
    if name == "squeezenet":
        return SqueezeNet(num_logits=NUM_LOGITS, rng=rng)
    return ResNet(int(name.removeprefix("resnet-")), **{"num_logits": NUM_LOGITS, "rng": rng} | options)


def tensors_of(name: str, oracles: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The state dictionary of the original network, drawn again."""
    shapes = {key: tuple(map(int, shape.split(","))) if shape else () for key, shape in oracles[f"{name}/tensors"]}
    return {key: random_tensor(key, shape) for key, shape in shapes.items()}


def apply(network: nnx.Module, images: Any) -> EncoderOutput:
    graph, state = nnx.split(network)
    return jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images)


def check_output(output: EncoderOutput, name: str, size: int, oracles: dict[str, np.ndarray], tolerance: float) -> None:
    batch = len(output.features)
    assert relative_error(output.features[:, ::EVERY], oracles[f"{name}/{size}/features"][:batch]) < tolerance
    assert relative_error(output.logits, oracles[f"{name}/{size}/logits"][:batch]) < tolerance


def for_each_size(names: tuple[str, ...]) -> pytest.MarkDecorator:
    """Batches of three images at the first size, of one image at the second."""
    fast = {("resnet-50", 0), *((name, i) for name in ("resnet-18", "squeezenet") for i in (0, 1))}
    cases = [
        pytest.param(name, size, 3 - 2 * i, marks=[] if (name, i) in fast else pytest.mark.slow)
        for name in names
        for i, size in enumerate(SIZES[name])
    ]
    return pytest.mark.parametrize(("name", "size", "batch"), cases)


# Parity


@for_each_size(RANDOM_NETWORKS)
def test_float64_parity_with_the_network_in_pytorch(name, size, batch, oracles, x64):
    network = make_network(name)
    load_torch_tensors(network.torch_names(), tensors_of(name, oracles), dtype=np.float64)
    output = apply(network, oracle_images(size)[:batch])
    assert output.features.dtype == output.logits.dtype == np.float64
    check_output(output, name, size, oracles, 1e-9)


@pytest.mark.parametrize(
    "name",
    ["resnet-50", "squeezenet", *(pytest.param(f"resnet-{depth}", marks=pytest.mark.slow) for depth in (18, 152))],
)
def test_float32_parity_with_the_network_in_pytorch(name, oracles):
    network, size = make_network(name), SIZES[name][-1]
    load_torch_tensors(network.torch_names(), tensors_of(name, oracles))
    output = apply(network, oracle_images(size).astype(np.float32))
    assert output.features.dtype == output.logits.dtype == np.float32
    check_output(output, name, size, oracles, 1e-4)


@pytest.mark.parametrize("name", ["resnet-18", "squeezenet"])
def test_bfloat16_kernels_with_float32_sums(name, oracles):
    network, size = make_network(name), SIZES[name][-1]
    load_torch_tensors(network.torch_names(), tensors_of(name, oracles), dtype=jnp.bfloat16)
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(network))}
    assert kinds == {"bfloat16", "float32"}
    output = apply(network, oracle_images(size).astype(np.float32))
    assert output.features.dtype == output.logits.dtype == np.float32
    check_output(output, name, size, oracles, 0.03)
    error = relative_error(output.features[:, ::EVERY], oracles[f"{name}/{size}/features"])
    assert error > 1e-4  # so the products were of bfloat16 numbers


def test_bfloat16_depthwise_convolution_with_float32_sums():
    layer = ConvNorm(8, 8, 5, depthwise=True, padding="SAME", epsilon=1e-3, rng=np.random.default_rng(0))
    x = oracle_images(16).repeat(3, -1)[..., :8].astype(np.float32)
    expected = layer(x)
    layer.kernel.set_value(layer.kernel[...].astype(jnp.bfloat16))
    assert layer(x).dtype == jnp.bfloat16
    assert 1e-4 < relative_error(layer(x), expected) < 0.01


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("name", ["resnet-18", pytest.param("resnet-50", marks=pytest.mark.slow)])
def test_features_of_an_earlier_layer(name, layer, oracles, x64):
    network, size = make_network(name, layer=layer), SIZES[name][0]
    load_torch_tensors(network.torch_names(), tensors_of(name, oracles), dtype=np.float64)
    output = apply(network, oracle_images(size))
    assert output.logits is None
    assert relative_error(output.features[:, ::EVERY], oracles[f"{name}/{size}/layer{layer}"]) < 1e-9


@pytest.mark.parametrize("size", [5, 6, 9])
@pytest.mark.parametrize("padding", ["SAME", "SYMMETRIC", "VALID", "CEILING"])
def test_max_pool_takes_the_largest_of_each_window(size, padding):
    """Against windows written out: where they begin, and how many there are."""
    x = np.random.default_rng(0).normal(size=(2, size, size + 1, 3)).astype(np.float32)
    starts = []
    for length in (size, size + 1):
        count, first = {
            "SAME": (-(-length // 2), -(max(2 * (-(-length // 2)) + 1 - length, 0) // 2)),
            "SYMMETRIC": ((length + 2 - 3) // 2 + 1, -1),
            "VALID": ((length - 3) // 2 + 1, 0),
            "CEILING": (-(-(length - 3) // 2) + 1, 0),
        }[padding]
        starts.append([first + 2 * i for i in range(count)])
    expected = [
        [x[:, max(top, 0) : top + 3, max(left, 0) : left + 3].max((1, 2)) for left in starts[1]] for top in starts[0]
    ]
    np.testing.assert_array_equal(max_pool(x, padding=padding), np.moveaxis(np.array(expected), 2, 0))


def test_a_folded_normalisation_is_a_bias(x64):
    rng = np.random.default_rng(0)
    options = {"rng": rng, "stride": 2, "activation": "relu", "padding": "SYMMETRIC"}
    normed, folded = ConvNorm(3, 4, 3, epsilon=1e-5, **options), ConvBias(3, 4, 3, **options)
    kernel, scale, bias, mean, var = rng.normal(size=(3, 3, 3, 4)), *rng.random((4, 4))
    statistics = {"n.weight": scale, "n.bias": bias, "n.running_mean": mean, "n.running_var": var}
    channels_first = kernel.transpose(3, 2, 0, 1)
    load_torch_tensors([(normed, ("c", "n"))], {"c.weight": channels_first} | statistics, dtype=float)
    gain = scale / np.sqrt(var + 1e-5)
    tensors = {"c.weight": channels_first * gain[:, None, None, None], "c.bias": bias - mean * gain}
    load_torch_tensors([(folded, ("c",))], tensors, dtype=float)
    x = rng.normal(size=(2, 9, 8, 3))
    np.testing.assert_allclose(folded(x), normed(x), atol=1e-12)


# Initial weights


@pytest.mark.parametrize(
    ("depth", "parameters"),  # as torchvision states them
    [
        (18, 11_689_512),
        (34, 21_797_672),
        (50, 25_557_032),
        pytest.param(101, 44_549_160, marks=pytest.mark.slow),
        pytest.param(152, 60_192_808, marks=pytest.mark.slow),
    ],
)
def test_parameters_are_those_of_the_original(depth, parameters):
    network = ResNet(depth, rng=np.random.default_rng(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))) == parameters


def test_parameters_of_squeezenet_are_those_of_the_original():
    network = SqueezeNet(rng=np.random.default_rng(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))) == 1_235_496


def check_random_features(network: nnx.Module) -> None:
    """They are of the size of the input, and differ from image to image."""
    features = np.asarray(apply(network, oracle_images(48).astype(np.float32)[:, :, :, ::-1]).features)
    assert np.isfinite(features).all()
    assert 0.05 < np.sqrt((features**2).mean()) < 50
    assert np.linalg.matrix_rank(features) == 3


@pytest.mark.slow
def test_a_random_network_of_152_layers_keeps_its_features_in_range():
    check_random_features(ResNet(152, num_logits=None, rng=np.random.default_rng(0)))


def test_a_random_deep_network_keeps_its_features_in_range():
    """A narrow one; without the gain of its branches its features would be 2^(40 / 2) times larger."""
    rng = np.random.default_rng(0)
    network = ResidualNet((40,), width=8, bottleneck=True, num_logits=None, layer=1, rng=rng)
    check_random_features(network)


@pytest.mark.parametrize("make", [partial(ResNet, 18), SqueezeNet])
def test_networks_without_classifier_have_no_logits(make):
    network = make(num_logits=None, rng=np.random.default_rng(0))
    encoder = from_network(network, Preprocessing(40, mean=(0.0,) * 3, std=(1.0,) * 3), name="no classifier")
    assert (encoder.feature_width, encoder.num_logits) == (512, None)


def test_random_weights_follow_the_seed():
    def kernel(seed: int) -> jax.Array:
        return ResNet(18, rng=np.random.default_rng(seed)).stages[3][1].convolutions[1].kernel[...]

    np.testing.assert_array_equal(kernel(0), kernel(0))
    assert np.abs(kernel(0) - kernel(1)).max() > 0


@pytest.mark.parametrize("layer", [0, 5, -1, "3"])
def test_an_unknown_layer_is_refused(layer):
    with pytest.raises(ValueError, match=r"layer must be one of 1 to 4, got"):
        ResNet(18, layer=layer, rng=np.random.default_rng(0))


def test_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r"depth must be one of 18, 34, 50, 101, 152, got 20"):
        ResNet(20, rng=np.random.default_rng(0))


# Weight files


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"layer2.0.downsample.1.bias": None}, "no tensor 'layer2.0.downsample.1.bias'"),
        ({"layer1.1.conv2.weight": np.zeros((64, 64, 1, 1))}, r"'layer1.1.conv2.weight' has shape \(1, 1, 64, 64\)"),
        ({"layer4.2.conv1.weight": np.zeros((512, 512, 3, 3))}, "lacks: layer4.2.conv1.weight"),
    ],
)
def test_tensors_of_another_network_are_refused(change, says, oracles):
    tensors = {k: v for k, v in (tensors_of("resnet-18", oracles) | change).items() if v is not None}
    with pytest.raises(ValueError, match=says):
        load_torch_tensors(make_network("resnet-18").torch_names(), tensors)


def test_the_name_of_a_layer_is_that_of_an_encoder_which_stops_there():
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    network, preprocessing = encoders.load_network("resnet-18:random", seed=3, image_size=32)
    for layer, width in ((2, 128), (4, 512)):
        encoder = encoders.load(f"resnet-18:random#{layer}", seed=3, image_size=32)
        assert (encoder.name, encoder.feature_width) == (f"resnet-18:random#{layer}", width)
        vars(network)["layer"] = layer
        expected, found = (
            each.forward(each.prepare(images)).features
            for each in (from_network(network, preprocessing, name="stopped"), encoder)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pixels#1", "only resnet-18"),
        ("glove-6b-50d#1", "only resnet-18"),
        ("resnet-18#x", "unknown encoder 'resnet-18#x'"),
        ("resnet-18#2", "choose from resnet-18:random, resnet-18@CHECKPOINT"),
    ],
)
def test_layers_that_cannot_be_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        encoders.check_name(name)

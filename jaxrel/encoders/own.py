"""Encoders from any function: the user's own, or a network of another library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxrel._core.arrays import on_device, real_array
from jaxrel._core.programs import compiled
from jaxrel._core.text_samples import TextKind, TextSample, Word, parts_of
from jaxrel.encoders.encoder import REVISION, Encoder, EncoderOutput, Modality, checked_images, fingerprint, preprocess
from jaxrel.encoders.preprocessing import Preprocessing
from jaxrel.encoders.texts.tokens import check_texts

__all__ = ["OwnForward", "example_of", "from_function", "host_encoder", "rgb"]

_EXAMPLE_SIZE = 224
_EXAMPLE_TEXTS: Mapping[TextKind, tuple[TextSample, ...]] = {
    "text": ("An example.", "Another example, which is somewhat longer."),
    "pair": (("An example.", "Another one."), ("A third example, which is somewhat longer.", "A fourth one.")),
    "word": (Word(("An", "example"), 1), Word(("Another", "example", "which", "is", "longer"), 2)),
}


def from_function(
    function: Callable[[Any], Any],
    *,
    name: str,
    version: str,
    modality: Modality = "images",
    image_size: int | None = None,
    preprocessing: Preprocessing | None = None,
    kind: TextKind = "text",
) -> Encoder:
    """Make an encoder from any function of a batch that returns features.

    The function is called immediately with an example: two images of noise, or two texts. A function of images that
    JAX can trace is compiled, once per batch shape; any other is called on the host.

    Args:
        function: maps a batch to features `(b, d)`, an array, a tensor of PyTorch on any device or a list of rows. The
            batch is an array of images `(b, h, w, 3)`, uint8 or preprocessed by `preprocessing`, or a list of b texts.
        name: the encoder's name, part of its fingerprint.
        version: part of the fingerprint, by which a store identifies features: change it whenever the function or its
            weights change. The features of the example are also part of it, so that most changes are detected.
        modality: what it encodes, "images" or "texts".
        image_size: height and width in pixels to which the central square of each image is resized, in uint8. Default:
            images are passed unchanged, and the width of the features is that for images of 224 pixels.
        preprocessing: preprocessing of images, instead of `image_size`; the batch is float32, with one channel per
            mean.
        kind: what a list of texts holds: "text" for strings, "pair" for tuples of two strings, or "word" for
            :class:`jaxrel.data.Word`.

    Raises:
        ValueError: the function fails on the example or does not return real numbers `(b, d)`; the version is empty;
            the modality or the kind is unknown; or `image_size` and `preprocessing` are both passed, or one of them for
            texts.
    """
    if not version:
        raise ValueError("version is empty: pass any text, such as '1', and another one when the function changes")
    if modality not in get_args(Modality):
        raise ValueError(f"modality is {modality!r}: choose from {', '.join(get_args(Modality))}")
    if kind not in get_args(TextKind) or (modality == "images" and kind != "text"):
        raise ValueError(f"kind is {kind!r}: for texts choose from {', '.join(get_args(TextKind))}, else leave it out")
    if modality == "texts" and (image_size, preprocessing) != (None, None):
        raise ValueError("image_size and preprocessing are for images: leave them out for texts")
    if image_size is not None and preprocessing is not None:
        raise ValueError("image_size and preprocessing are given, which has a size of its own: pass one of them")
    size = image_size if preprocessing is None else preprocessing.image_size
    takes: Callable[[Any], Any] = list
    apply = function
    if modality == "images":
        takes = rgb if size is None else partial(_pixels, size)
        if preprocessing is not None:
            takes = partial(preprocess, preprocessing)
        traceable = _is_traceable(function, takes(example_of(modality, size)))
        apply = partial(_compiled if traceable else _on_host, function)
    return host_encoder(
        OwnForward(name, takes, apply),
        modality,
        kinds=(kind,),
        image_size=size,
        identity=f"{REVISION} function {name} {version} {image_size} {preprocessing}",
        preprocessing="" if preprocessing is None else repr(preprocessing),
    )


@dataclass(frozen=True)
class OwnForward:
    """A function from samples to checked features.

    Args:
        name: name of the encoder, for errors.
        takes: converts samples to the input of `apply`.
        apply: returns features as any kind of array.
        width: width of the features; None if not yet known.
    """

    name: str
    takes: Callable[[Any], Any]
    apply: Callable[[Any], Any]
    width: int | None = None

    @property
    def on_host(self) -> bool:
        """Whether it runs on the host, so that several devices cannot share it."""
        return not (isinstance(self.apply, partial) and self.apply.func is _compiled)

    def __call__(self, samples: Any) -> EncoderOutput:
        """Features `(b, d)`, float32; ValueError if they are missing or have another shape."""
        given, what = self.apply(self.takes(samples)), f"the features of {self.name}"
        if isinstance(given, tuple | dict):
            parts = f" of {', '.join(given)}" if isinstance(given, dict) else ""
            raise ValueError(
                f"{what} are a {type(given).__name__}{parts}: pass a function that gives one array (b, d) of it, such "
                "as lambda batch: network(batch)[0]; of a model of transformers from_transformers makes an encoder"
            )
        features = real_array(what, given)
        if features.ndim != 2 or len(features) != len(samples) or self.width not in (None, features.shape[1]):
            raise ValueError(
                f"{what} have shape {features.shape}, expected ({len(samples)}, {self.width or 'd'}): take the mean "
                "over further axes; where the width depends on the size of images, pass image_size"
            )
        return EncoderOutput(on_device(features, np.float32), None)


def host_encoder(
    forward: OwnForward,
    modality: Modality,
    *,
    identity: str,
    kinds: tuple[TextKind, ...] = ("text",),
    weights: dict[str, np.ndarray] | None = None,
    image_size: int | None = None,
    **facts: Any,
) -> Encoder:
    """Make an encoder with the feature width of an example.

    Args:
        forward: returns the features of prepared samples.
        modality: what it encodes.
        kinds: kinds of texts that it encodes; the example is of the first.
        identity: what beside the weights decides the features, for the fingerprint.
        weights: weights by name, if known. The features of the example are also in the fingerprint, because code may
            change with the same weights.
        image_size: size of the images, if known.
        facts: other fields of the encoder.

    Raises:
        ValueError: the example fails.
    """
    prepare: Callable[[Any], Any] = checked_images if modality == "images" else partial(_objects, kinds, forward.name)
    samples = prepare(example_of(modality, image_size, kinds[0]))
    try:
        features = forward(samples).features
    except Exception as error:
        told = "texts" if modality == "texts" else f"images of shape {samples.shape}"
        raise ValueError(f"{forward.name} fails with an example of two {told}: {error}") from error
    known: dict[str, Any] = {
        "num_parameters": 0,
        "pretraining": "unknown",
        "licence": "unknown",
        "weights_sha256": "" if weights is None else fingerprint("", weights),
    }
    return Encoder(
        name=forward.name,
        modality=modality,
        image_size=image_size,
        feature_width=features.shape[1],
        num_logits=None,
        fingerprint=fingerprint(identity, {"features": features, **(weights or {})}),
        prepare=prepare,
        forward=dataclasses.replace(forward, width=features.shape[1]),
        lengths=_letters if modality == "texts" else None,
        **known | facts,
    )


def example_of(modality: Modality, size: int | None = None, kind: TextKind = "text") -> Any:
    """Two samples: images of noise of this size, or texts of this kind."""
    if modality == "texts":
        return _EXAMPLE_TEXTS[kind]
    side = size or _EXAMPLE_SIZE
    return np.random.default_rng(0).integers(0, 256, (2, side, side, 3), np.uint8)


def rgb(images: Any) -> Any:
    """Images of three channels; grey is repeated."""
    return images if images.shape[3] == 3 else images.repeat(3, axis=3)


def _pixels(size: int, images: Any) -> jax.Array:
    return _rounded(preprocess(Preprocessing(size, (0.0,) * 3, (1.0,) * 3), images))


@compiled
def _rounded(pixels: jax.Array) -> jax.Array:
    return jnp.round(pixels).astype(jnp.uint8)


@partial(compiled, static_argnums=0)
def _compiled(function: Callable[[Any], Any], batch: jax.Array) -> Any:
    return function(batch)


def _on_host(function: Callable[[Any], Any], batch: jax.Array) -> Any:
    return function(np.array(batch))  # a writable copy, which some functions need


def _is_traceable(function: Callable[[Any], Any], batch: Any) -> bool:
    """Whether JAX can compile it; errors in it appear when it is called."""
    try:
        jax.eval_shape(function, batch)
    except Exception:
        return False
    return True


def _objects(kinds: tuple[TextKind, ...], name: str, texts: Sequence[TextSample]) -> Any:
    checked = check_texts(texts, takes=kinds, encoder=name)
    return np.fromiter(checked, object, len(checked))


def _letters(texts: Sequence[TextSample]) -> Int[np.ndarray, " n"]:
    return np.array([sum(map(len, parts_of(text))) for text in texts])

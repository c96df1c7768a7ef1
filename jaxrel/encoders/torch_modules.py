"""Encoders from PyTorch modules and transformers models; PyTorch is imported when one of these functions is called."""

from __future__ import annotations

import copy
import hashlib
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import numpy as np

from jaxrel._core.arrays import to_array
from jaxrel._core.text_samples import parts_of
from jaxrel.encoders.encoder import REVISION, Encoder, Modality, check_finite, preprocess
from jaxrel.encoders.own import OwnForward, example_of, host_encoder, rgb
from jaxrel.encoders.preprocessing import Preprocessing

__all__ = ["from_torch", "from_transformers"]

Pooling = Literal["mean", "cls", "pooler"]


def from_torch(
    module: Any,
    preprocessing: Preprocessing,
    *,
    name: str,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder from a PyTorch module for images; it runs on the device of its parameters, without gradients.

    Args:
        module: maps preprocessed images `(b, channels, s, s)`, of the type of its parameters, to features `(b, d)`. It
            is copied as it is now, and put into evaluation mode.
        preprocessing: maps uint8 images to the module's input; a channel for each number of its mean.
        name: the encoder's name, part of its fingerprint, as are all tensors and the printed form of the module:
            modules that differ in anything else need different ones.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: a tensor of the module is not finite, it does not take such images, or gives no such features.
    """
    frozen = _frozen(module)
    return host_encoder(
        OwnForward(name, partial(preprocess, preprocessing), partial(_apply_torch, frozen)),
        "images",
        identity=f"{REVISION} torch {name} {preprocessing} {frozen}",
        weights=_weights(frozen),
        image_size=preprocessing.image_size,
        preprocessing=repr(preprocessing),
        num_parameters=_num_parameters(frozen),
        pretraining=pretraining,
        licence=licence,
    )


def from_transformers(
    model: Any,
    processor: Any,
    *,
    name: str,
    pooling: Pooling,
    max_length: int | None = None,
    pretraining: str = "unknown",
    licence: str = "unknown",
) -> Encoder:
    """Make an encoder from a transformers model and its tokenizer or image processor.

    Args:
        model: such as `AutoModel` gives. It is copied as it is now, and runs in evaluation mode on its device.
        processor: such as `AutoTokenizer` gives, for texts and pairs of texts, or `AutoImageProcessor`, for images.
        name: the encoder's name, part of its fingerprint, as are the files of the processor and the configuration.
        pooling: "mean" of all tokens but padding, "cls" for the first token, or "pooler" for `pooler_output`, which is
            a layer that many checkpoints of BERT and ViT lack: transformers fills it with random numbers.
        max_length: texts are truncated to this many tokens. Default: that of the tokenizer.
        pretraining: what the weights were trained on.
        licence: the licence of the weights.

    Raises:
        ValueError: the processor is not of texts alone or images alone, a tensor of the model is not finite, or the
            model does not take what the processor makes, or gives nothing that could be pooled so.
    """
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling is {pooling!r}: choose from {', '.join(get_args(Pooling))}")
    inputs = processor.model_input_names
    if ("input_ids" in inputs) == ("pixel_values" in inputs):
        raise ValueError(
            f"the processor makes {', '.join(inputs)}: pass one of texts alone or images alone, such as "
            "processor.tokenizer or processor.image_processor, and the part of the model that takes what it makes"
        )
    modality: Modality = "texts" if "input_ids" in inputs else "images"
    frozen, processor = _frozen(model), copy.deepcopy(processor)
    made = partial(_tokens, processor, max_length) if modality == "texts" else partial(_pixel_values, processor)
    made(example_of(modality))  # so that the tokenizer's files say how it pads now
    files = _sha256_of_files(processor)
    return host_encoder(
        OwnForward(name, list if modality == "texts" else rgb, partial(_apply_transformer, frozen, made, pooling)),
        modality,
        kinds=("text", "pair"),
        identity=f"{REVISION} transformers {name} {pooling} {max_length} {files} {frozen.config} {frozen}",
        weights=_weights(frozen),
        preprocessing=f"{type(processor).__name__}, of files of SHA-256 {files}",
        num_parameters=_num_parameters(frozen),
        pretraining=pretraining,
        licence=licence,
    )


def _frozen(module: Any) -> Any:
    """A copy in evaluation mode, which training the original does not change."""
    return copy.deepcopy(module).eval()


def _weights(module: Any) -> dict[str, np.ndarray]:
    """Parameters and buffers by name and type, as half precision is held in float32 here."""
    weights = {
        f"{name} {value.dtype}": np.asarray(to_array(name, value)) for name, value in module.state_dict().items()
    }
    check_finite(weights)
    return weights


def _num_parameters(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _apply_torch(module: Any, batch: jax.Array) -> Any:
    import torch

    parameter = next(module.parameters(), torch.empty(0))
    # Through NumPy for a module on the host, as JAX may have the batch on a GPU that this PyTorch does not know.
    images = torch.from_dlpack(batch if parameter.is_cuda else np.array(batch))
    with torch.no_grad():
        return module(images.permute(0, 3, 1, 2).to(parameter.device, parameter.dtype).contiguous())


def _apply_transformer(model: Any, made: Any, pooling: Pooling, samples: Any) -> Any:
    import torch

    inputs = made(samples).to(model.device)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    with torch.no_grad():
        output = model(**inputs)
    wanted = "pooler_output" if pooling == "pooler" else "last_hidden_state"
    if (given := getattr(output, wanted, None)) is None:
        raise ValueError(
            f"the model gives {', '.join(output)} and no {wanted}, which pooling={pooling!r} is of: choose another "
            "pooling, or make the encoder by from_function"
        )
    if pooling == "pooler":
        return given.flatten(1)
    if pooling == "cls":
        return given[:, 0]
    if (mask := inputs.get("attention_mask")) is None:
        return given.float().mean(1)
    return (given.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def _tokens(tokenizer: Any, max_length: int | None, texts: Any) -> Any:
    parts = map(list, zip(*map(parts_of, texts), strict=True))  # the texts, or the first and the second ones of pairs
    return tokenizer(*parts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")


def _pixel_values(processor: Any, images: np.ndarray) -> Any:
    return processor(list(images), input_data_format="channels_last", return_tensors="pt")


def _sha256_of_files(processor: Any) -> str:
    """The digest of what the processor is saved as."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        for file in sorted(Path(folder).rglob("*")):
            digest.update(f"{file.name} ".encode() + (file.read_bytes() if file.is_file() else b""))
    return digest.hexdigest()

"""Preprocessing of uint8 images as described by a preprocessor_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from jaxrel.encoders.checkpoints.files import CheckpointError, read_json
from jaxrel.encoders.preprocessing import Preprocessing, resized_square

__all__ = ["HALF", "IMAGENET", "OPENAI", "CroppedPreprocessing", "Scaling", "read_preprocessing"]

Scaling = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of pixels 0..1."""

HALF: Scaling = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGENET: Scaling = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI: Scaling = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

_LARGEST_IMAGE = 4096

_METHODS: Mapping[int, str] = {1: "lanczos3", 2: "linear", 3: "cubic"}  # by Pillow's numbers


@dataclass(frozen=True)
class CroppedPreprocessing(Preprocessing):
    """Central square, resized with anti-aliasing, cropped in its middle, then `(pixels - mean) / std`.

    Args:
        image_size: height and width of the result.
        mean: subtracted from the pixels 0..255, one number for each channel.
        std: divides the difference.
        resized: height and width before the crop, at least `image_size`.
        method: interpolation, of :func:`jax.image.resize`.
    """

    resized: int
    method: str

    def resize(self, images: UInt8[Array, "b h w c"]) -> Float[Array, "b s s c"]:
        """The pixels of the result, 0..255."""
        margin = (self.resized - self.image_size) // 2
        inner = slice(margin, margin + self.image_size)
        resized = resized_square(images, self.resized, self.method)[:, inner, inner]
        return jnp.clip(resized, 0, 255)  # cubic interpolation overshoots


def read_preprocessing(
    folder: Path,
    config: Mapping[str, Any],
    published_size: int,
    *,
    scaling: Scaling,
    resample: int,
    image_size: int | None = None,
) -> CroppedPreprocessing:
    """The preprocessing in preprocessor_config.json or in timm's part of config.json, otherwise the published one.

    Args:
        folder: that of the checkpoint.
        config: the content of its config.json.
        published_size: height and width in pixels if no file has them.
        scaling: mean and standard deviation of pixels 0..1, likewise.
        resample: Pillow's number of the interpolation, likewise.
        image_size: height and width to which images are brought instead, cropped by the same share.

    Raises:
        CheckpointError: a file describes unsupported preprocessing.
    """
    path = folder / "preprocessor_config.json"
    try:
        settings = read_json(path) if path.is_file() else _timm_settings(config.get("pretrained_cfg", {}))
        size = _side(settings.get("size"), published_size) if settings.get("do_resize", True) else published_size
        cropped = settings.get("do_center_crop", settings.get("crop_size") is not None)
        crop_size = _side(settings.get("crop_size"), size) if cropped else size
        if "crop_pct" in settings and size < 384:  # ConvNeXt's; larger images are not cropped
            size = int(size / (settings["crop_pct"] or 224 / 256))
        if size > _LARGEST_IMAGE:
            raise ValueError(f"images of {size} pixels: at most {_LARGEST_IMAGE} are taken from a file")
        if crop_size > size:
            raise ValueError(f"crop_size {crop_size} is more than the size {size}")
        method = _METHODS.get(settings.get("resample", resample))
        if method is None:
            raise ValueError(f"resample is {settings['resample']!r}: {_METHODS} are known, by their numbers")
        mean, std = settings.get("image_mean", scaling[0]), settings.get("image_std", scaling[1])
        if not settings.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        # (factor * pixels - mean) / std
        factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
        if not (len(mean) == len(std) == 3 and min(std) > 0 and factor > 0):
            raise ValueError(f"image_mean {mean}, image_std {std} and rescale_factor {factor} do not scale RGB pixels")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path if path.is_file() else folder / 'config.json'}: {error}") from error
    mean, std = (tuple(float(number / factor) for number in each) for each in (mean, std))
    if image_size is not None:
        crop_size, size = image_size, round(image_size * size / crop_size)
    return CroppedPreprocessing(crop_size, mean, std, resized=size, method=method)


def _timm_settings(facts: Mapping[str, Any]) -> dict[str, Any]:
    """timm's preprocessing of a network, in the form of preprocessor_config.json."""
    settings = {"image_mean": facts.get("mean"), "image_std": facts.get("std")}
    if "interpolation" in facts:
        settings["resample"] = {"bilinear": 2, "bicubic": 3}.get(facts["interpolation"], facts["interpolation"])
    if "input_size" in facts:
        size = facts["input_size"][-1]
        settings |= {"size": int(size / facts.get("crop_pct", 1.0)), "crop_size": size}
    return {key: value for key, value in settings.items() if value is not None}


def _side(size: Any, default: Any) -> int:
    """The side of a square: its number, its height and width, or the shortest edge of what it is cut from."""
    size = default if size is None else size
    height = width = size
    if isinstance(size, dict):
        height, width = (size.get("shortest_edge", size.get(axis)) for axis in ("height", "width"))
    elif isinstance(size, list) and len(size) == 2:
        height, width = size
    if type(height) is not int or height < 1 or height != width:
        raise ValueError(f"the size {size!r} is not a square")
    return height

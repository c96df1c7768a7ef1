"""Prompts from class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxrel.encoders.encoder import Modality

__all__ = ["IMAGE_TEMPLATES", "class_prompts"]

IMAGE_TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up photo of a {}.",
    "a photo of many {}.",
    "a drawing of a {}.",
    "a black and white photo of a {}.",
    "a low resolution photo of a {}.",
)
"""Templates for pictures, from those tried with [CLIP](https://arxiv.org/abs/2103.00020)."""


def class_prompts(
    names: Sequence[str] | Mapping[str, Sequence[str]], *, modality: Modality
) -> dict[str, tuple[str, ...]]:
    """Prompts of each class, in order: names or descriptions, inserted into sentences for images and unchanged for
    texts.

    Args:
        names: names of the classes, or the descriptions of each class, which replace the name if there are any.
        modality: modality of the samples.
    """
    described = names if isinstance(names, Mapping) else dict.fromkeys(names, ())
    templates = IMAGE_TEMPLATES if modality == "images" else ("{}",)
    return {
        name: tuple(template.replace("{}", said) for said in descriptions or (name,) for template in templates)
        for name, descriptions in described.items()
    }

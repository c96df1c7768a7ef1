"""From the names of classes to what is said of their samples."""

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
"""What is said of pictures, among what [CLIP](https://arxiv.org/abs/2103.00020) was tried with."""


def class_prompts(
    names: Sequence[str] | Mapping[str, Sequence[str]], *, modality: Modality
) -> dict[str, tuple[str, ...]]:
    """Prompts of each class, in their order: names or descriptions in sentences about images, as they are for texts.

    Args:
        names: of the classes; or of each class its descriptions, which stand for the name where there are any.
        modality: of the samples.
    """
    described = names if isinstance(names, Mapping) else dict.fromkeys(names, ())
    templates = IMAGE_TEMPLATES if modality == "images" else ("{}",)
    return {
        name: tuple(template.replace("{}", said) for said in descriptions or (name,) for template in templates)
        for name, descriptions in described.items()
    }

"""Lists of encoders to start with: `--encoder @images-small`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from jaxrel._core.suggestions import suggestion

__all__ = ["PRESET", "PRESETS", "Listed", "expanded"]

PRESET = "@"


class Listed(NamedTuple):
    """An encoder in a list.

    Attributes:
        name: name for :func:`jaxrel.encoders.load`.
        parameters: approximate number of parameters in millions.
        licence: licence of the weights, as their publisher states it.
    """

    name: str
    parameters: float
    licence: str


_APACHE, _MIT = "Apache-2.0", "MIT"

PRESETS: Mapping[str, tuple[Listed, ...]] = {
    "images-small": (
        Listed("pixels", 0, "none needed"),
        Listed("mobilenet-v2:random", 2.2, "none needed"),
        Listed("mobilenet-v2", 2.2, _MIT),
        Listed("efficientnet-lite0", 4.7, _APACHE),
        Listed("efficientnet-lite1", 5.4, _APACHE),
        Listed("efficientnet-lite2", 6.1, _APACHE),
    ),
    "images-strong": (
        Listed("vit@google/vit-base-patch16-224", 86, _APACHE),
        Listed("dinov2@facebook/dinov2-small", 22, _APACHE),
        Listed("dinov2@facebook/dinov2-base", 87, _APACHE),
        Listed("clip@openai/clip-vit-base-patch32", 88, _MIT),
        Listed("siglip@google/siglip-base-patch16-224", 93, _APACHE),
    ),
    "texts-small": (
        Listed("glove-6b-50d", 20, "Apache-2.0 and PDDL-1.0"),
        Listed("all-minilm-l6-v2:random", 22.6, "none needed"),
        Listed("paraphrase-minilm-l3-v2", 17.2, _APACHE),
        Listed("all-minilm-l6-v2", 22.6, _APACHE),
    ),
    "texts-strong": (
        Listed("bert@sentence-transformers/all-MiniLM-L12-v2", 33, _APACHE),
        Listed("bert@BAAI/bge-small-en-v1.5", 33, _MIT),
        Listed("bert@intfloat/e5-small-v2", 33, _MIT),
        Listed("bert@thenlper/gte-small", 33, _MIT),
        Listed("bert@google-bert/bert-base-uncased", 109, _APACHE),
        Listed("bert@FacebookAI/roberta-base", 125, _MIT),
    ),
}
"""The small encoders come from archives of the package index, the strong ones from the Hugging Face Hub."""


def expanded(names: Iterable[str]) -> list[str]:
    """The names without duplicates, with each `@LIST` replaced by its encoders.

    Raises:
        ValueError: there is no such list.
    """
    found, listed = list[str](), set[str]()
    for name in names:
        if not name.startswith(PRESET):
            found += [] if name in listed else [name]
            continue
        preset = name.removeprefix(PRESET)
        if preset not in PRESETS:
            raise ValueError(
                f"there is no list {name!r}{suggestion(preset, PRESETS)}: the lists are "
                f"{', '.join(PRESET + known for known in PRESETS)}."
            )
        of_list = [entry.name for entry in PRESETS[preset]]
        found += [entry for entry in of_list if entry not in found]
        listed.update(of_list)
    return found

"""A zoo that `make.py` made, read back: features of every encoder on every target, and what each reached there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from imagenet import imagenet_network
from jaxtyping import Float, Int
from members import IMAGENET
from networks import ARCHITECTURES, Encode, Parameters

from jaxrel.encoders.images.views import ImageAugmentation, image_views

__all__ = ["FOLDER", "Batch", "Zoo", "read_zoo"]

FOLDER = Path(__file__).parents[1] / "data" / "zoo"
REFERENCE_IMAGES = 1000
CHUNK = 100  # images in one forward pass


@dataclass(frozen=True, eq=False)
class Batch:
    """Features of encoders of one width on one target; scores are computed for the whole batch at once.

    `name` is that of the target, `encoders` are positions in the zoo's table. The reference features are of the
    pre-training images of other sets.
    """

    name: str
    encoders: Int[np.ndarray, " e"]
    target: Float[np.ndarray, "e n d"]
    views: tuple[Float[np.ndarray, "e n d"], Float[np.ndarray, "e n d"]]
    labels: Int[np.ndarray, " n"]
    num_classes: int
    references: Mapping[str, tuple[Float[np.ndarray, "e m d"], Int[np.ndarray, " m"]]]


@dataclass(frozen=True, eq=False)
class Zoo:
    """Encoders, images and the table of accuracies.

    Args:
        table: a record for each encoder, see `make.py`.
        weights: weights of each small encoder, by name; those of ImageNet come from their archives.
        images: `SET/pool_images`, `SET/pool_labels` and the same for `pretraining`.
        augmentation: of the two views.
    """

    table: list[dict[str, Any]]
    weights: Mapping[str, Parameters]
    images: Mapping[str, np.ndarray]
    augmentation: ImageAugmentation = field(default_factory=ImageAugmentation)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets."""
        return tuple(self.table[0]["fine_tuned"])

    def truth(self, kind: str, target: str) -> Float[np.ndarray, "s e"]:
        """Accuracy of each seed ("fine_tuned" or "probe") for every encoder."""
        return np.array([record[kind][target] for record in self.table]).T

    def indices(self, half: str) -> Int[np.ndarray, " e"]:
        """Positions in the table of the encoders of a half."""
        return np.array([index for index, record in enumerate(self.table) if record["half"] == half])

    @cached_property
    def reference_sets(self) -> tuple[str, ...]:
        """Sets of which there are images to make reference tasks of."""
        return tuple(key.split("/")[0] for key in self.images if key.endswith("/pretraining_labels"))

    @cached_property
    def _views(self) -> dict[str, tuple[np.ndarray, ...]]:
        return {}

    def views_of(self, target: str) -> tuple[np.ndarray, ...]:
        """Two augmented views of the pool of a target."""
        if target not in self._views:
            views = image_views(self.images[f"{target}/pool_images"][..., None], augmentation=self.augmentation)
            self._views[target] = tuple(view[..., 0] for view in views)
        return self._views[target]

    def groups(self, encoders: Int[np.ndarray, " e"]) -> list[Int[np.ndarray, " g"]]:
        """The encoders in groups of equal feature width."""
        widths = np.array([self.width(index) for index in encoders])
        return [encoders[widths == width] for width in np.unique(widths)]

    def batch(self, target: str, encoders: Int[np.ndarray, " e"]) -> Batch:
        """Features of encoders of equal width on a target."""

        def stacked(images: np.ndarray) -> Float[np.ndarray, "e n d"]:
            return np.stack([self.features(index, images) for index in encoders])

        labels = self.images[f"{target}/pool_labels"]
        first, second = self.views_of(target)
        return Batch(
            name=target,
            encoders=encoders,
            target=stacked(self.images[f"{target}/pool_images"]),
            views=(stacked(first), stacked(second)),
            labels=labels,
            num_classes=int(labels.max()) + 1,
            references={
                name: (
                    stacked(self.images[f"{name}/pretraining_images"][:REFERENCE_IMAGES]),
                    self.images[f"{name}/pretraining_labels"][:REFERENCE_IMAGES],
                )
                for name in self.reference_sets
                if name != target
            },
        )

    def encoder(self, index: int) -> tuple[Encode, Parameters]:
        """One encoder as a function of its weights and images, and the weights."""
        record = self.table[index]
        if record["group"] == IMAGENET:
            return imagenet_network(record["architecture"])
        weights = self.weights[record["name"]]
        single = {name: value.astype(np.float32) for name, value in weights.items()}
        return ARCHITECTURES[record["architecture"]], single

    def width(self, index: int) -> int:
        """Number of features of one encoder."""
        encode, parameters = self.encoder(index)
        return jax.eval_shape(encode, parameters, np.zeros((1, 28, 28), np.float32)).shape[1]

    def features(self, index: int, images: np.ndarray) -> Float[np.ndarray, "n d"]:
        """Features of uint8 images under one encoder."""
        encode, parameters = self.encoder(index)
        chunks = images.reshape(-1, CHUNK, *images.shape[1:])
        return np.asarray(encoded(encode, parameters, chunks)).reshape(len(images), -1)


@partial(jax.jit, static_argnums=0)
def encoded(encode: Encode, parameters: Parameters, chunks: jax.Array) -> jax.Array:
    """Features of uint8 images, a chunk at a time."""
    return jax.lax.map(lambda chunk: encode(parameters, chunk / np.float32(255)), chunks)


def read_zoo(folder: Path = FOLDER, **options: Any) -> Zoo:
    """The zoo of a folder, once every file agrees with its checksum; the program ends with a sentence if there is none.

    Raises:
        ValueError: a file has another checksum; it is named.
    """
    if not (folder / "SHA256SUMS").exists():
        raise SystemExit(f"{folder} has no zoo: python benchmarks/zoo/make.py --archives FOLDER makes it in two hours.")
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        expected, name = line.split("  ")
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise ValueError(f"{folder / name} is not the file that was made: run make.py.")
    table = json.loads((folder / "table.json").read_text())
    with np.load(folder / "weights.npz", allow_pickle=False) as stored:
        weights: dict[str, Parameters] = {record["name"]: {} for record in table}
        for key in stored:
            name, parameter = key.split("/weights/")
            weights[name][parameter] = stored[key]
    with np.load(folder / "images.npz", allow_pickle=False) as stored:
        images = dict(stored)
    return Zoo(table, weights, images, **options)

"""One small convolutional encoder for each of four sets of 28 x 28 grey images, and its features of all four sets.

    python benchmarks/small_encoders.py --fashion-mnist FOLDER

FOLDER has the four IDX files of Fashion-MNIST; without the option, the library looks for the set by itself. An encoder
learns from the training images of its own set alone, moved by up to two pixels; it never sees a held-out image of any
set. The features, with the accuracy of the encoder's own head, are kept in OUTPUT/NAME.npz. A run that was stopped goes
on where it was; a file that was made with another seed is made again.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Float32, Int
from rich.console import Console
from rich.table import Table

from jaxrel import Task, data
from jaxrel.storage.records import write_atomically

__all__ = ["FOLDER", "SETS", "load"]

SETS = ("mnist", "fashion-mnist", "animal-mnist", "digits")
PARTS = ("train", "held_out")
FOLDER = Path(__file__).parent / "data" / "small_encoders"
SIDE = 28
NUM_CLASSES = 10
NUM_FEATURES = 200
LEARNING_IMAGES = 8000  # at most, of which an encoder learns
KEPT = {"train": 4000, "held_out": 2000}  # at most, of which each encoder's features are kept
BATCH_SIZE = 128
NUM_STEPS = 600  # ten epochs of 8,000 images
LEARNING_RATE = 2e-3
MAX_SHIFT = 2
CHUNK = 1000  # images in one forward pass


@dataclass(frozen=True, eq=False)
class Images:
    """Pixels from 0 to 1 and labels."""

    pixels: Float32[np.ndarray, "n 28 28 1"]
    labels: Int[np.ndarray, " n"]

    def first(self, limit: int) -> Images:
        """At most `limit` of them; a random sample, for the library orders images by a hash of their pixels."""
        return Images(self.pixels[:limit], self.labels[:limit])


class SmallEncoder(nnx.Module):
    """Two convolutions with pooling, a dense layer whose 200 ReLU units are the features, and a linear head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        """Draw the weights."""
        self.convolutions = nnx.List([nnx.Conv(1, 16, (3, 3), rngs=rngs), nnx.Conv(16, 32, (3, 3), rngs=rngs)])
        self.dense = nnx.Linear((SIDE // 4) ** 2 * 32, NUM_FEATURES, rngs=rngs)
        self.head = nnx.Linear(NUM_FEATURES, NUM_CLASSES, rngs=rngs)

    def features(self, images: Float[Array, "b 28 28 1"]) -> Float[Array, "b 200"]:
        """What is kept of images."""
        x = images
        for convolution in self.convolutions:
            x = nnx.relu(pooled(convolution(x)))
        return nnx.relu(self.dense(x.reshape(len(x), -1)))

    def __call__(self, images: Float[Array, "b 28 28 1"]) -> Float[Array, "b 10"]:
        """Logits of the classes."""
        logits: jax.Array = self.head(self.features(images))
        return logits


def pooled(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Largest of each 2 x 2 pixels, as a reduction of axes: XLA's window reduction has a slow gradient on CPUs."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))


def shifted(images: Float[Array, "b 28 28 1"], key: Array) -> Float[Array, "b 28 28 1"]:
    """Each image moved by up to two pixels in both directions, on black."""
    padded = jnp.pad(images, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * MAX_SHIFT + 1)

    def cut(image: Array, corner: Array) -> Array:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (SIDE, SIDE, 1))

    return jax.vmap(cut)(padded, corners)


@nnx.jit
def learn_batch(
    model: SmallEncoder,
    optimiser: nnx.Optimizer[SmallEncoder],
    images: Float[Array, "b 28 28 1"],
    labels: Int[Array, " b"],
    key: Array,
) -> None:
    """One step of Adam, in place."""

    def loss(model: SmallEncoder) -> Array:
        logits = model(shifted(images, key))
        mean: jax.Array = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return mean

    optimiser.update(model, nnx.grad(loss)(model))


@nnx.jit
def features_and_logits(
    model: SmallEncoder, images: Float[Array, "b 28 28 1"]
) -> tuple[Float[Array, "b 200"], Float[Array, "b 10"]]:
    """What an encoder makes of a few images."""
    features = model.features(images)
    return features, model.head(features)


def learn(images: Images, seed: int) -> SmallEncoder:
    """An encoder that has learned from these images."""
    model = SmallEncoder(nnx.Rngs(seed))
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, NUM_STEPS)
    optimiser = nnx.Optimizer(model, optax.adam(schedule), wrt=nnx.Param)
    generator = np.random.default_rng(seed)
    for key in jax.random.split(jax.random.key(seed), NUM_STEPS):
        batch = generator.choice(len(images.labels), BATCH_SIZE, replace=False)
        learn_batch(model, optimiser, jnp.asarray(images.pixels[batch]), jnp.asarray(images.labels[batch]), key)
    jax.block_until_ready(nnx.state(model))
    return model


def extract(model: SmallEncoder, images: Images) -> tuple[Float32[np.ndarray, "n 200"], float]:
    """Features of the images and the accuracy of the encoder's own head, which means nothing on other sets."""
    chunks = [images.pixels[start : start + CHUNK] for start in range(0, len(images.labels), CHUNK)]
    features, logits = zip(*(features_and_logits(model, jnp.asarray(chunk)) for chunk in chunks), strict=True)
    accuracy = np.mean(np.concatenate(logits).argmax(axis=1) == images.labels)
    return np.concatenate(features), float(accuracy)


def read_images(name: str, fashion_mnist: Path | None) -> dict[str, Images]:
    """The training and the held-out images of a set, as many as are ever used, brought to 28 x 28."""
    path = fashion_mnist if name == "fashion-mnist" else None
    limits = {"train": LEARNING_IMAGES, "held_out": KEPT["held_out"]}
    loaded = {"train": data.load(name, split="train", path=path), "held_out": data.load(name, split="test", path=path)}
    return {part: as_images(found).first(limits[part]) for part, found in loaded.items()}


def as_images(found: data.LabelledData) -> Images:
    """Images of 28 x 28 pixels from 0 to 1."""
    pixels = np.asarray(found.samples, np.float32) / 255
    if pixels.shape[1:3] != (SIDE, SIDE):
        pixels = np.asarray(jax.image.resize(pixels, (len(pixels), SIDE, SIDE, 1), "linear"))
    return Images(pixels, found.labels)


def make(name: str, images: Mapping[str, Mapping[str, Images]], seed: int) -> dict[str, np.ndarray]:
    """The arrays of one encoder's file."""
    own = images[name]["train"]
    start = time.perf_counter()
    model = learn(own, seed)
    arrays: dict[str, np.ndarray] = {
        "seed": np.asarray(seed),
        "num_images": np.asarray(len(own.labels)),
        "training_seconds": np.asarray(time.perf_counter() - start),
    }
    for set_name, parts in images.items():
        for part in PARTS:
            kept = parts[part].first(KEPT[part])
            arrays[f"{set_name}_{part}_features"], accuracy = extract(model, kept)
            arrays[f"{set_name}_{part}_labels"] = kept.labels
            if set_name == name:
                arrays[f"{part}_accuracy"] = np.asarray(accuracy)
    return arrays


def load(folder: Path, encoder: str, set_name: str) -> tuple[Task, Task]:
    """The training and the held-out task of a set, as the encoder that learned from the set `encoder` sees them."""
    classes = data.describe(set_name).class_names
    with np.load(path_of(folder, encoder), allow_pickle=False) as arrays:
        train, held_out = (
            Task(
                arrays[f"{set_name}_{part}_features"],
                arrays[f"{set_name}_{part}_labels"],
                num_classes=len(classes),
                class_names=classes,
            )
            for part in PARTS
        )
    return train, held_out


def path_of(folder: Path, encoder: str) -> Path:
    """Where the features of an encoder are."""
    return folder / f"{encoder}.npz"


def is_made(path: Path, seed: int) -> bool:
    """Whether the file is there, made with this seed; a file is written whole or not at all."""
    if not path.exists():
        return False
    with np.load(path, allow_pickle=False) as arrays:
        return int(arrays["seed"]) == seed


def make_missing(folder: Path, fashion_mnist: Path | None, seed: int, console: Console) -> None:
    """Write the file of every encoder that has none."""
    missing = [name for name in SETS if not is_made(path_of(folder, name), seed)]
    images = {name: read_images(name, fashion_mnist) for name in SETS} if missing else {}
    for name in missing:
        with console.status(f"{name}: learning"):
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **make(name, images, seed))  # type: ignore[arg-type]
            write_atomically(path_of(folder, name), buffer.getvalue())


def table_of(folder: Path) -> Table:
    """How good each encoder is on its own set, and what it took."""
    table = Table(title="Accuracy of each encoder on its own set")
    table.add_column("encoder", no_wrap=True)
    for column in ("learned of", "train", "held-out", "images", "seconds", "megabytes"):
        table.add_column(column, justify="right")
    for name in SETS:
        path = path_of(folder, name)
        with np.load(path, allow_pickle=False) as arrays:
            table.add_row(
                name,
                f"{int(arrays['num_images']):,}",
                f"{float(arrays['train_accuracy']):.1%}",
                f"{float(arrays['held_out_accuracy']):.1%}",
                f"{len(arrays[f'{name}_held_out_labels']):,}",
                f"{float(arrays['training_seconds']):.1f}",
                f"{path.stat().st_size / 1e6:.1f}",
            )
    return table


def main() -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", type=Path, metavar="FOLDER", help="folder of its IDX files")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the features")
    parser.add_argument("--seed", type=int, default=0, help="of the weights, the batches and the shifts")
    options = parser.parse_args()
    console = Console(highlight=False)
    make_missing(options.output, options.fashion_mnist, options.seed, console)
    console.print(table_of(options.output))


if __name__ == "__main__":
    main()

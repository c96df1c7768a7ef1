r"""Memory of an extraction whose features do not fit: how far does the process grow?

Extracts 200,000 x 512 bfloat16 features (205 MB) of made-up images into a store, reads them all for their mean and Gram
matrix, block by block, and scores a random sample of them through the memory map. The peak of the resident memory is
noted after each. Prints a table and writes benchmarks/results/extraction_memory.json.

    python benchmarks/extraction_memory.py [--samples 200000] [--width 512]

With `--score` every metric that can be had block by block is computed of all rows instead:

    python benchmarks/extraction_memory.py --score --samples 1000000 --width 2048 \
        --output benchmarks/results/extraction_scoring.json
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.table import Table as Shown

from jaxrel import Task, metrics
from jaxrel.encoders import Encoder, EncoderOutput, extract_features
from jaxrel.storage.features import FeatureStore, Table
from jaxrel.storage.records import write_atomically

RESULTS = Path(__file__).parent / "results" / "extraction_memory.json"
PIXELS = 16
BLOCK = 4096
CLASSES = 10


class MadeUpImages:
    """Random images that are made when they are asked for, whose brightness tells their class."""

    def __init__(self, number: int) -> None:
        """Set how many there are."""
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, rows: slice) -> UInt8[np.ndarray, "m 1 pixels 1"]:
        """Images of consecutive positions."""
        positions = np.arange(self.number, dtype=np.uint32)[rows, None]
        scrambled = (positions * np.uint32(2654435761) + np.arange(PIXELS, dtype=np.uint32) * np.uint32(40503)) ** 2
        pixels = (scrambled >> np.uint32(24)) % 128 + 10 * (positions % CLASSES)
        return pixels.astype(np.uint8)[:, None, :, None]


def linear_encoder(weights: np.ndarray) -> Encoder:
    """A linear map of the pixels."""

    @jax.jit
    def forward(images: jax.Array) -> EncoderOutput:
        return EncoderOutput(images.reshape(len(images), -1) / 255 @ jnp.asarray(weights, jnp.float32), None)

    return Encoder(
        name="linear",
        modality="images",
        feature_width=weights.shape[1],
        num_logits=None,
        num_parameters=weights.size,
        pretraining="none",
        licence="none",
        fingerprint="linear",
        prepare=lambda images: images,
        forward=forward,
    )


def mean_and_gram(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Mean `(d,)` and second moments `(d, d)` of the rows, of which a block at a time is in memory."""
    total, gram = np.zeros(table.shape[1]), np.zeros((table.shape[1],) * 2)
    for start in range(0, len(table), BLOCK):
        block = table[start : start + BLOCK].astype(np.float32)
        total += block.sum(0, dtype=np.float64)
        gram += block.T @ block
    return total / len(table), gram / len(table)


def expected_gram(images: MadeUpImages, weights: np.ndarray) -> np.ndarray:
    """The same second moments from the images: W^T (mean of x x^T) W."""
    moments = np.zeros((PIXELS, PIXELS))
    for start in range(0, len(images), BLOCK):
        x = images[start : start + BLOCK].reshape(-1, PIXELS) / 255
        moments += x.T @ x
    gram: np.ndarray = weights.T @ (moments / len(images)) @ weights
    return gram


def score_sample(table: Table, number: int = 2000) -> dict[str, float]:
    """Scores of a random sample of the rows."""
    rows = np.sort(np.random.default_rng(1).choice(len(table), number, replace=False))
    features, labels = table[rows].astype(np.float32), (rows % CLASSES).astype(np.int32)
    return {
        "H-score, regularised": float(metrics.regularised_h_score(features, labels)),
        "RankMe": float(metrics.rankme_score(features)),
    }


def score_all(table: Table) -> dict[str, float]:
    """Scores of all rows, of which a block at a time is in memory."""
    found = metrics.score_task(Task(table, np.arange(len(table)) % CLASSES), memory_budget=2**29)
    return {name: float(score) for name, score in found.items()}


def peak_megabytes() -> float:
    """Largest resident memory of this process so far."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure(samples: int, width: int, *, score: bool) -> dict[str, Any]:
    """Extract, read or score all rows, and score a sample; how much the peak grew in each step."""
    weights = np.random.default_rng(0).normal(size=(PIXELS, width))
    encoder, images = linear_encoder(weights), MadeUpImages(samples)
    growth: dict[str, float] = {}
    seconds: dict[str, float] = {}

    def extract(images: MadeUpImages) -> Table:
        return extract_features(
            encoder,
            images,
            batch_size=1024,
            store=FeatureStore(Path(folder)),
            dtype="bfloat16",
            data_fingerprint=f"{len(images)} made up",
        )

    def steps() -> Iterator[tuple[str, Any]]:
        # What jax, TensorStore and the linear algebra take for themselves is no matter of the number of rows.
        mean_and_gram(extract(MadeUpImages(2 * BLOCK)))
        yield "everything loaded", None
        table = extract(images)
        yield "extraction", table
        if score:
            yield "scores of all rows", score_all(table)
            return
        yield "mean and Gram matrix", mean_and_gram(table)
        yield "scores of a sample", score_sample(table)

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        before, begin = peak_megabytes(), time.perf_counter()
        for name, value in steps():
            peak, end = peak_megabytes(), time.perf_counter()
            growth[name], seconds[name], found[name] = peak - before, end - begin, value
            before, begin = peak, time.perf_counter()
    result = {
        "samples": samples,
        "width": width,
        "megabytes_of_features": found["extraction"].nbytes / 1e6,
        "growth_in_megabytes": growth,
        "peak_in_megabytes": before,
        "seconds": seconds,
        "scores": found["scores of all rows" if score else "scores of a sample"],
        "jax": version("jax"),
        "tensorstore": version("tensorstore"),
    }
    if not score:
        expected = expected_gram(images, weights)
        _, gram = found["mean and Gram matrix"]
        result["relative_error_of_gram_matrix"] = float(np.linalg.norm(gram - expected) / np.linalg.norm(expected))
    return result


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--score", action="store_true", help="score all rows")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = measure(options.samples, options.width, score=options.score)
    shown = Shown("step", "growth of the peak (MB)", "seconds", box=None)
    for name, growth in result["growth_in_megabytes"].items():
        shown.add_row(name, f"{growth:.1f}", f"{result['seconds'][name]:.1f}")
    console = Console(highlight=False)
    console.print(shown)
    console.print(
        f"the features are {result['megabytes_of_features']:.0f} MB, the peak {result['peak_in_megabytes']:.0f} MB"
    )
    write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()

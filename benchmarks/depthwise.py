"""Depthwise convolution on this machine: XLA's grouped convolution against shifted multiply-adds.

Times both on layers of EfficientNet-Lite0 and in whole encoders, prints two tables and writes
benchmarks/results/depthwise.json. All times are medians of warm runs, the two ways taking turns.

    python benchmarks/depthwise.py [--repeats 7] [--batch-size 32]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from jax import lax

from jaxrel import encoders
from jaxrel.encoders.images import layers

RESULTS = Path(__file__).parent / "results" / "depthwise.json"
ENCODERS = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "mobilenet-v2")

# (image size, channels, kernel size, stride) of EfficientNet-Lite0's layers at its native 224 pixels
LAYERS = (
    (112, 32, 3, 1),
    (112, 96, 3, 2),
    (56, 144, 3, 1),
    (28, 240, 5, 1),
    (14, 672, 5, 1),
    (14, 672, 5, 2),
    (7, 1152, 3, 1),
)

WAYS = {"grouped": layers.grouped_convolution, "shifted": layers.shifted_multiply_adds}


def median_seconds(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median warm time of each run, the runs taking turns so that a busy machine slows them alike."""
    for run in runs.values():
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def time_layer(
    size: int, channels: int, kernel_size: int, stride: int, *, batch_size: int, repeats: int
) -> dict[str, float]:
    """Seconds of one layer, both ways."""
    rng = np.random.default_rng(0)
    x = jax.device_put(rng.normal(size=(batch_size, size, size, channels)).astype(np.float32))
    kernel = jax.device_put(rng.normal(size=(kernel_size, kernel_size, 1, channels)).astype(np.float32))
    pads = lax.padtype_to_pads((size, size), (kernel_size, kernel_size), (stride, stride), "SAME")

    def run(way: Callable[..., jax.Array]) -> Callable[[], jax.Array]:
        compiled = jax.jit(lambda x, kernel: way(x, kernel, stride=stride, pads=pads))
        return lambda: compiled(x, kernel)

    return median_seconds({name: run(way) for name, way in WAYS.items()}, repeats)


def time_encoder(name: str, image_size: int | None, *, batch_size: int, repeats: int) -> dict[str, float]:
    """Images a second of a whole encoder, both ways, from uint8 images of 28 x 28 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, 28, 28, 1), np.uint8)
    encoder = encoders.load(f"{name}:random", image_size=image_size)
    times: dict[str, float] = {}
    for way, convolution in WAYS.items():
        jax.clear_caches()  # so that the encoder is traced again, with this convolution
        with mock.patch.object(layers, "depthwise_convolution", convolution):
            times |= median_seconds({way: lambda: encoder(images)}, repeats)
    return {"image_size": encoder.image_size or 0, **{way: batch_size / seconds for way, seconds in times.items()}}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    options = vars(parser.parse_args())

    print(f"{'layer':>26}  grouped ms  shifted ms  ratio")
    layer_rows = []
    for size, channels, kernel_size, stride in LAYERS:
        seconds = time_layer(size, channels, kernel_size, stride, **options)
        name = f"{size}x{size}x{channels} k{kernel_size} s{stride}"
        grouped, shifted = seconds["grouped"], seconds["shifted"]
        print(f"{name:>26}  {1e3 * grouped:10.1f}  {1e3 * shifted:10.1f}  {grouped / shifted:5.1f}", flush=True)
        layer_rows.append({"layer": name, "grouped_s": grouped, "shifted_s": shifted})

    print(f"\n{'encoder':>26}  grouped images/s  shifted images/s  ratio")
    encoder_rows = []
    for name in ENCODERS:
        for image_size in (96, 128, None):
            rate = time_encoder(name, image_size, **options)
            grouped, shifted = rate["grouped"], rate["shifted"]
            label = f"{name} {rate['image_size']} px"
            print(f"{label:>26}  {grouped:16.1f}  {shifted:16.1f}  {shifted / grouped:5.1f}", flush=True)
            encoder_rows.append(
                {"encoder": name, "image_size": rate["image_size"], "grouped": grouped, "shifted": shifted}
            )

    versions = {name: version(name) for name in ("jax", "jaxlib", "flax", "numpy")}
    machine = {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "device": str(jax.devices()[0]),
    }
    record = {
        "versions": {"python": platform.python_version(), **versions},
        "machine": machine,
        "options": options,
        "layers": layer_rows,
        "encoders_images_per_s": encoder_rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"\nwritten to {RESULTS}")


if __name__ == "__main__":
    main()

"""Rank an encoder on more pictures than memory holds: `benchmarks/many_pictures.py [--pictures 50000] [--limit 2]`.

Makes a folder of pictures of two sizes in ten classes, and runs `jaxrel rank` on all of them in a process that may have
`--limit` gigabytes of data; a second time, when everything is there. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results" / "many_pictures.json"
CLASSES = 10


def make_class(folder: Path, number: int, pictures: int) -> None:
    """Stripes of a direction, under noise."""
    rng = np.random.default_rng(number)
    (folder / f"stripes-{number}").mkdir(parents=True)
    for picture in range(pictures):
        side = (96, 128)[picture % 2]
        x, y = np.mgrid[:side, :side] / side
        angle = np.pi * (number + rng.normal(0, 0.3)) / CLASSES
        wave = np.sin(20 * (np.cos(angle) * x + np.sin(angle) * y) + rng.uniform(0, 6))
        pixels = np.clip(128 + 60 * wave[..., None] + rng.normal(0, 60, (side, side, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"stripes-{number}" / f"{picture:06d}.jpg", quality=50)


def ranked(folder: Path, pictures: int, limit: int) -> dict[str, float]:
    """Seconds and peak memory of the command, in a process with a limit on its data."""
    environment = os.environ | {"JAXREL_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "jaxrel", "rank", "--quiet", "--target", str(folder / "stripes")]
    command += ["--encoder", "pixels", "--samples", str(pictures), "--output", str(folder / "results")]
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the command ended with status {status}")
    return {"seconds": time.monotonic() - start, "peak_bytes": usage.ru_maxrss * 1024}


def main() -> None:
    """Parse the arguments, make the pictures, measure, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=50_000)
    parser.add_argument("--limit", type=float, default=2, help="gigabytes of data of the process")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        with ProcessPoolExecutor() as pool:
            numbers, each = range(CLASSES), args.pictures // CLASSES
            list(pool.map(make_class, [folder / "stripes"] * CLASSES, numbers, [each] * CLASSES))
        runs = {name: ranked(folder, args.pictures, int(args.limit * 1e9)) for name in ("first", "finished")}
        (table,) = json.loads((folder / "results" / "results.json").read_text())["pairs"]
    shown = Table("run", "seconds", "peak memory, MB", title=f"{args.pictures:,} pictures, {args.limit} GB of data")
    for name, run in runs.items():
        shown.add_row(name, f"{run['seconds']:.1f}", f"{run['peak_bytes'] / 1e6:,.0f}")
    Console().print(shown)
    results = {"pictures": args.pictures, "limit_gb": args.limit, **runs}
    results["transferability"] = table["rows"][0]["transferability"]
    args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

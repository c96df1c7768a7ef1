"""Extraction killed again and again: does the store end with the bytes of one that nobody killed?

A process extracts features of made-up images into a store. It is killed by SIGKILL at a moment drawn at random and
started again, 20 times over; then it may finish. After each kill every shard is checked against its SHA-256. At the
end the store is compared, file by file, with that of an uninterrupted run. Prints a table and writes
benchmarks/results/extraction_kills.json.

    python benchmarks/extraction_kills.py [--kills 20] [--samples 100000] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxrel.storage.features import FeatureStore
from jaxrel.storage.records import write_atomically

RESULTS = Path(__file__).parent / "results" / "extraction_kills.json"
STARTED = b"first batch\n"


def extract(root: Path, samples: int) -> None:
    """What is killed: the features of random images under the encoder "pixels"; says when the first batch is done."""
    from jaxrel import encoders

    images = np.random.default_rng(0).integers(0, 256, (samples, 28, 28, 1), np.uint8)
    calls = 0

    def progress(done: int, total: int) -> None:  # noqa: ARG001 - only that it is called matters
        nonlocal calls
        calls += 1
        if calls == 2:  # the first call comes before any batch
            os.write(sys.stdout.fileno(), STARTED)

    encoders.extract_features(
        encoders.load("pixels"),
        images,
        store=FeatureStore(root),
        progress=progress,
        data_fingerprint=f"{samples} made up",
    )


def start(root: Path, samples: int) -> subprocess.Popen[bytes]:
    """Start the extraction; returns when its first batch is done, or there is nothing left to do."""
    command = [sys.executable, __file__, "--extract-into", str(root), "--samples", str(samples)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def finish(process: subprocess.Popen[bytes]) -> float:
    """Seconds until the process ends by itself."""
    begin = time.perf_counter()
    if process.wait() != 0:
        raise RuntimeError(f"the extraction failed with status {process.returncode}")
    return time.perf_counter() - begin


def is_temporary(path: Path) -> bool:
    """Whether a kill left this file of a write that never came to be."""
    return path.name.startswith(".writing-") or path.name.endswith(".__lock")


def digests(root: Path) -> dict[str, str]:
    """SHA-256 of every file that means anything."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not is_temporary(path)
    }


def state(root: Path) -> dict[str, int]:
    """What a kill left: finished shards, shards whose record and rows disagree, files of unfinished writes."""
    (table,) = FeatureStore(root).tables()
    missing = table.missing()
    return {
        "finished_shards": table.num_shards - len(missing),
        "damaged_shards": sum((table.folder / "finished" / str(shard)).exists() for shard in missing),
        "temporary_files": sum(map(is_temporary, root.rglob("*"))),
    }


def kill_and_resume(root: Path, *, kills: int, samples: int, longest: float, seed: int) -> list[dict[str, Any]]:
    """Kill the extraction at random moments; what each kill left."""
    generator = np.random.default_rng(seed)
    left = []
    for moment in generator.uniform(0, longest, kills):
        process = start(root, samples)
        time.sleep(moment)
        process.kill()
        alive = process.wait() != 0
        left.append({"seconds_after_first_batch": float(moment), "killed_at_work": alive, **state(root)})
    finish(start(root, samples))
    return left


def measure(*, kills: int, samples: int, seed: int) -> dict[str, Any]:
    """Extract once in peace and once with kills, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        seconds = finish(start(whole, samples))
        # Together the runs that are killed get about two thirds of the time that the work takes.
        left = kill_and_resume(killed, kills=kills, samples=samples, longest=4 / 3 * seconds / kills, seed=seed)
        expected, found = digests(whole), digests(killed)
        (table,) = FeatureStore(whole).tables()
        return {
            "samples": samples,
            "shards": table.num_shards,
            "seconds_without_kills": seconds,
            "kills": left,
            "files": len(expected),
            "files_that_differ": [name for name in sorted(expected | found) if expected.get(name) != found.get(name)],
            "jax": version("jax"),
            "tensorstore": version("tensorstore"),
        }


def show(result: dict[str, Any]) -> None:
    """Print the table."""
    columns = ("seconds_after_first_batch", "finished_shards", "damaged_shards", "temporary_files")
    shown = Table("kill", "seconds after first batch", *(name.replace("_", " ") for name in columns[1:]), box=None)
    for number, kill in enumerate(result["kills"], start=1):
        shown.add_row(str(number), f"{kill[columns[0]]:.3f}", *(str(kill[name]) for name in columns[1:]))
    console = Console(highlight=False)
    console.print(shown)
    console.print(
        f"{result['shards']} shards; of {result['files']} files {len(result['files_that_differ'])} differ from "
        "those of the uninterrupted run"
    )


def main() -> None:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--extract-into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.extract_into is not None:
        extract(options.extract_into, options.samples)
        return
    result = measure(kills=options.kills, samples=options.samples, seed=options.seed)
    show(result)
    write_atomically(options.output, json.dumps(result, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()

"""Make a zoo: images of the targets, encoders, and the accuracy each reaches on each target.

    python benchmarks/zoo/make.py --archives FOLDER
    python benchmarks/zoo/make.py --archives FOLDER --second

FOLDER has the archives that `sources.py` names. Every step keeps what it has finished (in OUTPUT), so a run that was
stopped goes on where it was. At the end the table, the weights and the images go to `benchmarks/data/zoo`, with their
SHA-256, which is all that `score.py` needs. `benchmarks/zoo/table.json` is the table of the zoo that
`docs/predicting_transfer.md` reports, and `SHA256SUMS` has the checksums of its files: other processors round
differently, so training there ends in other weights.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from imagenet import IMAGE_SIZE, IMAGENET_ACCURACY
from members import IMAGENET, MEMBERS, SECOND_MEMBERS, SECOND_TARGETS, TARGETS, Member
from networks import ARCHITECTURES, Parameters, small_encoder
from pretraining import pretrain
from rich.console import Console
from rich.progress import track
from second_sources import SECOND_READERS
from sources import READERS, Samples, without_copies
from truth import SIZES, accuracies

from jaxrel.encoders import load
from jaxrel.storage.records import write_atomically
from jaxrel.training import FineTuning

WORK = Path(__file__).parents[1] / "data" / "zoo"  # not in the repository: zoos can be made anew
SECOND_FOLDER = WORK / "second"
PRETRAINING_IMAGES = 8000  # of a set, at most
LARGEST_CLASS = 400  # images of one class that a target keeps: half of the clip-art shows computers
SMALL_TUNING = FineTuning(learning_rates=(1e-4, 1e-3), epochs=10, batch_size=50)
# What two cores can do is 40 steps. A rate of 1e-3 destroys these networks, whose normalisation statistics stay.
IMAGENET_TUNING = FineTuning(learning_rates=(2e-5, 1e-4), epochs=4, batch_size=50)


@dataclass(frozen=True)
class Plan:
    """What a zoo is made of.

    Args:
        members: its encoders.
        targets: its targets.
        readers: of every set, those that encoders learn from included.
        never_pretrained: sets that no encoder learns from.
        seed: of the first encoder; the next has the next.
        folder: of what scoring needs.
    """

    members: tuple[Member, ...]
    targets: tuple[str, ...]
    readers: Mapping[str, Callable[[Path], Samples]]
    never_pretrained: tuple[str, ...]
    seed: int
    folder: Path


FIRST = Plan(MEMBERS, TARGETS, READERS, ("digits", "clip-art", "emoji"), 0, WORK)
SECOND = Plan(SECOND_MEMBERS, SECOND_TARGETS, SECOND_READERS, SECOND_TARGETS, 1000, SECOND_FOLDER)


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an archive of arrays whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_atomically(path, buffer.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Every array of an archive."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def make_images(plan: Plan, archives: Path, work: Path) -> None:
    """The images of every set, in parts that share no image: `pretraining`, `pool` and `test`.

    The pool is what scores see and what fine-tuning labels come from; accuracies are of the test images.
    """
    for name, read in plan.readers.items():
        path = work / f"{name}.npz"
        if path.exists():
            continue
        samples, for_pretraining = without_copies(read(archives))
        if name in plan.never_pretrained:
            for_pretraining = np.zeros_like(for_pretraining)
        images, labels = first_of_each_class(samples, ~for_pretraining)
        cuts = np.cumsum([SIZES["pool"], SIZES["test"]])
        write_arrays(
            path,
            {
                "pretraining_images": samples[0][for_pretraining][:PRETRAINING_IMAGES],
                "pretraining_labels": samples[1][for_pretraining][:PRETRAINING_IMAGES],
                "pool_images": images[: cuts[0]],
                "pool_labels": labels[: cuts[0]],
                "test_images": images[cuts[0] : cuts[1]],
                "test_labels": labels[cuts[0] : cuts[1]],
            },
        )


def first_of_each_class(samples: Samples, wanted: np.ndarray) -> Samples:
    """The wanted samples, with no more than 400 of any class where the set is small, in their order."""
    images, labels = (array[wanted] for array in samples)
    if len(labels) > sum(SIZES.values()):
        return images, labels
    place = np.zeros(len(labels), int)
    for label in np.unique(labels):
        own = labels == label
        place[own] = np.arange(own.sum())
    kept = place < LARGEST_CLASS
    return images[kept], labels[kept]


def make_encoder(member: Member, images: Mapping[str, Mapping[str, np.ndarray]], seed: int) -> dict[str, np.ndarray]:
    """Weights of one small encoder; an ImageNet network's are in its archive."""
    if member.group == IMAGENET:
        count = load(member.architecture, image_size=IMAGE_SIZE).num_parameters
        accuracy = IMAGENET_ACCURACY.get(member.architecture, np.nan)
        return {"num_parameters": np.asarray(count), "reference_accuracy": np.asarray(accuracy)}
    start = time.perf_counter()
    sets = {name: (found["pretraining_images"], found["pretraining_labels"]) for name, found in images.items()}
    parameters, accuracy = pretrain(member, sets, seed)
    return {f"weights/{name}": np.asarray(value, np.float16) for name, value in parameters.items()} | {
        "reference_accuracy": np.asarray(accuracy),
        "pretraining_seconds": np.asarray(time.perf_counter() - start),
    }


def measure(
    member: Member,
    encoder: Mapping[str, np.ndarray],
    images: Mapping[str, Mapping[str, np.ndarray]],
    targets: tuple[str, ...],
) -> dict[str, np.ndarray]:
    """What one encoder reaches on every target."""
    start = time.perf_counter()
    if member.group == IMAGENET:
        tuned, tuning = load(member.architecture, image_size=IMAGE_SIZE), IMAGENET_TUNING
    else:
        architecture = ARCHITECTURES[member.architecture]
        tuned, tuning = small_encoder(member.name, architecture, small_weights(encoder)), SMALL_TUNING
    arrays = {}
    for target in targets:
        arrays[f"fine_tuned/{target}"], arrays[f"probe/{target}"] = accuracies(tuned, images[target], tuning)
    return arrays | {"transfer_seconds": np.asarray(time.perf_counter() - start)}


def small_weights(encoder: Mapping[str, np.ndarray]) -> Parameters:
    """The stored weights of a small encoder."""
    return {
        name.removeprefix("weights/"): value.astype(np.float32)
        for name, value in encoder.items()
        if name.startswith("weights/")
    }


def collect(plan: Plan, work: Path, folder: Path) -> None:
    """Gather what scoring needs, with checksums."""
    images = {name: read_arrays(work / f"{name}.npz") for name in plan.readers}
    write_arrays(
        folder / "images.npz",
        {f"{name}/{part}": array for name, parts in images.items() for part, array in kept_parts(parts).items()},
    )
    weights: dict[str, np.ndarray] = {}
    table = []
    for index, member in enumerate(plan.members):
        arrays = read_arrays(work / f"{index:02d}.npz") | read_arrays(work / f"{index:02d}-accuracies.npz")
        weights |= {f"{member.name}/{name}": value for name, value in arrays.items() if name.startswith("weights/")}
        table.append(record(member, arrays, images, plan.targets))
    write_arrays(folder / "weights.npz", weights)
    write_atomically(folder / "table.json", (json.dumps(table, indent=1) + "\n").encode())
    names = ("images.npz", "weights.npz", "table.json")
    sums = "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    write_atomically(folder / "SHA256SUMS", sums.encode())


def kept_parts(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The pool, and the beginning of the pre-training images, from which reference tasks are made."""
    return {
        name: array[: SIZES["pool"]] for name, array in parts.items() if not name.startswith("test_") and len(array)
    }


def record(
    member: Member,
    arrays: Mapping[str, np.ndarray],
    images: Mapping[str, Mapping[str, np.ndarray]],
    targets: tuple[str, ...],
) -> dict[str, object]:
    """An encoder's line of the table."""
    accuracy = float(arrays["reference_accuracy"])
    return {
        "name": member.name,
        "group": member.group,
        "half": member.half,
        "architecture": member.architecture,
        "sets": list(member.sets),
        "num_parameters": int(
            arrays.get("num_parameters", sum(value.size for value in small_weights(arrays).values()))
        ),
        "reference_accuracy": None if np.isnan(accuracy) else accuracy,
        "seconds": {part: float(arrays.get(f"{part}_seconds", 0.0)) for part in ("pretraining", "transfer")},
        "fine_tuned": {target: arrays[f"fine_tuned/{target}"].round(5).tolist() for target in targets},
        "probe": {target: arrays[f"probe/{target}"].round(5).tolist() for target in targets},
        "num_test": {target: len(images[target]["test_labels"]) for target in targets},
    }


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, required=True, metavar="FOLDER", help="folder of the archives")
    parser.add_argument(
        "--second", action="store_true", help="the second zoo, which confirms what was chosen on the first"
    )
    parser.add_argument("--work", type=Path, help="folder of what is finished")
    parser.add_argument("--output", type=Path, help="folder of what scoring needs")
    options = parser.parse_args()
    plan = SECOND if options.second else FIRST
    work, output = options.work or WORK / ("second work" if options.second else ""), options.output or plan.folder
    work.mkdir(parents=True, exist_ok=True)
    make_images(plan, options.archives, work)
    images = {name: read_arrays(work / f"{name}.npz") for name in plan.readers}
    for index, member in track(list(enumerate(plan.members)), "encoders", console=Console(stderr=True)):
        path = work / f"{index:02d}.npz"
        if not path.exists():
            write_arrays(path, make_encoder(member, images, plan.seed + index))
        measured = work / f"{index:02d}-accuracies.npz"
        if not measured.exists():
            write_arrays(measured, measure(member, read_arrays(path), images, plan.targets))
    output.mkdir(parents=True, exist_ok=True)
    collect(plan, work, output)


if __name__ == "__main__":
    main()

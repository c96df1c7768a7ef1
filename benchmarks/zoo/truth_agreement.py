"""Do recorded accuracies still hold under the library's training? Some encoders of a zoo are tuned anew.

    python benchmarks/zoo/truth_agreement.py --archives FOLDER

The table of the first zoo was made when `make.py` had a training loop of its own: ten epochs of Adam at the better of
two learning rates, refitted with all labels. Now it trains as `jaxrel verify` does, which keeps a fifth of the labels
to choose rate and epoch. The zoo has to be there, see `make.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from make import FIRST, SMALL_TUNING, make_images, read_arrays, small_weights
from members import IMAGENET
from networks import ARCHITECTURES, small_encoder
from rich.console import Console
from rich.progress import track
from scipy.stats import weightedtau
from truth import accuracies
from zoo import read_zoo

RESULTS = Path(__file__).parents[1] / "results" / "zoo_truth.json"
TARGETS = ("animal-mnist", "digits", "clip-art")
NUM_ENCODERS = 14


def main() -> None:
    """Tune, compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archives", type=Path, required=True, metavar="FOLDER", help="folder of the archives")
    options = parser.parse_args()
    make_images(FIRST, options.archives, FIRST.folder)
    zoo = read_zoo()
    candidates = [index for index in zoo.indices("confirmation") if zoo.table[index]["group"] != IMAGENET]
    chosen = np.sort(np.random.default_rng(0).permutation(candidates)[:NUM_ENCODERS])
    found: dict[str, dict[str, list[float]]] = {}
    for index in track(chosen, "encoders", console=Console(stderr=True)):
        record = zoo.table[index]
        weights = small_weights({f"weights/{name}": value for name, value in zoo.weights[record["name"]].items()})
        encoder = small_encoder(record["name"], ARCHITECTURES[record["architecture"]], weights)
        for target in TARGETS:
            measured = accuracies(encoder, read_arrays(FIRST.folder / f"{target}.npz"), SMALL_TUNING)
            for kind, values in zip(("fine_tuned", "probe"), measured, strict=True):
                pair = found.setdefault(f"{kind}, {target}", {"recorded": [], "measured": []})
                pair["recorded"].append(float(np.mean(record[kind][target])))
                pair["measured"].append(float(np.mean(values)))
    names = [zoo.table[index]["name"] for index in chosen]
    RESULTS.write_text(json.dumps({"encoders": names, "accuracies": found}, indent=1) + "\n")
    for name, pair in found.items():
        tau = weightedtau(pair["measured"], pair["recorded"]).statistic
        change = np.mean(pair["measured"]) - np.mean(pair["recorded"])
        print(f"{name}: weighted tau {tau:.2f}, {change:+.1%} on average")


if __name__ == "__main__":
    main()

"""What critics of transferability benchmarks ask: does a score survive without the largest encoders, and do its
differences mean anything?

    python benchmarks/zoo/criticism.py --page

Reads the scores and accuracies that `score.py` wrote, of both halves; computes nothing anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from members import IMAGENET
from report import CRITICISM, RESULTS, TAU, read, write_page
from zoo import FOLDER

from jaxrel.evaluation import bootstrap_intervals
from jaxrel.storage.records import write_atomically

SCORES = ("transferability", "transferability, label-free", "LogME", "1-NN, leave-one-out", "number of parameters")
GAPS = (0.0, 0.01, 0.02, 0.05, 0.1, 1.0)  # between the accuracies of two encoders


def tau(scores: Float[np.ndarray, "e t"], truth: Float[np.ndarray, "e t"]) -> dict[str, float]:
    """The weighted tau in the mean over targets, with its interval over encoders."""
    found = bootstrap_intervals(np.where(np.isfinite(scores), scores, -1e30), truth, statistic=TAU).mean
    return {end: float(getattr(found, end)) for end in ("estimate", "lower", "upper")}


def pairs_told_right(scores: Float[np.ndarray, "e t"], truth: Float[np.ndarray, "e t"]) -> list[dict[str, float]]:
    """Of the pairs of encoders whose accuracies differ by so much, how many the score orders right; a tie is half."""
    first, second = np.transpose(list(itertools.combinations(range(len(truth)), 2)))
    gaps, by_score = truth[first] - truth[second], np.sign(scores[first] - scores[second])
    right = (1 + np.sign(gaps) * by_score) / 2
    found = []
    for least, most in itertools.pairwise(GAPS):
        inside = (np.abs(gaps) > least) & (np.abs(gaps) <= most)
        found.append({"least": least, "most": most, "pairs": int(inside.sum()), "right": float(right[inside].mean())})
    return found


def slope_of_differences(scores: Float[np.ndarray, "e t"], truth: Float[np.ndarray, "e t"]) -> float:
    """Pearson correlation of differences of the score with differences of accuracy, in the mean over targets."""
    first, second = np.transpose(list(itertools.combinations(range(len(truth)), 2)))
    return float(
        np.mean(
            [
                np.corrcoef(s[first] - s[second], t[first] - t[second])[0, 1]
                for s, t in zip(scores.T, truth.T, strict=True)
            ]
        )
    )


def answers(half: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each score on one half."""
    report = read(RESULTS / f"zoo_{half}.json")
    by_name = {record["name"]: record for record in records}
    members = [by_name[name] for name in report["encoders"]]
    small = np.array([member["group"] != IMAGENET for member in members])
    truth = np.array([[np.mean(member["fine_tuned"][target]) for target in report["targets"]] for member in members])
    found = {}
    for name in SCORES:
        scores = np.array(report["scores"][name], np.float64)
        found[name] = {
            "all": tau(scores, truth),
            "without the largest": tau(scores[small], truth[small]),
            "differences": slope_of_differences(scores, truth),
            "pairs": pairs_told_right(scores, truth),
        }
    return found


def main() -> None:
    """Compute, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--page", action="store_true", help="rewrite the tables of the documentation")
    options = parser.parse_args()
    records = json.loads((FOLDER / "table.json").read_text())
    report = {half: answers(half, records) for half in ("development", "confirmation")}
    print(json.dumps(report, indent=1))
    write_atomically(options.output / CRITICISM, (json.dumps(report, indent=1) + "\n").encode())
    if options.page:
        write_page(options.output)


if __name__ == "__main__":
    main()

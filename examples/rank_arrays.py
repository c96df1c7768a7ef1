"""Rank encoders whose features you have as arrays: with all labels, with a few, and with none.

python examples/rank_arrays.py
"""

from __future__ import annotations

import numpy as np

from jaxrel import Task, transferability_score
from jaxrel.evaluation import samples_to_label

NUM_SAMPLES, NUM_LABELLED, WIDTH = 400, 50, 24


def main() -> None:
    """Print a row for each encoder."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, NUM_SAMPLES)
    centres = generator.normal(size=(4, WIDTH))
    # Features of the samples and of two augmented views of them: here, the same signal under other noise.
    zoo = {
        name: [quality * centres[labels] + generator.normal(size=(NUM_SAMPLES, WIDTH)) for _ in range(3)]
        for name, quality in {"strong": 1.0, "middling": 0.5, "weak": 0.2}.items()
    }
    chosen = samples_to_label([Task(features) for features, *_ in zoo.values()], num_samples=NUM_LABELLED)
    few = np.full(NUM_SAMPLES, -1)
    few[chosen] = labels[chosen]
    print(f"{'encoder':10} {'all labels':>22} {f'{NUM_LABELLED} labels':>22} {'no labels':>22}")
    for name, (features, first, second) in zoo.items():
        views = (first, second)
        scores = [
            transferability_score(Task(features, labels)),
            transferability_score(Task(features, few), views=views),
            transferability_score(Task(features), views=views),
        ]
        cells = (f"{score.value:.2f} ({score.lower:.2f} to {score.upper:.2f})" for score in scores)
        print(f"{name:10}", *(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()

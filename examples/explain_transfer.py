"""Why does an encoder transfer? Three terms, the classes that are expensive, and a picture of the class coupling.

    python examples/explain_transfer.py [PICTURE]

The target is made of the same five animals as the reference, but one of them is drawn in another style, and a sixth has
no counterpart.
"""

from __future__ import annotations

import sys

import numpy as np

from jaxrel import Task, explain, task_relatedness
from jaxrel.relatedness import plot_coupling

ANIMALS = np.array(["bear", "cat", "dog", "horse", "sheep"])
TARGETS = np.array([*ANIMALS, "zebra"])


def samples(generator: np.random.Generator, names: np.ndarray, count: int) -> Task:
    """Features of some samples of each class: its centre and noise; the zebra lies between the horse and nothing."""
    centres = {name: 2.0 * np.eye(16)[place] for place, name in enumerate(ANIMALS)}
    centres |= {"zebra": 0.7 * centres["horse"] + 1.5 * np.eye(16)[10]}
    style = {"dog": np.eye(16)[12]} if len(names) == len(TARGETS) else {}
    labels = generator.choice(names, count)
    features = np.stack([centres[name] + style.get(name, 0) for name in labels])
    return Task(features + 0.5 * generator.normal(size=features.shape), labels)


def main(picture: str) -> None:
    """Print the bound and its explanation, and draw the coupling."""
    generator = np.random.default_rng(0)
    reference, target = samples(generator, ANIMALS, 600), samples(generator, TARGETS, 400)
    held_out = samples(generator, ANIMALS, 400), samples(generator, TARGETS, 400)
    result = task_relatedness(reference, target, evaluate_on=held_out).raise_if_failed()
    explanation = explain(result, target_names=target.class_names, reference_names=reference.class_names)
    print(explanation)
    plot_coupling(explanation, picture)


if __name__ == "__main__":
    main(*sys.argv[1:] or ["coupling.png"])

"""The ground truth: accuracy on a target after fine-tuning, and of a linear probe, by the training of the library.

For each of three draws half of the pool is labelled; a fifth of the labels chooses ridge, learning rate and epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxrel.encoders import Encoder, extract_features
from jaxrel.training import FineTuning, fine_tune, fit_linear_probe, stratified_partition

__all__ = ["SIZES", "accuracies"]

SIZES = {"pool": 1000, "test": 2000}  # images of a target, at most
NUM_LABELS = 500
NUM_SEEDS = 3


def subsets() -> Int[np.ndarray, "s n"]:
    """For each seed, the images of the pool that are labelled."""
    generator = np.random.default_rng(0)
    return np.stack([generator.permutation(SIZES["pool"])[:NUM_LABELS] for _ in range(NUM_SEEDS)])


def accuracies(
    encoder: Encoder, target: Mapping[str, np.ndarray], settings: FineTuning
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Accuracy on the test images of a target after fine-tuning, and of a linear probe, for each seed."""
    pool, test = (in_colour(target[f"{part}_images"]) for part in ("pool", "test"))
    features, test_features = (extract_features(encoder, images) for images in (pool, test))
    labels, truth = target["pool_labels"], target["test_labels"]
    tuned, probed = [], []
    for seed, rows in enumerate(subsets()):
        partition = stratified_partition(labels[rows], seed=seed)
        probe = fit_linear_probe(features[rows], labels[rows], partition, num_classes=int(labels.max()) + 1)
        network = fine_tune(encoder, pool[rows], labels[rows], partition, probe=probe, settings=settings, seed=seed)
        tuned.append(np.mean(network(test).argmax(axis=1) == truth))
        probed.append(np.mean(np.asarray(probe(test_features)).argmax(axis=1) == truth))
    return np.array(tuned), np.array(probed)


def in_colour(images: UInt8[np.ndarray, "n 28 28"]) -> UInt8[np.ndarray, "n 28 28 3"]:
    """Grey images as the library takes them."""
    return np.repeat(images[..., None], 3, axis=-1)

"""The ground truth: accuracy on a target after fine-tuning end to end, and of a linear probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray
from networks import Parameters, layer_output

from jaxrel import Task, fit_head
from jaxrel._core.standardisation import standardisation_of

__all__ = [
    "NUM_CLASSES",
    "NUM_LABELS",
    "SIZES",
    "Encode",
    "Tuning",
    "fine_tuned_accuracies",
    "probe_accuracies",
    "subsets",
    "with_test_weights",
]

SIZES = {"pool": 1000, "test": 2000}  # images of a target, at most
NUM_LABELS = 500
NUM_SEEDS = 3
NUM_CLASSES = 10
NUM_KEPT = 400  # of them, on which choices are judged by the rest
BATCH_SIZE = 50
PROBE_RIDGE = 0.1
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
CHUNK = 100  # images in one forward pass

# Features of parameters and images; a static argument, so hashable.
Encode = Callable[[Parameters, Float[Array, "b 28 28"]], Float[Array, "b d"]]


@dataclass(frozen=True)
class Tuning:
    """How an encoder is fine-tuned.

    Args:
        num_epochs: passes over the labelled images.
        learning_rates: of which one is chosen; where there is one only, nothing is kept aside to choose.
        seeds_at_once: seeds that are tuned together, in batched products. Convolutions cannot be batched like that.
    """

    num_epochs: int = 10
    learning_rates: tuple[float, ...] = (1e-4, 1e-3)
    seeds_at_once: int = NUM_SEEDS


def subsets() -> Int[np.ndarray, "s n"]:
    """For each seed, the images of the pool that are labelled."""
    generator = np.random.default_rng(0)
    return np.stack([generator.permutation(SIZES["pool"])[:NUM_LABELS] for _ in range(NUM_SEEDS)])


def with_test_weights(
    test: Float[np.ndarray, "n ..."], labels: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "m ..."], Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Test samples padded to a common number, with weights that leave the padding out."""
    missing = SIZES["test"] - len(labels)
    padded = np.pad(test, ((0, missing), *((0, 0),) * (test.ndim - 1)))
    weights = (np.arange(SIZES["test"]) < len(labels)).astype(np.float32)
    return padded, np.pad(labels, (0, missing)), weights


@partial(jax.jit, static_argnames=("encode", "tuning"))
def fine_tuned_accuracies(
    parameters: Parameters,
    pool: tuple[Float[Array, "n 28 28"], Int[Array, " n"]],
    test: tuple[Float[Array, "m 28 28"], Int[Array, " m"], Float[Array, " m"]],
    *,
    encode: Encode,
    tuning: Tuning,
) -> Float[Array, " s"]:
    """Test accuracy after fine-tuning all weights on 500 labelled images, for each seed.

    The learning rate is the one of those given that is most accurate, over all seeds, on a fifth of the labelled images
    after tuning on the others; then all are used. The test images have weights: 0 is padding.
    """
    labelled = jnp.asarray(subsets())
    keys = jax.random.split(jax.random.key(0), NUM_SEEDS)

    def tuned(subset: Int[Array, " n"], rate: Array, key: PRNGKeyArray) -> Parameters:
        return fine_tuned(parameters, pool[0][subset], pool[1][subset], rate, key, encode, tuning.num_epochs)

    def validation(now: tuple[Int[Array, " n"], PRNGKeyArray]) -> Float[Array, " r"]:
        subset, key = now
        aside = subset[NUM_KEPT:]

        def judge(rate: Array) -> Float[Array, ""]:
            found = predicted(tuned(subset[:NUM_KEPT], rate, key), pool[0][aside], encode)
            return jnp.mean(found == pool[1][aside])

        return jax.lax.map(judge, rates)

    def over_seeds(compute: Callable[[tuple[Array, PRNGKeyArray]], Array]) -> Array:
        return jax.lax.map(compute, (labelled, keys), batch_size=tuning.seeds_at_once)

    rates = jnp.asarray(tuning.learning_rates)
    best = jnp.argmax(over_seeds(validation).mean(axis=0)) if len(rates) > 1 else 0

    def accuracy(now: tuple[Int[Array, " n"], PRNGKeyArray]) -> Float[Array, ""]:
        subset, key = now
        hits = predicted(tuned(subset, rates[best], key), test[0], encode) == test[1]
        return test[2] @ hits / test[2].sum()

    return over_seeds(accuracy)


def predicted(parameters: Parameters, images: Float[Array, "n 28 28"], encode: Encode) -> Int[Array, " n"]:
    """Class of each image."""

    def logits(chunk: Float[Array, "c 28 28"]) -> Float[Array, "c k"]:
        return layer_output(parameters, "head", encode(parameters, chunk))

    return jax.lax.map(logits, images.reshape(-1, CHUNK, *images.shape[1:])).reshape(len(images), -1).argmax(axis=1)


def fine_tuned(
    parameters: Parameters,
    images: Float[Array, "n 28 28"],
    labels: Int[Array, " n"],
    rate: Array,
    key: PRNGKeyArray,
    encode: Encode,
    num_epochs: int,
) -> Parameters:
    """Weights after some epochs of Adam, starting from the linear probe of the pre-trained features.

    From a head at 0, tuning spoils good features before the head has found them, and ends below the probe (Kumar et
    al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", ICLR 2022). The head sees
    the features standardised by what the pre-trained encoder gives, folded into the head at the end.
    """
    start_features = encode(parameters, images)
    standardise = standardisation_of(start_features, jnp.ones(len(images)))
    task = Task(standardise(start_features), labels, num_classes=NUM_CLASSES)
    probe = fit_head(task, ridge=PROBE_RIDGE, max_iterations=60, tolerance=1e-3)
    start = parameters | {"head weights": probe.weights.T, "head bias": probe.bias}
    epochs = jax.vmap(lambda key: jax.random.permutation(key, len(labels)))(jax.random.split(key, num_epochs))
    batches = epochs.reshape(-1, BATCH_SIZE)
    optimiser = optax.scale_by_adam()

    def loss(parameters: Parameters, batch: Array) -> Float[Array, ""]:
        logits = layer_output(parameters, "head", standardise(encode(parameters, images[batch])))
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels[batch]).mean()

    def step(
        carry: tuple[Parameters, optax.OptState], now: tuple[Array, Array]
    ) -> tuple[tuple[Parameters, optax.OptState], None]:
        parameters, state = carry
        batch, share = now
        updates, state = optimiser.update(jax.grad(loss)(parameters, batch), state)
        falling = rate * (1 + jnp.cos(jnp.pi * share)) / 2
        return (jax.tree.map(lambda value, update: value - falling * update, parameters, updates), state), None

    shares = jnp.arange(len(batches)) / len(batches)
    (tuned, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), (batches, shares))
    weights = tuned["head weights"] / standardise.scale[:, None]
    return tuned | {"head weights": weights, "head bias": tuned["head bias"] - standardise.mean @ weights}


@jax.jit
def probe_accuracies(
    pool: tuple[Float[Array, "n d"], Int[Array, " n"]],
    test: tuple[Float[Array, "m d"], Int[Array, " m"], Float[Array, " m"]],
) -> Float[Array, " s"]:
    """Test accuracy of softmax regression on the standardised features of 500 labelled images, for each seed.

    The ridge is the one of four that is most accurate on a fifth of the 500 when fitted on the others; then it is
    fitted on all.
    """

    def accuracy(
        weights: Float[Array, " n"], ridge: Array, features: Array, labels: Array, counted: Array
    ) -> Float[Array, ""]:
        standardise = standardisation_of(pool[0], weights)
        task = Task(standardise(pool[0]), pool[1], weights=weights, num_classes=NUM_CLASSES)
        head = fit_head(task, ridge=ridge, max_iterations=60, tolerance=1e-3)
        return counted @ (head(standardise(features)).argmax(axis=1) == labels) / counted.sum()

    def one_seed(subset: Int[Array, " n"]) -> Float[Array, ""]:
        none = jnp.zeros(len(pool[1]))
        fitted, kept_aside = none.at[subset[:NUM_KEPT]].set(1), none.at[subset[NUM_KEPT:]].set(1)
        ridges = jnp.asarray(RIDGES)
        validation = jax.vmap(lambda ridge: accuracy(fitted, ridge, *pool, kept_aside))(ridges)
        return accuracy(fitted + kept_aside, ridges[validation.argmax()], *test)

    return jax.vmap(one_seed)(jnp.asarray(subsets()))

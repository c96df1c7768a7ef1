"""Pre-training of the small encoders; one compilation for each architecture and objective."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from members import Member
from networks import ARCHITECTURES, Architecture, Parameters, initial_parameters, layer_output
from sources import SIDE, Samples

__all__ = ["pretrain"]

NUM_STEPS = 600
BATCH_SIZE = 128
LEARNING_RATE = 2e-3
MAX_SHIFT = 2
MOST_IMAGES = 24_000  # of all sets of a member together: three sets of 8,000
MOST_CLASSES = 30
CONTRAST_TEMPERATURE = 0.2
CHUNK = 2000  # images in one forward pass
# Numbers that the head of each objective gives.
OUTPUTS = {
    "labels": MOST_CLASSES,
    "rotation": 4,
    "reconstruction": SIDE * SIDE,
    "denoising": SIDE * SIDE,
    "contrast": 64,
}


def pretrain(member: Member, sets: Mapping[str, Samples], seed: int) -> tuple[Parameters, float]:
    """Weights of a member, rounded to half precision, and its accuracy on its own training images (NaN without)."""
    architecture = ARCHITECTURES[member.architecture]
    key = jax.random.key(seed)
    if member.objective == "none":
        return half_precision(initial_parameters(architecture, key)), float("nan")
    images, labels = learning_images(member, sets, np.random.default_rng(seed))
    padded = np.pad(images, ((0, MOST_IMAGES - len(images)), (0, 0), (0, 0)))
    padded_labels = np.pad(labels, (0, MOST_IMAGES - len(labels)))
    learned = learn(padded, padded_labels, len(images), key, architecture=architecture, objective=member.objective)
    parameters = half_precision({name: value for name, value in learned.items() if not name.startswith("head")})
    if member.objective != "labels":
        return parameters, float("nan")
    hits = [
        np.asarray(predictions(learned, images[start : start + CHUNK], architecture=architecture))
        for start in range(0, len(images), CHUNK)
    ]
    return parameters, float(np.mean(np.concatenate(hits) == labels))


def half_precision(parameters: Parameters) -> Parameters:
    """The weights as they are stored, so that whoever loads them has the encoder that was measured."""
    return {name: value.astype(jnp.float16).astype(jnp.float32) for name, value in parameters.items()}


def learning_images(member: Member, sets: Mapping[str, Samples], generator: np.random.Generator) -> Samples:
    """Images and labels of all sets of a member; the classes of each set follow those of the one before."""
    parts, offset = [], 0
    for name in member.sets:
        images, labels = (array[: member.num_images] for array in sets[name])
        num_classes = int(sets[name][1].max()) + 1
        noisy = generator.random(len(labels)) < member.label_noise
        labels = np.where(noisy, generator.integers(num_classes, size=len(labels)), labels)
        parts.append((images, labels + offset))
        offset += num_classes
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if member.view == "inverted":
        images = 255 - images
    if member.view == "rotated":
        images = np.rot90(images, axes=(1, 2))
    return images, labels.astype(np.int32)


@partial(jax.jit, static_argnames=("architecture", "objective"))
def learn(
    images: Array, labels: Array, num_images: int, key: PRNGKeyArray, *, architecture: Architecture, objective: str
) -> Parameters:
    """Weights of the encoder and of the head of its objective, by Adam."""
    encoder_key, head_key, key = jax.random.split(key, 3)
    outputs = OUTPUTS[objective]
    start = initial_parameters(architecture, encoder_key)
    width = architecture.num_features
    start["head weights"] = jax.random.normal(head_key, (width, outputs)) / jnp.sqrt(width)
    start["head bias"] = jnp.zeros(outputs)
    optimiser = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, NUM_STEPS))
    loss_of = partial(LOSSES[objective], architecture)

    def step(carry: tuple[Parameters, optax.OptState], key: Array) -> tuple[tuple[Parameters, optax.OptState], None]:
        parameters, state = carry
        index_key, loss_key = jax.random.split(key)
        batch = jax.random.randint(index_key, (BATCH_SIZE,), 0, num_images)
        gradient = jax.grad(loss_of)(parameters, images[batch] / 255.0, labels[batch], loss_key)
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(parameters, updates), state), None

    (parameters, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), jax.random.split(key, NUM_STEPS))
    return parameters


def label_loss(
    architecture: Architecture, parameters: Parameters, images: Array, labels: Array, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Cross entropy of the labels."""
    logits = layer_output(parameters, "head", architecture(parameters, shifted(images, key)))
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def rotation_loss(
    architecture: Architecture, parameters: Parameters, images: Array, labels: Array, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Cross entropy of the number of quarter turns, which does not need the labels."""
    turns = jax.random.randint(key, (len(labels),), 0, 4)
    turned = jnp.stack([jnp.rot90(images, quarter, axes=(1, 2)) for quarter in range(4)])
    return label_loss(architecture, parameters, turned[turns, jnp.arange(len(turns))], turns, key)


def reconstruction_loss(
    architecture: Architecture, parameters: Parameters, images: Array, labels: Array, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Mean squared error of the pixels."""
    del labels, key
    found = layer_output(parameters, "head", architecture(parameters, images))
    return jnp.mean((found - images.reshape(len(images), -1)) ** 2)


def denoising_loss(
    architecture: Architecture, parameters: Parameters, images: Array, labels: Array, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Mean squared error of the pixels that are found from an image under noise."""
    del labels
    noisy = images + 0.5 * jax.random.normal(key, images.shape)
    found = layer_output(parameters, "head", architecture(parameters, noisy))
    return jnp.mean((found - images.reshape(len(images), -1)) ** 2)


def contrast_loss(
    architecture: Architecture, parameters: Parameters, images: Array, labels: Array, key: PRNGKeyArray
) -> Float[Array, ""]:
    """Cross entropy of which image of the batch a view is of (two shifted views with other contrasts and noise)."""
    del labels
    projections = []
    for own in jax.random.split(key):
        shift_key, light_key, noise_key = jax.random.split(own, 3)
        light = jax.random.uniform(light_key, (len(images), 1, 1), minval=0.5, maxval=1.5)
        view = light * shifted(images, shift_key) + 0.15 * jax.random.normal(noise_key, images.shape)
        projection = layer_output(parameters, "head", architecture(parameters, view))
        projections.append(projection / jnp.linalg.norm(projection + 1e-6, axis=1, keepdims=True))
    similarity = projections[0] @ projections[1].T / CONTRAST_TEMPERATURE
    own_index = jnp.arange(len(images))
    losses = (
        optax.softmax_cross_entropy_with_integer_labels(logits, own_index) for logits in (similarity, similarity.T)
    )
    return sum(loss.mean() for loss in losses) / 2


LOSSES = {
    "labels": label_loss,
    "rotation": rotation_loss,
    "reconstruction": reconstruction_loss,
    "denoising": denoising_loss,
    "contrast": contrast_loss,
}


def shifted(images: Float[Array, "b 28 28"], key: PRNGKeyArray) -> Float[Array, "b 28 28"]:
    """Each image moved by up to two pixels in both directions, on black."""
    padded = jnp.pad(images, ((0, 0), (MAX_SHIFT, MAX_SHIFT), (MAX_SHIFT, MAX_SHIFT)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * MAX_SHIFT + 1)
    return jax.vmap(partial(jax.lax.dynamic_slice, slice_sizes=(SIDE, SIDE)))(padded, corners)


@partial(jax.jit, static_argnames="architecture")
def predictions(parameters: Parameters, images: Array, *, architecture: Architecture) -> Array:
    """Class of each image by the encoder's own head."""
    return layer_output(parameters, "head", architecture(parameters, images / 255.0)).argmax(axis=1)

"""Fine-tuning: all weights of an encoder trained with its head."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxrel._core.programs import compiled
from jaxrel._core.standardisation import Standardisation
from jaxrel.encoders import Encoder, EncoderOutput
from jaxrel.heads import Head, cross_entropy
from jaxrel.training.linear_probe import LinearProbe
from jaxrel.training.partition import Partition
from jaxrel.training.quality import Quality, quality_of

__all__ = ["FineTuning", "TunedNetwork", "fine_tune", "has_parameters"]

_RISE = 0.1  # share of all steps; without warm-up, the first steps of Adam move every weight by the full learning rate

Progress = Callable[[int, int], None]
Forward = Callable[[Any, Any], EncoderOutput]


@dataclass(frozen=True)
class FineTuning:
    """Settings of fine-tuning.

    Args:
        learning_rates: peak learning rates of AdamW, with linear warm-up over a tenth of the steps and cosine decay to
            0; the best on the validation samples is chosen.
        epochs: maximum number of epochs. With 0 the network is the linear probe.
        patience: number of epochs without improvement after which a learning rate is abandoned.
        batch_size: training samples per step.
        weight_decay: weight decay of AdamW, for all weights.

    Raises:
        ValueError: a number is out of range, or there is no learning rate.
    """

    learning_rates: tuple[float, ...] = (3e-5, 3e-4)
    epochs: int = 15
    patience: int = 4
    batch_size: int = 32
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        """Raise for numbers out of range."""
        for name, least in {"epochs": 0, "patience": 1, "batch_size": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: pass an integer of at least {least}.")
        if not self.learning_rates or not all(rate > 0 and math.isfinite(rate) for rate in self.learning_rates):
            raise ValueError(f"learning_rates are {self.learning_rates}: pass positive numbers, such as (3e-5, 3e-4).")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"weight_decay is {self.weight_decay}: pass a number of at least 0, such as 0.01.")


class _Weights(NamedTuple):
    """The trained parameters."""

    network: Any
    head: Head


class _Fixed(NamedTuple):
    """The frozen variables: other variables of the network, and the standardisation of its initial features."""

    network: Any
    standardise: Standardisation


@dataclass(frozen=True, eq=False)
class TunedNetwork:
    """A network with a linear head, after fine-tuning.

    Attributes:
        learning_rate: the chosen one; NaN if no epoch was better than the initial probe.
        epoch: number of epochs after which the weights were taken; 0 is the probe.
        validation: quality on the validation samples by which both were chosen.
    """

    learning_rate: float
    epoch: int
    validation: Quality
    _forward: Forward = dataclasses.field(repr=False)
    _weights: _Weights = dataclasses.field(repr=False)
    _fixed: _Fixed = dataclasses.field(repr=False)
    _batch_size: int = dataclasses.field(repr=False)

    def __call__(self, inputs: PyTree[np.ndarray]) -> Float[np.ndarray, "n k"]:
        """Logits of inputs `(n, ...)`, as returned by the encoder's `prepare`, one batch at a time."""
        num_samples = len(jax.tree.leaves(inputs)[0])
        batches = _batches(np.arange(num_samples), self._batch_size)
        parts = [
            np.asarray(_logits(self._forward, self._weights, self._fixed, _rows(inputs, rows)))[: int(counted.sum())]
            for rows, counted in batches
        ]
        return np.concatenate(parts)


def has_parameters(encoder: Encoder) -> bool:
    """Whether the encoder is a Flax NNX network with parameters that can be tuned."""
    from flax import nnx

    forward = encoder.forward
    if not (isinstance(forward, jax.tree_util.Partial) and forward.args and isinstance(forward.args[0], nnx.State)):
        return False
    return bool(jax.tree.leaves(nnx.filter_state(forward.args[0], nnx.Param)))


def fine_tune(
    encoder: Encoder,
    inputs: PyTree[np.ndarray],
    labels: Int[np.ndarray, " n"],
    partition: Partition,
    *,
    probe: LinearProbe,
    settings: FineTuning,
    seed: int,
    progress: Progress | None = None,
) -> TunedNetwork:
    """Train all parameters of an encoder and a head on the cross-entropy of the training samples, by AdamW.

    Training starts from the linear probe of the encoder's features: with a random head, fine-tuning distorts good
    features before the head has been learned (Kumar et al., "Fine-tuning can distort pretrained features and
    underperform
    out-of-distribution", ICLR 2022). Learning rate and epoch are chosen by validation accuracy, with ties broken by
    cross-entropy; the initial probe is one of the choices, so that tuning without a gain is discarded.

    Deviations from common practice: normalisation layers keep the running statistics of the pre-training, as in
    encoders; there are no augmentations and no dropout; all inputs are prepared once, so texts are padded to the
    longest. The head takes features standardised by the statistics before tuning.

    Args:
        encoder: a network for which `has_parameters` is true.
        inputs: `(n, ...)` arrays, as returned by the encoder's `prepare` for all samples.
        labels: `(n,)` classes of the probe.
        partition: the training rows and the validation rows.
        probe: linear probe fitted to the features of the same training samples.
        settings: learning rates, epochs and batches.
        seed: seed of the order of the batches.
        progress: called with `(epochs done, epochs at most)`.

    Returns:
        The network. Another learning rate or seed does not recompile. Memory is seven times the parameters plus the
        activations of one batch.

    Raises:
        ValueError: the encoder has no parameters.
    """
    from flax import nnx

    if not has_parameters(encoder):
        raise ValueError(f"{encoder.name} has no parameters that could be tuned: use its linear probe.")
    forward: Any = encoder.forward
    parameters, others = nnx.split_state(forward.args[0], nnx.Param, ...)
    start = _Weights(parameters, probe.head)
    fixed = _Fixed(others, probe.standardise)

    def judged(weights: _Weights, rate: float, epoch: int) -> TunedNetwork:
        network = TunedNetwork(rate, epoch, Quality(-1, -math.inf), forward.func, weights, fixed, settings.batch_size)
        logits = network(_rows(inputs, partition.validation))
        return dataclasses.replace(network, validation=quality_of(logits, labels[partition.validation]))

    best = judged(start, math.nan, 0)
    total = len(settings.learning_rates) * settings.epochs
    for place, rate in enumerate(settings.learning_rates):
        best_of_rate = dataclasses.replace(best, validation=Quality(-1, -math.inf), epoch=0)
        weights = jax.tree.map(jnp.copy, start)
        state = optax.adamw(rate).init(weights)
        generator = np.random.default_rng(seed)
        for epoch in range(1, settings.epochs + 1):
            batches = list(_batches(generator.permutation(partition.train), settings.batch_size))
            for step, (rows, counted) in enumerate(batches):
                done = (epoch - 1 + (step + 0.5) / len(batches)) / settings.epochs
                weights, state = _step(
                    forward.func,
                    weights,
                    state,
                    fixed,
                    _rows(inputs, rows),
                    labels[rows],
                    counted,
                    rate * _share_of_rate(done),
                    settings.weight_decay,
                )
            network = judged(weights, rate, epoch)
            if network.validation > best_of_rate.validation:
                # The next step donates the memory of the weights.
                best_of_rate = dataclasses.replace(network, _weights=jax.tree.map(jnp.copy, weights))
            if progress is not None:
                progress(place * settings.epochs + epoch, total)
            if epoch - best_of_rate.epoch >= settings.patience:
                break
        best = max(best, best_of_rate, key=lambda network: network.validation)
    if progress is not None:
        progress(total, total)
    return best


def _share_of_rate(done: float) -> float:
    """The factor of the learning rate after this share of the steps: linear warm-up, then cosine decay."""
    return min(1.0, done / _RISE) * (1 + math.cos(math.pi * done)) / 2


def _batches(
    rows: Int[np.ndarray, " n"], batch_size: int
) -> Iterator[tuple[Int[np.ndarray, " b"], Float[np.ndarray, " b"]]]:
    """Rows and their weights; the last batch is padded by copies of weight 0."""
    for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        yield np.resize(batch, batch_size), (np.arange(batch_size) < len(batch)).astype(np.float32)


def _rows(inputs: PyTree[np.ndarray], rows: Int[np.ndarray, " b"]) -> PyTree[np.ndarray]:
    return jax.tree.map(lambda leaf: leaf[rows], inputs)


def _logits_of(forward: Forward, weights: _Weights, fixed: _Fixed, inputs: PyTree[Array]) -> Float[Array, "b k"]:
    from flax import nnx

    state = nnx.merge_state(weights.network, fixed.network)
    return weights.head(fixed.standardise(forward(state, inputs).features))


_logits = compiled(_logits_of, static_argnums=0)


@partial(compiled, static_argnums=0, donate_argnums=(1, 2))
def _step(
    forward: Forward,
    weights: _Weights,
    state: optax.OptState,
    fixed: _Fixed,
    inputs: PyTree[Array],
    labels: Int[Array, " b"],
    counted: Float[Array, " b"],
    learning_rate: Float[Array, ""],
    weight_decay: Float[Array, ""],
) -> tuple[_Weights, optax.OptState]:
    def loss(weights: _Weights) -> Float[Array, ""]:
        losses = cross_entropy(_logits_of(forward, weights, fixed, inputs), labels)
        return jnp.sum(counted * losses) / jnp.sum(counted)

    optimiser = optax.adamw(learning_rate, weight_decay=weight_decay)
    updates, state = optimiser.update(jax.grad(loss)(weights), state, weights)
    return optax.apply_updates(weights, updates), state

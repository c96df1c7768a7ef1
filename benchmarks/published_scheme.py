"""The training loop of the published task-relatedness code, written again for NumPy and POT, to be timed against.

Mehra, Zhang and Hamm (NeurIPS 2024) learn the transformation by alternation. Each step draws a batch of both tasks,
solves the transport between them exactly for the cost

    ||A z + b - t|| + LABEL_WEIGHT ||B e_y - e_k||,

holds that plan, and lets five Adam optimisers descend, in one step each, on

    H(B, D) + sum_c D_c loss_c + 2 <plan, ||A z + b - t||^2 + LABEL_WEIGHT ||B e_y - e_k||^2>
      + ||P_T - B D||^2 + ||A Ainv - I||^2 + ||Ainv A - I||^2.

A, Ainv (d x d) and b map features, each column of B (target x reference classes) says which target classes stand for a
reference class, D is the prior of the reference classes, loss_c the mean loss of class c under a fixed linear head. The
gradients are written by hand and everything is float64, as the exact solver wants it. One liberty is taken, in
favour of speed: the loss of each reference sample, which never changes, is computed once and not in every batch.

Set OPENBLAS_NUM_THREADS=1 where cores are few and shared. The products are small and OpenBLAS's threads wait for one
another: beside another process, two threads on two cores made a step five times slower than one thread did.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import ot
from scipy.sparse import csr_array
from scipy.special import log_softmax, softmax

__all__ = ["ClassWasserstein", "Problem", "Run", "Samples", "Scheme", "class_wasserstein", "run", "step"]

LABEL_WEIGHT = 1e8
BATCH_SIZE = 500
LEARNING_RATE = 1e-2
PRIOR_LEARNING_RATE = 1e-4
MAX_PIVOTS = 10_000_000  # POT's default of 100,000 may stop short of the optimum between thousands of points.


@dataclass
class Variable:
    """An array and the state of the Adam optimiser that moves it."""

    value: np.ndarray
    learning_rate: float

    def __post_init__(self) -> None:
        """Start with moments of zero."""
        self._mean = np.zeros_like(self.value)
        self._square = np.zeros_like(self.value)
        self._num_steps = 0

    def descend(self, gradient: np.ndarray) -> None:
        """One step of Adam (0.9, 0.999), in place."""
        self._num_steps += 1
        self._mean += 0.1 * (gradient - self._mean)
        self._square += 0.001 * (gradient**2 - self._square)
        rate = self.learning_rate / (1 - 0.9**self._num_steps)
        deviation = np.sqrt(self._square / (1 - 0.999**self._num_steps))
        self.value -= rate * self._mean / (deviation + 1e-8)


@dataclass
class Scheme:
    """What is learned: A, Ainv, b, and the logits of B and D."""

    matrix: Variable
    inverse: Variable
    offset: Variable
    conditional_logits: Variable
    prior_logits: Variable

    @property
    def log_conditional(self) -> np.ndarray:
        """Logarithm of B (target x reference classes); the columns of B sum to 1."""
        logarithm: np.ndarray = log_softmax(self.conditional_logits.value, axis=0)
        return logarithm

    @property
    def conditional(self) -> np.ndarray:
        """B (target x reference classes); the columns sum to 1."""
        return np.exp(self.log_conditional)

    @property
    def prior(self) -> np.ndarray:
        """D, one number for each reference class; they sum to 1."""
        shares: np.ndarray = softmax(self.prior_logits.value)
        return shares

    def mapped(self, features: np.ndarray) -> np.ndarray:
        """A z + b of each row z."""
        image: np.ndarray = features @ self.matrix.value.T + self.offset.value
        return image


class Gradients(NamedTuple):
    """Derivatives of the loss by the variables of :class:`Scheme`, in their order."""

    matrix: np.ndarray
    inverse: np.ndarray
    offset: np.ndarray
    conditional_logits: np.ndarray
    prior_logits: np.ndarray


@dataclass(frozen=True, eq=False)
class Samples:
    """Features (n x d, float64) and labels (n) of one task."""

    features: np.ndarray
    labels: np.ndarray
    num_classes: int

    @cached_property
    def prior(self) -> np.ndarray:
        """Share of each class."""
        share: np.ndarray = np.bincount(self.labels, minlength=self.num_classes) / len(self.labels)
        return share

    @cached_property
    def _members(self) -> list[np.ndarray]:
        return [np.flatnonzero(self.labels == label) for label in range(self.num_classes)]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """Indices of a batch, in each class as many as its prior wants; ValueError where a class has too few."""
        counts = (BATCH_SIZE * self.prior).astype(int)
        return np.concatenate(
            [
                generator.choice(members, count, replace=False)
                for members, count in zip(self._members, counts, strict=True)
            ]
        )


@dataclass(frozen=True, eq=False)
class Problem:
    """The two tasks and the loss of each reference sample under the fixed head."""

    reference: Samples
    target: Samples
    reference_losses: np.ndarray

    @classmethod
    def of(cls, reference: Samples, target: Samples, weights: np.ndarray, bias: np.ndarray) -> Problem:
        """With the losses of the linear softmax head of these weights (reference classes x d) and bias."""
        log_probabilities = log_softmax(reference.features @ weights.T + bias, axis=1)
        return cls(reference, target, -log_probabilities[np.arange(len(reference.labels)), reference.labels])


class Batch(NamedTuple):
    """Reference features z, labels y and losses; target features t and labels k."""

    reference: np.ndarray
    reference_labels: np.ndarray
    reference_losses: np.ndarray
    target: np.ndarray
    target_labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """What was learned and, for each step, the loss, all seconds and those the exact plan took."""

    scheme: Scheme
    losses: np.ndarray
    seconds: np.ndarray
    plan_seconds: np.ndarray

    @property
    def seconds_per_step(self) -> float:
        """Mean over the steps."""
        return float(self.seconds.mean())


class ClassWasserstein(NamedTuple):
    """Mean of the distances of the target classes, and how many had no points on one side and were left out."""

    mean: float
    num_left_out: int


def initial_scheme(problem: Problem, generator: np.random.Generator) -> Scheme:
    """The identity, random B, and logits of D that are the prior itself (so D begins almost uniform)."""
    num_features = problem.reference.features.shape[1]
    shape = problem.target.num_classes, problem.reference.num_classes
    return Scheme(
        matrix=Variable(np.eye(num_features), LEARNING_RATE),
        inverse=Variable(np.eye(num_features), LEARNING_RATE),
        offset=Variable(np.zeros(num_features), LEARNING_RATE),
        conditional_logits=Variable(generator.uniform(size=shape), LEARNING_RATE),
        prior_logits=Variable(problem.reference.prior.copy(), PRIOR_LEARNING_RATE),
    )


def draw_batch(problem: Problem, generator: np.random.Generator) -> Batch:
    """A fresh batch of both tasks, stratified by class."""
    reference, target = problem.reference.draw(generator), problem.target.draw(generator)
    return Batch(
        problem.reference.features[reference],
        problem.reference.labels[reference],
        problem.reference_losses[reference],
        problem.target.features[target],
        problem.target.labels[target],
    )


def exact_plan(scheme: Scheme, batch: Batch) -> csr_array:
    """The optimal plan between the mapped reference and the target; an optimal vertex is sparse."""
    label_cost = LABEL_WEIGHT * np.sqrt(_squared_label_distances(scheme.conditional))
    cost = _distances(scheme.mapped(batch.reference), batch.target)
    cost += label_cost.T[np.ix_(batch.reference_labels, batch.target_labels)]
    return csr_array(ot.emd([], [], cost, numItermax=MAX_PIVOTS))


def loss_and_gradients(
    scheme: Scheme, batch: Batch, plan: csr_array, target_prior: np.ndarray
) -> tuple[float, Gradients]:
    """The loss for a plan that is held, and its derivatives."""
    transport, *by_map = _feature_transport(scheme, batch, plan)
    inversion, *by_inversion = _inversion(scheme.matrix.value, scheme.inverse.value)
    labels, by_conditional, by_prior = _label_terms(scheme, batch, plan, target_prior)
    gradients = Gradients(
        matrix=by_map[0] + by_inversion[0],
        inverse=by_inversion[1],
        offset=by_map[1],
        conditional_logits=_through_softmax(scheme.conditional, by_conditional),
        prior_logits=_through_softmax(scheme.prior, by_prior),
    )
    return transport + inversion + labels, gradients


def step(scheme: Scheme, problem: Problem, generator: np.random.Generator) -> tuple[float, float]:
    """Draw, solve and descend, in place; the loss before it and the seconds of the plan."""
    batch = draw_batch(problem, generator)
    start = time.perf_counter()
    plan = exact_plan(scheme, batch)
    plan_seconds = time.perf_counter() - start
    loss, gradients = loss_and_gradients(scheme, batch, plan, problem.target.prior)
    for name, gradient in gradients._asdict().items():
        getattr(scheme, name).descend(gradient)
    return loss, plan_seconds


def run(
    reference_features: np.ndarray,
    reference_labels: np.ndarray,
    target_features: np.ndarray,
    target_labels: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    *,
    num_reference_classes: int,
    num_target_classes: int,
    num_steps: int,
    seed: int = 0,
) -> Run:
    """Learn for `num_steps` steps; `weights` (reference classes x d) and `bias` are those of the fixed head."""
    generator = np.random.default_rng(seed)
    problem = Problem.of(
        Samples(np.asarray(reference_features, np.float64), reference_labels, num_reference_classes),
        Samples(np.asarray(target_features, np.float64), target_labels, num_target_classes),
        np.asarray(weights, np.float64),
        np.asarray(bias, np.float64),
    )
    scheme = initial_scheme(problem, generator)
    records = np.empty((num_steps, 3))
    for record in records:
        start = time.perf_counter()
        loss, plan_seconds = step(scheme, problem, generator)
        record[:] = loss, time.perf_counter() - start, plan_seconds
    return Run(scheme, *records.T)


def class_wasserstein(
    scheme: Scheme,
    reference_features: np.ndarray,
    reference_labels: np.ndarray,
    target_features: np.ndarray,
    target_labels: np.ndarray,
) -> ClassWasserstein:
    """The published evaluation: exact W1 (Euclidean) of each target class to what is mapped to it, classes equal.

    What is mapped to a target class is every reference sample in whose class's column of B it has the largest entry.
    """
    mapped = scheme.mapped(np.asarray(reference_features, np.float64))
    mapped_labels = scheme.conditional.argmax(axis=0)[reference_labels]
    target = np.asarray(target_features, np.float64)
    num_classes = len(scheme.conditional)
    distances = []
    for label in range(num_classes):
        cost = _distances(mapped[mapped_labels == label], target[target_labels == label])
        if cost.size:
            distances.append(float(ot.emd2([], [], cost, numItermax=MAX_PIVOTS)))
    mean = float(np.mean(distances)) if distances else math.nan
    return ClassWasserstein(mean, num_classes - len(distances))


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Euclidean distances by the expanded square, so that the work is one matrix product."""
    distances: np.ndarray = x @ y.T
    distances *= -2
    distances += _squared_norms(x)[:, np.newaxis]
    distances += _squared_norms(y)
    np.maximum(distances, 0, out=distances)  # Rounding may put a distance of 0 below it.
    np.sqrt(distances, out=distances)
    return distances


def _squared_norms(x: np.ndarray) -> np.ndarray:
    norms: np.ndarray = np.einsum("nd,nd->n", x, x)
    return norms


def _squared_label_distances(conditional: np.ndarray) -> np.ndarray:
    """||B e_c - e_k||^2 of each target class k and reference class c: (k c)."""
    squares: np.ndarray = np.maximum((conditional**2).sum(axis=0) - 2 * conditional + 1, 0)
    return squares


def _feature_transport(scheme: Scheme, batch: Batch, plan: csr_array) -> tuple[float, np.ndarray, np.ndarray]:
    """2 <plan, ||A z + b - t||^2>, and its derivatives by A and b."""
    mapped = scheme.mapped(batch.reference)
    row_masses, column_masses = plan.sum(axis=1), plan.sum(axis=0)
    received = plan @ batch.target
    value = row_masses @ _squared_norms(mapped) + column_masses @ _squared_norms(batch.target)
    value -= 2 * np.vdot(mapped, received)
    by_mapped = 4 * (row_masses[:, np.newaxis] * mapped - received)
    return float(2 * value), by_mapped.T @ batch.reference, by_mapped.sum(axis=0)


def _inversion(matrix: np.ndarray, inverse: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """||A Ainv - I||^2 + ||Ainv A - I||^2, and its derivatives by A and Ainv."""
    identity = np.eye(len(matrix))
    right, left = matrix @ inverse - identity, inverse @ matrix - identity
    by_matrix = 2 * (right @ inverse.T + inverse.T @ left)
    by_inverse = 2 * (matrix.T @ right + left @ matrix.T)
    return float(np.vdot(right, right) + np.vdot(left, left)), by_matrix, by_inverse


def _label_terms(
    scheme: Scheme, batch: Batch, plan: csr_array, target_prior: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """The terms of B and D alone, and their derivatives by B and D."""
    logarithm, conditional, prior = scheme.log_conditional, scheme.conditional, scheme.prior
    coupled = _coupled_labels(batch, plan, conditional.shape)
    by_class = _class_losses(batch, len(prior)) - (conditional * logarithm).sum(axis=0)
    mismatch = conditional @ prior - target_prior
    value = prior @ by_class + mismatch @ mismatch
    value += 2 * LABEL_WEIGHT * np.vdot(coupled, _squared_label_distances(conditional))
    by_conditional = np.outer(2 * mismatch, prior) - prior * (logarithm + 1)
    by_conditional += 4 * LABEL_WEIGHT * (coupled.sum(axis=0) * conditional - coupled)
    return float(value), by_conditional, by_class + 2 * mismatch @ conditional


def _coupled_labels(batch: Batch, plan: csr_array, shape: tuple[int, ...]) -> np.ndarray:
    """Mass that the plan moves between each target class and each reference class: (k c)."""
    moves = plan.tocoo()
    cells = batch.target_labels[moves.col] * shape[1] + batch.reference_labels[moves.row]
    masses: np.ndarray = np.bincount(cells, moves.data, minlength=math.prod(shape)).reshape(shape)
    return masses


def _class_losses(batch: Batch, num_classes: int) -> np.ndarray:
    """Mean loss of each reference class; 0 for a class that is too rare for the batch."""
    labels, losses = batch.reference_labels, batch.reference_losses
    counts = np.bincount(labels, minlength=num_classes)
    means: np.ndarray = np.bincount(labels, losses, minlength=num_classes) / np.maximum(counts, 1)
    return means


def _through_softmax(probabilities: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """The derivative by the logits, from that by the probabilities (which sum to 1 along the first axis)."""
    through: np.ndarray = probabilities * (gradient - (probabilities * gradient).sum(axis=0))
    return through

"""Several threads of Python that compute at once, in a process of their own: all return, with the values of one thread.

Batched factorisations of two threads can wait for each other for good. A process that does not return in time is
counted as one false answer.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fuzzers.tally import Tally
from jaxrel import metrics
from jaxrel.pseudo_labels.gaussian_mixture import gaussian_mixture
from jaxrel.transport.gaussian import bures_distances, gaussian_moments

__all__ = ["batches"]

_THREADS, _CALLS, _SECONDS = 4, 40, 300
_CHILD = "import sys; from fuzzers.threads import work; work(sys.argv[1], int(sys.argv[2]))"


def batches(rng: np.random.Generator) -> Iterator[Tally]:
    """Round after round over what is computed, alone and all of it mixed."""
    while True:
        for name in (*_WORK, "mixed"):
            yield _tally(name, int(rng.integers(2**31)))


def _tally(name: str, seed: int) -> Tally:
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, name, str(seed)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=environment)
        example = "" if child.returncode == 0 else child.stderr[-1000:]
    except subprocess.TimeoutExpired:
        example = f"{name}, seed {seed}: not done after {_SECONDS} s"
    return Tally(name, _THREADS * _CALLS, int(bool(example)), example=example)


def work(name: str, seed: int) -> None:
    """What the child does.

    Raises:
        AssertionError: for a value that differs from that of one thread.
    """
    features = np.random.default_rng(seed).normal(size=(8, 120, 24)).astype(np.float32)
    calls = [_WORK[name]] if name in _WORK else list(_WORK.values())
    expected = [call(features) for call in calls]
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        turns = [number % len(calls) for number in range(_THREADS * _CALLS)]
        for turn, found in zip(turns, pool.map(lambda turn: calls[turn](features), turns), strict=True):
            for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected[turn]), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


_LABELS = np.arange(120) % 4


@functools.cache
def _vmapped(name: str) -> Callable[[Any], Any]:
    score = getattr(metrics, name)
    return jax.jit(jax.vmap(lambda rows: score(rows, _LABELS, num_classes=4)))


def _encoders(features: np.ndarray) -> Any:
    found = metrics.score_encoders(features, _LABELS, metrics=["h_score", "ridge_probe", "ncti"], batch_size=4)
    return {name: score.value for name, score in found.items()}


def _gaussians(features: np.ndarray) -> Any:
    means, covariances = gaussian_moments(jnp.asarray(features[0]), jnp.asarray(_LABELS), num_classes=4)[:2]
    return bures_distances(means, covariances, means, covariances)


def _mixture(features: np.ndarray) -> Any:
    weights = np.ones(len(_LABELS), np.float32)
    return gaussian_mixture(
        features[0], weights, jax.random.key(0), num_components=4, covariance="tied"
    ).responsibilities


_WORK: dict[str, Callable[[Any], Any]] = {
    "vmapped h_score": lambda features: _vmapped("h_score")(features),
    "vmapped ridge_probe": lambda features: _vmapped("ridge_probe_score")(features),
    "vmapped transferability": lambda features: _vmapped("held_out_discriminant_score")(features),
    "score_encoders": _encoders,
    "bures_distances": _gaussians,
    "gaussian_mixture": _mixture,
}

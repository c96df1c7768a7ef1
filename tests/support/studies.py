"""Small studies, and what of their results has to be the same wherever they are computed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrel import Task, study
from jaxrel.study import FeatureArrays, Progress, Ranking, Results, Settings, Source, Split, Study

ENCODERS = ("plain", "squared")
METRICS = ("h_score", "energy_distance")
SETTINGS = Settings(resamples=20)


def arrays_of_encoders(seed: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Features of three classes under every encoder."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(40) % 3)
    features = rng.normal(size=(3, 6))[labels] * 2 + rng.normal(size=(40, 6))
    return {"plain": {"features": features, "labels": labels}, "squared": {"features": features**2, "labels": labels}}


class Trap(FeatureArrays):
    """Features whose reading on a worker, under the second encoder, does harm; once, where it has a marker to leave."""

    def __init__(self, name: str, tasks: Mapping[str, Task], harm: str, marker: Path | None) -> None:
        super().__init__(name, tasks)
        self._driver = os.getpid()
        self._harm = harm
        self._marker = marker

    def features(self, encoder: str, progress: Progress) -> Split:
        if os.getpid() != self._driver and encoder == ENCODERS[1]:
            self._go_off()
        return super().features(encoder, progress)

    def _go_off(self) -> None:
        if self._marker is not None:
            try:
                self._marker.touch(exist_ok=False)
            except FileExistsError:
                return
        if self._harm == "node":
            os.kill(os.getppid(), signal.SIGKILL)
        if self._harm == "wait":
            time.sleep(3600)
        os.kill(os.getpid(), signal.SIGKILL)


def sources(harm: str = "", marker: Path | None = None) -> list[FeatureArrays]:
    """Three data sets, or as many traps."""
    found = []
    for seed, name in enumerate(("red", "green", "blue")):
        tasks = {encoder: Task(**arrays) for encoder, arrays in arrays_of_encoders(seed).items()}
        found.append(Trap(name, tasks, harm, marker) if harm else FeatureArrays(name, tasks))
    return found


def scored(
    metrics: Sequence[str],
    references: Sequence[Source],
    targets: Sequence[Source],
    encoders: Sequence[str],
    **options: Any,
) -> Results:
    """Every metric of every encoder on every pair, without intervals."""
    asked = Study(encoders, targets, references, metrics, settings=Settings(resamples=0))
    return study.run(asked.plan(), **options)


def matrix(metrics: Sequence[str] = METRICS, encoders: Sequence[str] = ENCODERS, **options: Any) -> Results:
    """Scores of all pairs."""
    given = options.pop("given", None) or sources()
    return scored(metrics, given, given, encoders, **options)


def one_device() -> jax.sharding.Mesh:
    """As a worker process has, by default."""
    return jax.sharding.Mesh(jax.devices()[:1], "devices")


def ranking(output: Path, encoders: Sequence[str] = ENCODERS, **options: Any) -> Ranking:
    """Every encoder on two targets."""
    return study.rank(sources()[:2], encoders, output=output, settings=SETTINGS, **options)


def finished(log: Path) -> list[str]:
    """Keys in a log, line by line."""
    return [json.loads(line)["key"] for line in log.read_text().splitlines()]


def plain(ranked: Ranking) -> list[list[Any]]:
    """Rows without what a run took."""
    return [
        [row.score.target, row.score.encoder, row.score.status, row.score.transferability, row.score.lower]
        for table in ranked.tables
        for row in table.rows
    ]


def confused_task(**options: Any) -> Task:
    """Three classes that overlap, and a fourth of a single sample."""
    labels = np.append(np.arange(60) % 3, 3)
    features = 1.2 * np.eye(8)[labels] + np.random.default_rng(0).normal(size=(61, 8))
    return Task(features.astype(np.float32), labels, **options)

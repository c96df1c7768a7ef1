"""Which samples to label first: against a greedy choice in NumPy, and misuse."""

from __future__ import annotations

import itertools
import logging

import jax
import numpy as np
import pytest

from jaxrel import Task
from jaxrel.evaluation import samples_to_label
from jaxrel.evaluation.labelling import _greedy_cover


def zoo(num_encoders: int = 3, *, n: int = 60, labels: np.ndarray | None = None) -> list[Task]:
    """Six groups, which every encoder sees in its own coordinates."""
    rng = np.random.default_rng(0)
    groups = np.arange(n) % 6
    centres = 8 * rng.normal(size=(num_encoders, 6, 5))
    return [Task(own[groups] + rng.normal(size=(n, 5)), labels) for own in centres]


def covered(agreement: np.ndarray, weights: np.ndarray, chosen: list[int]) -> float:
    return float(weights @ agreement[:, chosen].max(axis=1)) if chosen else 0.0


def test_each_choice_adds_most_to_what_is_covered() -> None:
    rng = np.random.default_rng(0)
    agreement = rng.random((12, 12)).astype(np.float32)
    weights, known, free = rng.random(12).astype(np.float32), np.arange(12) == 3, np.arange(12) > 4
    ranks = np.asarray(_greedy_cover(agreement, weights, known, free, np.int32(4)))
    chosen = [3]
    for place in range(4):
        gains = [covered(agreement, weights, [*chosen, j]) if free[j] and j not in chosen else -1 for j in range(12)]
        assert ranks[int(np.argmax(gains))] == place
        chosen.append(int(np.argmax(gains)))
    assert np.count_nonzero(ranks >= 0) == 4
    best = max(covered(agreement, weights, [3, *four]) for four in itertools.combinations(range(5, 12), 4))
    base = covered(agreement, weights, [3])
    assert covered(agreement, weights, chosen) - base >= (1 - np.exp(-1)) * (best - base)


def test_each_group_has_a_label_first() -> None:
    first = samples_to_label(zoo(), num_samples=12)
    assert len(set(first[:6] % 6)) == 6
    np.testing.assert_array_equal(samples_to_label(zoo(), num_samples=5), first[:5])
    assert len(set(first.tolist())) == 12


def test_what_has_a_label_is_not_chosen_again() -> None:
    labels = np.full(60, -1)
    labels[:4] = [0, 1, 2, 0]
    chosen = samples_to_label(zoo(labels=labels), num_samples=2)
    assert set(chosen % 6) == {4, 5}
    with pytest.raises(ValueError, match=r"num_samples is 57: pass a number from 1 to 56"):
        samples_to_label(zoo(labels=labels), num_samples=57)


def test_absent_samples_are_not_chosen() -> None:
    tasks = [task.padded(80) for task in zoo()]
    np.testing.assert_array_equal(samples_to_label(tasks, num_samples=8), samples_to_label(zoo(), num_samples=8))


def test_another_number_is_no_other_program(caplog: pytest.LogCaptureFixture) -> None:
    samples_to_label(zoo(), num_samples=3)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        samples_to_label(zoo(), num_samples=7)
    assert not [record for record in caplog.records if "Compiling" in record.message]


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no targets"):
        samples_to_label([], num_samples=3)
    for number in (True, 3.0, 0):
        with pytest.raises(ValueError, match=f"num_samples is {number}: pass a number from 1 to 60"):
            samples_to_label(zoo(), num_samples=number)
    with pytest.raises(ValueError, match=r"targets\[1\] has 50 samples, targets\[0\] 60"):
        samples_to_label([zoo()[0], zoo(n=50)[0]], num_samples=3)
    with pytest.raises(ValueError, match=r"targets\[0\] is a list"):
        samples_to_label([[1.0]], num_samples=3)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="of 20,001 samples all pairs would be compared"):
        samples_to_label([Task(np.ones((20_001, 1)))], num_samples=3)

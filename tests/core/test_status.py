"""Statuses of results: texts for their bits, and the error that names the first result with one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from jaxrel import ResultError
from jaxrel._core.status import HasStatus, StatusBits


class Weather(StatusBits):
    OK = 0
    RAIN = (1, "it rains: take an umbrella.")
    STORM = (2, "it storms: stay.")


@dataclass(frozen=True)
class Day(HasStatus):
    status: np.ndarray  # type: ignore[assignment]

    statuses: ClassVar = Weather


def test_members_are_bits_that_add_up():
    assert Weather.RAIN | Weather.STORM == 3
    assert Weather(3) & Weather.STORM
    assert np.int32(2) & Weather.RAIN == 0
    assert Weather.STORM.message == "it storms: stay."


def test_messages_of_a_batch_come_once():
    assert Day(np.array([[1, 0], [3, 1]])).messages == (Weather.RAIN.message, Weather.STORM.message)
    assert Day(np.zeros(3, int)).messages == ()


def test_what_is_well_returns_itself():
    for status in (np.int32(0), np.zeros((2, 2), int)):
        day = Day(status)
        assert day.raise_if_failed() is day


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (2, "^Day: it storms: stay.$"),
        ([0, 0, 1, 2], r"^Day 2: it rains: take an umbrella\. \(2 of 4 failed\)$"),
        ([[0, 0], [0, 3]], r"^Day \(1, 1\): it rains: take an umbrella\. it storms: stay\. \(1 of 4 failed\)$"),
    ],
)
def test_the_first_that_failed_is_named(status, says):
    with pytest.raises(ResultError, match=says):
        Day(np.array(status)).raise_if_failed()

"""The numbers of ``tests/fixtures/recorded.json`` are still what the public functions compute.

They hold a change that moves code, or gives it other names, to what it computed before. A change that intends another
number names it in ``INTENDED`` until ``python tests/support/recorded.py`` has written the file anew.
"""

from __future__ import annotations

import functools
import json
import math

import pytest
from recorded import CASES, FILE, GROUPS, QUICK, Numbers, compute

# By the start of the names of numbers, why they may differ.
INTENDED: dict[str, str] = {}

# Relative to the number, or to 1 where that is larger. A change that only moves code may still sum in another order, as
# a compiler does that optimises more or less: some rounding errors of the type, times the condition of the problem.
TOLERANCE = {"float32": 2e-5, "float64": 1e-9}
# Hundreds of steps of learning carry rounding on, and another processor or version of the compiler rounds otherwise.
# Bounds in float32 were 2.3 % apart on two machines, in float64 0.04 % with and without the compiler's optimisations.
LEARNED = ("learned", "related", "label_free")
TOLERANCE_OF_LEARNED = {"float32": 3e-2, "float64": 1e-3}
# Accuracies on 110 samples move by whole samples.
TOLERANCE_OF_LEARNED_ACCURACY = {"float32": 6e-2, "float64": 2e-2}
# The dual value at which iterations stopped carries rounding errors on; it is certified to a hundredth of the cost.
TOLERANCE_OF_ENDS = {"distribution_mismatch_lower": 1e-5}
# A divergence is the difference of three values at which iterations stopped, in float32 one earlier on some processors.
TOLERANCE_OF_DIVERGENCE = {"float32": 1e-4, "float64": 1e-9}
# So is a transport that stops at a certified gap of 1 %, which any number within it fulfils.
GAPPED = ("/otdd/", "/ot_nce/", "/jc_otce/", "/otce/")
TOLERANCE_OF_GAPPED = {"float32": 1e-3, "float64": 1e-9}


@functools.cache
def recorded() -> Numbers:
    """The numbers of the file."""
    numbers: Numbers = json.loads(FILE.read_text())
    return numbers


def tolerance(name: str) -> float:
    """Of a number, by its name."""
    dtype, ending = name.split("/")[0], name.rsplit("/", 1)[-1]
    if "/divergence/" in name:
        return TOLERANCE_OF_DIVERGENCE[dtype]
    if any(part in name for part in GAPPED):
        return TOLERANCE_OF_GAPPED[dtype]
    learned = any(part in name for part in LEARNED)
    if learned and ending == "target_accuracy":
        return TOLERANCE_OF_LEARNED_ACCURACY[dtype]
    return max((TOLERANCE_OF_LEARNED if learned else TOLERANCE)[dtype], TOLERANCE_OF_ENDS.get(ending, 0))


def same(found: float, expected: float, allowed: float) -> bool:
    """Whether two numbers are equal up to this; integers are counts and codes, which are equal or not."""
    if isinstance(expected, int) or not math.isfinite(expected):
        return found == expected or (math.isnan(found) and math.isnan(expected))
    return abs(found - expected) <= allowed * max(1.0, abs(expected))


def differences(found: Numbers, expected: Numbers) -> list[str]:
    """What is missing, new or another number, in words."""
    told = [f"{name} is no longer computed" for name in expected.keys() - found.keys()]
    told += [f"{name} is not recorded" for name in found.keys() - expected.keys()]
    told += [
        f"{name} is {found[name]!r}, recorded {expected[name]!r}"
        for name in found.keys() & expected.keys()
        if not same(found[name], expected[name], tolerance(name))
    ]
    return sorted(told)


def of_case(numbers: Numbers, group: str, dtype: str) -> Numbers:
    """The numbers of a group."""
    return {name: value for name, value in numbers.items() if name.startswith(f"{dtype}/{group}/")}


@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types:FutureWarning")
@pytest.mark.parametrize(
    ("group", "dtype"),
    [pytest.param(group, dtype, marks=[] if group in QUICK[dtype] else [pytest.mark.slow]) for group, dtype in CASES],
)
def test_numbers_are_those_recorded(group: str, dtype: str) -> None:
    told = differences(compute(group, dtype), of_case(recorded(), group, dtype))
    intended = {text: why for text in told for start, why in INTENDED.items() if text.startswith(start)}
    for text, why in intended.items():
        print(f"{text}: {why}")
    assert [text for text in told if text not in intended] == []


def test_every_recorded_number_belongs_to_a_group() -> None:
    known = {f"{dtype}/{group}" for group in GROUPS for dtype in ("float32", "float64")}
    assert {"/".join(name.split("/")[:2]) for name in recorded()} == known

"""Targets of the benchmark of encoders of texts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT

from jaxrel import data


@pytest.fixture(autouse=True)
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import text_encoders

    yield text_encoders
    sys.modules.pop("text_encoders")


def write_texts(path: Path, texts: dict[str, str]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in texts.items()))
    return path


def test_targets_of_short_texts_have_both_sides_and_those_of_long_ones_each_beginning_once(benchmark, tmp_path):
    texts = {f"short text number {number}": f"class {number % 3}" for number in range(1900)}
    texts |= {f"{'word ' * benchmark.WORDS} and number {number}": "class 0" for number in range(50)}
    texts |= {f"rare text number {number}": "rare" for number in range(benchmark.LEAST_TEXTS - 1)}
    target = benchmark.prepared("cut", tmp_path, {"cut": write_texts(tmp_path / "mine.jsonl", texts)})
    assert target.classes == ("class 0", "class 1", "class 2")
    assert len(target.texts) == len(set(target.texts)) > 1800
    assert max(len(text.split()) for text in target.texts) == benchmark.WORDS
    train, test = data.load_splits(str(target.path))
    assert test is not None
    assert not set(train.samples) & set(test.samples)
    assert benchmark.NUM_TEST < len(test) < len(train) / 2
    assert set(test.labels) == set(train.labels) == {0, 1, 2}


def test_targets_with_few_texts_to_test_on_are_refused(benchmark, tmp_path):
    texts = {f"text number {number}": f"class {number % 3}" for number in range(600)}
    with pytest.raises(ValueError, match=r"few has \d+ texts to test on, and 300 are needed"):
        benchmark.prepared("few", tmp_path, {"few": write_texts(tmp_path / "mine.jsonl", texts)})


def test_the_test_set_of_unequal_classes_counts_as_a_smaller_one(benchmark):
    assert benchmark.size_of_test([50, 50, 50], "probe, balanced") == pytest.approx(150)
    assert benchmark.size_of_test([140, 5, 5], "probe, balanced") < 25
    assert benchmark.size_of_test([140, 5, 5], "probe, plain") == 150

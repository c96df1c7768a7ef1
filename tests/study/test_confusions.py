"""The classes that the best encoder of a target confuses, by which samples, and what is said where they are unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_zoo
import numpy as np
import pytest
from studies import confused_task

from jaxrel import Task, transferability_score
from jaxrel.storage.features import FeatureStore
from jaxrel.study import FeatureArrays, Ranking, Score, Settings, Source, named_sources
from jaxrel.study.page import confusions
from jaxrel.study.page.rankings import part_of_ranking
from jaxrel.study.ranking.table import make_ranking


def ranking_of(encoder: str, *targets: str, **settings: Any) -> Ranking:
    return make_ranking(
        [Score("", None, target, encoder, transferability=0.5) for target in targets], Settings(**settings)
    )


def test_confusions_are_the_mistakes_of_transferability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confusions, "_MOST_PAIRS", 12)
    task = confused_task(class_names=("a", "b", "c", "alone"))
    found = confusions.most_confused(task, key=5)
    shares = [pair.share for pair in found]
    assert shares == sorted(shares, reverse=True)
    # The balanced accuracy, over the classes with another sample to learn from.
    assert 1 - sum(shares) / 3 == pytest.approx(float(transferability_score(task, key=5).value))
    hits = np.asarray(transferability_score(task, key=5).hits)
    names = np.array(task.class_names)[np.asarray(task.labels)]
    for pair in found:
        assert pair.actual not in (pair.predicted, "alone")
        assert set(names[list(pair.rows)]) == {pair.actual}
        assert (hits[list(pair.rows)] < 1).all()
    largest = next(pair for pair in found if pair.share * 20 * 3 > 6)
    assert len(largest.rows) == 4
    assert hits[largest.rows[0]] <= 1 / 3
    without = Task(task.features, np.where(np.arange(61) == largest.rows[0], -1, task.labels), num_classes=4)
    assert all(largest.rows[0] not in pair.rows for pair in confusions.most_confused(without, key=5))


def test_what_is_unknown_about_confusions_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def note(*sources: Source, **settings: Any) -> str:
        (found,) = confusions.confusions_of([part_of_ranking(ranking_of("net", "t", **settings))], sources)
        return found.note

    task = confused_task()
    apart = Task(np.repeat(10 * np.eye(3, dtype=np.float32), 4, axis=0), np.repeat(np.arange(3), 4))
    assert "made without the data set" in note()
    assert "labels of the target were not used" in note(FeatureArrays("t", {"net": task}), label_free=True)
    assert "labels of the target were not used" in note(FeatureArrays("t", {"net": Task(task.features)}))
    assert note(FeatureArrays("t", {"net": apart})) == "No sample is confused: all are predicted correctly."
    assert note(FeatureArrays("t", {"other": task})).startswith(
        "Confused classes are unknown: 't' has no features of encoder 'net'"
    )
    many = [f"t{number}" for number in range(10)]
    sources = [FeatureArrays(name, {"net": apart}) for name in many]
    found = confusions.confusions_of([part_of_ranking(ranking_of("net", *many))], sources)
    assert [one.target for one in found] == many[:8]
    assert "2 more targets are left out" in found[-1].note


def test_features_are_not_extracted_for_a_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_zoo.install(monkeypatch.setattr)
    store = FeatureStore(tmp_path)
    settings = Settings(samples=30, held_out=0)
    part = part_of_ranking(ranking_of("wide", "squares"))
    source = named_sources(["squares"], settings=settings, store=store)["squares"]
    (found,) = confusions.confusions_of([part], [source])
    assert "not in the store" in found.note
    source.features("wide", lambda *_: None)
    (found,) = confusions.confusions_of([part], [source])
    assert found.pairs[0].pictures[0].startswith("data:image/png;base64,")

    def gone(*_: Any) -> None:
        raise OSError("the file has gone")

    monkeypatch.setattr(confusions, "_data_uri", gone)
    (found,) = confusions.confusions_of([part], [source])
    assert found.pairs
    assert found.note == "There are no thumbnails: the file has gone."

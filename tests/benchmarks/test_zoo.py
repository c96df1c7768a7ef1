"""The stored zoo: whole, its halves fair, no image on both sides; and the page says what the results say."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT

FOLDER = ROOT / "benchmarks" / "zoo"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Any:
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def zoo(scripts: None) -> Any:
    from zoo import read_zoo

    return read_zoo()


def test_halves_are_halves_of_every_group(zoo: Any) -> None:
    from members import MEMBERS

    assert [record["name"] for record in zoo.table] == [member.name for member in MEMBERS]
    assert len(MEMBERS) >= 48
    counts = Counter((member.group, member.half) for member in MEMBERS)
    for group in {member.group for member in MEMBERS}:
        assert abs(counts[group, "development"] - counts[group, "confirmation"]) <= 1
    assert len({member.name for member in MEMBERS}) == len(MEMBERS)


def test_accuracies_are_there_for_every_target_and_seed(zoo: Any) -> None:
    from members import CONFIRMATION_TARGETS, DEVELOPMENT_TARGETS, TARGETS

    assert len(CONFIRMATION_TARGETS) == 2
    assert not set(CONFIRMATION_TARGETS) & set(DEVELOPMENT_TARGETS)
    for kind in ("fine_tuned", "probe"):
        for target in TARGETS:
            truth = zoo.truth(kind, target)
            assert truth.shape == (3, len(zoo.table))
            assert ((truth > 0) & (truth <= 1)).all()


def test_no_image_is_in_a_pool_and_in_pretraining(zoo: Any) -> None:
    def hashes(suffix: str) -> list[bytes]:
        return [image.tobytes() for key, images in zoo.images.items() if key.endswith(suffix) for image in images]

    pools, pretraining = hashes("/pool_images"), hashes("/pretraining_images")
    assert len(pools) == 6000
    assert len(set(pools)) == len(pools)
    assert not set(pools) & set(pretraining)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    from zoo import read_zoo

    for path in (FOLDER / "data").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "table.json").write_bytes(b"[]")
    with pytest.raises(ValueError, match=r"table\.json is not the file that was made"):
        read_zoo(tmp_path)


def test_features_are_those_that_the_probe_saw(zoo: Any) -> None:
    """A probe on the stored weights' features reaches the stored accuracy, on other test images of the same target."""
    from sklearn.linear_model import RidgeClassifier

    position = next(i for i, record in enumerate(zoo.table) if record["name"] == "medium, mnist")
    images, labels = zoo.images["mnist/pool_images"], zoo.images["mnist/pool_labels"]
    features = zoo.features(position, images)
    accuracy = RidgeClassifier().fit(features[:500], labels[:500]).score(features[500:], labels[500:])
    assert accuracy == pytest.approx(np.mean(zoo.table[position]["probe"]["mnist"]), abs=0.05)


def test_page_has_the_tables_of_the_results() -> None:
    import report

    reports = {name: report.read(report.RESULTS / f"zoo_{name}.json") for name in report.REPORTS}
    page = report.PAGE.read_text()
    second = report.read(report.RESULTS / report.SECOND)
    others = {"second": report.few_labels_table(second), "second differences": report.few_labels_differences(second)}
    for name, content in (report.tables(reports) | others).items():
        assert f"<!-- {name} -->\n\n{content}\n\n<!-- end -->" in page

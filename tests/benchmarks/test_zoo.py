"""The zoo: its halves fair, no image on both sides, its weights as in the table; and the page has what results say."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT

from jaxrel.encoders import extract_features
from jaxrel.training import has_parameters

FOLDER = ROOT / "benchmarks" / "zoo"
PART = ROOT / "tests" / "fixtures" / "zoo"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Any:
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def table() -> Any:
    return json.loads((FOLDER / "table.json").read_text())


def test_halves_are_halves_of_every_group(table: Any) -> None:
    from members import MEMBERS

    assert [record["name"] for record in table] == [member.name for member in MEMBERS]
    assert len(MEMBERS) >= 48
    counts = Counter((member.group, member.half) for member in MEMBERS)
    for group in {member.group for member in MEMBERS}:
        assert abs(counts[group, "development"] - counts[group, "confirmation"]) <= 1
    assert len({member.name for member in MEMBERS}) == len(MEMBERS)


def test_accuracies_are_there_for_every_target_and_seed(table: Any) -> None:
    from members import CONFIRMATION_TARGETS, DEVELOPMENT_TARGETS, TARGETS
    from zoo import Zoo

    assert len(CONFIRMATION_TARGETS) == 2
    assert not set(CONFIRMATION_TARGETS) & set(DEVELOPMENT_TARGETS)
    for kind in ("fine_tuned", "probe"):
        for target in TARGETS:
            truth = Zoo(table, {}, {}).truth(kind, target)
            assert truth.shape == (3, len(table))
            assert ((truth > 0) & (truth <= 1)).all()


def test_no_image_is_in_a_pool_and_in_pretraining(tmp_path: Path) -> None:
    import make

    def read(seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Images of four grey levels, so that many are equal."""
        rng = np.random.default_rng(seed)
        return rng.integers(4, size=(600, 2, 2)).astype(np.uint8), rng.integers(3, size=600).astype(np.int32)

    readers = {"learned": lambda _: read(0), "new": lambda _: read(1)}
    plan = make.Plan((), (), readers, ("new",), 0, tmp_path)
    make.make_images(plan, tmp_path, tmp_path)
    learned, new = (make.read_arrays(tmp_path / f"{name}.npz") for name in readers)
    parts = [image.tobytes() for name, images in learned.items() if name.endswith("_images") for image in images]
    assert 0 < len(learned["pretraining_images"]) < len(parts)
    assert len(set(parts)) == len(parts) == len(np.unique(read(0)[0], axis=0))
    assert len(new["pretraining_images"]) == 0


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    from zoo import read_zoo

    for path in PART.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "table.json").write_bytes(b"[]")
    with pytest.raises(ValueError, match=r"table\.json is not the file that was made"):
        read_zoo(tmp_path)


def test_without_a_zoo_a_sentence_says_what_makes_it(tmp_path: Path) -> None:
    from zoo import read_zoo

    with pytest.raises(SystemExit, match=r"has no zoo: python benchmarks/zoo/make\.py --archives FOLDER makes it"):
        read_zoo(tmp_path)


def test_features_are_those_that_the_probe_saw(table: Any) -> None:
    """A probe on the stored weights' features reaches the stored accuracy, on other test images of the same target."""
    from sklearn.linear_model import RidgeClassifier
    from zoo import read_zoo

    part = read_zoo(PART)
    assert len(part.table) == 2
    images, labels = part.images["mnist/pool_images"], part.images["mnist/pool_labels"]
    for position, record in enumerate(part.table):
        assert record in table
        features = part.features(position, images)
        accuracy = RidgeClassifier().fit(features[:500], labels[:500]).score(features[500:], labels[500:])
        assert accuracy == pytest.approx(np.mean(record["probe"]["mnist"]), abs=0.05)


def test_an_encoder_that_is_tuned_has_the_features_that_are_scored() -> None:
    from networks import ARCHITECTURES, small_encoder
    from truth import in_colour
    from zoo import read_zoo

    part = read_zoo(PART)
    images = part.images["mnist/pool_images"][:100]
    for position, record in enumerate(part.table):
        weights = {name: value.astype(np.float32) for name, value in part.weights[record["name"]].items()}
        encoder = small_encoder(record["name"], ARCHITECTURES[record["architecture"]], weights)
        assert has_parameters(encoder)
        assert encoder.num_parameters == record["num_parameters"]
        expected = part.features(position, images)
        found = extract_features(encoder, in_colour(images))
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_page_has_the_tables_of_the_results() -> None:
    import report

    reports = {name: report.read(report.RESULTS / f"zoo_{name}.json") for name in report.REPORTS}
    page = report.PAGE.read_text()
    second = report.read(report.RESULTS / report.SECOND)
    others = {"second": report.few_labels_table(second), "second differences": report.few_labels_differences(second)}
    for name, content in (report.tables(reports) | others).items():
        assert f"<!-- {name} -->\n\n{content}\n\n<!-- end -->" in page

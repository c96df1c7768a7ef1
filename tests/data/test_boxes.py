"""Boxes of COCO files as samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxrel.data
from jaxrel.data import DataError
from jaxrel.data.readers import read_path


def coco(folder: Path, boxes: list[tuple[int, int, list[float]]], **changes: Any) -> Path:
    """Two pictures, of which the second is in a folder, and boxes `(image, category, bbox)`."""
    (folder / "images").mkdir(exist_ok=True)
    for index, name in enumerate(("a.png", "images/b.png")):
        rows = np.add.outer(10 * np.arange(8), np.arange(9)) + 100 * index
        Image.fromarray(rows.astype(np.uint8)).save(folder / name)
    annotations = [{"id": i, "image_id": m, "category_id": c, "bbox": box} for i, (m, c, box) in enumerate(boxes)]
    document = {
        "images": [{"id": 5, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}],
        "categories": [{"id": 90, "name": "owl"}, {"id": 2, "name": "moth"}],
        "annotations": annotations,
    }
    path = folder / "toy.json"
    path.write_text(json.dumps(document | changes))
    return path


def test_what_is_in_a_box_is_a_sample_of_its_category(tmp_path: Path) -> None:
    found = read_path(coco(tmp_path, [(9, 90, [1, 2, 3, 2]), (5, 2, [0.4, 0, 2.9, 2]), (5, 90, [6, 6, 9, 9])]))
    assert isinstance(found.samples, np.ndarray)
    samples = [(str(label), image[..., 0].tolist()) for label, image in zip(found.labels, found.samples, strict=True)]
    assert samples == [
        ("moth", [[0, 1, 2], [10, 11, 12]]),
        ("owl", [[66, 67, 68], [76, 77, 78]]),  # cut to the picture
        ("owl", [[121, 122, 123], [131, 132, 133]]),
    ]


def test_empty_boxes_and_crowds_are_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes: list[tuple[int, int, list[float]]] = [(5, 2, [0, 0, 3, 2]), (9, 90, [20, 0, 3, 2]), (5, 90, [1, 1, 3, 2])]
    path = coco(tmp_path, boxes)
    document = json.loads(path.read_text())
    document["annotations"].append({"id": 7, "image_id": 5, "category_id": 2, "bbox": [0, 0, 1, 1], "iscrowd": 1})
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"box 1 of .*b\.png cannot be read: it is empty, .* of 9 x 8 pixels"):
        jaxrel.data.load(str(path))
    data = jaxrel.data.load_splits(str(path), test_limit=0, skip_broken=True)[0]
    assert (len(data), data.class_names) == (2, ("moth", "owl"))
    assert f"{path}: boxes of crowds are left out: 1" in caplog.messages


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": []}, "is not a COCO file of boxes .KeyError: 2.: expected categories"),
        ({"annotations": [{"image_id": 5, "category_id": 2, "caption": "x"}]}, "is not a COCO file of boxes .*bbox"),
        ({"images": [{"id": 5, "file_name": "../a.png"}]}, r"has the picture \.\./a\.png: expected one beside it"),
        ({"images": [{"id": 5, "file_name": "c.png"}]}, "none of 1 pictures can be read: .*c.png"),
        ({"images": 3}, "is not a COCO file of boxes .TypeError"),
    ],
)
def test_what_is_no_file_of_boxes_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        jaxrel.data.load(str(coco(tmp_path, [(5, 2, [0, 0, 3, 2])], **changes)))

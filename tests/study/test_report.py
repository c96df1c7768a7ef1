"""What a ranking and a scoreboard look like: pictures, tables in the terminal and in files."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from jaxrel.study import Ranking, Score, Settings
from jaxrel.study.drawing import contrasting, in_lines
from jaxrel.study.report import write_files
from jaxrel.study.scoreboard import Scoreboard
from jaxrel.study.scoreboard.report import board_figure
from jaxrel.study.table import make_ranking

LONG = [f"vit@some-organisation/very-long-checkpoint-name-{number:02}-".ljust(80, "x") for number in range(16)]
SCRIPTS = ["中文编码器", "مشفر النصوص", "emoji 😀🦖 $x^2$ \\frac $", "\x1b[31mred\n\u202e"]


def score(encoder: str, target: str = "target", reference: str | None = None, **fields: Any) -> Score:
    """Made up, and different for every encoder and pair."""
    generator = np.random.default_rng(len(encoder) + 10 * len(reference or ""))
    value = generator.uniform(0.2, 0.95)
    terms = dict(
        zip(
            ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch"),
            generator.uniform(size=3).tolist(),
            strict=True,
        )
    )
    bound = {"bound": sum(terms.values()), "target_loss": 0.5, "num_classes": 10, "vacuous_level": 2.3, **terms}
    given = {
        "transferability": value,
        "lower": value - 0.03,
        "upper": value + 0.03,
        "accuracy": value,
        "majority": 0.1,
        "recipe": "a probe",
        "resampled_transferabilities": tuple((value + 0.02 * generator.normal(size=20)).round(6)),
        **(bound | {"resampled_bounds": (1.0, 1.5, 2.0)} if reference else {}),
    }
    return Score(f"{encoder}/{target}/{reference}", reference, target, encoder, **given | fields)


def ranking(encoders: list[str], targets: list[str], references: list[str | None]) -> Ranking:
    scores = [score(e, t, r) for r in references for t in targets for e in encoders]
    return make_ranking(scores, Settings())


def board(encoders: list[str], metrics: list[str]) -> Scoreboard:
    shape = len(encoders), len(metrics)
    values = np.random.default_rng(0).normal(size=shape)
    return Scoreboard(tuple(encoders), tuple(metrics), values, {}, np.ones(shape), ("",) * len(encoders))


def boxes_of_texts(figure: Any) -> dict[str, Any]:
    """Where each text that is drawn is, told apart by a number."""
    drawn = []
    draw = Text.draw

    def record(text: Text, renderer: Any) -> None:
        drawn.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figure.draw_without_rendering()
    texts = [text for text in dict.fromkeys(drawn) if text.get_visible() and text.get_text().strip()]
    return {f"{number}: {text.get_text()}": text.get_window_extent() for number, text in enumerate(texts)}


def check_texts(figure: Any) -> None:
    """All of every text is in the picture, and none lies over another."""
    boxes = boxes_of_texts(figure)
    whole = figure.bbox
    for name, box in boxes.items():
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1, name
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1, name
    for (name, box), (other, other_box) in itertools.combinations(boxes.items(), 2):
        assert not box.padded(-1).overlaps(other_box.padded(-1)), (name, other)


# Pictures


@pytest.mark.parametrize(
    ("encoders", "targets", "references"),
    [
        (["pixels"], ["digits"], [None]),
        (["pixels"], ["digits"], ["mnist"]),
        ([f"encoder-{number}" for number in range(6)], ["mnist", "animal-mnist", "digits"], [None]),
        ([*LONG, *SCRIPTS], ["/data/pictures/with-a-long-name/of-many-parts/中文", "b"], ["/a/long/path" * 5]),
    ],
)
def test_names_and_numbers_are_whole_and_apart(
    encoders: list[str], targets: list[str], references: list[str | None]
) -> None:
    check_texts(ranking(encoders, targets, references).plot())


def test_bars_are_the_number_that_is_ranked_by() -> None:
    result = ranking(["a", "bcd"], ["digits"], ["mnist"])
    axes: Any = result.plot().axes
    number, terms = axes
    scores = [row.score for row in result.tables[0].rows]
    assert [bar.get_width() for bar in number.patches] == [score.transferability for score in scores]
    assert number.get_title().startswith("Transferability")
    assert "ransferability" not in terms.get_title() + terms.get_xlabel()
    assert result.plot().get_suptitle() == ""
    last = terms.patches[-len(scores) :]
    assert [bar.get_x() + bar.get_width() for bar in last] == pytest.approx([score.bound for score in scores])


def test_height_grows_with_the_encoders() -> None:
    few, many = (ranking([f"encoder-{i}" for i in range(n)], ["t"], [None]).plot() for n in (2, 20))
    assert many.get_figheight() > few.get_figheight() + 18 * 0.3


def test_pictures_have_the_formats_asked_for(tmp_path: Any) -> None:
    paths = write_files(ranking(["中$"], ["t"], [None]), tmp_path, plot=True, formats=("png", "svg", "pdf"))
    opening = {path.name: path.read_bytes()[:5] for path in paths}
    assert opening["ranking.png"] == b"\x89PNG\r"
    assert opening["ranking.svg"] == b"<?xml"
    assert opening["ranking.pdf"] == b"%PDF-"


def test_lines_of_a_name_have_all_of_it() -> None:
    for name in (*LONG, "a-b_c" * 30, "x" * 100):
        lines = in_lines(name, 40).split("\n")
        assert "".join(lines) == name
        assert max(map(len, lines)) <= 40
    assert in_lines("\x1b[31m\n") == "\\x1b[31m\\x0a"
    assert in_lines("\U0010ffff") == "\\U0010ffff"  # which no font has
    assert in_lines("") == ""


@pytest.mark.parametrize(("encoders", "metrics"), [([*LONG, *SCRIPTS], ["logme", "ot_nce", "gbc"]), (["a"], ["logme"])])
def test_picture_of_a_scoreboard_can_be_read(encoders: list[str], metrics: list[str]) -> None:
    figure = board_figure(board(encoders, metrics))
    check_texts(figure)
    axis = figure.axes[0]
    (mesh,) = axis.collections
    ratios = [contrast(mesh.cmap(mesh.norm(int(text.get_text()))), to_rgb(text.get_color())) for text in axis.texts]
    assert len(ratios) == len(encoders) * len(metrics)
    assert min(ratios) >= 4.5


def contrast(first: Any, second: Any) -> float:
    """As WCAG 2 has it."""

    def luminance(colour: Any) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_from_any_colour() -> None:
    assert (contrasting((1, 1, 0)), contrasting((0, 0, 0.4, 1.0))) == ("black", "white")
    assert not math.isnan(contrast((1, 1, 0), (0, 0, 0)))

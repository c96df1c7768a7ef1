"""What a ranking and a scoreboard look like: pictures, tables in the terminal and in files."""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from rich.cells import cell_len
from rich.console import Console

from jaxrel import Joint
from jaxrel.study import Ranking, Record, Results, Score, Scoreboard, Settings
from jaxrel.study.drawing import contrasting, in_lines
from jaxrel.study.ranking.cells import count
from jaxrel.study.ranking.cost_picture import pareto_front
from jaxrel.study.ranking.report import print_ranking, write_files
from jaxrel.study.ranking.table import make_ranking
from jaxrel.study.records import StudyLog
from jaxrel.study.scoreboard.report import print_scoreboard
from jaxrel.study.scoreboard.report import write_files as write_scores

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
    name = f"{encoder}/{target}"
    return Score(
        name, reference, target, encoder, bound_key=f"{name}/{reference}" if reference else "", **given | fields
    )


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
    # Without the lines that annotations have.
    return {f"{number}: {text.get_text()}": Text.get_window_extent(text) for number, text in enumerate(texts)}


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


def test_characters_are_taken_from_any_font_that_has_them() -> None:
    mathematical = "\u2a3f"  # which the usual font lacks
    assert in_lines(mathematical) == mathematical
    check_texts(ranking([mathematical], ["t"], [None]).plot())


def test_height_grows_with_the_encoders() -> None:
    few, many = (ranking([f"encoder-{i}" for i in range(n)], ["t"], [None]).plot() for n in (2, 20))
    assert many.get_figheight() > few.get_figheight() + 18 * 0.3


def test_pictures_have_the_formats_asked_for(tmp_path: Any) -> None:
    paths = write_files(ranking(["中$"], ["t"], [None]), tmp_path, plot=True, formats=("svg", "pdf"))
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
    figure = board(encoders, metrics).plot()
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


# Costs


def test_names_of_costs_are_whole_and_apart() -> None:
    for encoders, sizes in (
        (["pixels"], [0]),
        (["a", "b", "c"], [0, 10**6, 10**6]),
        ([*LONG, *SCRIPTS], [10**7] * 20),
        (["a", "b"], [10**3, 10**10]),
    ):
        scores = [
            score(e, t, num_parameters=n)
            for t in ("t", "/a/long/path" * 6)
            for e, n in zip(encoders, sizes, strict=True)
        ]
        figure = make_ranking(scores, Settings()).plot_costs()
        check_texts(figure)
        found = {text.get_text() for text in figure.findobj(Text)}
        assert {in_lines(name) for name in encoders} <= found


def test_pareto_front_has_what_nothing_as_small_surpasses() -> None:
    assert pareto_front([(3, 0.5), (1, 0.4), (2, 0.3), (3, 0.6), (4, 0.6), (0, 0.1)]) == [5, 1, 3]
    assert pareto_front([(1, 0.5)]) == [0]


def test_costs_are_drawn_where_they_are_known(tmp_path: Path) -> None:
    known = make_ranking([score("a", num_parameters=10, feature_width=4), score("b")], Settings())
    unknown = ranking(["a"], ["t"], [None])
    for name, result in (("known", known), ("unknown", unknown)):
        write_files(result, tmp_path / name, plot=True)
        assert (tmp_path / name / "cost.png").exists() == (name == "known")
    record = next(record for record in known.records() if record["encoder"] == "a")
    assert (record["num_parameters"], record["feature_width"], record["samples_per_second"]) == (10, 4, None)
    assert "para-" in known.to_text()
    assert "para-" not in unknown.to_text()
    with pytest.raises(ValueError, match="the number of parameters of no encoder is known"):
        unknown.plot_costs()


def test_numbers_of_parameters_have_three_digits() -> None:
    numbers = (None, 0, 999, 1000, 999_499, 4_652_008, 23_500_000, 999_999_999, 7 * 10**9)
    assert [count(number) for number in numbers] == ["", "0", "999", "1k", "999k", "4.65M", "23.5M", "1G", "7G"]


# In the terminal


MANY = ["logme", "h_score", "regularised_h_score", "transferability", "task_relatedness", "sinkhorn_divergence", "sfda"]


def table_lines(text: str) -> list[str]:
    """The lines of tables, which stand between a rule and an empty line."""
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("──")]
    return [line for start in starts for line in (lines[start], *itertools.takewhile(bool, lines[start + 1 :]))]


@pytest.mark.parametrize("width", [50, 80, 200])
def test_tables_are_as_wide_as_the_terminal_at_most(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    short, long = ["pixels", "mobilenet-v2:random"], [*LONG, *SCRIPTS]
    for encoders in (short, long):
        result = ranking(encoders, ["t"], ["r", "q"])
        print_ranking(result, Console(width=width))
        print_scoreboard(board(encoders, MANY), Console(width=width))
        out = capsys.readouterr().out
        assert max(map(cell_len, table_lines(out))) <= width
        for row in result.tables[0].rows:
            assert all(f"{number:.3f}" in out for number in (row.score.bound, row.score.label_mismatch))
            assert f"{row.score.lower:.1%}-{row.score.upper:.1%}" in out
        if encoders is short:
            assert "…" not in out


def test_scoreboard_has_a_line_for_each_encoder(capsys: pytest.CaptureFixture[str]) -> None:
    shown = board(["a", "b"], ["logme", "gbc"])
    print_scoreboard(shown, Console(width=80))
    header, rule, first, second = capsys.readouterr().out.splitlines()[2:]
    assert header.split() == ["encoder", "logme", "gbc"]
    assert set(rule) == {"─"}
    assert (first.split()[0], second.split()[0]) == ("a", "b")
    assert f"{shown.values[0, 1]:.4g} ({shown.ranks()[0, 1]})" in first


def test_shortened_names_have_their_ends() -> None:
    result = ranking(LONG, ["t"], [None])
    lines = table_lines(result.to_text(80))[1:17]
    for row, line in zip(result.tables[0].rows, lines, strict=True):
        start, end = line.split()[1].split("…")
        assert row.score.encoder.startswith(start)
        assert row.score.encoder.endswith(end)
    assert "…" not in result.to_text(120) + result.to_markdown() + result.to_latex() + result.to_csv()


def test_no_control_character_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["\x1b[31mred", "a\nb", "\u202eright to left", "\x9b2J", "\x07"]
    failed = score("\x1b]0;title\x07", status="failed: \x1b[2J", transferability=math.nan)
    result = make_ranking([*(score(name, "\x1b[1m") for name in names), failed], Settings())
    print_ranking(result, Console(width=80, markup=False))
    print_scoreboard(board(names, ["logme"]), Console(width=80))
    out = capsys.readouterr().out
    assert not {character for character in out if not character.isprintable()} - {"\n"}
    assert all(shown in out for shown in ("\\x1b[31mred", "a\\x0ab", "\\u202eright", "\\x9b2J", "failed: \\x1b[2J"))


# Forms


def results(**axes: Any) -> Results:
    values = {("a", "s"): 0.1, ("a", "t"): np.inf, ("b", "s"): np.nan, ("b", "t"): 0.4}
    entries = tuple(
        Record(
            "", "logme", encoder, None, target, status="ok" if np.isfinite(value) else "odd", numbers={"value": value}
        )
        for (encoder, target), value in values.items()
    )
    return Results(entries, ("logme",), ("a", "b"), (), ("s", "t"), (None,), (0,), ("all",), Settings())


RESULTS = {
    "ranking": ranking(["a|b", "b_$%&#{}~^\\", "<i>中*&amp;"], ["t"], ["r", "s"]),
    "table": ranking(["a", "bcd"], ["t"], [None]).tables[0],
    "scoreboard": board(["a|b", "c"], ["logme", "gbc"]),
    "results": results(),
}
FORMS = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)


@FORMS
def test_markdown_is_a_table_with_all_cells(result: Any) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(result.to_markdown())
    cells = [token.children for token, before in zip(tokens[1:], tokens, strict=False) if before.type == "td_open"]
    found = ["".join(child.content for child in children or ()) for children in cells]
    assert found == [cell for section in result.sections() for row in section.rows for cell in row.values()]


@FORMS
def test_latex_escapes_what_it_would_obey(result: Any) -> None:
    text = result.to_latex()
    for section in result.sections():
        for row in section.rows:
            assert sum(line.count(" & ") == len(row) - 1 for line in text.splitlines()) >= len(section.rows)
    assert not re.search(r"\\\\\s*\[", text)  # a name that would be an option of the line before
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == len(result.sections())
    bare = text.replace("\\textbackslash{}", "").replace("\\textasciitilde{}", "").replace("\\textasciicircum{}", "")
    assert not [line for line in bare.splitlines() if "~" in line or "^" in line or " $" in line.replace("\\$", "")]


@FORMS
def test_records_come_back_from_every_form(result: Any, tmp_path: Path) -> None:
    from pyarrow import parquet

    records = result.records()
    result.to_parquet(tmp_path / "records.parquet")
    assert parquet.read_table(tmp_path / "records.parquet").to_pylist() == records
    assert result.to_pandas().shape == (len(records), len(records[0]))
    text = result.to_csv(tmp_path / "records.csv")
    assert (tmp_path / "records.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["encoder"] for row in rows] == [record["encoder"] for record in records]
    for row, record in zip(rows, records, strict=True):
        for name, value in record.items():
            assert row[name] == ("" if value is None else " ".join(value) if isinstance(value, list) else str(value))
    assert not any(isinstance(value, float) and math.isnan(value) for record in records for value in record.values())


@FORMS
def test_a_result_is_short_and_can_be_drawn(result: Any) -> None:
    assert len(repr(result)) < 100
    assert result.to_text()
    check_texts(result.plot())


def test_names_that_are_no_text_are_written_all_the_same(tmp_path: Path) -> None:
    result = ranking(["\udcff"], ["t"], [None])
    write_files(result, tmp_path, plot=True)
    assert "\\udcff" in (tmp_path / "results.csv").read_text()
    assert Ranking.load(tmp_path) == result


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("pandas", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="pip install pandas"):
        results().to_pandas()
    with pytest.raises(ImportError, match=r"pip install 'jaxrel\[parquet\]'"):
        results().to_parquet(tmp_path / "x")


# The file


def test_a_ranking_comes_back_from_its_file(tmp_path: Path) -> None:
    method = Joint(learn_head=False, class_map=(0, (1, 2)), lipschitz_budget=2.0)
    settings = Settings(samples=30, confidence=0.8, method=method)
    scores = [score(e, t, r) for r in ("r", "s") for t in ("t", "中") for e in ("a", "bcd", "$x$")]
    scores += [score("odd", "t", "r", status="failed: why", transferability=math.nan, bound=math.inf)]
    for saved in (make_ranking(scores, settings), ranking(["a"], ["t"], [None])):
        saved.save(tmp_path / "results.json")
        assert Ranking.load(tmp_path) == Ranking.load(tmp_path / "results.json") == saved


def test_a_ranking_comes_back_with_its_resamples(tmp_path: Path) -> None:
    saved = ranking(["a", "bcd"], ["t"], ["r"])
    saved.save(tmp_path / "results.json")
    with StudyLog(tmp_path / "records.jsonl") as log:
        for row in saved.tables[0].rows:
            found = row.score
            pair = found.encoder, found.reference, found.target
            log.append(Record(found.key, "transferability", *pair, resamples=found.resampled_transferabilities))
            log.append(Record(found.bound_key, "bound", *pair, resamples=found.resampled_bounds))
    loaded = Ranking.load(tmp_path)
    assert [row.score.resampled_transferabilities for row in loaded.tables[0].rows] == [
        row.score.resampled_transferabilities for row in saved.tables[0].rows
    ]
    assert loaded == saved


def test_files_say_what_made_them_and_have_no_nan(tmp_path: Path) -> None:
    settings = Settings(method=Joint(learn_head=False, lipschitz_budget="validated"))
    result = make_ranking([score("a", transferability=math.nan, status="failed"), score("b")], settings)
    write_files(result, tmp_path, plot=False, command=["jaxrel", "rank"])
    write_scores(dataclasses.replace(board(["a"], ["logme"]), values=np.array([[math.nan]])), tmp_path, plot=False)
    for name in ("results.json", "scores.json"):
        document = json.loads((tmp_path / name).read_text(), parse_constant=pytest.fail)
        assert set(document["versions"]) == {"jaxrel", "jax", "numpy", "python"}
        assert document["written"].endswith("+00:00")
        assert document["schema"] == 1
        assert "nan" not in {str(value).lower() for value in document.values()}
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["command"] == ["jaxrel", "rank"]
    assert document["settings"]["method"]["lipschitz_budget"] == "validated"
    assert document["pairs"][0]["rows"][1]["transferability"] is None
    assert "nan" not in (tmp_path / "results.csv").read_text()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"encoder": "a"', '"encoder": 3'),
        ('"tied_with": []', '"tied_with": 7'),
        ('"transferability": 0.', '"transferability": "x0.'),
        ('"num_parameters": null', '"num_parameters": 1' + "0" * 400),
        ('"schema": 1', '"schema": 99'),
        ('"samples": 1000', '"samples": 0'),
        ('"samples": 1000', '"sample": 1000'),
        ('"name": "Joint"', '"name": "Other"'),
        ('"pairs"', '"pears"'),
        ("{", "[" * 100000),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    ranking(["a"], ["t"], [None]).save(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=r"results\.json (is damaged|has version 99)") as caught:
        Ranking.load(path)
    assert "\n" not in str(caught.value)


def test_a_scoreboard_comes_back_from_its_file(tmp_path: Path) -> None:
    saved = dataclasses.replace(
        board(["a", "b"], ["logme", "gbc"]), origins=("a.npz", '{"target": "t"}'), messages={("b", "gbc"): ("odd",)}
    )
    saved.values[0, 1] = math.inf
    saved.save(tmp_path)
    loaded = Scoreboard.load(tmp_path)
    for field in dataclasses.fields(Scoreboard):
        np.testing.assert_array_equal(getattr(loaded, field.name), getattr(saved, field.name))

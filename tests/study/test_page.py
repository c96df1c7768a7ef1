"""The page of results, in a browser: tables, charts, colours, names that look like markup, no network."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_zoo
import numpy as np
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from studies import confused_task

from jaxrel import cli
from jaxrel.study import (
    Column,
    FeatureArrays,
    Ranking,
    Record,
    Results,
    Row,
    Score,
    Scoreboard,
    Settings,
    Table,
    Verification,
    write_page,
)
from jaxrel.study.intervals import told_apart
from jaxrel.study.page.content import mark_best
from jaxrel.study.ranking.table import make_ranking
from jaxrel.study.verification.agreement import Accuracies, Agreement

SCRIPT, IMAGE = "</script><script>alert(1)</script>", '<img src=x onerror="alert(1)">'
ENCODERS = [SCRIPT, IMAGE, "plain", "it's \u202e\x1b[31m", "fifth"]
TERMS = ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        give_up = pytest.fail if os.environ.get("JAXREL_REQUIRE_BROWSER") == "1" else pytest.skip
        give_up("needs chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Root, as in containers, has no sandbox.
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] * (os.geteuid() == 0))
        yield opened
        opened.close()


@pytest.fixture
def shown(browser: Browser) -> Iterator[Any]:
    """Opens a file, and in the end says what went wrong in it and what it asked the network for."""
    page = browser.new_page(color_scheme="light")
    told: list[str] = []

    def log(message: ConsoleMessage) -> None:
        told.append(message.text)

    page.on("console", log)
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    def open_file(path: Path) -> Page:
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_file
    own = page.url
    page.close()
    assert told == []
    assert {url for url in asked if not url.startswith("data:")} == {own}


def score(encoder: str, target: str, reference: str | None, **fields: Any) -> Score:
    place = sum(map(ord, encoder + target)) % 97 / 100
    numbers = dict(zip(TERMS, (0.5 + place, 0.25, 0.125), strict=True))
    classes = tuple(
        {"class": name, "prior": 0.5, "class_bound": 2.0, "bound": 1.0, "target_loss": 0.1, "leans_on": [[SCRIPT, 0.9]]}
        | numbers
        for name in (IMAGE, "cats")
    )
    given = {
        "transferability": place,
        "lower": place - 0.02,
        "upper": place + 0.02,
        "num_parameters": 10 * len(encoder),
        "vacuous_level": 2.0,
        "bound": sum(numbers.values()),
        "target_loss": 0.3,
        "classes": classes,
    }
    return Score("", reference, target, encoder, **given | numbers | fields)


def ranking() -> Ranking:
    pairs = [("r", "t"), ("r", "u"), ("s", "t"), ("s", "u")]
    scores = [score(e, target, reference) for reference, target in pairs for e in ENCODERS]
    failed = score("failed", "t", "r", status="failed: <b>no</b>", transferability=np.nan)
    return make_ranking([*scores, failed], Settings())


@pytest.fixture(scope="module")
def page_of_ranking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page"), ranking(), command=["jaxrel", "rank", SCRIPT])


def column(page: Page, number: int) -> list[str]:
    """What a column of the first table shows."""
    return page.locator(f"section.grid >> nth=0 >> tbody tr > :nth-child({number})").all_inner_texts()


def first_table(page: Page) -> Any:
    return page.get_by_role("region", name="Encoders", exact=True).first


def test_names_are_text_everywhere(shown: Any, page_of_ranking: Path) -> None:
    page = shown(page_of_ranking)
    assert set(column(page, 1)) == {SCRIPT, IMAGE, "plain", r"it's \u202e\x1b[31m", "fifth", "failed"}
    assert page.locator("img, main script, b").count() == 0
    expect(page.locator(".gallery")).to_have_text(re.compile("Most confused classes.*made without the data set"))
    expect(page.locator(".complaints")).to_contain_text("<b>no</b>")
    assert SCRIPT in (page.locator(".chart svg").first.text_content() or "")
    assert f"jaxrel rank {SCRIPT}" in (page.locator("td", has_text="jaxrel rank").text_content() or "")


def test_data_are_json_inside(page_of_ranking: Path) -> None:
    text = page_of_ranking.read_text()
    (found,) = re.findall(r'<script type="application/json" id="results">(.*?)</script>', text, re.DOTALL)
    document = json.loads(found)
    (part,) = document["parts"]
    encoders, classes = part["tables"]
    assert [row["encoder"] for row in encoders["rows"]][:2] != []
    assert {row["encoder"] for row in encoders["rows"]} >= {SCRIPT, IMAGE}
    assert {row["class"] for row in classes["rows"]} == {IMAGE, "cats"}
    assert part["settings"]["samples"] == 1000
    assert document["made"][0]["command"] == ["jaxrel", "rank", SCRIPT]
    assert {"jaxrel", "jax", "python"} <= set(document["made"][0]["versions"])
    assert "alert(1)" not in re.sub(r"<script type=.application/json.*?</script>", "", text).split("<body>")[0]


def test_a_heading_sorts_both_ways_and_by_keyboard(shown: Any, page_of_ranking: Path) -> None:
    page = shown(page_of_ranking)
    heading = page.get_by_role("columnheader", name="transferability").first
    assert heading.get_attribute("aria-sort") is None
    values = {row.score.encoder: row.score.transferability for row in ranking().tables[0].rows}
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"

    def shares() -> list[float]:
        return [float(text.split("%")[0]) for text in column(page, 5) if text]

    assert shares() == sorted(shares(), reverse=True)
    assert max(shares()) >= 100 * max(value for value in values.values() if value == value) - 0.1
    assert column(page, 5)[-1] == ""  # what failed is last either way
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert shares() == sorted(shares())
    assert column(page, 5)[-1] == ""
    page.get_by_role("columnheader", name="encoder").first.get_by_role("button").press("Enter")
    names = column(page, 1)
    assert names.index("failed") < names.index("fifth") < names.index("plain")
    assert heading.get_attribute("aria-sort") is None


def test_rows_are_filtered(shown: Any, page_of_ranking: Path) -> None:
    page = shown(page_of_ranking)
    table = first_table(page)
    status = table.get_by_role("status")
    assert status.inner_text() == "21 of 21 rows are shown."
    table.get_by_label("target", exact=True).select_option("u")
    assert set(column(page, 3)) == {"u"}
    table.get_by_label("Search").fill("PLAIN r")
    assert column(page, 1) == ["plain"]
    assert status.inner_text() == "1 of 1 rows are shown, of 21 in all."
    table.get_by_label("Search").fill("")
    table.get_by_label("only the best").check()
    best = {row.score.encoder for t in ranking().tables if t.target == "u" for row in t.rows if row.rank == 1}
    assert set(column(page, 1)) == best
    assert all(text.endswith("best") for text in column(page, 5))


def test_terms_are_told_under_the_pointer(shown: Any, page_of_ranking: Path) -> None:
    page = shown(page_of_ranking)
    chart = page.locator("figure", has_text="Terms of the bound").first
    bar = chart.locator(".mark-rect.role-mark path").first
    assert "label mismatch" in (chart.locator("[aria-roledescription=bar]").nth(1).get_attribute("aria-label") or "")
    bar.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    expect(tooltip).to_contain_text("label mismatch")
    expect(tooltip).to_contain_text("0.125")
    page.locator("figure", has_text="by target class").locator(".mark-rect.role-mark path").first.hover()
    expect(tooltip).to_contain_text(f"{SCRIPT} (0.90)")
    chart.locator("select").last.select_option("t")
    assert "· u" not in (chart.locator("svg").text_content() or "")


def test_colours_follow_the_system_and_the_button(browser: Browser, shown: Any, page_of_ranking: Path) -> None:
    page = shown(page_of_ranking)

    def colours() -> tuple[str, str]:
        label = "getComputedStyle(document.querySelector('.chart svg .role-axis text')).fill"
        return page.evaluate("getComputedStyle(document.body).backgroundColor"), page.evaluate(label)

    button = page.get_by_role("button", name="Dark colours")
    light = colours()
    assert light[0] == "rgb(255, 255, 255)"
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    dark = colours()
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    page.emulate_media(media="print")
    assert colours()[0] == light[0]
    page.set_viewport_size({"width": 1000, "height": 700})  # of a landscape A4 page, nearly
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    page.emulate_media(media="screen", color_scheme="dark")
    page.reload()
    page.wait_for_selector("html[data-ready]", state="attached")
    assert colours() == dark


def test_one_pair_of_tasks_is_in_the_title_and_fits_a_phone(shown: Any, tmp_path: Path) -> None:
    pair = make_ranking([score(encoder, "t", "r") for encoder in ENCODERS], Settings())
    page = shown(write_page(tmp_path, pair))
    assert page.get_by_role("heading", level=2).first.inner_text() == "Ranking by transferability on t with reference r"
    headings = first_table(page).get_by_role("columnheader").all_inner_texts()
    assert headings[:3] == ["encoder", "rank", "transferability"]
    assert not {"target", "reference"} & set(headings)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    chart = page.locator("figure", has_text="Quality against cost")
    assert chart.locator("svg").evaluate("svg => svg.getBoundingClientRect().width") <= 390
    names = chart.locator(".role-legend-label text").all_text_contents()
    assert {"plain", "fifth"} <= set(names)
    assert len(names) == len(ENCODERS)
    caption = first_table(page).locator("caption span")
    assert caption.evaluate("span => span.getBoundingClientRect().right") <= 390


def test_two_hundred_encoders_by_twenty_targets(shown: Any, tmp_path: Path) -> None:
    names = [f"encoder-{number:03}" for number in range(200)]
    targets = [f"target-{number}" for number in range(20)]
    scores = [[score(e, target, "r", classes=()) for e in names] for target in targets]
    tables = [
        Table("r", target, tuple(Row(place + 1, one, (1.0, 2.0), False, ()) for place, one in enumerate(own)))
        for target, own in zip(targets, scores, strict=True)
    ]
    page = shown(write_page(tmp_path, Ranking(tuple(tables), (), Settings())))
    table = first_table(page)
    nodes = "document.getElementsByTagName('*').length"
    assert page.evaluate(nodes) < 10_000
    table.get_by_role("button", name="Show more").click()
    assert len(column(page, 1)) == 200
    table.get_by_role("columnheader", name="transferability").get_by_role("button").click()
    assert column(page, 4)[0].startswith(f"{max(one.transferability for own in scores for one in own):.1%}")
    table.get_by_label("target", exact=True).select_option("target-7")
    assert table.get_by_role("status").inner_text() == "100 of 200 rows are shown, of 4000 in all."
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(column(page, 1)) == 200
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    table.get_by_label("Search").fill("encoder-123")
    assert column(page, 1) == ["encoder-123"]
    assert page.evaluate(nodes) < 10_000


def study() -> Results:
    """Two metrics of three encoders, two references and targets; two encoders have the same resamples."""
    noise = np.random.default_rng(0).normal(size=50)
    entries = []
    for target in ("t", "u"):
        for place, encoder in enumerate(("a", "b", "c")):
            own: dict[str, Any] = {"encoder": encoder, "target": target, "origin": {}}
            value = 0.8 - 0.3 * (place == 2)
            resamples = tuple(value + 0.01 * noise + 0.02 * place * noise[::-1])
            numbers = {"value": value, "num_parameters": 10.0 * place, "scoring_seconds": 1.0}
            entries.append(Record("", "transferability", reference=None, numbers=numbers, resamples=resamples, **own))
            for reference in ("r", "s"):
                terms = dict.fromkeys(TERMS, 0.2 + 0.1 * place) | {"value": 0.6 + 0.3 * place, "target_loss": 0.1}
                terms |= {"bound": terms["value"]}
                entries.append(Record("", "bound", reference=reference, numbers=terms, **own))
    axes: dict[str, Any] = {"samples": (None,), "seeds": (0,), "reference_classes": ("all",)}
    axes |= {"encoders": ("a", "b", "c"), "references": ("r", "s"), "targets": ("t", "u")}
    return Results(tuple(entries), metrics=("transferability", "bound"), settings=Settings(), **axes)


def verification() -> Verification:
    by_seed, covariance = np.array([[0.9, 0.5, 0.88], [0.9, 0.5, 0.9]]), 1e-4 * np.eye(3)
    accuracies = Accuracies("probe_accuracy", ("a", "b", "c"), by_seed, covariance, 100, 0.9)
    scores = (Column("bound (r.[x])", {"a": 1.0, "b": 2.0, "c": math.nan}, higher_is_better=False),)
    interval: dict[str, float | None] = {"estimate": 0.5, "lower": 0.25, "upper": 0.75}
    statistics: dict[str, Any] = dict.fromkeys(
        ("weighted_kendall_tau_symmetric", "kendall_tau", "spearman", "pearson"), interval
    )
    statistics["pearson"] = dict.fromkeys(interval)
    found = Agreement(scores[0].name, accuracies.kind, 3, 2, 100, 3, 2, 2, 1, 0.03, "a", 0.0, statistics, statistics)
    return Verification("t", ("a", "c", "b"), (accuracies,), scores, (found,), Settings(), ("a note",))


def board() -> Scoreboard:
    values = np.array([[1.0, np.nan], [2.0, 0.5]])
    return Scoreboard(
        ("a", "b"), ("h_score", "logme"), values, {("a", "logme"): ("failed: why",)}, np.ones((2, 2)), ("", "")
    )


def test_every_kind_of_result_has_a_part(shown: Any, tmp_path: Path) -> None:
    page = shown(write_page(tmp_path / "all.html", study(), board(), verification()))
    assert page.get_by_role("heading", level=2).all_inner_texts() == [
        "Study",
        "Scores",
        "Verification on t",
        "Most confused classes",
        "Where this is from",
    ]
    charts = page.get_by_role("figure").all_inner_texts()
    assert [text.splitlines()[0] for text in charts] == [
        "Terms of the bound",
        "bound by reference and target",
        "Quality against cost",
        "Rank of each encoder by each metric",
        "Accuracy after training against scores",
    ]
    assert page.locator(".chart svg").count() == 5
    marks = {row.split("\t")[0]: row for row in page.locator("tbody >> nth=0 >> tr").all_inner_texts()}
    assert "ties with the best" in marks["b"]
    assert "ties" not in marks["c"]
    trained = page.locator("section.grid >> nth=2 >> tbody tr").all_inner_texts()
    assert ["best" in row for row in trained] == [True, True, False]
    expect(page.locator(".complaints")).to_contain_text("failed: why")
    expect(page.get_by_role("region", name="t: agreement of scores with accuracies")).to_contain_text("2/3")
    assert page.locator("th:not([scope])").count() == 0


def test_without_the_library_tables_are_there_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch, shown: Any, tmp_path: Path
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "vl_convert" else find(name))
    page = shown(write_page(tmp_path, board()))
    assert page.get_by_role("figure").count() == 0
    expect(page.locator(".why")).to_contain_text("pip install 'jaxrel[page]'")
    assert column(page, 1) == ["a", "b"]


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>mine</p>")
    with pytest.raises(ValueError, match=r"report\.html was not written by jaxrel"):
        write_page(tmp_path, board())
    with pytest.raises(ValueError, match="nothing to show"):
        write_page(tmp_path / "other.html")


def test_commands_write_a_page_with_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: Any) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    fake_zoo.install(monkeypatch.setattr)
    asked = ["rank", "--target", "squares", "--reference", "circles", "--encoder", "narrow", "wide", "--output", "out"]
    asked += ["--samples", "30", "--held-out", "12", "--resamples", "20", "--no-plot", "--quiet"]
    assert cli.main(asked) == 0
    page = shown(tmp_path / "out" / "report.html")
    gallery = page.locator(".gallery")
    expect(gallery.get_by_role("heading", level=3)).to_contain_text("squares by ")
    assert 1 <= gallery.get_by_role("figure").count() <= 4
    pictures = gallery.get_by_role("img", name=re.compile(r"sample \d+, (a|b|c) predicted as (a|b|c)"))
    assert pictures.count() == gallery.locator("img").count() > 0
    assert pictures.first.evaluate("picture => picture.naturalWidth") == 4
    assert gallery.locator(".note").count() == 0
    expect(page.locator(".why").first).to_contain_text("No charts were requested")
    verification().save("out")
    assert cli.main(["report", "out", "--output", "again", "--no-plot"]) == 0
    again = Path("again/report.html").read_text()
    assert "jaxrel report out" in again
    assert "jaxrel rank --target squares" in again
    assert "Verification on t" in again
    assert "The page was made without the data set" in again
    classes = Ranking.load("out").tables[0].rows[0].score.classes
    assert [one["class"] for one in classes] == ["a", "b", "c"]
    Path("mine").mkdir()
    Path("mine/report.html").write_text("mine")
    assert cli.main([*asked, "--output", "mine"]) == 2
    assert [path.name for path in Path("mine").iterdir()] == ["report.html"]


def test_confusions_without_pictures_say_why(shown: Any, tmp_path: Path) -> None:
    names = (SCRIPT, "c", IMAGE, "alone")
    source = FeatureArrays("t", {"net": confused_task(class_names=names)})
    page = shown(
        write_page(tmp_path / "page.html", make_ranking([score("net", "t", None)], Settings()), sources=[source])
    )
    gallery = page.locator(".gallery")
    texts = gallery.locator("figcaption").all_inner_texts()
    assert len(texts) == 4
    assert any(IMAGE in text for text in texts)
    assert any(SCRIPT in text for text in texts)
    assert re.search(r"\d\.\d% of ", texts[0])
    expect(gallery.locator(".note")).to_have_text("There are no thumbnails: only features were passed, and no samples.")
    assert page.locator("img").count() == 0
    data = json.loads(page.locator("#results").text_content() or "")
    assert [pair["encoder"] for pair in data["confusions"]] == ["net"] * 4


def test_a_verification_comes_back_and_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    found = verification()
    found.save("out")
    back = Verification.load("out")
    assert back.records() == found.records()
    assert back.to_text() == found.to_text()
    assert back.agreements == found.agreements
    assert back.accuracies[0].noise(0, 2) == pytest.approx(found.accuracies[0].noise(0, 2))
    assert cli.main(["report", "out"]) == 0
    printed = capsys.readouterr().out
    assert "t: accuracy after training" in printed
    assert str(found.agreements[0])[:60] in printed


def test_what_ties_with_the_best_is_marked() -> None:
    rows: list[dict[str, Any]] = [{"x": 1.0}, {"x": 3.0}, {"x": 2.9}, {}, {"x": 3.0}]
    mark_best(rows, "x", "higher", lambda one, other: abs(one - other) == 1)
    assert [row.get("x_mark") for row in rows] == ["tied", "best", "tied", None, "tied"]
    rows = [{"x": 1.0}, {"x": 3.0}]
    mark_best(rows, "x", "lower", lambda one, other: False)
    assert rows == [{"x": 1.0, "x_mark": "best"}, {"x": 3.0}]


def test_resamples_tell_apart_what_differs() -> None:
    same = np.random.default_rng(0).normal(size=100)
    assert told_apart(same, same + 1, 0.9) is True
    assert told_apart(same, same[::-1], 0.9) is False
    assert told_apart([np.inf] * 3, [np.inf] * 3, 0.9) is False
    assert told_apart(same, same[:5], 0.9) is None

"""Many metrics of many encoders: in batches, from files, killed and resumed, on the command line."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import fake_zoo
import jax
import numpy as np
import pytest
from score_problems import problem

from jaxrel import cli
from jaxrel.metrics import METRICS, ScoreStatus, etran_combine, etran_components, score_encoders
from jaxrel.study import Scoreboard, score
from jaxrel.study.encoder_arrays import from_files
from jaxrel.study.page.scoreboards import part_of_scoreboard

QUICK = ["logme", "gbc", "etran", "rankme"]


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def hub(*widths: int) -> dict[str, dict[str, np.ndarray]]:
    """Encoders of these widths on one target."""
    labels = problem()["labels"]
    return {
        f"encoder-{number}": {"features": problem(number, d=width)["features"], "labels": labels}
        for number, width in enumerate(widths)
    }


def write_files(encoders: dict[str, dict[str, np.ndarray]], folder: str = ".") -> list[str]:
    for name, arrays in encoders.items():
        np.savez(Path(folder) / f"{name}.npz", **arrays)
    return [f"{name}.npz" for name in encoders]


# In batches


@pytest.mark.slow
def test_batches_are_one_by_one():
    """Widths differ, so there are two batches, and the order is that of the encoders."""
    encoders = hub(6, 9, 6)
    features, labels = [arrays["features"] for arrays in encoders.values()], problem()["labels"]
    weights = np.ones(24)
    weights[:3] = (2, 0, 3)
    for batch_size, metrics in ((None, QUICK), (2, ["logme", "gbc", "rankme", "etran"])):
        found = score_encoders(features, labels, metrics=metrics, weights=weights, batch_size=batch_size)
        assert list(found) == metrics
        for name in ("logme", "gbc", "rankme"):
            metric = METRICS[name]
            data = [(rows, labels)[: len(metric.needs)] for rows in features]
            np.testing.assert_allclose(
                found[name].value, [float(metric.function(*each, weights=weights)) for each in data], rtol=2e-5
            )
        parts = [etran_components(rows, labels, weights=weights) for rows in features]
        np.testing.assert_allclose(found["etran"].value, etran_combine(parts).value, rtol=2e-5)


def test_all_that_is_given_suffices_for_is_computed():
    data = problem()
    given = [data["features"]] * 2
    sources = score_encoders(None, data["labels"], source_labels=[data["source_labels"]] * 2)
    assert list(sources) == ["nce"]
    names = set(score_encoders(given, reference_features=[data["reference_features"]] * 2))
    assert names == {"rankme", "alpha_req", "energy", "energy_distance", "mmd", "sinkhorn_divergence"}


def test_labels_of_another_target_need_no_compilation(caplog):
    features, labels = np.stack([problem(seed)["features"] for seed in (0, 1)]), problem()["labels"]
    options = {"metrics": ["logme", "transrate", "ncti"], "num_classes": 4}
    score_encoders(features, labels, **options)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        score_encoders(features[::-1], labels[::-1], **options)
    assert not [record for record in caplog.records if "Compiling" in record.message]


def test_large_hubs_are_scored_in_several_calls(monkeypatch):
    monkeypatch.setattr("jaxrel.metrics.batch._MOST_NUMBERS", 32 * 6 * 2)  # 24 samples in their size class
    features = [problem(seed)["features"] for seed in range(5)]
    seen = []
    found = score_encoders(features, metrics=["rankme"], progress=lambda *news: seen.append(news))
    assert seen == [("scoring", 1, 3), ("scoring", 2, 3), ("scoring", 3, 3)]
    expected = [float(METRICS["rankme"].function(rows)) for rows in features]
    np.testing.assert_allclose(found["rankme"].value, expected, rtol=1e-5)


def test_bad_batches_are_named():
    data = problem()
    rows, labels = data["features"], data["labels"]
    holed = np.where(np.arange(24)[:, None] == 3, np.nan, rows)
    for call, message in (
        (lambda: score_encoders([rows], labels, metrics=["tau"]), "unknown metric 'tau': there are "),
        (lambda: score_encoders([rows], metrics=["logme"]), "logme needs labels"),
        (lambda: score_encoders(None, labels), "with labels given none"),
        (lambda: score_encoders([], labels), "one array of each kind"),
        (lambda: score_encoders([rows], metrics=["cka"], aligned_features=[rows] * 2), "one array of each kind"),
        (lambda: score_encoders([rows, holed], labels), r"features of encoder 1: features\[3, 0\] is nan"),
        (lambda: score_encoders([rows], labels, batch_size=0), "batch_size must be at least 1"),
        (
            lambda: score_encoders([rows], labels - 1, metrics=["logme"]),
            r"labels: labels\[\d+\] and \d other of 24 labels are missing",
        ),
        (
            lambda: score_encoders([rows], labels / 2, metrics=["logme"]),
            r"labels: labels\[0\] is \d\.5, which is no class",
        ),
        (lambda: score_encoders([rows], np.eye(4)[labels], metrics=["logme"]), r"labels: labels must have shape"),
        (lambda: score_encoders([rows, rows], labels[:5], metrics=["logme"]), r"labels must have shape \(24,\)"),
        (
            lambda: score_encoders(None, labels, source_probabilities=[data["source_probabilities"] * 2]),
            "source_probabilities of encoder 0: .*softmax",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


# A scoreboard


def test_ranks():
    board = Scoreboard(
        ("a", "b", "c", "d"),
        ("logme", "otdd"),
        np.array([[1.0, 3.0], [2.0, 1.0], [math.nan, 2.0], [1.0, math.inf]]),
        {},
        np.zeros((4, 2)),
        ("",) * 4,
    )
    np.testing.assert_array_equal(board.ranks(), [[2, 3], [1, 1], [4, 2], [2, 4]])
    assert [record["rank"] for record in board.records()] == [2, 3, 1, 1, None, 2, 2, 4]
    (axis, _) = board.plot().axes
    assert [text.get_text() for text in axis.texts] == ["2", "3", "1", "1", "failed", "2", "2", "4"]


def test_an_origin_that_all_scores_share_is_in_the_title() -> None:
    options = json.dumps({"target": "digits", "reference": "mnist", "seed": 0})
    for origins, title, shown in (
        ((options, options), "Scores on digits with reference mnist", False),
        (("a.npz", "b.npz"), "Scores", True),
        (("", ""), "Scores", False),
    ):
        part = part_of_scoreboard(Scoreboard(("a", "b"), ("logme",), np.ones((2, 1)), {}, np.zeros((2, 1)), origins))
        assert part.title == title
        assert ("origin" in [column.field for column in part.grids[0].columns]) is shown


def test_scores_are_those_of_the_functions(tmp_path):
    encoders = hub(6, 9)
    board = score(encoders, metrics=QUICK, output=tmp_path)
    assert board.encoders == ("encoder-0", "encoder-1")
    features, labels = zip(*(arrays.values() for arrays in encoders.values()), strict=True)
    expected = score_encoders(features, labels[0], metrics=QUICK)
    for column, name in enumerate(QUICK):
        np.testing.assert_allclose(board.values[:, column], expected[name].value, rtol=1e-6)
    again = score(encoders, metrics=QUICK, output=tmp_path)
    np.testing.assert_array_equal(again.values, board.values)


def test_finished_scores_are_not_computed_again(tmp_path, monkeypatch):
    score(hub(6), metrics=QUICK, output=tmp_path)
    seen = []

    def record(features, **options):
        seen.append((features[0].shape, options["metrics"]))
        return score_encoders(features, **options)

    monkeypatch.setattr("jaxrel.study.scoring.arrays.score_encoders", record)
    score(hub(6, 9), metrics=[*QUICK, "energy"], output=tmp_path)
    assert seen == [((24, 6), ["energy"]), ((24, 9), [*QUICK, "energy"])]
    changed = hub(6)
    changed["encoder-0"]["features"][0] += 1
    score(changed, metrics=["energy"], output=tmp_path)
    assert seen[2:] == [((24, 6), ["energy"])]


def test_interrupt_keeps_the_encoders_that_are_done(tmp_path, monkeypatch):
    def interrupted(features, **options):
        if features[0].shape[1] == 9:
            raise KeyboardInterrupt
        return score_encoders(features, **options)

    monkeypatch.setattr("jaxrel.study.scoring.arrays.score_encoders", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score(hub(6, 9), metrics=QUICK, output=tmp_path)
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == len(QUICK)


def test_refused_encoder_does_not_keep_the_others_from_scores(tmp_path):
    encoders = hub(6, 6, 6)
    encoders["encoder-1"]["features"][2, 3] = np.inf
    for _ in range(2):
        board = score(encoders, metrics=["logme", "etran"], output=tmp_path)
        assert np.isnan(board.values[1]).all()
        assert np.isfinite(board.values[[0, 2]]).all()
        assert "features[2, 3] is inf" in board.messages["encoder-1", "logme"][0]
        assert set(board.messages) == {("encoder-1", "logme"), ("encoder-1", "etran")}


def test_scores_that_are_undefined_say_why(tmp_path):
    encoders = hub(6)
    encoders["encoder-0"]["labels"] = np.zeros(24, int)
    board = score(encoders, metrics=["silhouette"], output=tmp_path)
    assert np.isnan(board.values[0, 0])
    assert "too few" in board.messages["encoder-0", "silhouette"][0]


def test_bad_hubs_are_named_before_a_file_is_made(tmp_path):
    other = hub(6, 6)
    other["encoder-1"]["labels"] = other["encoder-1"]["labels"][::-1]
    output = tmp_path / "none"
    for encoders, metrics, message in (
        ({}, None, "no encoder"),
        (hub(6), ["tau"], "unknown metric"),
        (hub(6), ["leep"], "leep needs source_probabilities, which there is not of encoder-0"),
        ({"a": {"labels": problem()["labels"]}}, None, "no metric can be computed from labels"),
        ({"a": {"feature": problem()["features"]}}, None, "a has arrays feature, which no metric needs"),
    ):
        with pytest.raises(ValueError, match=message):
            score(encoders, metrics=metrics, output=output)
    assert not output.exists()
    for _ in range(2):
        board = score(other, metrics=["gbc"], output=output)
        assert "labels of encoder-1 differ" in board.messages["encoder-1", "gbc"][0]
        assert board.failed == (("encoder-1", "gbc"),)


# On the command line


def test_score_of_files_prints_the_table_and_writes_the_files(capsys, tmp_path):
    files = write_files(hub(6, 9))
    assert cli.main(["score", *files, "--metric", *QUICK]) == 0
    captured = capsys.readouterr()
    assert all(word in captured.out for word in ("encoder-0", "encoder-1", *QUICK))
    assert "scores.csv" in captured.err
    folder = tmp_path / "jaxrel-scores"
    written = {"scores.json", "scores.csv", "scores.png", "report.html", "records.jsonl"}
    assert {path.name for path in folder.iterdir()} == written
    document = json.loads((folder / "scores.json").read_text())
    assert [metric["name"] for metric in document["metrics"]] == QUICK
    assert len(document["scores"]) == 2 * len(QUICK)
    assert len((folder / "scores.csv").read_text().splitlines()) == 1 + 2 * len(QUICK)
    assert cli.main(["score", *files, "--metric", *QUICK]) == 0
    assert "8 of 8 scores are in" in capsys.readouterr().err


def test_quiet_prints_the_table_alone(capsys):
    assert cli.main(["score", *write_files(hub(6)), "--metric", "rankme", "--quiet", "--no-plot"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "The files" not in captured.out
    assert not Path("jaxrel-scores/scores.png").exists()


def test_score_of_named_encoders(monkeypatch, capsys):
    fake_zoo.install(monkeypatch.setattr)
    words = [
        "--target",
        "squares",
        "--reference",
        "circles",
        "--views",
        "--samples",
        "60",
        "--encoder",
        "narrow",
        "wide",
    ]
    metrics = ["energy_distance", "logme", "cross_view"]
    assert cli.main(["score", *words, "--metric", *metrics]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("narrow", "wide", *metrics))
    document = json.loads(Path("jaxrel-scores/scores.json").read_text())
    assert all(isinstance(record["value"], float) for record in document["scores"])


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "pass files, one for each encoder, or --encoder and --target"),
        (["a.npz", "--target", "squares"], 2, "pass files"),
        (["--target", "squares"], 2, "pass files"),
        (["encoder-0.npz", "--views"], 2, "are for named data sets"),
        (["encoder-0.npz", "encoder-0.npz"], 2, "passed twice"),
        (["missing.npz"], 1, "missing.npz is not an .npz file"),
        (["text.npz", "--strict"], 1, "text.npz is not an .npz file"),
        (["pickled.npz", "--strict"], 1, "pickled.npz cannot be read"),
        (["strange.npz"], 2, "strange.npz has arrays logits"),
        (["encoder-0.npz", "--metric", "log_me"], 2, "unknown metric 'log_me' (did you mean 'logme'?)"),
    ],
)
def test_wrong_use_is_one_message(words, status, message, capsys):
    write_files(hub(6))
    Path("text.npz").write_text("features")
    np.savez("pickled.npz", features=np.array([{}, 1], object), allow_pickle=True)
    np.savez("strange.npz", logits=np.ones(3))
    assert cli.main(["score", *words, "--no-plot"]) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_files_of_one_stem_are_called_by_their_folders(capsys):
    for folder in ("first/run", "second/run", "second/other"):
        Path(folder).mkdir(parents=True)
        write_files(hub(6), folder)
    files = ["first/run/encoder-0.npz", "second/run/encoder-0.npz", "second/other/encoder-0.npz"]
    found = [encoder.name for encoder in from_files([*map(Path, files)])]
    assert found == ["first/run/encoder-0", "second/run/encoder-0", "other/encoder-0"]
    assert cli.main(["score", *files, "--metric", "rankme", "--no-plot"]) == 0
    assert "other/encoder-0" in capsys.readouterr().out


def test_a_file_may_be_added_that_changes_the_names_of_others():
    for folder in ("one", "two"):
        Path(folder).mkdir()
        write_files(hub(6), folder)
    words = ["--metric", "rankme", "--no-plot", "--quiet"]
    assert cli.main(["score", "one/encoder-0.npz", *words]) == 0
    assert cli.main(["score", "one/encoder-0.npz", "two/encoder-0.npz", *words]) == 0
    assert cli.main(["score", "two/encoder-0.npz", *words]) == 2


def test_a_file_is_one_encoder_however_it_is_spelled(capsys):
    write_files(hub(6))
    assert cli.main(["score", "encoder-0.npz", "../" + Path.cwd().name + "/encoder-0.npz", "--no-plot"]) == 2
    assert "passed twice" in capsys.readouterr().err


def test_one_bad_file_is_named_and_the_others_are_scored(capsys):
    files = write_files(hub(6, 9))
    Path("text.npz").write_text("features")
    np.savez("pickled.npz", features=np.array([{}, 1], object), labels=np.zeros(2), allow_pickle=True)
    content = Path(files[0]).read_bytes()
    Path("damaged.npz").write_bytes(content[:300] + bytes(60) + content[360:])
    words = ["score", "text.npz", files[0], "pickled.npz", "damaged.npz", files[1], "--metric", "rankme", "--no-plot"]
    for _ in range(2):
        assert cli.main(words) == 1
        captured = capsys.readouterr()
        bad = ("text", "pickled", "damaged")
        assert f"3 of 5 scores failed ({', '.join(f'rankme of {name}' for name in bad)})" in captured.err
        assert "text, rankme: failed: text.npz is not an .npz file" in captured.out
        assert "nan" not in captured.out
    document = json.loads(Path("jaxrel-scores/scores.json").read_text())
    values = {record["encoder"]: record["value"] for record in document["scores"]}
    assert [values[name] for name in bad] == [None] * 3
    assert values["encoder-0"] > 0


def test_scores_of_other_files_are_not_replaced(capsys):
    files = write_files(hub(6))
    assert cli.main(["score", *files, "--metric", "rankme", "--no-plot"]) == 0
    content = Path("jaxrel-scores/scores.json").read_bytes()
    Path("other").mkdir()
    Path(files[0]).rename(Path("other") / files[0])
    assert cli.main(["score", f"other/{files[0]}", "--metric", "rankme", "--no-plot"]) == 2
    assert "jaxrel-scores holds results of another run" in capsys.readouterr().err
    assert Path("jaxrel-scores/scores.json").read_bytes() == content
    assert cli.main(["score", f"other/{files[0]}", "--metric", "rankme", "--no-plot", "--output", "more"]) == 0


def test_names_of_encoders_are_no_markup(capsys):
    encoders = {"x[red]": hub(6)["encoder-0"], "a$b$": hub(6)["encoder-0"], ":dog:": hub(6)["encoder-0"]}
    encoders["x[red]"]["features"][0] = np.nan
    assert cli.main(["score", *write_files(encoders), "--metric", "rankme"]) == 1
    captured = capsys.readouterr()
    assert all(name in captured.out for name in encoders)
    assert "x[red], rankme: " in captured.out


def test_ranking_and_scoring_share_a_folder(monkeypatch):
    fake_zoo.install(monkeypatch.setattr)
    words = ["--target", "squares", "--encoder", "wide", "--samples", "30", "--no-plot", "--output", "both"]
    for _ in range(2):
        assert cli.main(["rank", *words, "--resamples", "5"]) == 0
        assert cli.main(["score", *words, "--metric", "rankme"]) == 0


def test_metrics_are_listed(capsys):
    assert cli.main(["metrics"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in METRICS)
    assert "source_probabilities: (n, s)" in out
    assert cli.main(["metrics", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)["metrics"]
    assert [record["name"] for record in records] == list(METRICS)
    assert {record["name"] for record in records if record["depends_on_other_encoders"]} == {"ncti", "etran"}


def test_statuses_of_refusals_are_those_of_bad_input(tmp_path, caplog: pytest.LogCaptureFixture):
    encoders = hub(6)
    encoders["encoder-0"]["features"][:] = np.nan
    score(encoders, metrics=["rankme"], output=tmp_path)
    record = json.loads((tmp_path / "records.jsonl").read_text())
    assert record["status"].startswith("failed: features of encoder 0: features[0, 0] is nan")
    assert record["bits"] == ScoreStatus.INVALID_INPUT
    assert record["numbers"] == {"value": None}
    assert "features[0, 0] is nan" in caplog.text

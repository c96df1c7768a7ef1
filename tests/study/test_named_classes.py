"""Targets whose classes are named: labels by a teacher, in sources, studies, records and on the command line."""

from __future__ import annotations

import dataclasses
import html
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import FIXTURES
from tiny_clip import write_tiny_clip
from tiny_texts import TOPICS, write_text_study

from jaxrel import Task, cli, encoders, study
from jaxrel.study import FeatureArrays, Settings, Study
from jaxrel.study.named_classes import NamedClasses, default_teacher, named_classes, read_class_names
from jaxrel.study.records import StudyLog
from jaxrel.study.sources import samples_fingerprint, silent

NAMES = {topic: (words, f"{words} notes") for topic, words in TOPICS.items()}
TEACHER = "bert@tiny"
QUICK: dict[str, Any] = {"samples": 60, "held_out": 30, "resamples": 5, "batch_size": 8}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAXREL_CACHE", str(tmp_path / "cache"))
    write_text_study(tmp_path)


def source_of(names: Any = NAMES, **settings: Any) -> NamedClasses:
    used = Settings(**QUICK | settings)
    (notes,) = study.named_sources(["./notes"], settings=used, store=study.feature_store()).values()
    return named_classes(notes, names, TEACHER, seed=0)


def names_in(task: Task) -> list[str]:
    assert task.class_names is not None
    return [task.class_names[label] for label in np.asarray(task.labels)]


def test_samples_have_the_class_whose_name_is_nearest_to_the_teacher():
    source = source_of()
    own, named = source.source.features(TEACHER, silent), source.features(TEACHER, silent)
    encoder = encoders.load(TEACHER)
    said = np.array([np.asarray(encoder(texts).features) for texts in NAMES.values()], np.float64)
    said /= np.linalg.norm(said, axis=2, keepdims=True)
    for before, after in zip(own, named, strict=True):
        assert before is not None
        assert after is not None
        nearest = (np.asarray(before.features) @ said.mean(1).T / np.linalg.norm(said.mean(1), axis=1)).argmax(1)
        assert names_in(after) == [list(NAMES)[number] for number in nearest]
        np.testing.assert_array_equal(after.features, before.features)
    assert named.held_out is not None
    assert named.train.class_names == named.held_out.class_names


def test_labels_of_the_target_are_not_looked_at():
    """Other labels, the same samples."""
    rng = np.random.default_rng(0)
    features = np.asarray(source_of().source.features(TEACHER, silent).train.features)
    labelled = [FeatureArrays("mine", {TEACHER: Task(features, rng.integers(0, 2, 60))}) for _ in range(2)]
    first, second = (named_classes(each, NAMES, TEACHER, seed=0).features(TEACHER, silent).train for each in labelled)
    assert names_in(first) == names_in(second)
    assert first.num_classes == 3


def test_files_without_labels_lie_in_one_folder():
    Path("mine/all").mkdir(parents=True)
    for number, file in enumerate(sorted(Path("notes").rglob("*.txt"))):
        file.rename(f"mine/all/{number}.txt")
    settings = Settings(**QUICK, class_names=NAMES, teacher=TEACHER)
    plan = Study([TEACHER], ["./mine"], settings=settings).plan()
    task = plan.sources[plan.units[0].target_source].features(TEACHER, silent).train
    assert set(names_in(task)) <= set(NAMES)
    assert len(set(names_in(task))) > 1


def test_prompts_count_alike_however_long_their_vectors_are(monkeypatch):
    expected = names_in(source_of().features(TEACHER, silent).train)
    extract = encoders.extract_features

    def stretched(encoder, samples, **options):
        scale = [1000 * (text in TOPICS.values()) + 1 for text in samples]
        return extract(encoder, samples, **options) * np.array(scale)[:, None]

    source = source_of()
    source.source.features(TEACHER, silent)
    monkeypatch.setattr(
        encoders,
        "extract_features",
        lambda encoder, samples, store=None, **options: (
            stretched(encoder, samples) if store is None else extract(encoder, samples, store=store, **options)
        ),
    )
    assert names_in(source.features(TEACHER, silent).train) == expected
    monkeypatch.setattr(
        encoders,
        "extract_features",
        lambda *_, **options: np.zeros((6, 24)) if options.get("store") is None else extract(*_, **options),
    )
    with pytest.raises(ValueError, match="bert@tiny has no features for 'w1 w2 w3 w4': use other words"):
        source_of().features(TEACHER, silent)


def test_held_out_classes_follow_those_of_training():
    named = source_of().features(TEACHER, silent).train
    features, kept = np.asarray(named.features), np.array(names_in(named)) != sorted(set(names_in(named)))[0]
    arrays = FeatureArrays("mine", {TEACHER: (Task(features[kept]), Task(features))})
    train, held_out = named_classes(arrays, NAMES, TEACHER, seed=0).features(TEACHER, silent)
    assert held_out is not None
    assert train.class_names is not None
    assert held_out.class_names is not None
    assert held_out.class_names[: len(train.class_names)] == train.class_names
    assert names_in(held_out) == names_in(named)


def test_fingerprints_tell_teachers_and_what_is_said_apart():
    told = [
        source_of().fingerprint(TEACHER),
        source_of({**NAMES, "sea": ("w1",)}).fingerprint(TEACHER),
        source_of(dict(reversed(NAMES.items()))).fingerprint(TEACHER),
        source_of().fingerprint("bert@tiny#1"),
        named_classes(source_of().source, NAMES, "bert@tiny#1", seed=0).fingerprint(TEACHER),
        source_of(samples=50).fingerprint(TEACHER),
    ]
    assert len(set(told)) == len(told)
    assert source_of().fingerprint(TEACHER) == told[0]
    source = source_of()
    task = source.features(TEACHER, silent).train
    other = task.with_labels(np.roll(np.asarray(task.labels), 1))
    assert samples_fingerprint(source, task) != samples_fingerprint(source, other)


def test_a_teacher_is_asked_once_whatever_the_encoder(monkeypatch):
    source, loads = source_of(), []
    load = encoders.load
    monkeypatch.setattr(encoders, "load", lambda name, **options: loads.append(name) or load(name, **options))
    for encoder in ("bert@tiny#0", "bert@tiny#1"):
        source.restricted_to([encoder]).features(encoder, silent)
    assert loads.count(TEACHER) == 1
    assert pickle.loads(pickle.dumps(source)).fingerprint(TEACHER) == source.fingerprint(TEACHER)


def test_records_say_what_made_the_labels_whatever_the_metric():
    settings = Settings(**QUICK, class_names=NAMES, teacher=TEACHER, strict=True)
    found, plain = (
        study.run(Study(["bert@tiny#1"], ["./notes"], metrics=["logme"], samples=[40], settings=used).plan())
        for used in (settings, Settings(**QUICK))
    )
    assert found.entries[0].texts["target_labels"] == "class names, by bert@tiny"
    assert "target_labels" not in plain.entries[0].texts
    assert plain.entries[0].key != found.entries[0].key
    assert plain.entries[0].value != found.entries[0].value


def test_a_data_set_that_is_a_reference_too_keeps_its_own_labels_there():
    settings = Settings(**QUICK, class_names=NAMES, teacher=TEACHER)
    plan = Study([TEACHER], ["./notes", "./letters"], ["./notes", "./letters"], settings=settings).plan()
    (unit, *_) = [unit for unit in plan.units if unit.reference == "./notes"]
    assert unit.reference_source == "./notes"
    assert isinstance(plan.sources[unit.target_source], NamedClasses)
    assert not isinstance(plan.sources["./notes"], NamedClasses)


def write_names(text: str, name: str = "names.txt") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


LINES = "".join(f"{topic}\t{words}\n" for topic, words in TOPICS.items())
COMMAND = [
    "rank",
    "--target",
    "./notes",
    "--encoder",
    "bert@tiny",
    "bert@tiny#1",
    "--samples",
    "60",
    "--resamples",
    "5",
]
COMMAND += ["--batch-size", "8", "--no-plot"]


def test_a_ranking_says_what_made_its_labels(capsys):
    words = [*COMMAND, "--class-names", write_names(LINES), "--teacher", "bert@tiny"]
    assert cli.main(words) == 0
    captured = capsys.readouterr()
    said, notes = (" ".join(stream.split()) for stream in (captured.out, captured.err))
    recipe = "samples that it was not fitted to, on class names, by bert@tiny"
    assert recipe in said
    assert "bert@tiny gave each sample the class whose name is nearest" in notes
    with StudyLog(Path("jaxrel-results/records.jsonl")) as log:
        records = list(log._records.values())
    assert {record["texts"]["target_labels"] for record in records} == {"class names, by bert@tiny"}
    loaded = study.Ranking.load("jaxrel-results")
    assert loaded.settings.class_names == tuple((topic, (words,)) for topic, words in TOPICS.items())
    assert loaded.settings.teacher == "bert@tiny"
    assert loaded.tables[0].rows[0].score.recipe.endswith("on class names, by bert@tiny")
    keys = [record["key"] for record in records]
    assert cli.main(words) == 0  # nothing is computed again
    with StudyLog(Path("jaxrel-results/records.jsonl")) as log:
        assert list(log._records) == keys
    capsys.readouterr()
    assert cli.main(COMMAND) == 2
    assert "jaxrel-results" in capsys.readouterr().err  # which holds a ranking by other labels


def test_a_ranking_counts_the_samples_of_each_name_and_tells_of_names_without_any(caplog, capsys):
    unheard = {**NAMES, "moss": ("w1",), "fog": ("w1",)}  # of the same text, so that at least one of both has none
    settings = Settings(**QUICK, class_names=unheard, teacher=TEACHER)
    ranking = study.rank(["./notes"], [TEACHER], output="results", settings=settings)
    (table,) = ranking.tables
    plan = Study([TEACHER], ["./notes"], settings=settings).plan()
    named = names_in(plan.sources[plan.units[0].target_source].features(TEACHER, silent).train)
    assert table.class_counts == {name: named.count(name) for name in unheard}
    assert list(table.class_counts) == list(unheard)
    unused = [name for name, number in table.class_counts.items() if not number]
    assert "fog" in unused
    assert f"gives no sample of ./notes the class name {', '.join(map(repr, unused))}" in caplog.text
    (_, said) = table.sections()[0].notes
    assert said.endswith(f"; none for {', '.join(unused)}")
    ranking.save("results")
    (pair,) = json.loads(Path("results/results.json").read_text())["pairs"]
    assert pair["class_counts"] == table.class_counts
    assert study.Ranking.load("results").tables[0].class_counts == table.class_counts
    study.write_page("results/page.html", ranking)
    assert said in html.unescape(Path("results/page.html").read_text())


@pytest.mark.parametrize("own", [False, True])
def test_a_teacher_of_another_kind_than_the_encoders_is_found_when_planning(own):
    pytest.importorskip("jimm")
    with np.load(FIXTURES / "clip_oracles.npz", allow_pickle=False) as oracles:
        write_tiny_clip(Path("clip"), dict(oracles))
    mine = encoders.from_function(lambda texts: np.ones((len(texts), 2)), name="mine", version="1", modality="texts")
    settings = Settings(**QUICK, class_names=NAMES, teacher="clip-image@clip")
    asked = Study([mine if own else TEACHER], ["./notes"], settings=settings)
    with pytest.raises(ValueError, match=r"the teacher 'clip-image@clip' sees images, but .* encodes texts of"):
        asked.plan()
    used = dataclasses.replace(settings, teacher=TEACHER)
    with pytest.raises(ValueError, match=f"'{TEACHER}' sees texts, but 'pixels' encodes images .* teacher of images"):
        Study(["pixels"], ["./notes"], settings=used).plan()


@pytest.mark.slow
def test_the_bound_is_about_the_named_classes():
    settings = Settings(**QUICK, class_names=NAMES, teacher=TEACHER)
    result = study.rank(["./notes"], [TEACHER], ["./letters"], output="results", settings=settings)
    score = result.tables[0].rows[0].score
    assert (score.status, score.terms_status) == ("ok", "ok")
    assert score.target_labels == "class names, by bert@tiny"
    assert score.target_loss <= score.bound


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--class-names", "absent.txt"], "absent.txt: No such file or directory"),
        (["--class-names", "names.txt", "--label-free"], "which label_free ignores"),
        (["--teacher", "bert@tiny"], "teacher is 'bert@tiny', but there are no class_names"),
        (["--class-names", "names.txt", "--teacher", "clip@folder"], "'clip@folder' does not embed texts in the space"),
        (["--class-names", "names.txt", "--teacher", "clip-image@folder#3"], "pass clip-image@CHECKPOINT"),
        (["--class-names", "names.txt", "--teacher", "mini"], "unknown encoder 'mini'"),
        (["--class-names", "names.txt", "--teacher", "bert"], "choose from bert@CHECKPOINT"),
    ],
)
def test_misuse_of_the_options_is_named(options, says, capsys):
    write_names(LINES)
    assert cli.main([*COMMAND, *options]) != 0
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names 0 classes"),
        ("\n \n", "names 0 classes"),
        ("sea\n", "names 1 classes"),
        ("sea\twater\nsea\twaves\n", "names 1 classes"),
        ("sea\nsky\nsea\n", "line 3: 'sea' is named before"),
        ("sea\twater\nsky\nsea\n", "line 3: 'sea' is named before"),
        ("sea\nsky\nsea\twater\n", "line 3: 'sea' is named before"),
        ("sea\n\twater\n", "line 2: '.twater' is neither"),
        ("sea\t\nsky\n", "line 1: 'sea.t' is neither"),
    ],
)
def test_files_that_name_no_classes_are_refused(text, says):
    with pytest.raises(ValueError, match=says.replace(".t", r"\\t")):
        read_class_names(Path(write_names(text)))


def test_files_of_names():
    text = "\ufeffsea\tsalt water\n\nsky \nsand\tdry ground\nsea\twaves\tand foam\n"
    found = read_class_names(Path(write_names(text)))
    assert found == {"sea": ("salt water", "waves\tand foam"), "sky": (), "sand": ("dry ground",)}
    Path("bytes.txt").write_bytes(b"\xe9\nsky")
    with pytest.raises(ValueError, match="is not UTF-8: byte"):
        read_class_names(Path("bytes.txt"))


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("sea", "class_names is the text 'sea'"),
        (["sea"], "has 'sea' as the only name"),
        (["sea", "sky", "sea"], "has 'sea' twice"),
        (["sea", " "], "has the name ' ', which is empty"),
        ({"sea": "water", "sky": ()}, "has .'sea', 'water'.: pass a name"),
        ({"sea": [""], "sky": ()}, "pass a name, or a name and a list of descriptions"),
        ([("sea", [3]), "sky"], "pass a name, or a name and a list of descriptions"),
        ([0, 1], "class_names has 0: pass a name"),
    ],
)
def test_names_that_are_none_are_refused(names, says):
    with pytest.raises(ValueError, match=says):
        Settings(class_names=names)


def test_names_in_any_form_are_the_same_settings():
    forms: list[Any] = [["sea", "sky"], {"sea": (), "sky": []}, (("sea", ()), "sky"), [["sea", []], ["sky", []]]]
    assert len({Settings(class_names=form) for form in forms}) == 1


def test_which_teacher_there_is_without_one():
    assert default_teacher(["glove-6b-50d", "bert@tiny"]) == "all-minilm-l6-v2"
    for names in (["pixels"], ["my-net"], ["pixels", "glove-6b-50d"]):
        with pytest.raises(ValueError, match="for images clip-image@CHECKPOINT"):
            default_teacher(names)


def test_encoders_of_names_and_prompts():
    assert encoders.encoder_of_names("clip-image@owner/name") == "clip-text@owner/name"
    assert encoders.encoder_of_names("clip-text@owner/name") == "clip-text@owner/name"
    assert encoders.class_prompts(["sea", "sky"], modality="texts") == {"sea": ("sea",), "sky": ("sky",)}
    said = encoders.class_prompts({"crane": ("large {bird}",)}, modality="images")["crane"]
    assert said[0] == "a photo of a large {bird}."
    assert len(said) == len(encoders.IMAGE_TEMPLATES)


@pytest.mark.slow
def test_pictures_get_their_classes_from_both_towers_of_clip(tmp_path):
    images = pytest.importorskip("PIL.Image")
    pytest.importorskip("jimm")
    with np.load(FIXTURES / "clip_oracles.npz", allow_pickle=False) as oracles:
        write_tiny_clip(tmp_path / "clip", dict(oracles))
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(20):
            images.fromarray(rng.integers(0, 256, (30, 30, 3)).astype(np.uint8)).save(
                tmp_path / "pictures" / name / f"{number}.png"
            )
    settings = Settings(samples=40, image_size=48, class_names=["1 2 3", "30 31", "17"], teacher="clip-image@clip")
    asked = Study(["pixels", "clip@clip"], ["./pictures"], metrics=["logme"], settings=settings)
    plan = asked.plan()
    (name,) = {unit.target_source for unit in plan.units}
    task = plan.sources[name].features("pixels", silent).train
    assert encoders.load("clip@clip").image_size == 24
    used = Settings(samples=40, held_out=0)  # of the size that is the teacher's own
    (own,) = study.named_sources(["./pictures"], settings=used, store=study.feature_store()).values()
    pictures = own.features("clip-image@clip", silent).train
    texts = encoders.load("clip-text@clip")
    said = [np.asarray(texts(list(prompts)).features) for prompts in plan.sources[name].prompts.values()]  # type: ignore[attr-defined]
    units = np.stack([(of / np.linalg.norm(of, axis=1, keepdims=True)).mean(0) for of in said])
    cosines = np.asarray(pictures.features) @ (units / np.linalg.norm(units, axis=1, keepdims=True)).T
    assert names_in(task) == [["1 2 3", "30 31", "17"][number] for number in cosines.argmax(1)]

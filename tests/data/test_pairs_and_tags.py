"""Pairs of texts and tagged words: the files and sets that have them, their split, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxrel.data
from jaxrel.data import DataError, TextData, Word
from jaxrel.data.readers import read_path
from jaxrel.data.readers.columns import find_columns
from jaxrel.data.readers.text_columns import Columns
from jaxrel.data.texts import fingerprint, hash_order

PAIR = {"text_column": ["premise", "hypothesis"], "label_column": "entailment", "pair": True}
ROWS = [
    {"premise": f"It rains {number} days.", "hypothesis": "It is, wet.", "entailment": "ny"[number % 2]}
    for number in range(40)
]


def write_json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def csv_file(folder: Path) -> Any:
    lines = [f'{row["premise"]},"{row["hypothesis"]}",{row["entailment"]}' for row in ROWS]
    (folder / "nli.csv").write_text("\n".join(["premise,hypothesis,entailment", *lines]))
    return str(folder / "nli.csv")


def parquet_file(folder: Path) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), folder / "nli.parquet")
    return str(folder / "nli.parquet")


SOURCES: dict[str, Callable[[Path], Any]] = {
    "csv": csv_file,
    "json lines": lambda folder: str(write_json_lines(folder / "nli.jsonl", ROWS)),
    "parquet": parquet_file,
    "datasets": lambda _: pytest.importorskip("datasets").Dataset.from_list(ROWS),
}


def texts_of(source: Any, **options: Any) -> tuple[TextData, TextData]:
    train, test = jaxrel.data.load_splits(source, **options)
    assert isinstance(train, TextData)
    assert isinstance(test, TextData)
    return train, test


# Pairs


@pytest.mark.parametrize("kind", SOURCES)
def test_two_columns_make_pairs_of_the_same_split_as_joined_texts(kind: str, tmp_path: Path) -> None:
    source = SOURCES[kind](tmp_path)
    pairs, joined = texts_of(source, **PAIR), texts_of(source, **PAIR | {"pair": False})
    wanted = {(row["premise"], row["hypothesis"]): row["entailment"] for row in ROWS}
    found = [
        (sample, part.class_names[label])
        for part in pairs
        for sample, label in zip(part.samples, part.labels, strict=True)
    ]
    assert dict(found) == wanted
    assert len(found) == len(ROWS)
    for part, other in zip(pairs, joined, strict=True):
        assert other.samples == tuple("\n".join(pair) for pair in part.samples)
        assert part.fingerprint != other.fingerprint


def test_a_pair_is_of_two_columns(tmp_path: Path) -> None:
    path = SOURCES["csv"](tmp_path)
    for names in ((), "premise", ["premise", "hypothesis", "entailment"]):
        with pytest.raises(ValueError, match=r"pair=True \(--pair\) makes pairs of two columns, but .* names [013]: "):
            jaxrel.data.load(path, text_column=names, pair=True)
    with pytest.raises(ValueError, match=r"digits has no pairs of texts: leave out pair=True \(--pair\)"):
        jaxrel.data.load("digits", text_column=["premise", "hypothesis"], pair=True)


def test_fingerprints_tell_samples_of_any_kind_apart() -> None:
    labels = np.zeros(2, np.int32)
    several: list[Any] = [
        ("a", "b"),
        (("a", ""), ("b", "")),
        (("a", "b"), ("", "")),
        (Word(("a", "b"), 0), Word(("a", "b"), 1)),
        (Word(("a", "b"), 1), Word(("a", "b"), 0)),
        (Word(("a",), 0), Word(("b",), 0)),
    ]
    assert len({fingerprint(texts, labels) for texts in several}) == len(several)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ((("a", "b"), "c"), "text 1 of mine is a text, but text 0 a pair: pass one kind"),
        ((("a", "b", "c"), "c"), "text 0 of mine is a tuple, expected a string"),
        ((Word(("a",), 1),), "text 0 of mine is a Word"),
    ],
)
def test_texts_of_several_kinds_are_refused(texts: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextData("mine", "train", texts, np.zeros(len(texts), np.int32), ("a",), "", "")


# Words

SENTENCES = [
    {"tokens": ["Ada", "met", f"Bo{number}", "in", "Rome"], "tags": ["PER", "O", "PER", "O", "LOC"], "id": str(number)}
    for number in range(30)
]


def labelled(found: Any) -> dict[Word, str]:
    return {sample: str(label) for sample, label in zip(found.samples, found.labels, strict=True)}


def test_every_word_is_a_sample_of_its_tag(tmp_path: Path) -> None:
    rows = [{"tokens": ["Ada", "sleeps"], "tags": ["PER", None]}, {"tokens": ["no"], "tags": None}, {"tokens": []}]
    wanted = {Word(("Ada", "sleeps"), 0): "PER", Word(("Ada", "sleeps"), 1): "", Word(("no",), 0): ""}
    path = write_json_lines(tmp_path / "ner.jsonl", rows)
    assert labelled(read_path(path)) == labelled(read_path(path, Columns(("tokens",), "tags"))) == wanted


@pytest.mark.parametrize(
    "columns", [Columns(), Columns(("words",)), Columns((), "ner_tags"), Columns(("words",), "ner_tags")]
)
def test_usual_names_of_words_and_tags_are_known(columns: Columns, tmp_path: Path) -> None:
    row = {"id": "7", "words": ["Ada", "sleeps", "now"], "ner_tags": [3, -100, -1], "pos_tags": [1, 2, 3]}
    found = read_path(write_json_lines(tmp_path / "ner.jsonl", [row]), columns)
    assert found.labels.tolist() == [3, -1, -1]  # -100 is how PyTorch leaves out a word
    kinds: Any = {"id": "text", "words": "texts", "pos_tags": "classes", "ner_tags": "classes"}
    assert find_columns(kinds, columns=columns) == (("words",), "words", "ner_tags")


def test_words_of_parquet_are_read(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(SENTENCES), tmp_path / "ner.parquet")
    path = write_json_lines(tmp_path / "ner.jsonl", SENTENCES)
    assert labelled(read_path(tmp_path / "ner.parquet")) == labelled(read_path(path))


def test_words_of_a_data_set_have_its_classes_and_splits() -> None:
    datasets = pytest.importorskip("datasets")
    names = ["O", "PER", "LOC"]
    tags = datasets.List(datasets.ClassLabel(names=names))
    features = datasets.Features(
        {"id": datasets.Value("string"), "tokens": datasets.List(datasets.Value("string")), "ner_tags": tags}
    )
    rows = [
        {"id": row["id"], "tokens": row["tokens"], "ner_tags": list(map(names.index, row["tags"]))} for row in SENTENCES
    ]
    parts = {"train": rows[:20], "validation": rows[20:], "test": [rows[0] | {"ner_tags": [-1] * 5}]}
    found = datasets.DatasetDict(
        {name: datasets.Dataset.from_list(part, features=features) for name, part in parts.items()}
    )
    train, held_out = texts_of(found, official=True)
    assert train.class_names == tuple(names)
    for part, of_part in ((train, SENTENCES[:20]), (held_out, SENTENCES[20:])):
        wanted = {Word(tuple(row["tokens"]), i): tag for row in of_part for i, tag in enumerate(row["tags"])}
        assert {word: names[label] for word, label in zip(part.samples, part.labels, strict=True)} == wanted
    plain = datasets.Dataset.from_list(SENTENCES)
    assert texts_of(plain)[0].class_names == ("LOC", "O", "PER")
    with pytest.raises(DataError, match="words need one column of lists of their tags: pass label_column"):
        jaxrel.data.load(plain, text_column="tokens", label_column="id")


def test_a_sentence_is_on_one_side_even_if_its_words_are_of_rare_classes() -> None:
    rng = np.random.default_rng(0)
    sentences = [tuple(map(str, rng.integers(0, 1000, rng.integers(1, 9)))) for _ in range(300)]
    words = [Word(sentence, place) for sentence in sentences for place in range(len(sentence))]
    labels = rng.integers(0, 3, len(words))
    labels[rng.choice(len(words), 40, replace=False)] = np.arange(3, 43) // 2  # classes of two words
    order, in_train = hash_order(words, labels)
    sides: dict[tuple[str, ...], set[bool]] = {}
    for index, side in zip(order, in_train, strict=True):
        sides.setdefault(words[index].sentence, set()).add(bool(side))
    assert all(len(side) == 1 for side in sides.values())
    assert 0.7 < in_train.mean() < 0.8
    shuffled = rng.permutation(len(words))
    again, _ = hash_order([words[index] for index in shuffled], labels[shuffled])
    assert [words[index] for index in order] == [words[shuffled[index]] for index in again]


def test_a_limit_counts_words(tmp_path: Path) -> None:
    path = str(write_json_lines(tmp_path / "ner.jsonl", SENTENCES))
    train, test = texts_of(path, train_limit=20, test_limit=10)
    assert (len(train), len(test)) == (20, 10)
    assert train.class_names == ("LOC", "O", "PER")
    assert np.bincount(train.labels).tolist() == [4, 8, 8]
    assert not {word.sentence for word in train.samples} & {word.sentence for word in test.samples}


def test_minus_one_is_no_tag_whatever_other_tags_are(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["sea", "sky", "owl", "moth"], "tags": tags} for tags in ([0.0, -1.0, 2, -100], [True, -1, 7, -1])
    ]
    path = write_json_lines(tmp_path / "ner.jsonl", rows)
    assert read_path(path).labels.tolist() == ["0", "", "2", "", "True", "", "7", ""]
    path = write_json_lines(tmp_path / "large.jsonl", [{"tokens": ["sea", "sky"], "tags": [10**20, -1]}])
    assert read_path(path).labels.tolist() == [str(10**20), ""]


def test_words_may_have_numbers_to_predict(tmp_path: Path) -> None:
    rows = [{"tokens": ["sea", f"sky{number}"], "scores": [number, -1.5]} for number in range(8)]
    path = str(write_json_lines(tmp_path / "read.jsonl", rows))
    options: dict[str, Any] = {"text_column": "tokens", "label_column": "scores", "regression": True}
    train, _ = jaxrel.data.load_splits(path, test_limit=0, **options)
    assert train.targets is not None
    assert sorted(train.targets.tolist()) == [-1.5] * 8 + list(range(8))


def test_words_without_a_visible_character_are_named(tmp_path: Path) -> None:
    row = {"tokens": ["sea", "\u200e", " ", "sky"], "tags": [0, 1, 1, 1]}
    path = str(write_json_lines(tmp_path / "ner.jsonl", [row]))
    says = r"word 1 of line 1 of .*ner.jsonl cannot be read: '\\u200e' has no visible character \(1 more of ner"
    with pytest.raises(DataError, match=says):
        jaxrel.data.load(path)
    data, _ = jaxrel.data.load_splits(path, test_limit=0, skip_broken=True)
    assert {word.position for word in data.samples} == {0, 3}
    assert all(word.sentence == tuple(row["tokens"]) for word in data.samples)
    assert [name for name, _ in data.skipped] == [f"word {place} of line 1 of {path}" for place in (1, 2)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"tokens": ["a", "b"], "tags": [1]}], r"line 1 of .* has \[1\] for 'tags', expected a list of 2 tags"),
        ([{"tokens": ["a"], "tags": "O"}], "has 'O' for 'tags', expected a list of 1 tags, one for each word"),
        ([{"tokens": ["a", 3], "tags": [1, 2]}], r"has \['a', 3\] for 'tokens', expected a list of words"),
        ([{"tokens": ["a"], "tags": [1]}, {"tokens": "a b", "tags": [1]}], "line 2 of .* has 'a b' for 'tokens'"),
        ([{"tokens": None, "tags": None}, {"tokens": ["a"], "tags": [1]}], "line 1 of .* expected a list of words"),
        ([{"tokens": ["a"], "tags": [[1, 2]]}], r"word 0 of line 1 of .* has \[1, 2\] for 'tags': a sample must have"),
        ([{"tokens": ["a"], "other": [1]}], "has the columns tokens, other: name those of texts and labels"),
    ],
)
def test_words_that_do_not_fit_their_tags_are_refused(rows: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        jaxrel.data.load(str(write_json_lines(tmp_path / "ner.jsonl", rows)))


def test_texts_come_before_words(tmp_path: Path) -> None:
    row = {"text": "Ada sleeps", "tokens": ["Ada", "sleeps"], "tags": [1, 0], "label": "calm"}
    assert labelled(read_path(write_json_lines(tmp_path / "both.jsonl", [row]))) == {"Ada sleeps": "calm"}
    kinds: Any = {"text": "text", "tokens": "texts", "tags": "list", "label": "class"}
    assert find_columns(kinds) == (("text",), "text", "label")
    assert find_columns(kinds, columns=Columns(("tokens",))) == (("tokens",), "words", "tags")

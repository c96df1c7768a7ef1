"""Shards of WebDataset: `.tar` files in which the members `KEY.jpg` and `KEY.cls`, or `KEY.txt` and `KEY.cls`, form a
sample.

Members are read in place; nothing is unpacked, and no name in the archive is used as a file path.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrel.data.readers.column_files import samples_of_rows
from jaxrel.data.readers.folders import read_picture_files
from jaxrel.data.readers.pictures import PICTURE_SUFFIXES
from jaxrel.data.readers.samples import Samples
from jaxrel.data.readers.text_columns import LABEL_NAMES, Columns, label_of

__all__ = ["SHARD_SUFFIX", "Member", "expanded", "read_shards"]

SHARD_SUFFIX = ".tar"
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_LABELS = (".cls", ".json", ".txt")  # in order of preference


@dataclass(frozen=True)
class Member:
    """A file within a shard.

    Attributes:
        shard: the archive.
        name: name in the archive.
        start: position of its content in bytes.
        size: size of its content in bytes.
    """

    shard: Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.name} of {self.shard}"

    def read_bytes(self) -> bytes:
        """The content."""
        with self.shard.open("rb") as archive:
            archive.seek(self.start)
            return archive.read(self.size)

    def read_text(self) -> str:
        """The content decoded as UTF-8, without a byte order mark; ValueError if it is not UTF-8."""
        try:
            return self.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self} is not UTF-8: {error}") from error


def expanded(pattern: Path) -> list[Path]:
    """The paths that a pattern such as `train-{000..012}.tar` or `{a,b}.tar` expands to."""
    if (braces := _BRACES.search(str(pattern))) is None:
        return [pattern]
    span = _RANGE.fullmatch(braces[1])
    parts = braces[1].split(",")
    if span is not None:
        parts = [str(number).zfill(len(span[1])) for number in range(int(span[1]), int(span[2]) + 1)]
    before, after = str(pattern)[: braces.start()], str(pattern)[braces.end() :]
    return [path for part in parts for path in expanded(Path(before + part + after))]


def read_shards(shards: Sequence[Path], columns: Columns = Columns()) -> Samples:  # noqa: B008 (immutable)
    """Read shards in order, and their members in order, grouped by the part of the name before the first dot.

    The label of a picture is the content of the member `.cls`, otherwise that of `.json` (a number or a name, or an
    object with one usual key or the key that `columns` names), otherwise the name in `.txt`: the first of these that
    any sample has. A sample without it is of unknown class. Members with other endings, hidden members and folders are
    skipped.
    A sample without a readable picture is left out and named. Pictures whose array would take more than a gibibyte
    stay in their shards until they are encoded.

    Shards without pictures, or with text columns in `columns`, are of texts. Each sample is then read like a line of
    JSON (:func:`jaxrel.data.readers.column_files.read_json_lines`): the object in the member `.json`, with the content
    of `.txt` under the key `txt` and that of `.cls` under `cls`, which are the text and the label if there are any and
    `columns` names no others. A sample without a readable text is left out and named.

    Raises:
        ValueError: a shard is damaged or compressed, or has a link; a sample has two members of one kind or several
            pictures; a label or a text cannot be determined; none of the pictures can be read.
    """
    samples = [sample for shard in shards for sample in _samples(shard).values()]
    if columns.text or not any(ending in PICTURE_SUFFIXES for sample in samples for ending in sample):
        return _read_texts(shards[0], samples, columns)
    labels = _labels(samples, columns)
    pictures = [_picture(sample) for sample in samples]
    found = [index for index, picture in enumerate(pictures) if picture is not None]
    lacking = [next(iter(sample.values())) for sample, picture in zip(samples, pictures, strict=True) if not picture]
    content, readable, skipped = read_picture_files([picture for picture in pictures if picture is not None])
    kept = [found[index] for index in readable]
    without = tuple((str(member), "there is no picture beside it") for member in lacking)
    return Samples(content, np.array(labels, dtype=str)[kept], skipped=(*skipped, *without))


def _samples(shard: Path) -> dict[str, dict[str, Member]]:
    """Members by their endings, by the key of their sample."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for entry in archive:
                folder, slash, name = entry.name.rpartition("/")
                if entry.isdir() or name.startswith("."):
                    continue
                if not entry.isfile() or entry.issparse():
                    raise ValueError(f"{entry.name} of {shard} is not a plain file: remove it")
                stem, dot, ending = name.partition(".")
                sample = samples.setdefault(folder + slash + stem, {})
                if sample.setdefault(dot + ending.lower(), member := _member(shard, entry)) is not member:
                    raise ValueError(f"{shard} has {entry.name} twice: remove one")
    except tarfile.TarError as error:
        raise ValueError(
            f"{shard} is not a tar archive, or damaged: {error}; decompress a .tar.gz archive to .tar first"
        ) from error
    return samples


def _member(shard: Path, entry: tarfile.TarInfo) -> Member:
    return Member(shard, entry.name, entry.offset_data, entry.size)


def _read_texts(shard: Path, samples: Sequence[Mapping[str, Member]], columns: Columns) -> Samples:
    present = {ending for sample in samples for ending in sample}
    if not present & {".txt", ".json"}:
        raise ValueError(f"{shard} has neither pictures ({', '.join(PICTURE_SUFFIXES)}) nor texts (.txt, .json)")
    texts = columns.text or (("txt",) if ".txt" in present else ())
    rows: list[dict[str, Any]] = []
    where, skipped = [], []
    for sample in samples:
        name = str(next(iter(sample.values())))
        try:
            rows.append(_row(sample, texts))
            where.append(name)
        except ValueError as error:
            skipped.append((name, str(error)))
    if not rows:
        raise ValueError(f"none of {len(samples)} texts can be read: {skipped[0][1]}")
    label = "cls" if columns.label is None and any("cls" in row for row in rows) else columns.label
    found = samples_of_rows(shard, rows, where, columns._replace(text=texts, label=label))
    return found._replace(skipped=(*found.skipped, *skipped))


def _row(sample: Mapping[str, Member], texts: Sequence[str]) -> dict[str, Any]:
    """The members of a sample by their keys.

    Raises:
        ValueError: one is not UTF-8 or not a JSON object, or there is no text.
    """
    row: dict[str, Any] = {}
    if (member := sample.get(".json")) is not None:
        row |= _object(member)
    row |= {ending[1:]: sample[ending].read_text() for ending in (".txt", ".cls") if ending in sample}
    if absent := [name for name in texts if name not in row]:
        raise ValueError(f"there is no text {absent[0]!r} beside it")
    return row


def _object(member: Member) -> dict[str, Any]:
    content = _parsed(member, member.read_text())
    if not isinstance(content, dict):
        raise ValueError(f"{member} is not a JSON object, but {content!r:.40}")
    return content


def _picture(sample: Mapping[str, Member]) -> Member | None:
    found = [member for ending, member in sample.items() if ending in PICTURE_SUFFIXES]
    if len(found) > 1:
        raise ValueError(f"{found[0]} has another picture beside it, {found[1].name}: remove one")
    return found[0] if found else None


def _labels(samples: Sequence[Mapping[str, Member]], columns: Columns) -> list[str]:
    """The label of each sample; "" if there is none."""
    endings = (".json",) if columns.label else () if columns.label == "" else _LABELS
    ending = next((ending for ending in endings if any(ending in sample for sample in samples)), None)
    members = [sample.get(ending or "") if ending else None for sample in samples]
    texts = ["" if member is None else member.read_text().strip() for member in members]
    if columns.label and ending is None:
        raise ValueError(f"no sample has a member .json to hold the label under the key {columns.label!r}")
    if ending != ".json":
        return texts
    values = ["" if member is None else _parsed(member, text) for member, text in zip(members, texts, strict=True)]
    keys = list(dict.fromkeys(key for value in values if isinstance(value, dict) for key in value))
    name = columns.label or _usual(keys)
    return [
        label_of(value.get(name) if isinstance(value, dict) else value, name, str(member))
        for value, member in zip(values, members, strict=True)
    ]


def _parsed(member: Member, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{member} is not JSON: {error}") from error


def _usual(keys: Sequence[str]) -> str:
    found = [key for key in keys if key.casefold() in LABEL_NAMES]
    if keys and len(found) != 1:
        raise ValueError(
            f"the members .json have the keys {', '.join(keys)}: pass the key of the label as label_column "
            "(--label-column), or '' where there is none"
        )
    return found[0] if found else "label"

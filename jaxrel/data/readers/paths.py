"""Reads the file or folder at a user's path."""

from __future__ import annotations

import re
from pathlib import Path

from jaxrel.data.readers.arrays import is_idx_folder, read_idx_folder, read_npz
from jaxrel.data.readers.coco import read_boxes
from jaxrel.data.readers.column_files import COLUMN_SUFFIXES, read_json_lines, read_parquet
from jaxrel.data.readers.folders import has_class_folders, has_samples, read_class_folders, read_samples, tell_of_others
from jaxrel.data.readers.samples import Samples
from jaxrel.data.readers.tables import TABLE_SUFFIXES, read_table
from jaxrel.data.readers.text_columns import Columns
from jaxrel.data.readers.webdataset import SHARD_SUFFIX, expanded, read_shards

__all__ = ["FILE_SUFFIXES", "files_of", "name_of", "read_path"]

_READERS = dict.fromkeys(TABLE_SUFFIXES, read_table) | dict.fromkeys(COLUMN_SUFFIXES[:2], read_json_lines)
_TABLES = {**_READERS, **{f"{suffix}.gz": read for suffix, read in _READERS.items()}, COLUMN_SUFFIXES[2]: read_parquet}
FILE_SUFFIXES = (".npz", SHARD_SUFFIX, *_TABLES)


def files_of(path: Path) -> list[Path]:
    """The paths that a path stands for: itself, or the shards of a pattern such as `train-{000..012}.tar`; they need
    not exist."""
    return [path] if path.exists() or path.suffix.lower() != SHARD_SUFFIX else expanded(path)


def read_path(path: Path, columns: Columns = Columns()) -> Samples:  # noqa: B008 (immutable)
    """Read a user's file or folder with the reader for its format.

    Folders: the IDX files of an MNIST-like set, one subfolder for each class, samples of unknown class, or shards.
    Files: ``.npz``; a table with ``.csv``, ``.tsv``, ``.tab``, ``.jsonl`` or ``.ndjson`` (plain or ``.gz``), or
    ``.parquet``; a ``.tar`` shard of WebDataset, or several by braces in the name; a ``.json`` file of COCO's boxes.

    Args:
        path: path of the file or folder.
        columns: names of columns of a table; for shards, the keys of the label and of texts in ``.json``.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it has none of these formats or is damaged, or columns are named but it is not a table.
    """
    for file in files_of(path):
        if not file.exists():
            raise FileNotFoundError(f"{file} does not exist")
    if not path.is_dir() and path.suffix.lower() == SHARD_SUFFIX:
        return read_shards(files_of(path), columns)
    if path.is_dir() and not has_class_folders(path) and (shards := sorted(path.glob(f"*{SHARD_SUFFIX}"))):
        tell_of_others(path, suffix=SHARD_SUFFIX)
        return read_shards(shards, columns)
    read = next((read for suffix, read in _TABLES.items() if path.name.lower().endswith(suffix)), None)
    if path.is_file() and read is not None:
        return read(path, columns)
    if path.is_file() and path.suffix.lower() == ".json":
        return read_boxes(path)
    if columns.named:
        raise ValueError(f"{path} is not a table ({', '.join(_TABLES)}), so its columns cannot be named")
    if path.is_dir() and is_idx_folder(path):
        return read_idx_folder(path)
    if path.is_dir() and has_class_folders(path):
        return read_class_folders(path)
    if path.is_dir() and has_samples(path):
        return read_samples(path)
    if path.is_file() and path.suffix.lower() == ".npz":
        return read_npz(path)
    raise ValueError(
        f"{path} is neither a folder of IDX files nor an .npz file, a table ({', '.join(_TABLES)}), a .tar shard, a "
        ".json of COCO's boxes, a folder of shards, a folder of pictures or texts, or with one subfolder of these for "
        "each class"
    )


def name_of(path: Path) -> str:
    """The name of the set at a path: the folder's name, or the file's name without suffixes."""
    name = path.resolve().name
    return name if path.is_dir() else Path(re.sub(r"\.gz$", "", name, flags=re.IGNORECASE)).stem

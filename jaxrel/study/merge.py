"""Merges the results of several folders from their files alone."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrel.metrics.registry import METRICS
from jaxrel.study.documents import settings_as_data
from jaxrel.study.plan import OF_STUDIES
from jaxrel.study.ranking.document import Stored, StoredRow
from jaxrel.study.ranking.table import Ranking, make_ranking
from jaxrel.study.records import Record
from jaxrel.study.results import AXES, AXES_OF_FILE, Results, comparable
from jaxrel.study.scoreboard.board import Scoreboard
from jaxrel.study.verification.result import Verification

__all__ = ["merged_paths", "merged_ranking", "merged_results", "merged_scoreboard", "the_verification"]

_log = logging.getLogger(__name__)


def merged_ranking(stored: Mapping[Path, Stored]) -> Ranking:
    """Merge all encoders into one ranking.

    If the logs of finished scores are beside the files, ties between encoders of different folders are computed from
    their resamples; otherwise only the ties of each file are known.

    Args:
        stored: at least one ranking, by its folder.

    Raises:
        ValueError: settings or data differ, or one encoder has two scores on the same pair.
    """
    (first, one), *others = stored.items()
    for folder, other in others:
        if differing := _differing(settings_as_data(one.settings), settings_as_data(other.settings)):
            raise ValueError(
                f"{folder} has other settings than {first} ({differing}): encoders are ranked together only where "
                "settings are equal. Report the folders one by one."
            )
    merged_paths(stored.items())
    samples: dict[str, tuple[Path, str]] = {}
    rows: dict[tuple[str | None, str, str], tuple[Path, StoredRow]] = {}
    for folder, other in stored.items():
        for row in other.rows:
            score = row.score
            if not score.failed:
                known_folder, known_samples = samples.setdefault(score.target, (folder, score.target_samples))
                if known_samples != score.target_samples:
                    raise ValueError(
                        f"{known_folder} and {folder} have other samples of {score.target}: report them one by one."
                    )
            place = score.reference, score.target, score.encoder
            known_folder, known = rows.setdefault(place, (folder, row))
            if known.score.failed:
                rows[place] = folder, row
            elif (score.key, score.bound_key) != (known.score.key, known.score.bound_key) and not score.failed:
                raise ValueError(
                    f"{known_folder} and {folder} have different scores of {score.encoder} on {score.target}: their "
                    "samples or encoders differ. Report the folders one by one."
                )
    kept = [row for _, row in rows.values()]
    return make_ranking([row.score for row in kept], one.settings, stored=kept)


def merged_results(found: Mapping[Path, Results]) -> Results:
    """Merge all records into one study, whose axes are the unions of the axes.

    Args:
        found: at least one study, by its folder.

    Raises:
        ValueError: settings differ, or one unit has two numbers.
    """
    (first, one), *_ = found.items()
    entries: dict[tuple[Any, ...], tuple[Path, Record]] = {}
    for folder, other in found.items():
        if differing := _differing(comparable(one.settings), comparable(other.settings)):
            raise ValueError(f"{folder} has other settings than {first} ({differing}): report the folders one by one.")
        for record in other.entries:
            place = record.metric, *(getattr(record, axis) for axis in AXES)
            known_folder, known = entries.setdefault(place, (folder, record))
            if not known.key:
                entries[place] = folder, record
            elif record.key and record.key != known.key:
                raise ValueError(
                    f"{known_folder} and {folder} have different numbers of {record.metric} of {record.encoder} on "
                    f"{record.tasks}: their samples or encoders differ. Report the folders one by one."
                )
    records = [record for _, record in entries.values()]
    combined = {
        record.metric for record in records if record.metric not in OF_STUDIES and METRICS[record.metric].combine
    }
    if combined and len(found) > 1:
        _log.warning("left out, as they depend on all encoders together: %s", ", ".join(sorted(combined)))
        records = [record for record in records if record.metric not in combined]
    axes: dict[str, Any] = {
        name: tuple(dict.fromkeys(value for other in found.values() for value in getattr(other, name)))
        for name in AXES_OF_FILE
    }
    axes["metrics"] = tuple(name for name in axes["metrics"] if any(record.metric == name for record in records))
    return dataclasses.replace(one, entries=tuple(records), **axes)


def the_verification(found: Mapping[Path, Verification]) -> Verification:
    """The only verification.

    Raises:
        ValueError: there are several, which were trained in different runs.
    """
    if len(found) > 1:
        raise ValueError(f"{', '.join(map(str, found))} have a verification each: report the folders one by one.")
    return next(iter(found.values()))


def merged_paths(stored: Iterable[tuple[Path, Stored | Results | Verification]]) -> dict[str, Path]:
    """The paths of the data, by data set.

    Raises:
        ValueError: one data set has two paths.
    """
    paths: dict[str, str] = {}
    for folder, other in stored:
        for name, path in other.data_paths.items():
            if paths.setdefault(name, path) != path:
                raise ValueError(f"{folder} has {name} from {path}, another folder from {paths[name]}.")
    return {name: Path(path) for name, path in paths.items()}


def merged_scoreboard(boards: Mapping[Path, Scoreboard]) -> Scoreboard:
    """Merge all encoders into one scoreboard of the metrics that all of them have.

    Args:
        boards: at least one scoreboard, by its folder.

    Raises:
        ValueError: data sets or options differ, an encoder has two different scores, or no metric is common to all.
    """
    if len(boards) == 1:
        return next(iter(boards.values()))
    origins = {origin if origin.startswith("{") else "files" for board in boards.values() for origin in board.origins}
    targets = {board.target for board in boards.values()}
    if len(origins) > 1 or len(targets) > 1:
        raise ValueError(
            f"{', '.join(map(str, boards))} have scores on other data sets or by other options: report the folders "
            "one by one."
        )
    first, *others = boards.values()
    metrics = [name for name in first.metrics if all(name in other.metrics for other in others)]
    if combined := [name for name in metrics if METRICS[name].combine is not None]:
        _log.warning("left out, as they depend on all encoders together: %s", ", ".join(combined))
    metrics = [name for name in metrics if name not in combined]
    if not metrics:
        raise ValueError(f"{', '.join(map(str, boards))} have no metric in common that compares their encoders.")
    rows: dict[str, tuple[Scoreboard, int]] = {}
    for folder, board in boards.items():
        for position, encoder in enumerate(board.encoders):
            known = rows.setdefault(encoder, (board, position))
            if np.isnan(_values(*known, metrics)).all():
                rows[encoder] = known = board, position
            if np.isnan(_values(board, position, metrics)).all():
                continue
            if not np.array_equal(_values(*known, metrics), _values(board, position, metrics), equal_nan=True):
                raise ValueError(f"{folder} and another folder have different scores of {encoder}.")
    return Scoreboard(
        tuple(rows),
        tuple(metrics),
        np.array([_values(board, position, metrics) for board, position in rows.values()]),
        {
            (encoder, name): board.messages[encoder, name]
            for encoder, (board, _) in rows.items()
            for name in metrics
            if (encoder, name) in board.messages
        },
        np.array([[board.seconds[row, board.metrics.index(name)] for name in metrics] for board, row in rows.values()]),
        tuple(board.origins[position] for board, position in rows.values()),
        first.target,
    )


def _values(board: Scoreboard, row: int, metrics: Sequence[str]) -> np.ndarray:
    values: np.ndarray = board.values[row, [board.metrics.index(name) for name in metrics]]
    return values


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {one[name]} and {other[name]}" for name in one if one[name] != other[name])

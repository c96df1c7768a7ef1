"""Scores every encoder by every metric; what is finished reaches the disk encoder by encoder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrel._core.programs import release_if_many
from jaxrel._core.stopwatch import stopwatch
from jaxrel._core.suggestions import suggestion
from jaxrel.metrics.batch import PER_ENCODER, applicable_metrics, score_encoders
from jaxrel.metrics.registry import METRICS, Metric
from jaxrel.metrics.result import Score, ScoreStatus
from jaxrel.storage.records import RecordLog, from_json_number, json_number
from jaxrel.study.engine import Part, run_parts
from jaxrel.study.scoreboard.board import Scoreboard
from jaxrel.study.scoreboard.inputs import Arrays, EncoderArrays
from jaxrel.study.sources import Progress, silent
from jaxrel.version import __version__

__all__ = ["Finished", "FinishedLog", "Scoreboard", "chosen_metrics", "score_by_metrics"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """What one metric says about one encoder.

    Attributes:
        key: hash of everything the numbers depend on; empty for what another run may find otherwise.
        status: `ScoreStatus` bits.
        fields: of a `Score`, or of components.
        seconds: an equal share of what all metrics of the encoder took, compilation left out.
        refusal: why there are no numbers, where a metric refuses the arrays or there are none.
    """

    key: str
    encoder: str
    metric: str
    status: int
    fields: dict[str, float]
    seconds: float
    refusal: str = ""


class FinishedLog(RecordLog[Finished]):
    """Finished scores by their keys."""

    def encoded(self, item: Finished) -> dict[str, Any]:
        """As JSON has it."""
        fields = {name: json_number(value) for name, value in item.fields.items()}
        return dataclasses.asdict(item) | {"fields": fields}

    def decoded(self, record: dict[str, Any]) -> Finished:
        """From JSON."""
        return Finished(
            **(record | {"fields": {name: from_json_number(value) for name, value in record["fields"].items()}})
        )


def chosen_metrics(encoders: Sequence[EncoderArrays], names: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics asked for, or all that what is there of every encoder suffices for.

    Raises:
        ValueError: for no encoder, two of one name, an unknown metric, and one whose needs an encoder lacks.
    """
    if not encoders:
        raise ValueError("no encoder is given: pass at least one.")
    known = [encoder.name for encoder in encoders]
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise ValueError(f"encoder given twice: {', '.join(twice)}; name each once.")
    everywhere = frozenset.intersection(*(encoder.needs for encoder in encoders))
    if names is None:
        names = applicable_metrics(dict.fromkeys(everywhere))
        if not names:
            raise ValueError(f"no metric can be computed from {', '.join(sorted(everywhere)) or 'nothing'}.")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}{suggestion(name, METRICS)}: there are {', '.join(METRICS)}.")
        for encoder in encoders:
            if missing := sorted(set(METRICS[name].needs) - encoder.needs):
                raise ValueError(f"{name} needs {', '.join(missing)}, which there is not of {encoder.name}.")
    return tuple(dict.fromkeys(names))


def score_by_metrics(
    encoders: Sequence[EncoderArrays],
    names: Sequence[str] | None,
    log: FinishedLog,
    *,
    executor: Executor | None = None,
    progress: Progress,
    strict: bool = False,
) -> Scoreboard:
    """Every encoder by every metric; what the log has already is taken from it.

    An encoder that fails is named in the messages and keeps no other from its scores, unless `strict`. This process
    scores encoder by encoder, or has workers of the executor do so, one encoder a call.

    Raises:
        ValueError: as `chosen_metrics`.
    """
    names = chosen_metrics(encoders, names)
    found: dict[tuple[str, str], Finished] = {}
    keys: dict[tuple[str, str], str] = {}
    for number, encoder in enumerate(encoders):
        progress("loading", number, len(encoders))
        with _named(encoder.name, names, found, strict=strict):
            fingerprint = encoder.fingerprint()
            keys |= {(encoder.name, name): _key(encoder.name, fingerprint, name) for name in names}
    progress("loading", len(encoders), len(encoders))
    found |= {pair: kept for pair, key in keys.items() if (kept := log.find(key)) is not None}
    total = len(encoders) * len(names)
    if done := sum(1 for result in found.values() if result.key):
        _log.info("%d of %d scores are in %s and are not computed again", done, total, log.path)
    if len(found) < total:
        _refuse_other_targets(encoders, names, found, strict=strict)
    missing = {
        encoder: wanted
        for encoder in encoders
        if (wanted := [name for name in names if (encoder.name, name) not in found])
    }
    progress("scoring", len(found), total)
    with contextlib.closing(_results(missing, executor, progress, strict=strict)) as results:
        for scored, lasting in results:
            for result in scored:
                key = keys[result.encoder, result.metric] if lasting else ""
                found[result.encoder, result.metric] = finished = dataclasses.replace(result, key=key)
                _tell(finished)
                if lasting:
                    log.append(finished)
            progress("scoring", len(found), total)
    return _scoreboard(encoders, names, found)


@contextlib.contextmanager
def _named(
    encoder: str, metrics: Sequence[str], found: dict[tuple[str, str], Finished], *, strict: bool
) -> Iterator[None]:
    """Take an error for that of the encoder: its scores that are missing are refused, and others go on."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if strict:
            raise
        for refusal in _refused(encoder, metrics, error):
            if found.setdefault((encoder, refusal.metric), refusal) is refusal:
                _tell(refusal)


def _refuse_other_targets(
    encoders: Sequence[EncoderArrays],
    metrics: Sequence[str],
    found: dict[tuple[str, str], Finished],
    *,
    strict: bool,
) -> None:
    """Refuse encoders whose labels are not those of the encoders before them."""
    common: dict[str, np.ndarray] = {}
    for encoder in encoders:
        with _named(encoder.name, metrics, found, strict=strict):
            for name, array in encoder.common().items():
                if not np.array_equal(common.setdefault(name, array), array):
                    raise ValueError(
                        f"{name} of {encoder.name} differ from those of another encoder: score one target at a time."
                    )


Scored = tuple[list[Finished], bool]
"""Scores of one encoder without their keys, and whether another run would find the same."""


def _results(
    missing: Mapping[EncoderArrays, list[str]], executor: Executor | None, progress: Progress, *, strict: bool
) -> Generator[Scored]:
    """Of each encoder as they are ready."""
    if executor is None:
        for encoder, names in missing.items():
            yield _scored(encoder.name, encoder.load, names, strict, progress)
        return
    parts = (
        Part(f"encoder {encoder.name}", _scored, (encoder.name, encoder.load, names, strict))
        for encoder, names in missing.items()
    )
    with contextlib.closing(run_parts(executor, parts)) as results:
        for _, scored in results:
            yield scored


def _scored(
    encoder: str, load: Callable[[Progress], Arrays], names: list[str], strict: bool, progress: Progress = silent
) -> Scored:
    """Scores of one encoder, here or on a worker."""
    lasting = False
    try:
        arrays = load(progress)
        inputs: dict[str, Any] = {name: [array] if name in PER_ENCODER else array for name, array in arrays.items()}
        lasting = True
        with stopwatch() as watch:
            results = score_encoders(inputs.pop("features", None), metrics=names, combined=False, **inputs)
    except MemoryError:
        raise
    except Exception as error:
        if strict:
            raise
        return _refused(encoder, names, error), lasting and isinstance(error, ValueError)
    finally:
        release_if_many()
    finished = []
    for name, result in results.items():
        fields = {field: float(part[0]) for field, part in vars(result).items() if field != "status"}
        finished.append(Finished("", encoder, name, int(result.status[0]), fields, watch.seconds / len(names)))
    return finished, True


def _tell(finished: Finished) -> None:
    fields = ", ".join(f"{key} {part:.6g}" for key, part in finished.fields.items())
    level = logging.WARNING if finished.refusal else logging.INFO
    _log.log(level, "%s, %s: %s", finished.encoder, finished.metric, finished.refusal or fields)


def _refused(encoder: str, metrics: Sequence[str], error: Exception) -> list[Finished]:
    """An encoder that cannot be scored does not keep the others from it."""
    return [
        Finished(
            "",
            encoder,
            name,
            ScoreStatus.INVALID_INPUT,
            {field.name: math.nan for field in dataclasses.fields(METRICS[name].result) if field.name != "status"},
            0.0,
            str(error),
        )
        for name in metrics
    ]


def _scoreboard(
    encoders: Sequence[EncoderArrays], names: Sequence[str], found: dict[tuple[str, str], Finished]
) -> Scoreboard:
    known = [encoder.name for encoder in encoders]
    values = np.full((len(known), len(names)), np.nan)
    messages = {}
    for column, name in enumerate(names):
        score = _hub_score(METRICS[name], [found[encoder, name] for encoder in known])
        values[:, column] = score.value
        for row, encoder in enumerate(known):
            single = jax.tree.map(lambda leaf, row=row: leaf[row], score)
            refusal = found[encoder, name].refusal
            if refusal or single.messages:
                messages[encoder, name] = (refusal,) if refusal else single.messages
    seconds = np.array([[found[encoder, name].seconds for name in names] for encoder in known])
    return Scoreboard(
        tuple(known),
        tuple(names),
        values,
        messages,
        seconds,
        tuple(encoder.origin for encoder in encoders),
        _target(encoders, found),
    )


def _target(encoders: Sequence[EncoderArrays], found: Mapping[tuple[str, str], Finished]) -> str:
    """A hash of what the encoders that are scored have in common; those of other targets were refused."""
    scored = {encoder for (encoder, _), finished in found.items() if not finished.refusal}
    common = next((encoder.common() for encoder in encoders if encoder.name in scored), {})
    digest = hashlib.sha256()
    for name, array in sorted(common.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest() if common else ""


def _hub_score(metric: Metric, finished: Sequence[Finished]) -> Score:
    """The scores of all encoders, combined where they depend on each other."""
    fields = {name: jnp.asarray([result.fields[name] for result in finished]) for name in finished[0].fields}
    joined = metric.result(**fields, status=jnp.asarray([result.status for result in finished]))
    score: Score = joined if metric.combine is None else metric.combine(joined)
    return score


def _key(encoder: str, fingerprint: str, metric: str) -> str:
    """Equal keys mean equal scores: a hash of everything the numbers depend on."""
    determined_by = [__version__, encoder, fingerprint, metric]
    return hashlib.sha256(json.dumps(determined_by).encode()).hexdigest()

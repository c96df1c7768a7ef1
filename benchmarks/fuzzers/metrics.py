"""Metrics of one task in float32 against float64 and against their definitions, on ordinary and hostile problems.

float32 gets each problem with its samples in another order and with rows of weight 0 that hold rubbish; float64 gets
the same numbers without either. Of the metrics that need a second task, those of optimal transport are left out: their
certificates are what `transport` and `bounds` are about.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fuzzers.metric_oracles import ORACLES, bounds_of
from fuzzers.tally import Tally
from jaxrel.metrics import METRICS, ScoreStatus
from jaxrel.metrics.decomposition import rounding

__all__ = ["NAMES", "batches"]

Problems = dict[str, np.ndarray]

_CLASSES, _SOURCE_CLASSES, _REFERENCES = 3, 4, 7
# Samples, features, and the rows that float32 is given; there are more of those than features, but not of samples.
_SHAPES = ((24, 5, 32), (9, 12, 16))
_PROBLEMS, _AT_ONCE = 256, 16
_ORACLES = 16  # problems of a batch that are also judged by the definition
_COUNTS = (0.0, 1.0, 2.0)
_EPS = float(np.finfo(np.float32).eps)
_REFUSED = ScoreStatus.INVALID_INPUT | ScoreStatus.UNDEFINED | ScoreStatus.UNBOUNDED | ScoreStatus.NOT_CONVERGED
_PAIRED = {"task_relatedness", "cross_view", "f_otce", "jc_otce", "ot_nce", "otdd"}
NAMES = [name for name in METRICS if name not in _PAIRED]
# Samples are dealt to folds in the order given.
_ORDERED = {"ridge_probe", "ridge_regression", "transferability"}
# A local maximum of a likelihood, which rounding may change for another, as documented: its range is what is promised.
_RANGE_ONLY = {"nleep"}
# A weighted median: half of the mass of pairs is known up to 32 roundings, as documented, and moves by as many where
# masses of points move by a few times that, up or down.
_OF_HALF_THE_MASS = {"mmd"}
# Roundings of the largest feature by which the float64 problem is moved: a factorisation or a sum over some ten
# samples is backward stable, which means that its result is exact for features that are off by a few of these.
_MOVED = 4 * _EPS
# The answer may move by so many times what it does then, in the few directions that are tried; those roundings that do
# not come from the features are relative to the answer, or to 1 where it is a difference of numbers of about 1.
_TIMES, _BASE = 16, 256 * _EPS
# Squared distances come from products: that of two samples which are a hundredth of their distance to the middle apart
# is off by a thousandth (nearer ones count as equal, as documented). A solver ends at its tolerance, in either dtype.
# Where two samples have all the weight but 1e-4 of it, shrinkage is a difference that loses these digits, and so is the
# variance of ranks of pairs; where classes share samples, rounding in directions in which no class varies is divided by
# the shrunk variance there. All of it is documented.
_BASES = {"silhouette": 4e-3, "sinkhorn_divergence": 2e-4, "regularised_h_score": 5e-4, "sfda": 2e-4, "parc": 5e-4}
# Of jumps (votes, ranks, whether a direction counts) a suspect is tried in as many directions as a batch has problems,
# nearer and further away, as far as ties reach: anywhere between the values found is right.
_FURTHER = 32
_TRIES = 8


def batches(rng: np.random.Generator) -> Iterator[Tally]:
    """Round after round over kinds of problems, shapes and metrics."""
    while True:
        for kind in _KINDS:
            for shape in _SHAPES:
                problems = _problems(rng, kind, shape[:2])
                for name in NAMES:
                    yield _tally(rng, name, kind, problems, shape[2])


def _tally(rng: np.random.Generator, name: str, kind: str, problems: Problems, rows: int) -> Tally:
    found, status = _values(name, _disguised(rng, problems, rows, ordered=name in _ORDERED), np.float32)
    refused = (status & _REFUSED) > 0
    usable = ~refused & np.all(np.isfinite(found), axis=1)
    bounds = bounds_of(name, problems)
    outside = np.max(np.maximum(bounds.lower - found, found - bounds.upper), axis=1)
    # A sum over the samples is off by as many roundings.
    slack = 4 * problems["labels"].shape[1] * _EPS * (1 + bounds.size)
    false = (~refused & ~usable) | (usable & (outside > slack))
    # Weights beyond the dtype are the only input here that is to be refused as such.
    false |= ((status & ScoreStatus.INVALID_INPUT) > 0) & (kind != "limits")
    off = np.zeros(len(found))
    if kind != "limits" and name not in _RANGE_ONLY:
        off = _off(rng, name, problems, found, usable)
        false |= off > 0
    example = ""
    if false.any():
        k = int(np.argmax(false))
        example = f"{kind} {problems['features'].shape[1:]} problem {k}: found {found[k]}, status {status[k]}"
        example += f", off by {off[k]:.1e}"
    return Tally(name, len(found), int(false.sum()), int(refused.sum()), float(np.max(off)), example)


def _off(rng: np.random.Generator, name: str, problems: Problems, found: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """By how much each value is beyond what rounding explains, 0 where it is not."""
    exact, status = _values(name, problems, np.float64)
    moved = [_values(name, _moved(rng, name, problems, _MOVED), np.float64)[0] for _ in range(2)]
    comparable = usable & ((status & _REFUSED) == 0)
    reference = _by_definition(name, problems, exact, comparable)
    spread = np.max([np.abs(values - exact) for values in moved], axis=0)
    tolerance = _TIMES * np.nan_to_num(spread) + _BASES.get(name, _BASE) * (1 + np.abs(exact))
    off = np.where(comparable[:, None], np.maximum(np.abs(found - exact), np.abs(reference - exact)) - tolerance, 0)
    off = np.max(np.maximum(off, 0), axis=1)
    for k in np.flatnonzero(off > 0):
        problem = {key: values[k] for key, values in problems.items()}
        values = np.stack([found[k], reference[k]])
        lower, upper = np.full(values.shape[1], np.inf), np.full(values.shape[1], -np.inf)
        for _ in range(_TRIES):
            near = _neighbours(rng, name, problem)
            lower, upper = np.fmin(lower, np.nanmin(near, axis=0)), np.fmax(upper, np.nanmax(near, axis=0))
            off[k] = max(float(np.max(np.maximum(lower - values, values - upper) - tolerance[k])), 0)
            if off[k] == 0:
                break
    return off


def _neighbours(rng: np.random.Generator, name: str, problem: Problems) -> np.ndarray:
    """Values in float64 of problems all around."""
    copies = {key: np.repeat(value[None], _PROBLEMS, axis=0) for key, value in problem.items()}
    sizes = _MOVED * _FURTHER ** rng.uniform(-1, 1, _PROBLEMS)
    around = _moved(rng, name, copies, sizes)
    if name in _OF_HALF_THE_MASS:
        weights = copies["weights"].astype(np.float64)
        moves = 2 * _FURTHER * _MOVED * np.max(weights, axis=1, keepdims=True) * rng.choice([-1, 1], weights.shape)
        around["weights"] = np.where(weights > 0, np.maximum(weights + moves, 0), 0)
    if METRICS[name].decomposition == "raw":
        around["features"] = _without_small_directions(rng, around["features"])
    values, status = _values(name, around, np.float64)
    return np.where(((status & _REFUSED) == 0)[:, None], values, np.nan)


def _without_small_directions(rng: np.random.Generator, features: np.ndarray) -> np.ndarray:
    """Half of them without directions whose size is about that below which float32 takes them for rounding."""
    u, values, axes = np.linalg.svd(features, full_matrices=False)
    least = np.where(rng.random(len(values)) < 0.5, rounding(np.float32) * 4 ** rng.uniform(-1, 1, len(values)), 0)
    kept = np.where(values > (least * values[:, 0])[:, None], values, 0)
    return np.where((least > 0)[:, None, None], (u * kept[:, None]) @ axes, features)


def _by_definition(name: str, problems: Problems, exact: np.ndarray, comparable: np.ndarray) -> np.ndarray:
    """The values of the first problems, where they have one and weights are counts; what is exact for the others."""
    reference = exact.copy()
    if name in ORACLES:
        for k in np.flatnonzero(comparable)[:_ORACLES]:
            weights = problems["weights"][k]
            # Copies of a sample are in one fold, which a definition that deals samples cannot know.
            if np.all(np.isin(weights, _COUNTS[:2] if name in _ORDERED else _COUNTS)):
                arrays = {key: values[k].astype(np.float64) for key, values in problems.items()}
                repeated = {
                    key: arrays[key] if key == "reference_features" else np.repeat(arrays[key], weights.astype(int), 0)
                    for key in METRICS[name].needs
                }
                value = ORACLES[name](*repeated.values())
                reference[k] = value if np.isfinite(value) else exact[k]
    return reference


@functools.cache
def _program(name: str) -> Callable[[Any], Any]:
    metric = METRICS[name]
    options: dict[str, Any] = {"num_classes": _CLASSES} if "labels" in metric.needs else {}
    if "source_labels" in metric.needs:
        options["num_source_classes"] = _SOURCE_CLASSES

    def one(problem: Any) -> Any:
        result = metric.function(*(problem[need] for need in metric.needs), weights=problem["weights"], **options)
        parts = [part for key, part in vars(result).items() if key != "status"]
        return jnp.stack(parts), result.status

    # Some take megabytes for each problem.
    return jax.jit(lambda problems: jax.lax.map(one, problems, batch_size=_AT_ONCE))


def _values(name: str, problems: Problems, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of all problems, and their status."""
    with jax.enable_x64(dtype == np.float64):
        given = {key: problems[key] for key in (*METRICS[name].needs, "weights")}
        given = {key: values.astype(dtype) if values.dtype.kind == "f" else values for key, values in given.items()}
        values, status = _program(name)(given)
    return np.asarray(values, np.float64), np.asarray(status)


# Problems


def _problems(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> Problems:
    """Numbers of float32; every kind changes ordinary ones."""
    (n, d), count = shape, _PROBLEMS
    priors = rng.dirichlet(np.ones(_CLASSES), count)
    labels = (rng.random((count, n, 1)) > np.cumsum(priors, axis=1)[:, None, :-1]).sum(axis=2)
    apart = rng.choice([0.0, 1.0, 4.0], (count, 1, 1))
    centres = apart * rng.normal(size=(count, _CLASSES, d))
    features = np.take_along_axis(centres, labels[..., None], 1) + rng.normal(size=(count, n, d))
    gammas = rng.gamma(rng.choice([0.05, 1.0], (count, 1, 1)), size=(count, n, _SOURCE_CLASSES))
    gammas[..., 0] += 1e-3
    problems = {
        "features": features,
        "labels": labels,
        "weights": np.ones((count, n)),
        "targets": features[..., :2] + rng.normal(size=(count, n, 2)),
        "reference_features": rng.normal(size=(count, _REFERENCES, d)),
        "aligned_features": features[..., :4] + rng.choice([0.0, 1.0, 10.0]) * rng.normal(size=(count, n, 4)),
        "source_probabilities": gammas / gammas.sum(axis=2, keepdims=True),
        "source_labels": gammas.argmax(axis=2),
    }
    _KINDS[kind](rng, problems)
    single = {key: values.astype(np.float32) for key, values in problems.items() if values.dtype.kind == "f"}
    # Smaller ones are 0 to XLA in float32, as documented.
    chances = single["source_probabilities"]
    chances[chances < np.finfo(np.float32).tiny] = 0
    return problems | single


def _ordinary(rng: np.random.Generator, problems: Problems) -> None:
    pass


def _scaled(rng: np.random.Generator, problems: Problems) -> None:
    scale = 10.0 ** rng.uniform(-30, 30, (_PROBLEMS, 1, 1))
    for key in ("features", "reference_features"):
        problems[key] = scale * problems[key]


def _offset(rng: np.random.Generator, problems: Problems) -> None:
    offset = 10.0 ** rng.uniform(0, 5, (_PROBLEMS, 1, 1)) * rng.normal(
        size=(_PROBLEMS, 1, problems["features"].shape[2])
    )
    for key in ("features", "reference_features"):
        problems[key] = offset + problems[key]


def _far(rng: np.random.Generator, problems: Problems) -> None:
    problems["features"][:, rng.integers(problems["features"].shape[1])] *= 1000


def _constant(rng: np.random.Generator, problems: Problems) -> None:
    columns = rng.random((_PROBLEMS, 1, problems["features"].shape[2])) < 0.5
    level = rng.choice([0.0, 2.5, 1e6], (_PROBLEMS, 1, 1))
    for key in ("features", "reference_features"):
        problems[key] = np.where(columns, level, problems[key])


def _duplicates(rng: np.random.Generator, problems: Problems) -> None:
    """Half of the samples, and a third of the labels, are those of others."""
    n = problems["labels"].shape[1]
    copied = np.where(rng.random((_PROBLEMS, n)) < 0.5, rng.integers(0, n, (_PROBLEMS, n)), np.arange(n))
    problems["features"] = np.take_along_axis(problems["features"], copied[..., None], 1)
    other = rng.integers(0, _CLASSES, (_PROBLEMS, n))
    problems["labels"] = np.where(rng.random((_PROBLEMS, n)) < 1 / 3, other, problems["labels"])


def _counts(rng: np.random.Generator, problems: Problems) -> None:
    problems["weights"] = rng.choice(_COUNTS, problems["weights"].shape)
    problems["weights"][:, 0] = 1


def _light(rng: np.random.Generator, problems: Problems) -> None:
    """Lighter ones are below what singular values and ties of votes resolve, which is documented of each dtype."""
    problems["weights"] = rng.choice([0.0, 0.5, 1.0, 1e-4], problems["weights"].shape)
    problems["weights"][:, 0] = 1


def _absent(rng: np.random.Generator, problems: Problems) -> None:
    """One or two of the three classes have no sample."""
    absent, instead = rng.integers(0, _CLASSES, (2, _PROBLEMS, 1))
    problems["labels"] = np.where(problems["labels"] == absent, instead, problems["labels"])


def _singles(rng: np.random.Generator, problems: Problems) -> None:
    """All classes but one have a sample each, and maybe that one too."""
    n = problems["labels"].shape[1]
    problems["labels"] = np.broadcast_to(np.minimum(np.arange(n), _CLASSES - 1), (_PROBLEMS, n))
    problems["weights"][:, _CLASSES:] = rng.random((_PROBLEMS, 1)) < 0.7


def _few(rng: np.random.Generator, problems: Problems) -> None:
    """Two to five samples, of one feature that varies in half of the problems."""
    n = problems["labels"].shape[1]
    problems["weights"] = (np.arange(n) < rng.integers(2, 6, (_PROBLEMS, 1))).astype(float)
    lone = rng.random((_PROBLEMS, 1)) < 0.5
    problems["features"][..., 1:] = np.where(lone[..., None], 0.7, problems["features"][..., 1:])


def _scaled_weights(rng: np.random.Generator, problems: Problems) -> None:
    """Upwards, as less than one sample in all is no number of samples."""
    problems["weights"] *= 10.0 ** rng.uniform(0, 31, (_PROBLEMS, 1))


def _limits(rng: np.random.Generator, problems: Problems) -> None:
    """Next to the least and the largest numbers of the dtype: only whether there is a number or a status is asked."""
    scale = rng.choice([1e-45, 1e-38, 1e-37, 1.0, 1e37, 5e37], (_PROBLEMS, 1, 1))
    for key in ("features", "reference_features"):
        problems[key] = np.clip(scale * problems[key], -3e38, 3e38)
    problems["weights"] *= rng.choice([1e-45, 1e-38, 1e-30, 1.0, 1e30, 1e37, 3e38], (_PROBLEMS, 1))


_KINDS = {
    "ordinary": _ordinary,
    "scaled": _scaled,
    "offset": _offset,
    "one far sample": _far,
    "constant features": _constant,
    "contradictory duplicates": _duplicates,
    "counts": _counts,
    "light weights": _light,
    "absent classes": _absent,
    "classes of one sample": _singles,
    "few samples": _few,
    "scaled weights": _scaled_weights,
    "limits": _limits,
}


def _disguised(rng: np.random.Generator, problems: Problems, rows: int, *, ordered: bool) -> Problems:
    """The same problems in another order, with absent samples that hold rubbish."""
    n = problems["labels"].shape[1]
    order = np.arange(rows) if ordered else rng.permutation(rows)
    rubbish = {"f": np.nan, "i": -7}
    found = {"reference_features": problems["reference_features"]}
    for key, values in problems.items():
        if key not in found:
            fill = 0 if key == "weights" else rubbish[values.dtype.kind]
            extra = np.full((len(values), rows - n, *values.shape[2:]), fill, values.dtype)
            found[key] = np.concatenate([values, extra], axis=1)[:, order]
    return found


def _moved(rng: np.random.Generator, name: str, problems: Problems, size: float | np.ndarray) -> Problems:
    """Features and the like moved by `size` of the largest; what is equal in a column stays equal.

    The metrics promise to know duplicates and constant features for what they are.
    """
    moved = dict(problems)
    size = np.broadcast_to(size, len(problems["labels"]))[:, None, None]
    salt = int(rng.integers(2**63)) | 1
    live = problems["weights"][..., None] > 0
    for key in ("features", "reference_features", "aligned_features", "targets"):
        values = problems[key].astype(np.float64)
        own = live if values.shape[1] == live.shape[1] else np.ones_like(values, bool)
        # An offset is taken away before anything is rounded, where it does not matter.
        origin = values[:, :1] if METRICS[name].shift_invariant else 0
        reach = np.max(np.where(own, np.abs(values - origin), 0), axis=(1, 2), keepdims=True)
        moved[key] = values + size * reach * _scattered(problems[key], salt)
    chances = problems["source_probabilities"].astype(np.float64)
    chances = chances * (1 + size * _scattered(problems["source_probabilities"], salt))
    moved["source_probabilities"] = chances / chances.sum(axis=2, keepdims=True)
    return moved


def _scattered(values: np.ndarray, salt: int) -> np.ndarray:
    """A number from -1 to 1 for each, the same for equal numbers of one column of one problem."""
    bits = values.view(np.uint32).astype(np.uint64)
    column = np.arange(values.shape[2], dtype=np.uint64)
    problem = np.arange(len(values), dtype=np.uint64)[:, None, None]
    with np.errstate(over="ignore"):
        z = (bits + (column << np.uint64(32)) + (problem << np.uint64(40))) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(29))) * np.uint64(salt)
        z ^= z >> np.uint64(32)
    return z.astype(np.float64) / 2.0**63 - 1

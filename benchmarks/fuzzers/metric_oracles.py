"""Definitions of the metrics in the fewest lines of NumPy, and the ranges that their documentation names.

Labels and weights are as for the metrics; a definition gets whole samples only, all of weight 1, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist
from scipy.special import entr, log_softmax, logsumexp, softmax
from scipy.stats import spearmanr
from sklearn.covariance import ledoit_wolf

__all__ = ["ORACLES", "Bounds", "bounds_of"]


class Bounds(NamedTuple):
    """Ends of the documented range of each problem, and how large its finite ends are."""

    lower: Any
    upper: Any

    @property
    def size(self) -> Any:
        """Largest finite end."""
        ends = np.broadcast_arrays(self.lower, self.upper)
        return np.max([np.where(np.isfinite(end), np.abs(end), 0) for end in ends], axis=0)[..., 0]


def bounds_of(name: str, problems: dict[str, np.ndarray]) -> Bounds:
    """The documented range of the values, with a last axis of parts."""
    labels, weights = problems["labels"], problems["weights"].astype(np.float64)
    n, d = problems["features"].shape[1:]
    sizes = np.stack([np.sum(weights * (labels == label), axis=1) for label in range(3)], axis=1)
    classes, total = np.sum(sizes > 0, axis=1), sizes.sum(axis=1)
    least = -np.sum(entr(sizes / total[:, None]), axis=1)
    sources = problems["source_probabilities"].shape[2]
    inf = np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected = np.where(total > 1, (classes - 1) * total / (total - 1), inf)
    ranges: dict[str, tuple[Any, Any]] = {
        **dict.fromkeys(
            ("transferability", "sfda", "discriminant", "nearest_neighbours", "ridge_probe", "cka"), (0, 1)
        ),
        **dict.fromkeys(("parc", "lfc", "silhouette"), (-1, 1)),
        **dict.fromkeys(("leep", "nce", "nleep"), (least, 0)),
        **dict.fromkeys(("energy_distance", "sinkhorn_divergence"), (-1, 0)),
        "mmd": (-2, 0),
        "ridge_regression": (-inf, 1),
        **dict.fromkeys(("pactran_gaussian", "alpha_req"), (-inf, 0)),
        "h_score": (0, classes - 1),
        "regularised_h_score": (0, corrected),
        "transrate": (0, inf),
        "gbc": (-classes * (classes - 1), 0),
        "rankme": (0, min(n, d)),
        "maximum_probability": (1 / sources, 1),
        "negative_entropy": (-np.log(sources), 0),
        "information_maximisation": (0, np.log(sources)),
        "ncti": ([0, 0, -inf], [inf, 1, inf]),
        "etran": ([-inf, 0], [inf, 1]),
    }
    ends = (np.asarray(end, float) for end in ranges.get(name, (-inf, inf)))
    return Bounds(
        *(end[:, None] if end.shape == (len(labels),) else end[None] if end.ndim else end[None, None] for end in ends)
    )


def _unit(x: np.ndarray) -> np.ndarray:
    """Without the scale, where it does not matter."""
    return x / (np.abs(x).max() or 1)


def _standardised(x: np.ndarray) -> np.ndarray:
    x = x - x[0]
    x = x / np.where(np.ptp(x, axis=0) > 0, np.abs(x).max(axis=0), 1)
    x = x - x.mean(axis=0)
    deviation = x.std(axis=0)
    return x / np.where(deviation > 0, deviation, 1)


def _indicators(labels: np.ndarray) -> np.ndarray:
    """One-hot, of the classes that occur."""
    return (labels[:, None] == np.unique(labels)).astype(float)


def _class_means(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    y = _indicators(labels)
    return (y / y.sum(axis=0)).T @ x


def _h_score(x: np.ndarray, labels: np.ndarray) -> float:
    x, y = _standardised(x), _indicators(labels)
    between = y @ _class_means(x, labels)
    rank = np.linalg.matrix_rank(x, rtol=1e-9)
    u = np.linalg.svd(x)[0][:, :rank]
    return float(np.sum((u.T @ y) ** 2 / y.sum(axis=0))) if between.size else 0.0


def _regularised_h_score(x: np.ndarray, labels: np.ndarray) -> float:
    x = _unit(x - x.mean(axis=0))
    covariance, shrinkage = ledoit_wolf(x)
    between = np.cov((_indicators(labels) @ _class_means(x, labels)).T)
    return float((1 - shrinkage) * np.trace(np.linalg.pinv(covariance, hermitian=True) @ np.atleast_2d(between)))


def _transrate(x: np.ndarray, labels: np.ndarray) -> float:
    x = x - x.mean(axis=0)

    # Centred rows are dependent, and what rounding leaves of that counts where features are large.
    rounding = 1e-13 * np.linalg.norm(x)

    def rate(rows: np.ndarray) -> float:
        values = np.linalg.svd(rows, compute_uv=False)
        return float(np.sum(np.log1p(values[values > rounding] ** 2 / (len(rows) * 1e-4))) / 2)

    return rate(x) - sum(np.mean(labels == c) * rate(x[labels == c]) for c in np.unique(labels))


def _gbc(x: np.ndarray, labels: np.ndarray) -> float:
    parts = [
        (x[labels == c].mean(axis=0), np.maximum(x[labels == c].var(axis=0), 1e-4).mean()) for c in np.unique(labels)
    ]
    value = 0.0
    for i, (m, v) in enumerate(parts):
        for j, (p, w) in enumerate(parts):
            middle = (v + w) / 2
            distance = np.sum((m - p) ** 2) / middle / 8 + x.shape[1] * np.log(middle / np.sqrt(v * w)) / 2
            value -= np.exp(-distance) if i != j else 0
    return value


def _posteriors(x: np.ndarray, labels: np.ndarray, shrinkage: float | None) -> tuple[np.ndarray, float]:
    """About the mean of the own class: the inverse of a covariance of 1e-10 would leave few digits of a difference."""
    y, means = _indicators(labels), _class_means(x, labels)
    within = x - y @ means
    if not np.sum(within**2) > 0:  # Every class is one point: a limit, which has no inverse. Or it is not a number.
        return np.full((len(x), len(means)), np.nan), 1.0 if shrinkage is None else shrinkage
    _, values, axes = np.linalg.svd(within / np.sqrt(len(x)))
    variances = np.pad(values**2, (0, x.shape[1] - len(values))) if len(values) < x.shape[1] else values**2
    if shrinkage is None:
        shrinkage = max(float(np.exp(-5 * variances[0])), 1e-10)
    white = axes.T / np.sqrt((1 - shrinkage) * variances + shrinkage * variances.mean())
    apart = np.sum(((means[:, None] - means) @ white) ** 2, axis=2)
    logits = (within @ white) @ (means @ white).T - y @ apart / 2
    return log_softmax(logits + np.log(y.mean(axis=0)), axis=1), shrinkage


def _own(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.sum(_indicators(labels) * np.exp(log_probabilities), axis=1)))


def _discriminant(x: np.ndarray, labels: np.ndarray) -> float:
    return _own(_posteriors(x - x.mean(axis=0), labels, None)[0], labels)


def _sfda(x: np.ndarray, labels: np.ndarray) -> float:
    x = x - x.mean(axis=0)
    first, shrinkage = _posteriors(x, labels, None)
    y, means = _indicators(labels), _class_means(x, labels)
    confidence = np.sum(y * softmax(np.exp(first), axis=1), axis=1, keepdims=True)
    others = (means.sum(axis=0) - means) / max(len(means) - 1, 1)
    return _own(_posteriors(confidence * x + (1 - confidence) * (y @ others), labels, shrinkage)[0], labels)


def _parc(x: np.ndarray, labels: np.ndarray) -> float:
    x = _standardised(x)
    rows = x - x.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.where(norms > 1e-5, rows / np.where(norms > 0, norms, 1), 0)
    pairs = np.triu_indices(len(x), 1)
    cells = np.round((1 - rows @ rows.T)[pairs] * 2**19)  # what differs by less counts as tied
    value = spearmanr(cells, (labels[:, None] != labels)[pairs]).statistic if np.ptp(cells) else 0.0
    return float(value)


def _lfc(x: np.ndarray, labels: np.ndarray) -> float:
    x = _unit(x)
    return float(np.corrcoef((x @ x.T).ravel(), (labels[:, None] == labels).ravel())[0, 1])


def _silhouette(x: np.ndarray, labels: np.ndarray) -> float:
    distances, y = cdist(_unit(x), _unit(x)), _indicators(labels)
    sizes, sums = y.sum(axis=0), distances @ y
    value = 0.0
    for own, row in zip(y.argmax(axis=1), sums, strict=True):
        if sizes[own] > 1:
            inside, outside = row[own] / (sizes[own] - 1), np.min(np.delete(row / sizes, own))
            value += (outside - inside) / (max(inside, outside) or 1)
    return value / len(x)


def _nearest_neighbours(x: np.ndarray, labels: np.ndarray) -> float:
    """One vote, which samples at the same distance share."""
    distances = cdist(_unit(x), _unit(x))
    np.fill_diagonal(distances, np.inf)
    nearest = distances <= distances.min(axis=1, keepdims=True) * (1 + 1e-9)
    votes = nearest @ _indicators(labels)
    return float(np.mean(np.argmax(votes, axis=1) == _indicators(labels).argmax(axis=1)))


def _ridge_probe(x: np.ndarray, labels: np.ndarray) -> float:
    """Each sample is predicted by the folds that it is not in; a class is dealt to five folds in turn."""
    x, y = _standardised(x), _indicators(labels)
    folds = ((np.cumsum(y, axis=0) - 1) * y).sum(axis=1).astype(int) % 5
    penalties = np.logspace(-3, 3, 7)
    predicted = np.zeros((len(penalties), *y.shape))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        mean, share = x[train].mean(axis=0), y[train].mean(axis=0)
        inputs = x[train] - mean
        for row, penalty in zip(predicted, penalties, strict=True):
            matrix = inputs.T @ inputs / len(inputs) + penalty * np.eye(x.shape[1])
            slopes = np.linalg.solve(matrix, inputs.T @ (y[train] - share) / len(inputs))
            row[test] = (x[test] - mean) @ slopes + share
    best = predicted[np.argmin(np.sum((predicted - y) ** 2, axis=(1, 2)))]
    return float(np.mean(best.argmax(axis=1) == y.argmax(axis=1)))


def _rankme(x: np.ndarray) -> float:
    values = np.linalg.svd(_unit(x), compute_uv=False)
    return float(np.exp(np.sum(entr(values / (values.sum() or 1))))) if x.any() else 0.0


def _alpha_req(x: np.ndarray) -> float:
    values = np.linalg.svd(_unit(x - x[0]) - _unit(x - x[0]).mean(axis=0), compute_uv=False)
    values = values[values > 1e-12 * values[0]]
    index = np.arange(1, len(values) + 1)
    slope = np.polyfit(np.log(index), 2 * np.log(values), 1, w=1 / np.sqrt(index))[0]
    return float(-abs(-slope - 1))


def _energy(x: np.ndarray) -> float:
    """Fewer than 200 samples: the least."""
    return float(np.min(logsumexp(x, axis=1)))


def _leep(p: np.ndarray, labels: np.ndarray) -> float:
    y = _indicators(labels)
    joint = p.T @ y / len(p)
    totals = joint.sum(axis=1, keepdims=True)
    conditional = joint / np.where(totals > 0, totals, 1)
    return float(np.mean(np.log(np.sum((p @ conditional) * y, axis=1))))


def _information_maximisation(p: np.ndarray) -> float:
    return float(np.sum(entr(p.mean(axis=0))) - np.mean(np.sum(entr(p), axis=1)))


def _energy_distance(x: np.ndarray, r: np.ndarray) -> float:
    unit = np.abs(x - r[0]).max() + np.abs(r - r[0]).max() or 1
    x, r = (x - r[0]) / unit, (np.asarray(r) - r[0]) / unit
    across = 2 * cdist(x, r).mean()
    return float(-(across - cdist(x, x).mean() - cdist(r, r).mean()) / (across or 1))


def _cka(x: np.ndarray, z: np.ndarray) -> float:
    x, z = (_unit(side - side[0]) for side in (x, z))
    x, z = x - x.mean(axis=0), z - z.mean(axis=0)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(z.T @ z)
    return float(np.sum((x.T @ z) ** 2) / (norms or 1))


ORACLES: dict[str, Callable[..., float]] = {
    "h_score": _h_score,
    "regularised_h_score": _regularised_h_score,
    "transrate": _transrate,
    "gbc": _gbc,
    "discriminant": _discriminant,
    "sfda": _sfda,
    "parc": _parc,
    "lfc": _lfc,
    "silhouette": _silhouette,
    "nearest_neighbours": _nearest_neighbours,
    "ridge_probe": _ridge_probe,
    "rankme": _rankme,
    "alpha_req": _alpha_req,
    "energy": _energy,
    "leep": _leep,
    "nce": lambda source, labels: _leep((source[:, None] == np.unique(source)).astype(float), labels),
    "maximum_probability": lambda p: float(np.mean(p.max(axis=1))),
    "negative_entropy": lambda p: float(-np.mean(np.sum(entr(p), axis=1))),
    "information_maximisation": _information_maximisation,
    "energy_distance": _energy_distance,
    "cka": _cka,
}

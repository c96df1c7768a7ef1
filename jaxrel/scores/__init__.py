"""Transferability metrics: scores of an encoder on a target task, from features, labels or class probabilities."""

from jaxrel.scores.confidence import (
    information_maximisation_score,
    maximum_probability_score,
    negative_entropy_score,
)
from jaxrel.scores.h_score import h_score, regularised_h_score
from jaxrel.scores.linear_probe import ridge_probe_score
from jaxrel.scores.logme import logme_score
from jaxrel.scores.nearest_neighbours import nearest_neighbours_score
from jaxrel.scores.registry import METRICS, Metric
from jaxrel.scores.result import Score, ScoreStatus
from jaxrel.scores.spectrum import alpha_req_score, rankme_score, spectral_decay
from jaxrel.scores.two_sample import energy_distance_score, mmd_score

__all__ = [
    "METRICS",
    "Metric",
    "Score",
    "ScoreStatus",
    "alpha_req_score",
    "energy_distance_score",
    "h_score",
    "information_maximisation_score",
    "logme_score",
    "maximum_probability_score",
    "mmd_score",
    "nearest_neighbours_score",
    "negative_entropy_score",
    "rankme_score",
    "regularised_h_score",
    "ridge_probe_score",
    "spectral_decay",
]

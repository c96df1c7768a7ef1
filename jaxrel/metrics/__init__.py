"""Transferability metrics: scores of an encoder on a target task, from features, labels or class probabilities.

Each metric has a file with its formula, source, deviations and cost. `METRICS` lists all metrics, and `score_encoders`
computes several metrics for several encoders.
"""

from jaxrel.metrics.batch import score_encoders
from jaxrel.metrics.cka import cka_score
from jaxrel.metrics.confidence import (
    information_maximisation_score,
    maximum_probability_score,
    negative_entropy_score,
)
from jaxrel.metrics.cross_view import CLUSTER_COUNTS, cross_view_hits
from jaxrel.metrics.decomposition import Decomposition, decompose
from jaxrel.metrics.etran import EtranComponents, discriminant_score, energy_score, etran_combine, etran_components
from jaxrel.metrics.f_otce import f_otce_score
from jaxrel.metrics.gbc import gbc_score
from jaxrel.metrics.h_score import h_score, regularised_h_score
from jaxrel.metrics.held_out_discriminant import held_out_discriminant_score
from jaxrel.metrics.jc_otce import jc_otce_score
from jaxrel.metrics.label_feature_correlation import lfc_score
from jaxrel.metrics.leep import leep_score
from jaxrel.metrics.linear_probe import ridge_probe_score
from jaxrel.metrics.logme import logme_score
from jaxrel.metrics.logme_regression import logme_regression_score
from jaxrel.metrics.moments import STREAMED, Moments
from jaxrel.metrics.nce import nce_score
from jaxrel.metrics.ncti import NctiComponents, ncti_combine, ncti_components
from jaxrel.metrics.nearest_neighbours import nearest_neighbours_score
from jaxrel.metrics.nleep import nleep_score
from jaxrel.metrics.ot_nce import ot_nce_score
from jaxrel.metrics.otce import OtceCombination, OtceComponents, otce_combination, otce_components, otce_score
from jaxrel.metrics.otdd import DatasetDistance, otdd_distance
from jaxrel.metrics.pactran import pactran_dirichlet_score, pactran_gamma_score, pactran_gaussian_score
from jaxrel.metrics.parc import parc_score
from jaxrel.metrics.registry import METRICS, NEEDS, Metric
from jaxrel.metrics.result import Score, ScoreStatus
from jaxrel.metrics.ridge_regression import ridge_regression_score
from jaxrel.metrics.sfda import sfda_score
from jaxrel.metrics.silhouette import silhouette_score
from jaxrel.metrics.spectrum import alpha_req_score, rankme_score, spectral_decay
from jaxrel.metrics.streamed import moments_of_blocks, score_task
from jaxrel.metrics.task_relatedness import cross_view_score, relatedness_score
from jaxrel.metrics.transferability import Transferability, transferability_score
from jaxrel.metrics.transrate import transrate_score
from jaxrel.metrics.two_sample import energy_distance_score, mmd_score, sinkhorn_divergence_score

__all__ = [
    "CLUSTER_COUNTS",
    "METRICS",
    "NEEDS",
    "STREAMED",
    "DatasetDistance",
    "Decomposition",
    "EtranComponents",
    "Metric",
    "Moments",
    "NctiComponents",
    "OtceCombination",
    "OtceComponents",
    "Score",
    "ScoreStatus",
    "Transferability",
    "alpha_req_score",
    "cka_score",
    "cross_view_hits",
    "cross_view_score",
    "decompose",
    "discriminant_score",
    "energy_distance_score",
    "energy_score",
    "etran_combine",
    "etran_components",
    "f_otce_score",
    "gbc_score",
    "h_score",
    "held_out_discriminant_score",
    "information_maximisation_score",
    "jc_otce_score",
    "leep_score",
    "lfc_score",
    "logme_regression_score",
    "logme_score",
    "maximum_probability_score",
    "mmd_score",
    "moments_of_blocks",
    "nce_score",
    "ncti_combine",
    "ncti_components",
    "nearest_neighbours_score",
    "negative_entropy_score",
    "nleep_score",
    "ot_nce_score",
    "otce_combination",
    "otce_components",
    "otce_score",
    "otdd_distance",
    "pactran_dirichlet_score",
    "pactran_gamma_score",
    "pactran_gaussian_score",
    "parc_score",
    "rankme_score",
    "regularised_h_score",
    "relatedness_score",
    "ridge_probe_score",
    "ridge_regression_score",
    "score_encoders",
    "score_task",
    "sfda_score",
    "silhouette_score",
    "sinkhorn_divergence_score",
    "spectral_decay",
    "transferability_score",
    "transrate_score",
]

"""Transferability metrics: scores of an encoder on a target task, from features, labels or class probabilities.

One file for each, with its formula, source, deviations and cost; `METRICS` lists them, `score_encoders` computes many
of them for many encoders.
"""

from jaxrel.scores.batch import score_encoders
from jaxrel.scores.cka import cka_score
from jaxrel.scores.confidence import (
    information_maximisation_score,
    maximum_probability_score,
    negative_entropy_score,
)
from jaxrel.scores.decomposition import Decomposition, decompose
from jaxrel.scores.etran import EtranComponents, discriminant_score, energy_score, etran_combine, etran_components
from jaxrel.scores.f_otce import f_otce_score
from jaxrel.scores.gbc import gbc_score
from jaxrel.scores.h_score import h_score, regularised_h_score
from jaxrel.scores.jc_otce import jc_otce_score
from jaxrel.scores.label_feature_correlation import lfc_score
from jaxrel.scores.leep import leep_score
from jaxrel.scores.linear_probe import ridge_probe_score
from jaxrel.scores.logme import logme_score
from jaxrel.scores.logme_regression import logme_regression_score
from jaxrel.scores.nce import nce_score
from jaxrel.scores.ncti import NctiComponents, ncti_combine, ncti_components
from jaxrel.scores.nearest_neighbours import nearest_neighbours_score
from jaxrel.scores.nleep import nleep_score
from jaxrel.scores.ot_nce import ot_nce_score
from jaxrel.scores.otce import OtceCombination, OtceComponents, otce_combination, otce_components, otce_score
from jaxrel.scores.otdd import DatasetDistance, otdd_distance
from jaxrel.scores.pactran import pactran_dirichlet_score, pactran_gamma_score, pactran_gaussian_score
from jaxrel.scores.parc import parc_score
from jaxrel.scores.registry import METRICS, NEEDS, Metric
from jaxrel.scores.result import Score, ScoreStatus
from jaxrel.scores.sfda import sfda_score
from jaxrel.scores.silhouette import silhouette_score
from jaxrel.scores.spectrum import alpha_req_score, rankme_score, spectral_decay
from jaxrel.scores.streamed import STREAMED, score_blocks
from jaxrel.scores.task_relatedness import cross_view_score, relatedness_score, transformed_head_score
from jaxrel.scores.transrate import transrate_score
from jaxrel.scores.two_sample import energy_distance_score, mmd_score

__all__ = [
    "METRICS",
    "NEEDS",
    "STREAMED",
    "DatasetDistance",
    "Decomposition",
    "EtranComponents",
    "Metric",
    "NctiComponents",
    "OtceCombination",
    "OtceComponents",
    "Score",
    "ScoreStatus",
    "alpha_req_score",
    "cka_score",
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
    "information_maximisation_score",
    "jc_otce_score",
    "leep_score",
    "lfc_score",
    "logme_regression_score",
    "logme_score",
    "maximum_probability_score",
    "mmd_score",
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
    "score_blocks",
    "score_encoders",
    "sfda_score",
    "silhouette_score",
    "spectral_decay",
    "transformed_head_score",
    "transrate_score",
]

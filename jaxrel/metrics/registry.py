"""All transferability metrics by name, with their inputs and how to interpret them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxrel._core.plugins import Registry
from jaxrel.metrics.cka import cka_score
from jaxrel.metrics.confidence import (
    information_maximisation_score,
    maximum_probability_score,
    negative_entropy_score,
)
from jaxrel.metrics.decomposition import DecompositionKind
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
from jaxrel.metrics.nce import nce_score
from jaxrel.metrics.ncti import NctiComponents, ncti_combine, ncti_components
from jaxrel.metrics.nearest_neighbours import nearest_neighbours_score
from jaxrel.metrics.nleep import nleep_score
from jaxrel.metrics.ot_nce import ot_nce_score
from jaxrel.metrics.otdd import DatasetDistance, otdd_distance
from jaxrel.metrics.pactran import pactran_dirichlet_score, pactran_gamma_score, pactran_gaussian_score
from jaxrel.metrics.parc import parc_score
from jaxrel.metrics.result import Score
from jaxrel.metrics.ridge_regression import ridge_regression_score
from jaxrel.metrics.sfda import sfda_score
from jaxrel.metrics.silhouette import silhouette_score
from jaxrel.metrics.spectrum import alpha_req_score, rankme_score
from jaxrel.metrics.task_relatedness import cross_view_score, relatedness_score
from jaxrel.metrics.transrate import transrate_score
from jaxrel.metrics.two_sample import energy_distance_score, mmd_score, sinkhorn_divergence_score

__all__ = ["METRICS", "NEEDS", "Metric"]

NEEDS = {
    "features": "`(n, d)` of the target samples",
    "labels": "`(n,)` integers, target classes",
    "targets": "`(n,)` or `(n, t)` numbers to predict",
    "source_probabilities": "`(n, s)`, what a classifier of source classes says about the target samples",
    "source_labels": "`(n,)` integers, source classes of the target samples",
    "reference_features": "`(m, d)` of the samples of a reference task",
    "reference_labels": "`(m,)` integers, their classes",
    "aligned_features": "`(n, e)` of the target samples under another encoder or head",
    "first_view": "`(n, d)` of the target samples, augmented",
    "second_view": "`(n, d)` of the target samples, augmented in another way",
}


@dataclass(frozen=True)
class Metric:
    """A transferability metric.

    Attributes:
        name: its key in `METRICS`.
        function: takes the inputs named in `needs`, in that order, and keyword options.
        needs: keys of `NEEDS`.
        source: where it was published.
        higher_is_better: whether a larger value predicts better transfer.
        differentiable: whether it has a reverse-mode derivative with respect to its first argument.
        shift_invariant: whether it is invariant to a vector added to all features, of both tasks or of one encoder.
        decomposition: kind of `decompose` that `function` accepts as an option, to share it with other metrics.
        result: type that `function` returns, a `Score` or components.
        combine: computes the scores of a model zoo from the components of all its encoders, if a score depends on the
            other encoders.
    """

    name: str
    function: Callable[..., Any]
    needs: tuple[str, ...]
    source: str
    higher_is_better: bool = True
    differentiable: bool = False
    shift_invariant: bool = False
    decomposition: DecompositionKind | None = None
    result: type = Score
    combine: Callable[[Any], Score] | None = None

    @property
    def label_free(self) -> bool:
        """Whether it is computed without target labels."""
        return not {"labels", "targets"} & set(self.needs)


_FEATURES = ("features",)
_LABELLED = ("features", "labels")
_SOURCE = ("source_probabilities", "labels")
_PROBABILITIES = ("source_probabilities",)
_TWO_SAMPLES = ("features", "reference_features")
_TWO_TASKS = ("reference_features", "reference_labels", "features", "labels")
_VIEWS = ("features", "first_view", "second_view")
_OTCE = "Tan et al., TNNLS 2024"
_PACTRAN = "Ding et al., ECCV 2022"

METRICS = Registry(
    "jaxrel.metrics",
    Metric,
    (
        # Of a reference task and the target.
        Metric("task_relatedness", relatedness_score, _TWO_TASKS, "Mehra et al., NeurIPS 2024", shift_invariant=True),
        Metric("f_otce", f_otce_score, _TWO_TASKS, _OTCE, shift_invariant=True),
        Metric("jc_otce", jc_otce_score, _TWO_TASKS, _OTCE, shift_invariant=True),
        Metric("ot_nce", ot_nce_score, _TWO_TASKS, "Tan et al., CVPR 2021", shift_invariant=True),
        Metric(
            "otdd",
            otdd_distance,
            _TWO_TASKS,
            "Alvarez-Melis and Fusi, NeurIPS 2020",
            higher_is_better=False,
            result=DatasetDistance,
            shift_invariant=True,
        ),
        # Of the features and labels of the target.
        Metric(
            "transferability",
            held_out_discriminant_score,
            _LABELLED,
            "jaxrel, after Fisher, Annals of Eugenics 1936",
            shift_invariant=True,
        ),
        Metric("logme", logme_score, _LABELLED, "You et al., ICML 2021", decomposition="raw"),
        Metric(
            "h_score", h_score, _LABELLED, "Bao et al., ICIP 2019", decomposition="standardised", shift_invariant=True
        ),
        Metric(
            "regularised_h_score",
            regularised_h_score,
            _LABELLED,
            "Ibrahim et al., ECML 2022",
            decomposition="centred",
            shift_invariant=True,
        ),
        Metric(
            "transrate",
            transrate_score,
            _LABELLED,
            "Huang et al., ICML 2022",
            decomposition="centred",
            shift_invariant=True,
        ),
        Metric("sfda", sfda_score, _LABELLED, "Shao et al., ECCV 2022", shift_invariant=True),
        Metric("gbc", gbc_score, _LABELLED, "Pándy et al., CVPR 2022", differentiable=True, shift_invariant=True),
        Metric(
            "ncti",
            ncti_components,
            _LABELLED,
            "Wang et al., ICCV 2023",
            decomposition="centred",
            result=NctiComponents,
            combine=ncti_combine,
            shift_invariant=True,
        ),
        Metric(
            "etran",
            etran_components,
            _LABELLED,
            "Gholami et al., ICCV 2023",
            result=EtranComponents,
            combine=etran_combine,
        ),
        Metric("discriminant", discriminant_score, _LABELLED, "Gholami et al., ICCV 2023", shift_invariant=True),
        Metric(
            "pactran_gaussian",
            pactran_gaussian_score,
            _LABELLED,
            _PACTRAN,
            decomposition="centred",
            shift_invariant=True,
        ),
        Metric("nleep", nleep_score, _LABELLED, "Li et al., CVPR 2021", decomposition="centred", shift_invariant=True),
        Metric("parc", parc_score, _LABELLED, "Bolya et al., NeurIPS 2021", shift_invariant=True),
        Metric("lfc", lfc_score, _LABELLED, "Deshpande et al., 2021", differentiable=True),
        Metric(
            "silhouette", silhouette_score, _LABELLED, "Rousseeuw, JCAM 1987", differentiable=True, shift_invariant=True
        ),
        Metric(
            "nearest_neighbours", nearest_neighbours_score, _LABELLED, "Renggli et al., CVPR 2022", shift_invariant=True
        ),
        Metric(
            "ridge_probe",
            ridge_probe_score,
            _LABELLED,
            "Hoerl and Kennard, Technometrics 1970",
            decomposition="standardised",
            shift_invariant=True,
        ),
        Metric(
            "logme_regression",
            logme_regression_score,
            ("features", "targets"),
            "You et al., ICML 2021",
            decomposition="raw",
        ),
        Metric(
            "ridge_regression",
            ridge_regression_score,
            ("features", "targets"),
            "Hoerl and Kennard, Technometrics 1970",
            decomposition="standardised",
            shift_invariant=True,
        ),
        # Of what a source model says about the target samples, and their labels.
        Metric("leep", leep_score, _SOURCE, "Nguyen et al., ICML 2020", differentiable=True),
        Metric("nce", nce_score, ("source_labels", "labels"), "Tran et al., ICCV 2019"),
        Metric("pactran_dirichlet", pactran_dirichlet_score, _SOURCE, _PACTRAN, differentiable=True),
        Metric("pactran_gamma", pactran_gamma_score, _SOURCE, _PACTRAN, differentiable=True),
        # Without labels.
        Metric("cross_view", cross_view_score, _VIEWS, "jaxrel"),
        Metric("rankme", rankme_score, _FEATURES, "Garrido et al., ICML 2023", decomposition="raw"),
        Metric(
            "alpha_req",
            alpha_req_score,
            _FEATURES,
            "Agrawal et al., NeurIPS 2022",
            decomposition="centred",
            shift_invariant=True,
        ),
        Metric("energy", energy_score, _FEATURES, "Gholami et al., ICCV 2023", differentiable=True),
        Metric(
            "energy_distance",
            energy_distance_score,
            _TWO_SAMPLES,
            "Székely and Rizzo, JSPI 2013",
            differentiable=True,
            shift_invariant=True,
        ),
        Metric("mmd", mmd_score, _TWO_SAMPLES, "Gretton et al., JMLR 2012", differentiable=True, shift_invariant=True),
        Metric(
            "sinkhorn_divergence",
            sinkhorn_divergence_score,
            _TWO_SAMPLES,
            "Feydy et al., AISTATS 2019",
            differentiable=True,
            shift_invariant=True,
        ),
        Metric(
            "cka",
            cka_score,
            ("features", "aligned_features"),
            "Kornblith et al., ICML 2019",
            differentiable=True,
            shift_invariant=True,
        ),
        Metric(
            "maximum_probability",
            maximum_probability_score,
            _PROBABILITIES,
            "Hendrycks and Gimpel, ICLR 2017",
            differentiable=True,
        ),
        Metric(
            "negative_entropy",
            negative_entropy_score,
            _PROBABILITIES,
            "Grandvalet and Bengio, NeurIPS 2004",
            differentiable=True,
        ),
        Metric(
            "information_maximisation",
            information_maximisation_score,
            _PROBABILITIES,
            "Bridle et al., NeurIPS 1991",
            differentiable=True,
        ),
    ),
)
"""All metrics by name, including those of installed plugins (see docs/plugins.md)."""

"""All transferability metrics by name, with what each needs and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxrel.scores.confidence import (
    information_maximisation_score,
    maximum_probability_score,
    negative_entropy_score,
)
from jaxrel.scores.h_score import h_score, regularised_h_score
from jaxrel.scores.linear_probe import ridge_probe_score
from jaxrel.scores.logme import logme_score
from jaxrel.scores.nearest_neighbours import nearest_neighbours_score
from jaxrel.scores.result import Score
from jaxrel.scores.spectrum import alpha_req_score, rankme_score
from jaxrel.scores.two_sample import energy_distance_score, mmd_score

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A transferability metric.

    Attributes:
        name: its key in `METRICS`.
        function: takes what `needs` names, in that order, and keyword options; returns a `Score`.
        needs: of "features" `(n, d)`, "labels" `(n,)`, "reference_features" `(m, d)`, "probabilities" `(n, c)`.
        source: where it was published.
        higher_is_better: whether a larger value promises better transfer.
        differentiable: whether reverse-mode derivatives in its first argument exist.
    """

    name: str
    function: Callable[..., Score]
    needs: tuple[str, ...]
    source: str
    higher_is_better: bool = True
    differentiable: bool = False

    @property
    def label_free(self) -> bool:
        """Whether it is computed without target labels."""
        return "labels" not in self.needs


_LABELLED = ("features", "labels")
_TWO_SAMPLES = ("features", "reference_features")
_PROBABILITIES = ("probabilities",)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("logme", logme_score, _LABELLED, "You et al., ICML 2021"),
        Metric("h_score", h_score, _LABELLED, "Bao et al., ICIP 2019"),
        Metric("regularised_h_score", regularised_h_score, _LABELLED, "Ibrahim et al., ECML 2022"),
        Metric("nearest_neighbours", nearest_neighbours_score, _LABELLED, "Renggli et al., CVPR 2022"),
        Metric("ridge_probe", ridge_probe_score, _LABELLED, "Hoerl and Kennard, Technometrics 1970"),
        Metric("rankme", rankme_score, ("features",), "Garrido et al., ICML 2023"),
        Metric("alpha_req", alpha_req_score, ("features",), "Agrawal et al., NeurIPS 2022"),
        Metric(
            "energy_distance", energy_distance_score, _TWO_SAMPLES, "Székely and Rizzo, JSPI 2013", differentiable=True
        ),
        Metric("mmd", mmd_score, _TWO_SAMPLES, "Gretton et al., JMLR 2012", differentiable=True),
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
    )
}

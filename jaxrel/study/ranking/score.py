"""One encoder scored on one target: a row of a ranking."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from jaxrel.study.records import OK, Record
from jaxrel.study.scoring.explained import BOUND_NUMBERS as NUMBERS

__all__ = ["LOGGED", "NUMBERS", "RESAMPLED", "Score", "joined"]

RESAMPLED = {"resampled_transferabilities": "key", "resampled_bounds": "bound_key"}
"""Fields of resamples, each with the field that holds the key of their record."""
LOGGED = (*RESAMPLED, "classes")
"""Fields that are in the log of finished records, but not in the file of a ranking."""
_SECONDS = ("extraction_seconds", "compilation_seconds", "scoring_seconds")


@dataclasses.dataclass(frozen=True)
class Score:
    """One encoder scored on one target, with the terms of one reference, if any.

    Every loss and bound is in nats, on held-out samples; missing numbers are NaN.

    Attributes:
        key: key of the record of the transferability, a hash of everything it depends on; empty if unknown.
        bound_key: likewise for the bound.
        reference: None if there are no terms.
        status: "ok", or why there is no transferability.
        terms_status: "ok", or what is wrong with the bound and its terms.
        recipe: how `transferability` is computed.
        target_samples: a hash of the scored target samples; the same for every encoder.
        target_labels: "given", or the source of the target classes of the terms.
        class_counts: number of target samples that the teacher gave each class name; empty where no classes are named.
        transferability: the number by which encoders are ranked, computed from the training samples of the target; see
            :func:`jaxrel.transferability_score`. It does not depend on the reference.
        lower: with `upper`, ends of its interval.
        accuracy: share of target samples predicted correctly by the classifier of the recipe.
        majority: the accuracy of the best constant guess.
        num_classes: number of target classes of the terms.
        vacuous_level: loss of the best constant guess, the entropy of the held-out target classes.
        num_parameters: number of parameters of the encoder; None if unknown.
        feature_width: number of features per sample.
        samples_per_second: speed of extraction without compilation, in the run that made this score; NaN if all
            features were in the store.
        resampled_transferabilities: transferability on resampled target samples, the same for all encoders of a target.
        resampled_bounds: the bound on resampled held-out samples, likewise; empty without labels.
        classes: the most expensive target classes of the bound, as :class:`jaxrel.study.Record` has them.
        extraction_seconds: time to get the features of both data sets in the run that made this score; features from
            the store take almost no time.
        compilation_seconds: time to compile everything that was run for this score.
        scoring_seconds: time of learning, evaluation and resampling, without compilation.
    """

    key: str
    reference: str | None
    target: str
    encoder: str
    status: str = OK
    terms_status: str = OK
    recipe: str = ""
    target_samples: str = ""
    target_labels: str = "given"
    class_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    num_classes: int = 0
    transferability: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    accuracy: float = math.nan
    majority: float = math.nan
    vacuous_level: float = math.nan
    bound: float = math.nan
    tight_bound: float = math.nan
    reweighted_reference_loss: float = math.nan
    label_mismatch: float = math.nan
    distribution_mismatch: float = math.nan
    distribution_mismatch_lower: float = math.nan
    transformed_reference_loss: float = math.nan
    target_loss: float = math.nan
    target_accuracy: float = math.nan
    extraction_seconds: float = 0.0
    compilation_seconds: float = 0.0
    scoring_seconds: float = 0.0
    num_parameters: int | None = None
    feature_width: int | None = None
    samples_per_second: float = math.nan
    bound_key: str = ""
    resampled_transferabilities: tuple[float, ...] = dataclasses.field(default=(), compare=False)
    resampled_bounds: tuple[float, ...] = dataclasses.field(default=(), compare=False)
    classes: tuple[Mapping[str, Any], ...] = dataclasses.field(default=(), compare=False)

    @property
    def failed(self) -> bool:
        """Whether there is no transferability."""
        return self.status != OK

    @property
    def has_terms(self) -> bool:
        """Whether there is a valid bound."""
        return self.reference is not None and not self.failed and self.terms_status == OK

    @property
    def terms(self) -> tuple[float, float, float]:
        """The terms of the bound: reference loss, label mismatch, distribution mismatch."""
        return self.reweighted_reference_loss, self.label_mismatch, self.distribution_mismatch

    @property
    def complaint(self) -> str:
        """The problem with the number or its terms; empty if there is none."""
        return next((status for status in (self.status, self.terms_status) if status != OK), "")


def joined(transferability: Record, bound: Record | None) -> Score:
    """The score from the records of one encoder and target, and of one reference, if any."""
    numbers = transferability.numbers
    labels = transferability.texts.get("target_labels", "given")
    of_bound: dict[str, Any] = {}
    if bound is not None:
        of_bound = {name: bound.numbers.get(name, math.nan) for name in NUMBERS} | {
            "bound_key": bound.key,
            "reference": bound.reference,
            "terms_status": bound.status,
            "target_labels": bound.texts.get("target_labels", labels),
            "num_classes": int(bound.numbers.get("num_classes", 0)),
            "vacuous_level": bound.numbers.get("vacuous_level", math.nan),
            "resampled_bounds": bound.resamples,
            "classes": bound.classes,
        }
    taken = {name: numbers.get(name, math.nan) for name in ("lower", "upper", "accuracy", "majority")}
    costs = {name: _sum(name, transferability, bound) for name in (*_SECONDS, "extracted_samples")}
    extracted, seconds = costs.pop("extracted_samples"), costs["extraction_seconds"]
    fields = {
        "key": transferability.key,
        "reference": None,
        "target": transferability.target,
        "encoder": transferability.encoder,
        "status": transferability.status,
        "transferability": transferability.value,
        "recipe": transferability.texts.get("recipe", ""),
        "target_samples": transferability.texts.get("target_samples", ""),
        "target_labels": labels,
        "class_counts": json.loads(transferability.texts.get("class_counts", "{}")),
        "num_parameters": _count(numbers.get("num_parameters", math.nan)),
        "feature_width": _count(numbers.get("feature_width", math.nan)),
        "samples_per_second": extracted / seconds if extracted and seconds else math.nan,
        "resampled_transferabilities": transferability.resamples,
    }
    return Score(**(fields | taken | costs | of_bound))


def _sum(name: str, *records: Record | None) -> float:
    return sum(record.numbers.get(name, 0.0) for record in records if record is not None)


def _count(number: float) -> int | None:
    return None if math.isnan(number) else int(number)

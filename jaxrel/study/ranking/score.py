"""One encoder scored on one target: its fields, and its line in a log."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxrel.storage.records import RecordLog, from_json_number, json_number

__all__ = ["NUMBERS", "OK", "RESAMPLES", "TERMS", "Score", "ScoreLog", "from_json", "to_json"]

OK = "ok"
TERMS = ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch")
NUMBERS = (
    "bound",
    "tight_bound",
    *TERMS,
    "distribution_mismatch_lower",
    "transformed_reference_loss",
    "target_loss",
    "target_accuracy",
)
"""What a score takes over from a result of :func:`jaxrel.task_relatedness`."""
RESAMPLES = ("resampled_transferabilities", "resampled_bounds")


@dataclasses.dataclass(frozen=True)
class Score:
    """One encoder scored on one target, with the terms of one reference if there is one.

    Every loss and bound is in nats, on samples not learned on; numbers that could not be had are NaN.

    Attributes:
        key: hash of everything the numbers depend on; empty where that could not be found out.
        reference: None where there are no terms.
        status: "ok", or why there is no number to rank by.
        terms_status: "ok", or what is wrong with the bound and its terms.
        recipe: what `transferability` is.
        target_samples: a hash of which samples of the target were scored; the same under every encoder.
        target_labels: "given", or where the target classes come from that the terms are about.
        transferability: what encoders are ranked by, of the training samples of the target; see
            :func:`jaxrel.transferability_score`. It does not depend on the reference.
        lower: with `upper`, ends of its interval.
        accuracy: share of target samples told right by what the recipe learned.
        majority: the accuracy of the best constant guess.
        num_classes: of the target, of the terms.
        vacuous_level: loss of the best constant guess, the entropy of the held-out target classes.
        num_parameters: of the encoder; None where it is not known.
        feature_width: how many numbers the encoder makes of a sample.
        samples_per_second: of extraction, compilation left out, in the run that made this score; NaN where all features
            were there already.
        resampled_transferabilities: on resampled target samples, the same ones for all encoders of a target.
        resampled_bounds: the bound on resampled held-out samples, likewise; without labels there are none.
        extraction_seconds: what the features of both data sets took in the run that made this score; features
            from the store cost next to nothing.
        compilation_seconds: what compilation of all that was run for this score took.
        scoring_seconds: what learning, evaluating and resampling took, compilation left out.
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
    resampled_transferabilities: tuple[float, ...] = dataclasses.field(default=(), compare=False)
    resampled_bounds: tuple[float, ...] = dataclasses.field(default=(), compare=False)

    @property
    def failed(self) -> bool:
        """Whether there is no number to rank by."""
        return self.status != OK

    @property
    def has_terms(self) -> bool:
        """Whether there is a bound to trust."""
        return self.reference is not None and not self.failed and self.terms_status == OK

    @property
    def terms(self) -> tuple[float, float, float]:
        """What the bound is the sum of: reference loss, label mismatch, distribution mismatch."""
        return self.reweighted_reference_loss, self.label_mismatch, self.distribution_mismatch

    @property
    def complaint(self) -> str:
        """What is wrong with the number, or with its terms; empty where all is well."""
        return next((status for status in (self.status, self.terms_status) if status != OK), "")


class ScoreLog(RecordLog[Score]):
    """Finished scores by their keys."""

    def encoded(self, item: Score) -> dict[str, Any]:
        """The fields of a score."""
        return to_json(item)

    def decoded(self, record: dict[str, Any]) -> Score:
        """The score of these fields."""
        return from_json(record)


def to_json(score: Score) -> dict[str, Any]:
    """The fields of a score, with numbers as :func:`jaxrel.storage.records.json_number` has them."""
    record = dataclasses.asdict(score)
    for name, value in record.items():
        if isinstance(value, float):
            record[name] = json_number(value)
    for name in RESAMPLES:
        record[name] = [json_number(value) for value in record[name]]
    return record


def from_json(record: dict[str, Any]) -> Score:
    """The score of which `to_json` gave the fields."""
    fields = dict(record)
    for field in dataclasses.fields(Score):
        if field.type == "float":
            fields[field.name] = from_json_number(fields[field.name])
    for name in RESAMPLES:
        fields[name] = tuple(map(from_json_number, fields[name]))
    return Score(**fields)

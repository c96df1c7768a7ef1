"""How well transferability scores predict the accuracy after transfer: correlations, intervals, baselines."""

from jaxrel.evaluation.baselines import NullDistribution, ceiling, leave_one_target_out_rank, null_distribution
from jaxrel.evaluation.bootstrap import (
    Interval,
    PairedDifference,
    TargetIntervals,
    bootstrap_difference,
    bootstrap_intervals,
)
from jaxrel.evaluation.evaluate import (
    EvaluationTable,
    ScoreEvaluation,
    compare_scores,
    evaluate_score,
    evaluate_scores,
)
from jaxrel.evaluation.labelling import samples_to_label
from jaxrel.evaluation.rank_correlation import (
    STATISTICS,
    kendall_tau,
    pearson,
    spearman,
    top_1_regret,
    weighted_kendall_tau,
)

__all__ = [
    "STATISTICS",
    "EvaluationTable",
    "Interval",
    "NullDistribution",
    "PairedDifference",
    "ScoreEvaluation",
    "TargetIntervals",
    "bootstrap_difference",
    "bootstrap_intervals",
    "ceiling",
    "compare_scores",
    "evaluate_score",
    "evaluate_scores",
    "kendall_tau",
    "leave_one_target_out_rank",
    "null_distribution",
    "pearson",
    "samples_to_label",
    "spearman",
    "top_1_regret",
    "weighted_kendall_tau",
]

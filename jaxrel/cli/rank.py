"""`jaxrel rank`: encoders ranked for targets by transferability, with the terms that explain the ranking."""

from __future__ import annotations

import argparse

from jaxrel import data, study
from jaxrel._core.user_paths import user_path
from jaxrel.cli import console
from jaxrel.cli.running import run_plan, settings_of
from jaxrel.cli.score import of_data_sets, scored
from jaxrel.relatedness import Joint
from jaxrel.study import Study
from jaxrel.study.named_classes import read_class_names
from jaxrel.study.page import write as page
from jaxrel.study.plan import OF_NUMBERS
from jaxrel.study.ranking import report
from jaxrel.study.ranking.costs import within_limits

__all__ = ["run"]

_OF_NUMBERS = (
    "Labels are numbers to predict. Encoders are ordered by ridge_regression, the share of their variance (R^2) that a "
    "linear probe explains on samples it was not fitted to; logme_regression is the log evidence of a linear model. "
    "Transferability, task-relatedness and the metrics of classes are not defined here."
)


def run(options: argparse.Namespace) -> str:
    """Rank; returns what is missing."""
    if options.regression:
        return _rank_by_numbers(options)
    method = Joint(space=options.space, cost=options.cost, learn_head=not options.fixed_head)
    names = {} if options.class_names is None else read_class_names(options.class_names)
    settings = settings_of(options, method=method, class_names=names)
    data_paths = dict(options.data_path)
    with console.narrator(quiet=options.quiet) as progress:
        plan = Study(
            options.encoder, options.target, options.reference, settings=settings, data_paths=data_paths
        ).plan()
        plan = within_limits(
            plan, max_parameters=options.max_parameters, max_width=options.max_width, progress=progress
        )
        named = {name: user_path(name) for name in (*options.target, *options.reference) if data.is_path(name)}
        places = named | data_paths
        report.check_output(plan, options.output, data_paths=places)
        page.check_output(options.output)
        plot = console.can_plot(options.plot)
        result = study.ranking_of(run_plan(plan, options, progress))
    files = report.write_files(
        result, options.output, plot=plot, formats=options.plot_format, data_paths=places, command=options.command
    )
    files.append(
        page.write_page(
            options.output, result, sources=plan.sources.values(), charts=options.plot, command=options.command
        )
    )
    console.conclude(options, files, lambda shown: report.print_ranking(result, shown), notes=report.notes(result))
    return _incomplete(result, plan)


def _rank_by_numbers(options: argparse.Namespace) -> str:
    """A scoreboard of the metrics that take regression targets."""
    if options.reference or options.label_free or options.class_names or len(options.target) > 1:
        raise ValueError(
            "--regression is for one target, without --reference, --label-free and --class-names, which are about "
            "classes: leave them out, and rank several targets one by one."
        )
    changes = {"target": options.target[0], "reference": None, "class_names": (), "views": False, "metric": OF_NUMBERS}
    options = argparse.Namespace(**vars(options) | changes)
    return scored(options, *of_data_sets(options), _OF_NUMBERS)


def _incomplete(result: study.Ranking, plan: study.Plan) -> str:
    """What is missing from the ranking; empty if it is complete."""
    if scores := result.incomplete:
        names = ", ".join(dict.fromkeys(f"{score.encoder} on {score.target}" for score in scores))
        total = len(plan.pairs) * len(plan.encoders)
        return f"{len(scores)} of {total} scores failed ({names}), see the lines below the tables"
    return ""

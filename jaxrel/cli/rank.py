"""`jaxrel rank`: encoders ranked for targets by transferability, with the terms that say why."""

from __future__ import annotations

import argparse

from jaxrel import data, study
from jaxrel._core.user_paths import user_path
from jaxrel.cli import console
from jaxrel.cli.running import run_plan, settings_of
from jaxrel.relatedness import Joint
from jaxrel.study import Study
from jaxrel.study.named_classes import read_class_names
from jaxrel.study.ranking import report
from jaxrel.study.ranking.costs import within_limits
from jaxrel.study.sources import NamedSource

__all__ = ["run", "skipped_files"]


def run(options: argparse.Namespace) -> str:
    """Rank; returns what is missing of it."""
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
        plot = console.can_plot(options.plot)
        result = study.ranking_of(run_plan(plan, options, progress))
    files = report.write_files(
        result, options.output, plot=plot, formats=options.plot_format, data_paths=places, command=options.command
    )
    console.conclude(options, files, lambda shown: report.print_ranking(result, shown), notes=report.notes(result))
    return _incomplete(result, plan)


def _incomplete(result: study.Ranking, plan: study.Plan) -> str:
    """What of the ranking is not as it was asked for; empty where nothing is."""
    parts = []
    if scores := result.incomplete:
        names = ", ".join(dict.fromkeys(f"{score.encoder} on {score.target}" for score in scores))
        total = len(plan.pairs) * len(plan.encoders)
        parts.append(f"{len(scores)} of {total} scores failed ({names}), see the lines below the tables")
    parts += skipped_files(plan)
    return "; ".join(parts)


def skipped_files(plan: study.Plan) -> list[str]:
    """Which files could not be read and were left out, if any."""
    sources = [source for source in plan.sources.values() if isinstance(source, NamedSource)]
    if skipped := [source for source in sources if source.skipped]:
        counts = ", ".join(f"{source.skipped} of {source.name}" for source in skipped)
        return [f"files that cannot be read were left out ({counts})"]
    return []

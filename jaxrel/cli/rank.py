"""`jaxrel rank`: encoders ranked for targets by transferability, with the terms that say why."""

from __future__ import annotations

import argparse
from typing import Any

from jaxrel import data, study
from jaxrel._core.user_paths import user_path
from jaxrel.cli import console
from jaxrel.cli.options import (
    add_common,
    add_encoders,
    add_numbers,
    add_plot,
    add_ray,
    epilog,
    path_argument,
    run_plan,
    settings_of,
)
from jaxrel.relatedness.ground_costs import cost_names
from jaxrel.study import Study
from jaxrel.study.named_classes import TEACHER, read_class_names
from jaxrel.study.page import write as page
from jaxrel.study.ranking.costs import within_limits
from jaxrel.study.records import LOG
from jaxrel.study.sources import NamedSource

__all__ = ["add", "skipped_files"]


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    rank = commands.add_parser(
        "rank",
        help="rank encoders for target tasks, and say why",
        description="Rank encoders for every target by transferability, one number that is computed from features and "
        "labels of the target, or with --label-free from features alone. --reference adds the terms of "
        "task-relatedness, which say why. Features and finished scores are kept: the same command goes on where it was "
        "stopped.",
        epilog=epilog("rank"),
    )
    rank.add_argument("--target", nargs="+", required=True, metavar="T", help="data sets transferred to")
    add_encoders(rank, "encoders to rank", required=True)
    rank.add_argument(
        "--reference", nargs="+", default=[], metavar="R", help="data sets transferred from, for the terms of a bound"
    )
    numbers = (
        ("--samples", int, "training samples of each data set, or all that it has where they are fewer"),
        ("--held-out", int, "with --reference, held-out samples of each data set, on which the terms are evaluated"),
        ("--image-size", int, "input resolution of the networks in pixels (default: each network's own)"),
        ("--batch-size", int, "images in one forward pass"),
        ("--seed", int, "seed of scoring, resampling and random weights"),
        ("--resamples", int, "resamples of the target samples for the interval"),
        ("--confidence", float, "share of the resamples inside the interval"),
        ("--target-classes", int, "with --label-free, how many classes targets have (default: estimated)"),
    )
    add_numbers(rank, numbers)
    rank.add_argument(
        "--label-free",
        action="store_true",
        help="leave target labels alone: rank by clusters that augmented views of the training images agree on",
    )
    rank.add_argument(
        "--class-names",
        type=path_argument,
        metavar="FILE",
        help="leave target labels alone: samples have the class whose name is nearest; a line NAME or "
        "NAME<tab>DESCRIPTION for each",
    )
    rank.add_argument(
        "--teacher",
        metavar="E",
        help=f"with --class-names, the encoder that sees samples and names (default: {TEACHER} for texts; for images "
        "clip-image@CHECKPOINT is to be named)",
    )
    rank.add_argument("--max-parameters", type=int, metavar="N", help="leave out encoders of more parameters")
    rank.add_argument("--max-width", type=int, metavar="N", help="leave out encoders of more features")
    rank.add_argument("--space", choices=("prediction", "feature"), default="prediction", help="what is transported")
    rank.add_argument("--cost", choices=cost_names("prediction", "feature"), help="default: the tightest of the space")
    rank.add_argument("--fixed-head", action="store_true", help="keep the reference head as fitted on the reference")
    add_common(rank, output="jaxrel-results")
    add_ray(rank)
    add_plot(rank, name="ranking")
    rank.add_argument("--quiet", action="store_true", help="the tables only: no progress, no notes")
    rank.set_defaults(run=_rank, log=LOG)


def _rank(options: argparse.Namespace) -> str:
    from jaxrel.relatedness import Joint
    from jaxrel.study.ranking import report

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
    shown = console.literal_console()
    report.print_ranking(result, shown)
    if not options.quiet:
        for paragraph in report.notes(result):
            shown.print("\n" + paragraph)
        console.print_files(shown, (*files, options.output / options.log))
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

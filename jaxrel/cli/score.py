"""`jaxrel score`: encoders scored by many metrics."""

from __future__ import annotations

import argparse
import json
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
from jaxrel.cli.rank import skipped_files
from jaxrel.metrics.batch import applicable_metrics
from jaxrel.metrics.registry import METRICS
from jaxrel.study import Settings, Study
from jaxrel.study.page import write as page
from jaxrel.study.records import LOG

__all__ = ["add"]

_USAGE = "pass files, one for each encoder, or --encoder and --target."
_ORIGIN = (
    "target", "reference", "views", "samples", "official_splits", "image_size", "batch_size", "seed", "data_path",
)  # fmt: skip


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    score = commands.add_parser(
        "score",
        help="score encoders by many metrics",
        description="Score encoders on one target by any metrics of `jaxrel metrics`: from .npz files, one for each "
        "encoder, with arrays by the names that `jaxrel metrics` lists (features, labels, ...), or from named data "
        "sets and encoders. Finished scores are kept: the same command goes on where it was stopped.",
        epilog=epilog("score"),
    )
    score.add_argument("files", nargs="*", type=path_argument, metavar="FILE.npz", help="the arrays of one encoder")
    add_encoders(score, "encoders by name, in place of files")
    score.add_argument("--target", metavar="T", help="data set transferred to")
    score.add_argument("--reference", metavar="R", help="data set transferred from, for metrics that need one")
    score.add_argument("--views", action="store_true", help="two augmented views of the target, for cross_view")
    score.add_argument("--metric", nargs="+", metavar="M", help="default: all that the arrays suffice for")
    numbers = (
        ("--samples", int, "training samples of each data set, or all that it has where they are fewer"),
        ("--image-size", int, "input resolution of the networks in pixels (default: each network's own)"),
        ("--batch-size", int, "images in one forward pass"),
        ("--seed", int, "seed of views and random weights"),
    )
    add_numbers(score, numbers)
    add_common(score, output="jaxrel-scores")
    add_ray(score)
    add_plot(score, name="scores")
    score.add_argument("--quiet", action="store_true", help="the table only: no progress, no notes")
    score.set_defaults(run=_score, log=LOG)


def _score(options: argparse.Namespace) -> str:
    from jaxrel.study.scoreboard import report

    with console.narrator(quiet=options.quiet) as progress:
        asked, origins = _of_files(options) if options.files else _of_data_sets(options)
        plan = asked.plan()
        report.check_output(origins, plan.metrics, options.output)
        page.check_output(options.output)
        plot = console.can_plot(options.plot)
        board = study.scoreboard_of(run_plan(plan, options, progress), origins)
    files = report.write_files(board, options.output, plot=plot, formats=options.plot_format, command=options.command)
    files.append(page.write_page(options.output, board, charts=options.plot, command=options.command))
    shown = console.literal_console()
    report.print_scoreboard(board, shown)
    if not options.quiet:
        shown.print("\n" + report.NOTE)
        console.print_files(shown, (*files, options.output / options.log))
    names = ", ".join(f"{metric} of {encoder}" for encoder, metric in board.failed)
    parts = (
        [f"{len(board.failed)} of {board.values.size} scores failed ({names}), see below the table"] if names else []
    )
    return "; ".join([*parts, *skipped_files(plan)])


def _of_files(options: argparse.Namespace) -> tuple[Study, dict[str, str]]:
    """A study of the encoders of files, and which file each is of."""
    from jaxrel.study.encoder_arrays import Hub, from_files

    if options.encoder or options.target:
        raise ValueError(_USAGE)
    if options.reference is not None or options.views or options.data_path:
        raise ValueError("--reference, --views and --data-path are for named data sets: leave them out with files.")
    hub = Hub(from_files(options.files, strict=options.strict))
    metrics = options.metric or hub.metrics()
    settings = Settings(resamples=0, strict=options.strict)
    origins = {name: encoder.origin for name, encoder in hub.encoders.items()}
    return Study(tuple(hub.encoders), [hub], metrics=list(dict.fromkeys(metrics)), settings=settings), origins


def _of_data_sets(options: argparse.Namespace) -> tuple[Study, dict[str, str]]:
    """A study of the encoders that are named, and of which data sets by which options their scores are."""
    if not (options.encoder and options.target):
        raise ValueError(_USAGE)
    needs = ["features", "labels", *(("first_view", "second_view") if options.views else ())]
    needs += ["reference_features", "reference_labels"] if options.reference else []
    metrics = options.metric or applicable_metrics(dict.fromkeys(needs))
    if not options.views and (viewed := [name for name in metrics if _needs_views(name)]):
        raise ValueError(f"{', '.join(viewed)} needs views of the samples: pass --views.")
    settings = settings_of(options, held_out=0, resamples=0)  # no metric looks at held-out samples
    asked = Study(
        options.encoder,
        [options.target],
        [] if options.reference is None else [options.reference],
        metrics=list(dict.fromkeys(metrics)),
        settings=settings,
        data_paths=dict(options.data_path),
    )
    told = {name: getattr(options, name) for name in _ORIGIN}
    for role in ("target", "reference"):
        if told[role] is not None and told[role] not in dict(options.data_path) and data.is_path(told[role]):
            told[role] = str(user_path(told[role]).resolve())
    return asked, dict.fromkeys(options.encoder, json.dumps(told, default=str))


def _needs_views(metric: str) -> bool:
    return metric in METRICS and "first_view" in METRICS[metric].needs

"""`jaxrel score`: encoders scored by many metrics."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping

from jaxrel import data, study
from jaxrel._core.user_paths import user_path
from jaxrel.cli import console
from jaxrel.cli.running import run_plan, settings_of
from jaxrel.metrics.batch import applicable_metrics
from jaxrel.metrics.registry import METRICS
from jaxrel.study import Settings, Study
from jaxrel.study.encoder_arrays import Hub, from_files
from jaxrel.study.page import write as page
from jaxrel.study.plan import OF_NUMBERS
from jaxrel.study.scoreboard import report

__all__ = ["of_data_sets", "run", "scored"]

_USAGE = "pass files, one for each encoder, or --encoder and --target."
_ORIGIN = (
    "target", "reference", "views", "samples", "official_splits", "image_size", "prompt", "width", "batch_size", "seed",
    "data_path",
)  # fmt: skip


def run(options: argparse.Namespace) -> str:
    """Score; returns what is missing."""
    return scored(options, *(_of_files(options) if options.files else of_data_sets(options)))


def scored(options: argparse.Namespace, asked: Study, origins: Mapping[str, str], *notes: str) -> str:
    """Compute, print and write the requested scores; returns what failed."""
    with console.narrator(quiet=options.quiet) as progress:
        plan = asked.plan()
        report.check_output(origins, plan.metrics, options.output)
        page.check_output(options.output)
        plot = console.can_plot(options.plot)
        board = study.scoreboard_of(run_plan(plan, options, progress), origins)
        board = board.ordered() if options.regression else board
    files = report.write_files(board, options.output, plot=plot, formats=options.plot_format, command=options.command)
    files.append(page.write_page(options.output, board, charts=options.plot, command=options.command))
    console.conclude(options, files, lambda shown: report.print_scoreboard(board, shown), notes=[report.NOTE, *notes])
    names = ", ".join(f"{metric} of {encoder}" for encoder, metric in board.failed)
    return f"{len(board.failed)} of {board.values.size} scores failed ({names}), see below the table" if names else ""


def _of_files(options: argparse.Namespace) -> tuple[Study, dict[str, str]]:
    """A study of the encoders of files, and the file of each encoder."""
    if options.encoder or options.target:
        raise ValueError(_USAGE)
    if options.reference is not None or options.views or options.data_path or options.regression:
        raise ValueError(
            "--reference, --views, --data-path and --regression are for named data sets: leave them out with files."
        )
    hub = Hub(from_files(options.files, strict=options.strict))
    metrics = options.metric or hub.metrics()
    settings = Settings(resamples=0, strict=options.strict)
    origins = {name: encoder.origin for name, encoder in hub.encoders.items()}
    return Study(tuple(hub.encoders), [hub], metrics=list(dict.fromkeys(metrics)), settings=settings), origins


def of_data_sets(options: argparse.Namespace) -> tuple[Study, dict[str, str]]:
    """A study of the named encoders, and the data sets and options of their scores."""
    if not (options.encoder and options.target):
        raise ValueError(_USAGE)
    needs = [
        "features",
        "targets" if options.regression else "labels",
        *(("first_view", "second_view") if options.views else ()),
    ]
    needs += ["reference_features", "reference_labels"] if options.reference else []
    applicable = list(applicable_metrics(dict.fromkeys(needs)))
    if options.regression:
        applicable = [*OF_NUMBERS, *(name for name in applicable if name not in OF_NUMBERS)]
    metrics = options.metric or applicable
    if not options.views and (viewed := [name for name in metrics if _needs_views(name)]):
        raise ValueError(f"{', '.join(viewed)} needs views of the samples: pass --views.")
    settings = settings_of(options, held_out=0, resamples=0)  # no metric uses held-out samples
    asked = Study(
        options.encoder,
        [options.target],
        [] if options.reference is None else [options.reference],
        metrics=list(dict.fromkeys(metrics)),
        settings=settings,
        data_paths=dict(options.data_path),
    )
    origin = {name: getattr(options, name) for name in _ORIGIN} | ({"regression": True} if options.regression else {})
    for role in ("target", "reference"):
        if origin[role] is not None and origin[role] not in dict(options.data_path) and data.is_path(origin[role]):
            origin[role] = str(user_path(origin[role]).resolve())
    return asked, dict.fromkeys(options.encoder, json.dumps(origin, default=str))


def _needs_views(metric: str) -> bool:
    return metric in METRICS and "first_view" in METRICS[metric].needs

"""`jaxrel score`: encoders scored by many metrics."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from jaxrel import data, study
from jaxrel._core.user_paths import user_path
from jaxrel.cli import console
from jaxrel.cli.options import add_common, add_numbers, add_plot, add_ray, epilog, executor, path_argument
from jaxrel.study import Settings

if TYPE_CHECKING:
    from jaxrel.study.scoreboard import EncoderArrays

__all__ = ["add"]


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
    score.add_argument("--encoder", nargs="+", metavar="E", help="encoders by name, in place of files")
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
    score.set_defaults(run=_score, log="scores.jsonl")


def _score(options: argparse.Namespace) -> str:
    from jaxrel.study import scoreboard
    from jaxrel.study.scoreboard import report

    with console.narrator(quiet=options.quiet) as progress:
        hub = _hub(options)
        report.check_output(hub, scoreboard.chosen_metrics(hub, options.metric), options.output)
        plot = console.can_plot(options.plot)
        kept = {"output": options.output, "progress": progress, "strict": options.strict}
        with executor(options) as workers:
            board = scoreboard.run(hub, options.metric, executor=workers, **kept)
    files = report.write_files(board, options.output, plot=plot, formats=options.plot_format, command=options.command)
    shown = console.literal_console()
    report.print_scoreboard(board, shown)
    if not options.quiet:
        shown.print("\n" + report.NOTE)
        console.print_files(shown, (*files, options.output / options.log))
    names = ", ".join(f"{metric} of {encoder}" for encoder, metric in board.failed)
    return f"{len(board.failed)} of {board.values.size} scores failed ({names}), see below the table" if names else ""


def _hub(options: argparse.Namespace) -> list[EncoderArrays]:
    """The encoders of the files, or those named, on a data set."""
    from jaxrel.study import scoreboard

    named = (options.encoder, options.target)
    if (options.files and any(named)) or (not options.files and not all(named)):
        raise ValueError("pass files, one for each encoder, or --encoder and --target.")
    if options.files:
        if options.reference is not None or options.views or options.data_path:
            raise ValueError("--reference, --views and --data-path are for named data sets: leave them out with files.")
        return scoreboard.from_files(options.files, strict=options.strict)
    references = [] if options.reference is None else [options.reference]
    sources = study.named_sources(
        [options.target, *references],
        settings=Settings(
            samples=options.samples,
            held_out=0,  # no metric looks at any
            official_splits=options.official_splits,
            image_size=options.image_size,
            batch_size=options.batch_size,
            seed=options.seed,
            strict=options.strict,
        ),
        store=study.feature_store(),
        data_paths=dict(options.data_path),
    )
    reference = None if options.reference is None else sources[options.reference]
    chosen = (
        "target",
        "reference",
        "views",
        "samples",
        "official_splits",
        "image_size",
        "batch_size",
        "seed",
        "data_path",
    )
    told = {name: getattr(options, name) for name in chosen}
    for role in ("target", "reference"):
        if told[role] is not None and told[role] not in dict(options.data_path) and data.is_path(told[role]):
            told[role] = str(user_path(told[role]).resolve())
    origin = json.dumps(told, default=str)
    return [
        scoreboard.from_source(encoder, sources[options.target], reference, views=options.views, origin=origin)
        for encoder in options.encoder
    ]

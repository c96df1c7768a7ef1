"""The `jaxrel` command."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel import data, encoders, ranking
from jaxrel.assets import AssetError
from jaxrel.commands_extract import add_extract
from jaxrel.feature_store import StoreError
from jaxrel.hosts import HEARTBEAT_SECONDS, HostLostError, Hosts, connect
from jaxrel.ranking import Progress, Settings

if TYPE_CHECKING:
    from jaxrel.scoreboard import EncoderArrays

FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130

_log = logging.getLogger("jaxrel")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(words)
    try:
        options.run(options)
    except KeyboardInterrupt:
        kept = f" What is finished is in {options.output / options.log}." if "log" in options else ""
        again = shlex.join(["jaxrel", *words])
        return _complain(f"interrupted.{kept} To go on from there:\n  {again}", INTERRUPTED)
    except BlockingIOError:
        return _complain(f"another process is writing into {options.output}: choose another --output.", FAILURE)
    except (AssetError, data.DataError, StoreError, HostLostError, ImportError) as error:
        return _complain(str(error), FAILURE)
    except ValueError as error:
        return _complain(str(error), USAGE_ERROR)
    return 0


def _complain(message: str, status: int) -> int:
    print(f"jaxrel: error: {message}", file=sys.stderr)
    return status


def _rank(options: argparse.Namespace) -> None:
    from rich.console import Console

    from jaxrel.ranking import report
    from jaxrel.relatedness import Joint

    settings = Settings(
        samples=options.samples,
        held_out=options.held_out,
        image_size=options.image_size,
        batch_size=options.batch_size,
        seed=options.seed,
        resamples=options.resamples,
        confidence=options.confidence,
        method=Joint(space=options.space, cost=options.cost, learn_head=not options.fixed_head),
        label_free=options.label_free,
        target_classes=options.target_classes,
    )
    with _narrator(quiet=options.quiet) as progress, _hosts(options) as hosts:
        if hosts.index > 0:
            progress = _no_progress  # as one bar is enough
        log = ranking.log_path(options.output, hosts)
        options.log = log.name
        plan = ranking.make_plan(
            options.reference,
            options.target,
            options.encoder,
            settings=settings,
            store=ranking.feature_store(),
            data_paths=dict(options.data_path),
        )
        plot = hosts.index == 0 and _can_plot(options)
        result = ranking.run(plan, output=options.output, progress=progress, hosts=hosts)
    if hosts.index > 0:
        print(f"Process {hosts.index} of {hosts.count} has finished: {log}. The tables are with process 0.")
        return
    files = report.write_files(result, options.output, plot=plot)
    console = Console(highlight=False)
    report.print_ranking(result, console)
    if not options.quiet:
        for paragraph in report.LABEL_FREE_NOTES if options.label_free else report.NOTES:
            console.print("\n" + paragraph, markup=False)
        console.print("\nThe files:")
        for path in (*files, log):
            console.print(f"  {path}", markup=False, soft_wrap=True)


def _hosts(options: argparse.Namespace) -> Hosts:
    """The processes that share the work; this one alone unless told otherwise."""
    where = {"coordinator": options.coordinator, "num_processes": options.processes, "process_id": options.process}
    if options.distributed:
        return connect(**where, heartbeat_seconds=options.heartbeat)
    if any(value is not None for value in where.values()):
        raise ValueError("--coordinator, --processes and --process are for several processes: add --distributed.")
    return Hosts()


def _no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


def _score(options: argparse.Namespace) -> None:
    from rich.console import Console

    from jaxrel import scoreboard
    from jaxrel.scoreboard import report

    hub = _hub(options)
    with _narrator(quiet=options.quiet) as progress:
        plot = _can_plot(options)
        board = scoreboard.run(hub, options.metric, output=options.output, progress=progress)
    files = report.write_files(board, options.output, plot=plot)
    console = Console(highlight=False)
    report.print_scoreboard(board, console)
    if not options.quiet:
        console.print("\n" + report.NOTE, markup=False)
        console.print("\nThe files:")
        for path in (*files, options.output / options.log):
            console.print(f"  {path}", markup=False, soft_wrap=True)


def _hub(options: argparse.Namespace) -> list[EncoderArrays]:
    """The encoders of the files, or those named, on a data set."""
    from jaxrel import scoreboard

    named = (options.encoder, options.target)
    if (options.files and any(named)) or (not options.files and not all(named)):
        raise ValueError("pass files, one for each encoder, or --encoder and --target.")
    if options.files:
        if options.reference or options.views or options.data_path:
            raise ValueError("--reference, --views and --data-path are for named data sets: leave them out with files.")
        return [scoreboard.from_file(path) for path in options.files]
    sources = ranking.named_sources(
        [options.target, *filter(None, [options.reference])],
        settings=Settings(
            samples=options.samples,
            held_out=1,  # which no metric looks at
            image_size=options.image_size,
            batch_size=options.batch_size,
            seed=options.seed,
        ),
        store=ranking.feature_store(),
        data_paths=dict(options.data_path),
    )
    reference = sources[options.reference] if options.reference else None
    return [
        scoreboard.from_source(encoder, sources[options.target], reference, views=options.views)
        for encoder in options.encoder
    ]


def _metrics(options: argparse.Namespace) -> None:
    from rich.console import Console

    from jaxrel.scoreboard import report

    if options.json:
        print(json.dumps(report.metric_records(), indent=1))
    else:
        report.print_metrics(Console(highlight=False))


def _can_plot(options: argparse.Namespace) -> bool:
    plot = options.plot and importlib.util.find_spec("matplotlib") is not None
    if options.plot and not plot:
        _log.warning("no plot, as matplotlib is not installed: pip install 'jaxrel[plot]'")
    return plot


@contextlib.contextmanager
def _narrator(*, quiet: bool) -> Iterator[Progress]:
    """A progress bar with rate and remaining time, and the log, on stderr."""
    from rich import progress as bars
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True)
    handler = RichHandler(console=console, show_path=False, show_level=False, log_time_format="[%X]")
    level, propagate = _log.level, _log.propagate
    _log.addHandler(handler)
    _log.setLevel(logging.WARNING if quiet else logging.INFO)
    _log.propagate = False  # some libraries give the root logger a handler, which would write every line again
    shown = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[rate]}"),
        bars.TimeRemainingColumn(),
        console=console,
        disable=quiet,
    )
    tasks: dict[str, bars.TaskID] = {}

    def progress(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = shown.add_task(what, total=total, rate="")
        speed = shown.tasks[list(tasks).index(what)].speed
        rate = "" if speed is None else f"{speed:.1f}/s"
        shown.update(tasks[what], completed=done, rate=rate, visible=done < total)

    try:
        with shown:
            yield progress
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        _log.propagate = propagate


def _parser() -> argparse.ArgumentParser:
    from jaxrel import __version__

    parser = argparse.ArgumentParser(prog="jaxrel", description="How well pre-trained encoders transfer, and why.")
    parser.add_argument("--version", action="version", version=f"jaxrel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_rank(commands)
    _add_score(commands)
    add_extract(commands, _narrator)
    metrics = commands.add_parser("metrics", help="list the metrics, what each needs and where it is from")
    metrics.add_argument("--json", action="store_true", help="as JSON")
    metrics.set_defaults(run=_metrics)
    return parser


def _add_rank(commands: Any) -> None:
    rank = commands.add_parser(
        "rank",
        help="rank encoders for target tasks, and say why",
        description="Rank encoders on every pair of a reference and another data set as target, by transferability, "
        "with the terms of task-relatedness beside it. Features and finished scores are kept: the same command goes "
        "on where it was stopped.",
        epilog=f"data sets: {', '.join(data.names())}. encoders: {', '.join(encoders.names())}; "
        "NAME:random is the same network with random weights.",
    )
    defaults = Settings()
    rank.add_argument("--reference", nargs="+", required=True, metavar="R", help="data sets transferred from")
    rank.add_argument("--target", nargs="+", required=True, metavar="T", help="data sets transferred to")
    rank.add_argument("--encoder", nargs="+", required=True, metavar="E", help="encoders to rank")
    numbers = (
        ("--samples", int, "training samples of each data set"),
        ("--held-out", int, "held-out samples of each data set, on which every number is evaluated"),
        ("--image-size", int, "input resolution of the networks in pixels (default: each network's own)"),
        ("--batch-size", int, "images in one forward pass"),
        ("--seed", int, "seed of scoring, resampling and random weights"),
        ("--resamples", int, "resamples of the target samples for the interval"),
        ("--confidence", float, "share of the resamples inside the interval"),
        ("--target-classes", int, "with --label-free, how many classes targets have (default: estimated)"),
    )
    for option, kind, text in numbers:
        default = getattr(defaults, option[2:].replace("-", "_"))
        shown = "" if default is None else f" (default: {default})"
        rank.add_argument(option, type=kind, default=default, metavar="N", help=text + shown)
    rank.add_argument(
        "--label-free",
        action="store_true",
        help="leave target labels alone: rank by clusters that augmented views of the training images agree on",
    )
    rank.add_argument("--space", choices=("prediction", "feature"), default="prediction", help="what is transported")
    rank.add_argument("--cost", choices=("margin", "range", "euclidean"), help="default: the tightest of the space")
    rank.add_argument("--fixed-head", action="store_true", help="keep the reference head as fitted on the reference")
    rank.add_argument("--data-path", nargs="+", type=_named_path, default=[], metavar="NAME=PATH", help="your own copy")
    rank.add_argument("--output", type=Path, default=Path("jaxrel-results"), metavar="DIR", help="default: %(default)s")
    _add_distributed(rank)
    rank.add_argument("--no-plot", action="store_false", dest="plot", help="write no ranking.png")
    rank.add_argument("--quiet", action="store_true", help="the tables only: no progress, no notes")
    rank.set_defaults(run=_rank, log="results.jsonl")


def _add_distributed(command: argparse.ArgumentParser) -> None:
    hosts = command.add_argument_group(
        "several processes",
        "Each process, on this machine or on other hosts, gets the same command. SLURM, GKE, TPU pods and MPI are "
        "recognised; elsewhere pass the three options that follow --distributed. Features and results are best kept "
        "in folders that all hosts see.",
    )
    hosts.add_argument("--distributed", action="store_true", help="share the work with other processes")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 runs, and a free port")
    hosts.add_argument("--processes", type=int, metavar="N", help="number of processes")
    hosts.add_argument("--process", type=int, metavar="I", help="number of this process, from 0")
    hosts.add_argument(
        "--heartbeat",
        type=float,
        default=HEARTBEAT_SECONDS,
        metavar="SECONDS",
        help="where a process is lost, the others end within this time (default: %(default)g)",
    )


def _add_score(commands: Any) -> None:
    score = commands.add_parser(
        "score",
        help="score encoders by many metrics",
        description="Score encoders on one target by any metrics of `jaxrel metrics`: from .npz files, one for each "
        "encoder, with arrays by the names that `jaxrel metrics` lists (features, labels, ...), or from named data "
        "sets and encoders. Finished scores are kept: the same command goes on where it was stopped.",
    )
    defaults = Settings()
    score.add_argument("files", nargs="*", type=Path, metavar="FILE.npz", help="the arrays of one encoder")
    score.add_argument("--encoder", nargs="+", metavar="E", help="encoders by name, in place of files")
    score.add_argument("--target", metavar="T", help="data set transferred to")
    score.add_argument("--reference", metavar="R", help="data set transferred from, for metrics that need one")
    score.add_argument("--views", action="store_true", help="two augmented views of the target, for cross_view")
    score.add_argument("--metric", nargs="+", metavar="M", help="default: all that the arrays suffice for")
    for option, text in (
        ("--samples", "training samples of each data set"),
        ("--image-size", "input resolution of the networks in pixels (default: each network's own)"),
        ("--batch-size", "images in one forward pass"),
        ("--seed", "seed of views and random weights"),
    ):
        default = getattr(defaults, option[2:].replace("-", "_"))
        shown = "" if default is None else f" (default: {default})"
        score.add_argument(option, type=int, default=default, metavar="N", help=text + shown)
    score.add_argument(
        "--data-path", nargs="+", type=_named_path, default=[], metavar="NAME=PATH", help="your own copy"
    )
    score.add_argument("--output", type=Path, default=Path("jaxrel-scores"), metavar="DIR", help="default: %(default)s")
    score.add_argument("--no-plot", action="store_false", dest="plot", help="write no scores.png")
    score.add_argument("--quiet", action="store_true", help="the table only: no progress, no notes")
    score.set_defaults(run=_score, log="scores.jsonl")


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH, such as mnist=/data/mnist")
    return name, Path(path).expanduser()

"""`jaxrel rank`: encoders ranked for targets by transferability, with the terms that say why."""

from __future__ import annotations

import argparse
from typing import Any

from jaxrel import study
from jaxrel.cli import console
from jaxrel.cli.options import add_common, add_numbers, add_plot, epilog
from jaxrel.hosts import HEARTBEAT_SECONDS, Hosts, connect
from jaxrel.relatedness.ground_costs import cost_names
from jaxrel.study import Settings
from jaxrel.study.costs import within_limits
from jaxrel.study.plan import NamedSource, silent

__all__ = ["add"]


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
    rank.add_argument("--encoder", nargs="+", required=True, metavar="E", help="encoders to rank")
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
    rank.add_argument("--max-parameters", type=int, metavar="N", help="leave out encoders of more parameters")
    rank.add_argument("--max-width", type=int, metavar="N", help="leave out encoders of more features")
    rank.add_argument("--space", choices=("prediction", "feature"), default="prediction", help="what is transported")
    rank.add_argument("--cost", choices=cost_names("prediction", "feature"), help="default: the tightest of the space")
    rank.add_argument("--fixed-head", action="store_true", help="keep the reference head as fitted on the reference")
    add_common(rank, output="jaxrel-results")
    _add_distributed(rank)
    add_plot(rank, name="ranking")
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


def _rank(options: argparse.Namespace) -> str:
    from jaxrel.relatedness import Joint
    from jaxrel.study import report

    settings = Settings(
        samples=options.samples,
        held_out=options.held_out,
        official_splits=options.official_splits,
        image_size=options.image_size,
        batch_size=options.batch_size,
        seed=options.seed,
        resamples=options.resamples,
        confidence=options.confidence,
        method=Joint(space=options.space, cost=options.cost, learn_head=not options.fixed_head),
        label_free=options.label_free,
        target_classes=options.target_classes,
        strict=options.strict,
    )
    data_paths = dict(options.data_path)
    with console.narrator(quiet=options.quiet) as progress, _hosts(options) as hosts:
        if hosts.index > 0:
            progress = silent  # as one bar is enough
        log = study.log_path(options.output, hosts)
        options.log = log.name
        plan = study.make_plan(
            options.target,
            options.encoder,
            options.reference,
            settings=settings,
            store=study.feature_store(),
            data_paths=data_paths,
        )
        plan = within_limits(
            plan, max_parameters=options.max_parameters, max_width=options.max_width, progress=progress
        )
        report.check_output(plan, options.output, data_paths=data_paths)
        plot = hosts.index == 0 and console.can_plot(options.plot)
        result = study.run(plan, output=options.output, progress=progress, hosts=hosts)
    if hosts.index > 0:
        print(f"Process {hosts.index} of {hosts.count} has finished: {log}. The tables are with process 0.")
        return _incomplete(result, plan)
    files = report.write_files(
        result, options.output, plot=plot, formats=options.plot_format, data_paths=data_paths, command=options.command
    )
    shown = console.literal_console()
    report.print_ranking(result, shown)
    if not options.quiet:
        for paragraph in report.notes(result):
            shown.print("\n" + paragraph)
        console.print_files(shown, (*files, log))
    return _incomplete(result, plan)


def _incomplete(result: study.Ranking, plan: study.Plan) -> str:
    """What of the ranking is not as it was asked for; empty where nothing is."""
    parts = []
    if scores := result.incomplete:
        names = ", ".join(dict.fromkeys(f"{score.encoder} on {score.target}" for score in scores))
        parts.append(f"{len(scores)} of {len(plan.rows)} scores failed ({names}), see the lines below the tables")
    sources = {source.name: source for pair in plan.pairs for source in pair if isinstance(source, NamedSource)}
    if skipped := [source for source in sources.values() if source.skipped]:
        counts = ", ".join(f"{source.skipped} of {source.name}" for source in skipped)
        parts.append(f"files that cannot be read were left out ({counts})")
    return "; ".join(parts)


def _hosts(options: argparse.Namespace) -> Hosts:
    """The processes that share the work; this one alone unless told otherwise."""
    where = {"coordinator": options.coordinator, "num_processes": options.processes, "process_id": options.process}
    if options.distributed:
        return connect(**where, heartbeat_seconds=options.heartbeat)
    if any(value is not None for value in where.values()):
        raise ValueError("--coordinator, --processes and --process are for several processes: add --distributed.")
    return Hosts()

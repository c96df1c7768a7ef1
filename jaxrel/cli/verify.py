"""`jaxrel verify`: networks trained on the user's labels, and how well scores predicted their accuracies."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxrel import data, study
from jaxrel._core.user_paths import user_path
from jaxrel.cli import console
from jaxrel.cli.options import add_common, add_encoders, add_numbers, add_plot, add_ray, epilog, path_argument, run_plan
from jaxrel.study import Settings
from jaxrel.study.page import write as page
from jaxrel.study.records import LOG

if TYPE_CHECKING:
    from jaxrel.training import FineTuning

__all__ = ["add"]

_NUMBERS = (
    ("--samples", int, "training samples, of which a fifth is kept aside for choices"),
    ("--held-out", int, "test samples"),
    ("--image-size", int, "input resolution of the networks in pixels (default: each network's own)"),
    ("--batch-size", int, "samples in one forward pass of the extraction"),
    ("--resamples", int, "resamples of the test samples for the intervals"),
    ("--confidence", float, "share of the resamples inside the interval"),
)


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    parser = commands.add_parser(
        "verify",
        help="train probes and networks on your labels, and say how well scores predicted their accuracies",
        description="Train a linear probe and a fine-tuned network of each encoder on the labels of the target, and "
        "say how well transferability, or every score of a finished study, agrees with their accuracies on held-out "
        "samples. Finished accuracies are kept: the same command goes on where it was stopped.",
        epilog=epilog("verify"),
    )
    parser.add_argument("--target", metavar="T", help="data set to train on (default: that of --results)")
    add_encoders(parser, "encoders (default: those of --results)", default=[])
    parser.add_argument(
        "--results",
        type=path_argument,
        metavar="FOLDER",
        help="output of jaxrel rank or study, whose scores are verified by its settings, unless others are given",
    )
    parser.add_argument("--best", type=int, metavar="N", help="with --results, the best N of its encoders alone")
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds of the training")
    add_numbers(parser, _NUMBERS)
    # What is not given is taken from the results where there are any.
    parser.set_defaults(**dict.fromkeys(map(_field, _NUMBERS)))
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="passes over the training samples at most (default: 15)"
    )
    parser.add_argument(
        "--learning-rate",
        nargs="+",
        type=float,
        metavar="R",
        help="of which the best on the validation samples is chosen (default: 3e-5 3e-4)",
    )
    add_common(parser, output="jaxrel-verify")
    add_ray(parser)
    add_plot(parser, name="verification")
    parser.add_argument("--quiet", action="store_true", help="the tables only: no progress")
    parser.set_defaults(run=_verify, log=LOG)


def _field(number: tuple[str, Any, str]) -> str:
    return number[0][2:].replace("-", "_")


def _verify(options: argparse.Namespace) -> str:
    from jaxrel.study.verification import report
    from jaxrel.study.verification.columns import target_of
    from jaxrel.study.verification.verify import check_samples, planned

    scores, known_paths = (None, {}) if options.results is None else _read(options.results)
    settings = _settings(Settings() if scores is None else scores.settings, options)
    data_paths = known_paths | dict(options.data_path)
    if scores is not None:
        target = target_of(scores, options.target)
        data_paths = {name: path for name, path in data_paths.items() if name == target}
    plan = planned(
        options.encoder,
        options.target,
        scores=scores,
        best=options.best,
        seeds=options.seed,
        settings=settings,
        data_paths=data_paths,
    )
    places = {name: user_path(name) for name in plan.targets if data.is_path(name)} | data_paths
    report.check_output(plan, options.output, data_paths=places)
    page.check_output(options.output)
    with console.narrator(quiet=options.quiet) as progress:
        plot = console.can_plot(options.plot)
        check_samples(plan)
        result = study.verification_of(run_plan(plan, options, progress), scores)
    files = report.write_files(
        result, options.output, plot=plot, formats=options.plot_format, data_paths=places, command=options.command
    )
    files.append(page.write_page(options.output, result, charts=options.plot, command=options.command))
    shown = console.literal_console()
    report.print_verification(result, shown)
    if not options.quiet:
        console.print_files(shown, (*files, options.output / options.log))
    return "; ".join(result.complaints)


def _settings(base: Settings, options: argparse.Namespace) -> Settings:
    """Those that are given in place of those of the results."""
    given = {name: value for name in map(_field, _NUMBERS) if (value := getattr(options, name)) is not None}
    flags = {name: getattr(base, name) or getattr(options, name) for name in ("official_splits", "strict")}
    return dataclasses.replace(base, **given, **flags, fine_tuning=_tuning(base, options))


def _tuning(base: Settings, options: argparse.Namespace) -> FineTuning | None:
    given: dict[str, Any] = {} if options.epochs is None else {"epochs": options.epochs}
    if options.learning_rate is not None:
        given["learning_rates"] = tuple(options.learning_rate)
    return dataclasses.replace(base.tuning(), **given) if given else base.fine_tuning


def _read(folder: Path) -> tuple[study.Results | study.Ranking, dict[str, Path]]:
    """What a folder has, and where its data were.

    Raises:
        ValueError: it has neither a ranking nor a study, or both.
    """
    from jaxrel.study.ranking import document

    ranking, results = folder / "results.json", folder / "study.json"
    if ranking.is_file() == results.is_file():
        what = "both a ranking and a study" if ranking.is_file() else "neither results.json nor study.json"
        raise ValueError(f"{folder} has {what}: pass the output of one run of `jaxrel rank` or `jaxrel study`.")
    if ranking.is_file():
        return study.Ranking.load(ranking), _paths(document.read(ranking).data_paths)
    found = study.Results.load(results)
    return found, _paths(found.data_paths)


def _paths(data_paths: Mapping[str, str]) -> dict[str, Path]:
    return {name: Path(path) for name, path in data_paths.items()}

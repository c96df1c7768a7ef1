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
from jaxrel.cli.commands import VERIFIED
from jaxrel.cli.running import run_plan
from jaxrel.study import Settings
from jaxrel.study.page import write as page
from jaxrel.study.ranking import document
from jaxrel.study.verification import report
from jaxrel.study.verification.columns import target_of
from jaxrel.study.verification.verify import check_samples, planned

if TYPE_CHECKING:
    from jaxrel.training import FineTuning

__all__ = ["run"]


def run(options: argparse.Namespace) -> str:
    """Train and compare; returns what is missing."""
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
    console.conclude(options, files, lambda shown: report.print_verification(result, shown))
    return "; ".join(result.complaints)


def _settings(base: Settings, options: argparse.Namespace) -> Settings:
    """The options that override those of the results."""
    given = {name: value for name in VERIFIED if (value := getattr(options, name)) is not None}
    flags = {
        name: getattr(base, name) or getattr(options, name)
        for name in ("official_splits", "pair", "skip_broken", "strict")
    }
    return dataclasses.replace(base, **given, **flags, fine_tuning=_tuning(base, options))


def _tuning(base: Settings, options: argparse.Namespace) -> FineTuning | None:
    given: dict[str, Any] = {} if options.epochs is None else {"epochs": options.epochs}
    if options.learning_rate is not None:
        given["learning_rates"] = tuple(options.learning_rate)
    return dataclasses.replace(base.tuning(), **given) if given else base.fine_tuning


def _read(folder: Path) -> tuple[study.Results | study.Ranking, dict[str, Path]]:
    """The results of a folder, and where its data were.

    Raises:
        ValueError: it has neither a ranking nor a study, or both.
    """
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

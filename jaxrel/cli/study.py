"""`jaxrel study`: encoders by references by targets by metrics, and what else is varied."""

from __future__ import annotations

import argparse
from typing import Any

from jaxrel import data, study
from jaxrel._core.user_paths import user_path
from jaxrel.cli import console
from jaxrel.cli.options import add_common, add_encoders, add_numbers, add_plot, add_ray, epilog, run_plan, settings_of
from jaxrel.cli.rank import skipped_files
from jaxrel.study import Settings, Study
from jaxrel.study.drawing import write_pictures
from jaxrel.study.page import write as page
from jaxrel.study.records import LOG

__all__ = ["add"]

_AXES = ("samples", "reference_classes", "layer")
_COLUMNS = ("encoder", "reference", "target", "samples", "reference_classes")


def add(commands: Any) -> None:
    """Add the command to a parser's commands."""
    parser = commands.add_parser(
        "study",
        help="vary samples, seeds, references, their classes and metrics, and draw what comes of it",
        description="Compute every metric of every encoder on every target, with every reference where the metric "
        "needs one, for every number of samples, seed and choice of reference classes, and draw it: a curve over what "
        "is varied, the terms of the bound, or a heat map. Finished numbers are kept: the same command goes on where "
        "it was stopped.",
        epilog=epilog("study"),
    )
    parser.add_argument("--target", nargs="+", required=True, metavar="T", help="data sets transferred to")
    add_encoders(parser, "encoders", required=True)
    parser.add_argument("--reference", nargs="+", default=[], metavar="R", help="data sets transferred from")
    parser.add_argument(
        "--metric",
        nargs="+",
        metavar="M",
        help="of `jaxrel metrics`, and bound, probe_accuracy and fine_tuned_accuracy (default: transferability, and "
        "with references the bound)",
    )
    parser.add_argument(
        "--samples", nargs="+", type=int, default=[], metavar="N", help="training samples that are drawn of each target"
    )
    parser.add_argument("--seed", nargs="+", type=int, default=[0], metavar="N", help="seeds of draws and scoring")
    parser.add_argument("--layer", nargs="+", type=int, default=[], metavar="N", help="layers of every encoder")
    parser.add_argument(
        "--reference-classes",
        nargs="+",
        default=["all"],
        metavar="C",
        help="which classes of the references are kept: all, nearest:3, learned:3, random:3, or names with commas",
    )
    numbers = (
        (
            "--held-out",
            int,
            "with the bound and accuracies, held-out samples of each data set, on which they are evaluated",
        ),
        ("--image-size", int, "input resolution of the networks in pixels (default: each network's own)"),
        ("--batch-size", int, "samples in one forward pass"),
        ("--resamples", int, "resamples of the target samples for intervals; 0 leaves them out"),
        ("--confidence", float, "share of the resamples inside the interval"),
    )
    add_numbers(parser, numbers)
    parser.add_argument("--x", choices=_AXES, help="draw a curve over this axis (default: what is varied)")
    parser.add_argument("--y", metavar="NUMBER", help="what is drawn: a metric, or another number of its records")
    parser.add_argument(
        "--heat-map", nargs=2, choices=_COLUMNS, metavar=("ROWS", "COLUMNS"), help=f"two of {', '.join(_COLUMNS)}"
    )
    parser.add_argument("--plan", action="store_true", help="say what there is to compute, and compute nothing")
    add_common(parser, output="jaxrel-study")
    add_ray(parser)
    add_plot(parser, name="study")
    parser.add_argument("--quiet", action="store_true", help="the tables only: no progress")
    parser.set_defaults(run=_study, log=LOG)


def _study(options: argparse.Namespace) -> str:
    from jaxrel.study import report

    settings = settings_of(options, samples=Settings().samples, seed=options.seed[0])
    asked = Study(
        options.encoder,
        options.target,
        options.reference,
        options.metric,
        samples=options.samples,
        seeds=options.seed,
        layers=options.layer,
        reference_classes=options.reference_classes,
        settings=settings,
        data_paths=dict(options.data_path),
    )
    named = {name: user_path(name) for name in (*options.target, *options.reference) if data.is_path(name)}
    places = named | dict(options.data_path)
    with console.narrator(quiet=options.quiet) as progress:
        plan = asked.plan()
        if options.plan:
            estimate = study.estimate(plan, output=options.output, progress=progress)
        else:
            report.check_output(plan, options.output, data_paths=places)
            page.check_output(options.output)
            plot = console.can_plot(options.plot)
            results = run_plan(plan, options, progress)
    shown = console.literal_console()
    if options.plan:
        shown.print(str(estimate))
        return ""
    files = report.write_files(results, {}, options.output, data_paths=places, command=options.command)
    if plot:
        figure = report.figure(results, x=options.x, y=options.y, heat_map=options.heat_map)
        files += write_pictures({"study": figure}, options.output, options.plot_format)
    files.append(
        page.write_page(
            options.output, results, sources=plan.sources.values(), charts=options.plot, command=options.command
        )
    )
    report.print_results(results, shown)
    if not options.quiet:
        console.print_files(shown, (*files, options.output / options.log))
    parts = skipped_files(plan)
    if failed := results.incomplete:
        parts = [f"{len(failed)} of {len(results.entries)} numbers failed, see the lines below the tables", *parts]
    return "; ".join(parts)

"""`jaxrel study`: encoders x references x targets x metrics, and further axes."""

from __future__ import annotations

import argparse
import dataclasses
import json

from jaxrel import data, study
from jaxrel._core.user_paths import user_path
from jaxrel.cli import console
from jaxrel.cli.running import run_plan, settings_of
from jaxrel.study import Settings, Study, report
from jaxrel.study.documents import SCHEMA, as_data
from jaxrel.study.drawing import write_pictures
from jaxrel.study.page import write as page

__all__ = ["run"]


def run(options: argparse.Namespace) -> str:
    """Compute a study, or print its cost; returns what is missing."""
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
    if options.plan:
        takes = as_data({"schema": SCHEMA, **dataclasses.asdict(estimate)})
        print(json.dumps(takes, indent=1) if options.json else estimate)
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
    console.conclude(options, files, lambda shown: report.print_results(results, shown))
    if failed := results.incomplete:
        return f"{len(failed)} of {len(results.entries)} numbers failed, see the lines below the tables"
    return ""

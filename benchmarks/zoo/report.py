"""The page about predicting transfer: its tables and its figure, from what `score.py` and `variants.py` wrote.

python benchmarks/zoo/report.py
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from jaxrel.evaluation import STATISTICS

sys.path.append(str(Path(__file__).parents[1]))

from pages import markdown, write_tables

__all__ = ["PAGE", "REPORTS", "RESULTS", "read", "tables", "write_page"]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "predicting_transfer.md"
FIGURE = ROOT / "docs" / "predicting_transfer.png"
RESULTS = ROOT / "benchmarks" / "results"
TAU = "weighted_kendall_tau_symmetric"
KINDS = {"probe": "linear probe", "fine_tuned": "fine-tuning"}
# Scores of which the page has no line: they are parts of another that has one.
HIDDEN = ("features, A = I,", "clusters, ")

Report = dict[str, Any]
REPORTS = ("development", "confirmation", "variants")
FEW_LABELS, SECOND, CRITICISM = "zoo_few_labels.json", "zoo_second.json", "zoo_criticism.json"


def write_page(results: Path = RESULTS) -> None:
    """Put the newest tables between the marks of the page, and draw the figure."""
    reports = {name: read(results / f"zoo_{name}.json") for name in REPORTS}
    others = {
        "few labels": few_labels_table(read(results / FEW_LABELS)),
        "second": few_labels_table(read(results / SECOND)),
        "second targets": few_labels_targets(read(results / SECOND)),
        "second differences": few_labels_differences(read(results / SECOND)),
        "criticism": criticism_table(read(results / CRITICISM)),
    }
    write_tables(PAGE, tables(reports) | others)
    draw(reports["confirmation"])


def tables(reports: dict[str, Report]) -> dict[str, str]:
    """Every table of the page, by the name of its mark."""
    confirmation = reports["confirmation"]
    return {
        "scores": score_table(confirmation, reports["development"]),
        "differences": difference_table(confirmation),
        "statistics": statistics_table(confirmation),
        "targets": target_table(confirmation),
        "labelled variants": variant_table(reports["variants"]["labels"]),
        "probe variants": variant_table(reports["variants"]["cross-view probe"]),
        "bound variants": variant_table(reports["variants"]["relatedness"]),
    }


def few_labels_table(report: Report) -> str:
    """Of each number of labels, what it says alone and with views, chosen at random and by consensus."""
    found = report["evaluations"]

    def cell(name: str) -> str:
        tau = found[name]["fine_tuned"]
        return f"{tau['estimate']:.2f} ({tau['lower']:.2f} to {tau['upper']:.2f})"

    columns = ("views worth 0", "views worth 50", "LogME", "nearest neighbours")
    rows = [["none", "", cell("views"), "", ""]]
    rows += [
        [f"{count}, {how}", *(cell(f"{count} {how}, {column}") for column in columns)]
        for count in (20, 50, 100, 200)
        for how in ("random", "consensus")
    ]
    rows.append(["all", cell("all labels"), "", *(cell(f"all labels, {name}") for name in columns[2:])])
    return markdown(["labels of 1,000", "labels alone", "labels and views", "LogME", "1-NN"], rows)


def few_labels_targets(report: Report) -> str:
    """What each score is worth on each target."""
    shown = {
        "all labels": "all labels",
        "100 labels": "100 random, views worth 0",
        "100 labels and views": "100 random, views worth 50",
        "views": "views",
        "LogME, all labels": "all labels, LogME",
        "1-NN, all labels": "all labels, nearest neighbours",
    }
    rows = []
    for said, name in shown.items():
        per_target = report["evaluations"][name]["fine_tuned"]["per_target"]
        rows.append([said, *(f"{per_target[target]:.2f}" for target in report["targets"])])
    return markdown(["score", *report["targets"]], rows)


def few_labels_differences(report: Report) -> str:
    """Paired differences between scores."""
    said = {"views worth 50": "labels and views", "views worth 0": "labels alone", "nearest neighbours": "1-NN"}

    def shown(name: str) -> str:
        for part, words in said.items():
            name = name.replace(part, words)
        return name

    rows = [
        [shown(entry["score"]), shown(entry["baseline"]), *(interval(entry[kind], sign="+") for kind in KINDS)]
        for entry in report["differences"]
    ]
    return markdown(["score", "minus", *KINDS.values()], rows)


def criticism_table(report: Report) -> str:
    """What is left of each score without the largest encoders, and of pairs by how far they are apart."""
    rows = []
    for half, scores in report.items():
        for name, found in scores.items():
            both = [f"{found[which]['estimate']:.2f}" for which in ("all", "without the largest")]
            pairs = [f"{pair['right']:.0%}" for pair in found["pairs"]]
            rows.append([half, name, *both, f"{found['differences']:.2f}", *pairs])
    some = next(iter(next(iter(report.values())).values()))["pairs"]
    gaps = [f"{pair['least']:.0%} to {pair['most']:.0%}" for pair in some]
    return markdown(["half", "score", "all", "without ImageNet's", "differences", *gaps], rows)


def read(path: Path) -> Report:
    """A report as JSON has it."""
    found: Report = json.loads(path.read_text())
    return found


def rows_by_name(report: Report, kind: str) -> dict[str, Any]:
    """The rows of an evaluation."""
    return {row["name"]: row for row in report["evaluations"][kind]}


def shown_names(report: Report) -> list[str]:
    """Scores with a line of their own, in the order of the report."""
    return [name for name in rows_by_name(report, "probe") if not any(part in name for part in HIDDEN)]


def interval(entry: dict[str, Any], sign: str = "") -> str:
    """An estimate and its interval."""
    if entry["estimate"] is None:
        return ""
    ends = (f"{entry[end]:{sign}.2f}" for end in ("lower", "upper"))
    return f"{entry['estimate']:{sign}.2f} ({' to '.join(ends)})"


def score_table(confirmation: Report, development: Report) -> str:
    """Weighted tau of every score on both halves, and its price."""
    found = {kind: rows_by_name(confirmation, kind) for kind in KINDS}
    before = {kind: rows_by_name(development, kind) for kind in KINDS}
    rows = []
    for name in shown_names(confirmation):
        seconds = confirmation["seconds"].get(name)
        rows.append(
            [
                name,
                *(interval(found[kind][name][TAU]) for kind in KINDS),
                ", ".join(f"{before[kind][name][TAU]['estimate']:.2f}" for kind in KINDS),
                "" if seconds is None else f"{seconds:.3f}",
            ]
        )
    header = ["score", *KINDS.values(), "on development", "seconds"]
    return markdown(header, rows)


def difference_table(report: Report) -> str:
    """Paired differences to what each recipe has to stand against."""
    rows = [
        [entry["score"], entry["baseline"], *(interval(entry[kind], "+") for kind in KINDS)]
        for entry in report["differences"]
    ]
    return markdown(["score", "minus", *KINDS.values()], rows)


def statistics_table(report: Report) -> str:
    """Every statistic, with the accuracy after fine-tuning."""
    names = [name.replace("_", " ") for name in STATISTICS]
    rows = [
        [name, *(f"{row[statistic]['estimate']:.2f}" for statistic in STATISTICS)]
        for name, row in rows_by_name(report, "fine_tuned").items()
        if not any(part in name for part in HIDDEN)
    ]
    return markdown(["score", *names], rows)


def target_table(report: Report) -> str:
    """Weighted tau on every target, with the accuracy after fine-tuning."""
    rows = [
        [name, *("" if value is None else f"{value:.2f}" for value in row[TAU]["per_target"])]
        for name, row in rows_by_name(report, "fine_tuned").items()
        if "per_target" in row[TAU] and not any(part in name for part in HIDDEN)
    ]
    return markdown(["score", *report["targets"]], rows)


def variant_table(rows: list[dict[str, Any]]) -> str:
    """What was changed, and what it changed."""
    cells = []
    for row in rows:
        line = [row["name"]]
        for kind in KINDS:
            low, high = row[kind]["difference"][1:]
            line += [f"{row[kind]['tau']:.2f}", f"{low:+.2f} to {high:+.2f}"]
        cells.append(line)
    header = ["", "linear probe", "difference", "fine-tuning", "difference"]
    return markdown(header, cells)


def draw(report: Report) -> None:
    """Weighted tau of every score, with its interval, beside what a perfect score could reach."""
    from matplotlib.figure import Figure

    names = [name for name in shown_names(report) if not name.startswith(("random", "perfect"))]
    names.sort(key=lambda name: rows_by_name(report, "fine_tuned")[name][TAU]["estimate"])
    figure = Figure(figsize=(11, 0.3 * len(names) + 1.6), layout="constrained")
    for axis, (kind, title) in zip(figure.subplots(1, 2, sharey=True), KINDS.items(), strict=True):
        rows = rows_by_name(report, kind)
        for place, name in enumerate(names):
            entry = rows[name][TAU]
            colour = "#ee6677" if name.startswith("transferability") else "#4477aa"
            axis.hlines(place, entry["lower"], entry["upper"], color=colour, linewidth=2)
            axis.plot(entry["estimate"], place, "o", color=colour, markersize=5)
        for row in report["evaluations"][kind]:
            if row["kind"] in ("null", "ceiling"):
                axis.axvspan(row[TAU]["lower"], row[TAU]["upper"], color="#dddddd", zorder=0)
                where = (row[TAU]["lower"] + row[TAU]["upper"]) / 2
                axis.text(where, len(names) - 0.3, row["name"], ha="center", fontsize="small")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(-0.7, len(names) + 0.3)
        axis.set_xlim(-1, 1)
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlabel("weighted Kendall tau, mean over targets")
        axis.set_title(f"accuracy after {title}" if kind == "fine_tuned" else f"accuracy of a {title}")
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURE, dpi=110)


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    write_page(parser.parse_args().results)


if __name__ == "__main__":
    main()

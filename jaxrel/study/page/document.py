"""The HTML of a page: a single file with all names escaped and no external addresses."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from jaxrel._core.printable import printable
from jaxrel.study.documents import as_data, settings_as_data
from jaxrel.study.page.confusions import Confusion, TargetConfusions
from jaxrel.study.page.content import Chart, Column, Grid, Part
from jaxrel.study.tabular import Section
from jaxrel.version import __version__

__all__ = ["GENERATOR", "document_of"]

GENERATOR = '<meta name="generator" content="jaxrel'
"""Identifies a page written by this module."""
_MOST_CHOICES = 500


def document_of(
    parts: Sequence[Part],
    confusions: Sequence[TargetConfusions],
    made: Sequence[Mapping[str, Any]],
    *,
    library: str = "",
    why: str = "",
) -> str:
    """The page.

    Args:
        parts: content of the page.
        confusions: the most confused classes of each target.
        made: origin of the page and of its source files, as returned by `origin_of`.
        library: script of the library that draws charts; "" for a page without charts.
        why: the reason why there are none.
    """
    scripts = [script for script in (library, _file("page.js")) if script]
    style = _file("page.css")
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))}; style-src {_hash(style)}; "
        "style-src-attr 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    grids = [grid for part in parts for grid in part.grids]
    title = ", ".join(part.title for part in parts)
    numbers = iter(range(len(grids)))
    body = "\n".join(_part(part, numbers, why) for part in parts)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
{GENERATOR} {__version__}">
<title>{_text(title)} - jaxrel</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>jaxrel report</h1>
<button type="button" id="theme" aria-pressed="false">Dark colours</button>
</header>
<main>
{body}
{_gallery(confusions)}
{_made(parts, made)}
</main>
<script type="application/json" id="results">{_json(_data(parts, confusions, made))}</script>
<script type="application/json" id="charts">{_json([chart.spec for grid in grids for chart in grid.charts])}</script>
{"".join(f'<script type="module">{script}</script>' for script in scripts)}
</body>
</html>
"""


def _file(name: str) -> str:
    return (resources.files("jaxrel.study.page") / name).read_text("utf-8")


@functools.lru_cache(maxsize=8)
def _hash(content: str) -> str:
    """The hash by which a content security policy allows exactly this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _text(text: str) -> str:
    return html.escape(printable(text))


def _json(value: Any) -> str:
    """JSON that cannot close a script element, whatever the names are."""
    text = json.dumps(_shown(as_data(value)), allow_nan=False, separators=(",", ":"))
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _shown(value: Any) -> Any:
    """Data as displayed: without control characters and meaningless digits."""
    if isinstance(value, str):
        return printable(value, lines=True)
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items()}
    return list(map(_shown, value)) if isinstance(value, list) else value


def _data(
    parts: Sequence[Part], confusions: Sequence[TargetConfusions], made: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    return {
        "made": list(made),
        "confusions": [
            {"target": one.target, "encoder": one.encoder}
            | {name: getattr(pair, name) for name in ("actual", "predicted", "share", "rows")}
            for one in confusions
            for pair in one.pairs
        ],
        "parts": [
            {
                "title": part.title,
                "settings": None if part.settings is None else settings_as_data(part.settings),
                "notes": part.notes,
                "complaints": part.complaints,
                "tables": [
                    {
                        "title": grid.title,
                        "columns": [column._asdict() for column in grid.columns],
                        "rows": grid.rows,
                    }
                    for grid in part.grids
                ],
            }
            for part in parts
        ],
    }


def _part(part: Part, numbers: Iterable[int], why: str) -> str:
    grids = "\n".join(_grid(grid, number, why) for grid, number in zip(part.grids, numbers, strict=False))
    sections = "\n".join(f"<h3>{_text(section.title)}</h3>{_table(section)}" for section in part.sections)
    complaints = _list("What went wrong", part.complaints, "complaints", opened=True)
    notes = _list("What the numbers mean", part.notes, "notes")
    return f"<section>\n<h2>{_text(part.title)}</h2>\n{complaints}\n{grids}\n{sections}\n{notes}\n</section>"


def _list(title: str, lines: Sequence[str], kind: str, *, opened: bool = False) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return (
        f'<details class="{kind}"{" open" * opened}><summary>{title}</summary><ul>{items}</ul></details>'
        if items
        else ""
    )


def _grid(grid: Grid, number: int, why: str) -> str:
    """The frame of a table, whose rows are inserted by the script, and of its charts."""
    headings = "".join(
        f'<th scope="col" class="{column.kind}"><button type="button" data-field="{_text(column.field)}">'
        f"{_text(column.heading)}</button></th>"
        for column in grid.columns
    )
    marked = any(f"{column.field}_mark" in row for column in grid.columns for row in grid.rows)
    only = '<label><input type="checkbox" class="best"> only the best and what ties with it</label>' if marked else ""
    charts = "\n".join(map(_chart, grid.charts)) if not why else f'<p class="why">{_text(why)}</p>' * bool(grid.charts)
    return f"""<section class="grid" data-grid="{number}" aria-label="{_text(grid.title)}">
<h3>{_text(grid.title)}</h3>
<div class="controls" role="search" aria-label="{_text(grid.title)}">
<label>Search <input type="search" autocomplete="off"></label>
{"".join(_choice(column, grid, f"choice-{number}-{place}") for place, column in enumerate(grid.columns))}
{only}
</div>
<p class="shown" role="status"></p>
<div class="scroll" role="region" aria-label="{_text(grid.title)}, table" tabindex="0">
<table>
{f"<caption><span>{_text(grid.caption)}</span></caption>" * bool(grid.caption)}
<thead><tr>{headings}</tr></thead>
<tbody></tbody>
</table>
</div>
<noscript>Rows are shown by a script: allow scripts for this file, or read its JSON.</noscript>
<p><button type="button" class="more" hidden>Show more rows</button></p>
{charts}
</section>"""


def _choice(column: Column, grid: Grid, name: str) -> str:
    """A selection list of the names in a column, if there are several."""
    values = list(dict.fromkeys(row[column.field] for row in grid.rows if row.get(column.field) is not None))
    if column.kind != "name" or not 1 < len(values) <= _MOST_CHOICES:
        return ""
    options = "".join(f"<option>{_text(str(value))}</option>" for value in values)
    return (
        f'<span><label for="{name}">{_text(column.heading)}</label> <select id="{name}" '
        f'data-field="{_text(column.field)}"><option value="">all</option>{options}</select></span>\n'
    )


def _chart(chart: Chart) -> str:
    kind = "chart fitted" if chart.spec["width"] == "container" else "chart"
    return (
        f'<figure><figcaption>{_text(chart.title)}</figcaption><div class="{kind}" role="region" tabindex="0" '
        f'aria-label="{_text(chart.title)}"></div><p class="alternative">{_text(chart.description)} The numbers are in '
        "the table above.</p></figure>"
    )


def _table(section: Section) -> str:
    headings = list(section.rows[0])
    head = "".join(f'<th scope="col">{_text(heading.replace(chr(10), " "))}</th>' for heading in headings)
    rows = "".join(
        "<tr>"
        + "".join(
            f'<th scope="row">{_text(cell)}</th>' if heading == section.key else f"<td>{_text(cell)}</td>"
            for heading, cell in row.items()
        )
        + "</tr>"
        for row in section.rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{_text(section.title)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _gallery(confusions: Sequence[TargetConfusions]) -> str:
    if not confusions:
        return ""
    heading = "<h2>Most confused classes</h2>"
    if len({one.note for one in confusions}) == 1 and not any(one.pairs for one in confusions):
        return f'<section class="gallery">{heading}<p class="note">{_text(confusions[0].note)}</p></section>'
    targets = "\n".join(
        f"<h3>{_text(one.target)} <small>by {_text(one.encoder)}</small></h3>"
        + "".join(map(_confusion, one.pairs))
        + f'<p class="note">{_text(one.note)}</p>' * bool(one.note)
        for one in confusions
    )
    return f"""<section class="gallery">
{heading}
<p>How often the best encoder of each target takes samples of one class for another: predictions of the linear
discriminant behind transferability, for samples that it was not fitted to.</p>
{targets}
</section>"""


def _confusion(pair: Confusion) -> str:
    actual, predicted = _text(pair.actual), _text(pair.predicted)
    pictures = "".join(
        f'<img src="{uri}" alt="sample {row}, {actual} predicted as {predicted}" loading="lazy">'
        for row, uri in zip(pair.rows, pair.pictures, strict=False)
    )
    return (
        f"<figure><figcaption>{actual} predicted as {predicted} "
        f"<small>{pair.share:.1%} of {actual}</small></figcaption>{pictures}</figure>"
    )


def _made(parts: Sequence[Part], made: Sequence[Mapping[str, Any]]) -> str:
    """The commands and versions that made the page and its files, and the settings."""
    sections = [
        Section(
            "Made by",
            [
                {
                    "written": str(one["written"]),
                    "command": " ".join(one["command"] or ["from Python"]),
                    "versions": ", ".join(f"{name} {version}" for name, version in one["versions"].items()),
                }
                for one in made
            ],
            key="written",
        )
    ]
    sections += [
        Section(
            f"Settings: {part.title}",
            [
                {"setting": name, "value": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}
                for name, value in settings_as_data(part.settings).items()
            ],
            key="setting",
        )
        for part in parts
        if part.settings is not None
    ]
    tables = "".join(
        f"<details><summary>{_text(section.title)}</summary>{_table(section)}</details>" for section in sections
    )
    return f"<section><h2>Where this is from</h2>{tables}</section>"

"""Charts of a page as Vega-Lite specifications, which are drawn in the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxrel.study.figures import TERM_COLOURS, TERMS
from jaxrel.study.page.content import Chart, Column, Rows

__all__ = ["cost_chart", "heat_chart", "scatter_chart", "terms_chart"]

_MOST_BARS = 60  # bars that are drawn initially
_MOST_NAMES = 30  # of points
_WIDTH = 560
_MOST_COLOURS = 10  # which are told apart
_CONSTANT_GUESS = "constant guess"
_MARKS = (
    (
        "target_loss",
        "A diamond is the target loss.",
        {"type": "point", "shape": "diamond", "size": 60, "filled": True},
    ),
    ("vacuous_level", "An upright line is the loss of a constant guess.", {"type": "tick", "thickness": 3, "size": 16}),
)


def terms_chart(title: str, rows: Rows, names: Sequence[Column], *, largest_first: bool = False) -> Chart:
    """Stacked bars of the terms of bounds, with the target loss.

    Args:
        title: of the chart.
        rows: rows with bounds; rows without one are left out.
        names: the columns that identify a bar.
        largest_first: whether the largest bound is on top, instead of the smallest.
    """
    varied = [column for column in names if len(_values(rows, column.field)) > 1] or list(names[:1])
    everything = len(rows) <= _MOST_BARS
    # Bars are named by the first column; the other columns are selected.
    params, filters = _choices(rows, varied[1:], everything=everything)
    label = " + ' · ' + ".join(f"datum.{column.field}" for column in (varied if everything else varied[:1]))
    spoken = {term: term.replace("_", " ") for term in TERMS}
    tooltip = [{"field": column.field, "type": "nominal", "title": column.heading} for column in varied]
    if any("leans_on" in row for row in rows):
        tooltip.append({"field": "leans_on", "type": "nominal", "title": "leans on"})
    numbers = {"bound": "bound", "bound_lower": "interval from", "bound_upper": "to", **spoken}
    tooltip += [
        {"field": field, "type": "quantitative", "title": heading, "format": ".4g"}
        for field, heading in (numbers | {"target_loss": "target loss", "vacuous_level": _CONSTANT_GUESS}).items()
        if any(field in row for row in rows)
    ]
    bars = {
        "transform": [{"fold": list(spoken.values()), "as": ["term", "nats"]}],
        "mark": {"type": "bar"},
        "encoding": {
            "x": {"field": "nats", "type": "quantitative", "title": "nats", "axis": {"orient": "top"}},
            "color": {
                "field": "term",
                "type": "nominal",
                "title": None,
                "scale": {"domain": list(spoken.values()), "range": list(TERM_COLOURS)},
                "legend": {"orient": "top"},
            },
            "order": {"field": "term", "type": "nominal", "sort": "descending"},
            "tooltip": tooltip,
        },
    }
    own = [(field, said, mark) for field, said, mark in _MARKS if any(field in row for row in rows)]
    marks = [
        {
            "mark": {"stroke": "white", "strokeWidth": 1, "color": "#444", **mark},
            "encoding": {"x": {"field": field, "type": "quantitative"}, "tooltip": tooltip},
        }
        for field, _, mark in own
    ]
    order = {"field": "bound", "op": "min", "order": "descending" if largest_first else "ascending"}
    spec = {
        "params": params,
        "transform": [
            *filters,
            {"filter": "isValid(datum.bound)"},
            {"calculate": label, "as": "label"},
            *({"calculate": f"datum.{term}", "as": name} for term, name in spoken.items()),
        ],
        "width": _WIDTH,  # that of the page cannot be fitted where the height follows from the bars
        "height": {"step": 20},
        "encoding": {"y": {"field": "label", "type": "nominal", "title": None, "sort": order}},
        "layer": [bars, *marks],
    }
    return Chart(
        title,
        f"Stacked bars, the {'largest' if largest_first else 'smallest'} bound first, of its terms in nats: "
        f"{', '.join(spoken.values())}. {' '.join(said for _, said, _ in own)}",
        spec,
    )


def heat_chart(title: str, rows: Rows, y: str, x: str, value: Column, *, data: Rows | None = None) -> Chart:
    """A heat map of means over columns that are neither an axis nor selected.

    Args:
        title: of the chart.
        rows: of the table.
        y, x: fields of the rows and the columns.
        value: the column that is drawn.
        data: rows of the chart, if they are not those of the table.
    """
    drawn = rows if data is None else data
    chosen = [Column(name, name) for name in ("encoder",) if name not in (x, y)]
    params, filters = _choices(drawn, chosen, everything=True)
    mean = {"aggregate": "mean", "field": value.field, "type": "quantitative"}
    axes = {name: {"field": field, "type": "nominal", "title": field} for name, field in (("x", x), ("y", y))}
    tooltip = [
        *({"field": field, "type": "nominal"} for field in (y, x)),
        mean | {"title": value.heading, "format": ".4g"},
    ]
    # The lighter part of the colour map, on which black text is readable.
    scale = {"scheme": {"name": "blues", "extent": [0.05, 0.6]}, "reverse": value.better == "lower"}
    spec = {
        **({} if data is None else {"data": {"values": data}}),
        "params": params,
        "transform": [*filters, {"filter": f"isValid(datum.{value.field})"}],
        "width": {"step": 64},
        "height": {"step": 24},
        "encoding": axes,
        "layer": [
            {
                "mark": "rect",
                "encoding": {"color": mean | {"title": value.heading, "scale": scale}, "tooltip": tooltip},
            },
            {"mark": {"type": "text", "color": "#000"}, "encoding": {"text": mean | {"format": ".3~g"}}},
        ],
    }
    return Chart(title, f"A colour for each {y} and {x}: {value.heading}; darker is better.", spec)


def cost_chart(rows: Rows, names: Sequence[Column], costs: Sequence[Column], qualities: Sequence[Column]) -> Chart:
    """Quality against cost, both selectable."""
    params, filters = _choices(rows, [column for column in names if column.field != "encoder"], everything=False)
    params += [_choice("cost", costs), _choice("quality", qualities)]
    numbers = ("cost_value", "quality_value", "quality_lower", "quality_upper")
    fields = ("cost", "quality", "quality + '_lower'", "quality + '_upper'")
    points = [{"calculate": f"datum[{field}]", "as": name} for name, field in zip(numbers, fields, strict=True)]
    # Linear near 0, because the encoder `pixels` has no parameters, and logarithmic beyond.
    axis = {
        "values": [0, 0.5, *(step * 10**power for power in range(12) for step in (1, 2, 5))],
        "grid": False,
        "labelExpr": "format(datum.value, '~s')",
        "labelOverlap": "greedy",
        "labelSeparation": 10,
    }
    spec = {
        "params": params,
        "transform": [*filters, *points, {"filter": "isValid(datum.cost_value) && isValid(datum.quality_value)"}],
        "width": "container",
        "height": 320,
        "encoding": {
            "x": {
                "field": "cost_value",
                "type": "quantitative",
                "title": "cost",
                "scale": {"type": "symlog", "zero": False, "nice": False, "padding": 16},
                "axis": axis,
            }
        },
        "layer": _points(rows, "cost_value", "quality_value", "quality", ("quality_lower", "quality_upper")),
    }
    return Chart("Quality against cost", "A point for each encoder, with its interval: quality against cost.", spec)


def scatter_chart(title: str, data: Rows) -> Chart:
    """Accuracies against scores.

    Args:
        title: of the chart.
        data: a row for each encoder, `score` and kind of `accuracy`, with `x`, `y` and the ends of the interval of `y`.
    """
    params, filters = _choices(data, [Column("score", "score"), Column("accuracy", "accuracy")], everything=False)
    spec = {
        "data": {"values": data},
        "params": params,
        "transform": filters,
        "width": "container",
        "height": 320,
        "encoding": {
            "x": {"field": "x", "type": "quantitative", "title": "score", "scale": {"zero": False}},
        },
        "layer": _points(data, "x", "y", "accuracy after training", ("y_lower", "y_upper")),
    }
    return Chart(title, "A point for each encoder, with its interval: accuracy after training against the score.", spec)


def _points(rows: Rows, x: str, field: str, title: str, interval: tuple[str, str]) -> list[dict[str, Any]]:
    """Points with vertical intervals, and with colours or names where there are few."""
    lower, upper = interval
    scale = {"zero": False}
    y = {"field": field, "type": "quantitative", "title": title, "scale": scale}
    tooltip = [
        {"field": "encoder", "type": "nominal"},
        {"field": x, "type": "quantitative", "title": "cost" if x == "cost_value" else "score", "format": ".4~s"},
        {"field": field, "type": "quantitative", "title": title, "format": ".4g"},
    ]
    layers: list[dict[str, Any]] = [
        {
            "mark": "rule",
            "encoding": {"y": {"field": lower, "type": "quantitative", "scale": scale}, "y2": {"field": upper}},
        },
        {"mark": {"type": "point", "filled": True, "size": 80, "opacity": 1}, "encoding": {"y": y, "tooltip": tooltip}},
    ]
    names = _values(rows, "encoder")
    if len(names) <= _MOST_COLOURS:
        legend = {"orient": "bottom", "columns": 2, "title": None, "labelLimit": 300}
        encoder = {"field": "encoder", "type": "nominal", "legend": legend}
        layers[1]["encoding"] |= {
            "color": encoder | {"scale": {"domain": names, "scheme": "category10"}},
            "shape": encoder | {"scale": {"domain": names}},
        }
    elif len(names) <= _MOST_NAMES:
        text = {"type": "text", "align": "left", "dx": 8, "limit": 160}
        layers.append({"mark": text, "encoding": {"y": y, "text": {"field": "encoder"}}})
    return layers


def _choices(rows: Rows, columns: Sequence[Column], *, everything: bool) -> tuple[list[Any], list[Any]]:
    """A selection list for each column with several values, and the filters that the lists set."""
    params, filters = [], []
    for column in columns:
        values = _values(rows, column.field)
        if len(values) > 1:
            name = f"chosen_{column.field}"
            options = {
                "input": "select",
                "name": column.heading,
                "options": [None, *values],
                "labels": ["all", *values],
            }
            params.append({"name": name, "value": None if everything else values[0], "bind": options})
            filters.append({"filter": f"{name} === null || datum.{column.field} === {name}"})
    return params, filters


def _choice(name: str, columns: Sequence[Column]) -> Mapping[str, Any]:
    fields, headings = [column.field for column in columns], [column.heading for column in columns]
    bind = {"input": "select", "name": name, "options": fields, "labels": headings}
    return {"name": name, "value": fields[0], "bind": bind}


def _values(rows: Rows, field: str) -> list[Any]:
    return list(dict.fromkeys(row[field] for row in rows if row.get(field) is not None))

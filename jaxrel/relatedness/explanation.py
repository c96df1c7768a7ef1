"""Explanations of a bound: its terms by target class as arrays, as text and as a figure."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jaxrel.relatedness.result import Relatedness, Status

if TYPE_CHECKING:
    from os import PathLike

    from matplotlib.figure import Figure
    from rich.table import Table
    from rich.text import Text

__all__ = ["Explanation", "explain", "plot_coupling"]

BOUND_TERMS = ("reweighted_reference_loss", "label_mismatch", "distribution_mismatch")
"""The terms that add up to the bound."""

_TERMS = (*BOUND_TERMS, "target_loss")
_TEXT_WIDTH = 100
_MOST_ROWS = 25
_MOST_NAMES = 10
_MOST_LEANING = 3
_LEAST_WEIGHT = 0.05
_UNBROKEN = "\u2800"  # A blank at which no line is broken.

_COLOURS = ("#4477aa", "#ccbb44", "#ee6677")
_LARGEST_MATRIX = 13.0  # inches
_CELL = 0.42  # inches, of a class in a small matrix
_LINE = 0.11  # inches, the least that a legible name takes
_LONGEST_NAME = 24


@dataclass(frozen=True, eq=False)
class Explanation:
    """The terms of a bound by target class, in nats, on the samples of the evaluation; see `explain`.

    `class_terms` has an array (t,) for each of reweighted_reference_loss, label_mismatch, distribution_mismatch and
    target_loss: the contribution of each target class. The arrays sum to `totals`, which also has the `bound`.
    `reference_loss` is the unweighted mean loss of each reference class under the reference head. `change` has, for
    each of the totals, the pair (baseline, result); it is None without a baseline. `str()` gives `to_text()`.
    """

    class_terms: Mapping[str, Float[np.ndarray, " t"]]
    totals: Mapping[str, float]
    coupling: Float[np.ndarray, "t r"]
    reference_loss: Float[np.ndarray, " r"]
    target_names: tuple[str, ...]
    reference_names: tuple[str, ...]
    change: Mapping[str, tuple[float, float]] | None

    @property
    def target_prior(self) -> Float[np.ndarray, " t"]:
        """Share of the samples in each target class: the row sums of J."""
        return self.coupling.sum(axis=1)

    @property
    def reference_prior(self) -> Float[np.ndarray, " r"]:
        """D, the weight of each reference class: the column sums of J."""
        return self.coupling.sum(axis=0)

    @property
    def conditional(self) -> Float[np.ndarray, "t r"]:
        """Q, the weights of the reference classes for each target class; nan for a target class without samples."""
        return _ratio(self.coupling, self.target_prior[:, None])

    @property
    def bound_share(self) -> Float[np.ndarray, " t"]:
        """Contribution of each target class to the bound, in nats; the contributions sum to the bound."""
        return np.sum([self.class_terms[term] for term in BOUND_TERMS], axis=0)

    @property
    def class_bound(self) -> Float[np.ndarray, " t"]:
        """Bound on the mean loss of each target class, in nats; nan for a target class without samples."""
        return _ratio(self.bound_share, self.target_prior)

    def class_records(self, *, most: int = 25) -> list[dict[str, Any]]:
        """A flat record for each target class that has samples, in descending order of its contribution to the bound.

        Args:
            most: the largest number of records.

        Returns:
            For each class its name `class`, its share `prior` of the samples, the bound on its mean loss `class_bound`,
            its contributions to the terms, to the `bound` and to `target_loss` in nats, and `leans_on`: names and
            weights of its reference classes, in descending order of weight.
        """
        return [
            {
                "class": self.target_names[place],
                "prior": float(self.target_prior[place]),
                "class_bound": float(self.class_bound[place]),
                **{term: float(share[place]) for term, share in self.class_terms.items()},
                "bound": float(self.bound_share[place]),
                "leans_on": [[self.reference_names[c], float(weights[c])] for c in _heaviest(weights)],
            }
            for place in _by_expense(self)[:most]
            if self.target_prior[place] > 0
            for weights in (self.conditional[place],)
        ]

    def to_text(self) -> str:
        """A table of the target classes by contribution, the dominant terms, and the change from the baseline."""
        parts: list[Table | str] = [_class_table(self), _dominance(self), _unused(self)]
        if self.change is not None:
            parts.append(_change_table(self.change))
        return "\n\n".join(_plain(part) for part in parts if part)

    def __str__(self) -> str:
        return self.to_text()


def explain(
    result: Relatedness,
    *,
    baseline: Relatedness | None = None,
    reference_names: Sequence[object] | None = None,
    target_names: Sequence[object] | None = None,
) -> Explanation:
    """Split a bound by target class and term, with the reference classes that each target class depends on.

    Args:
        result: a result of `task_relatedness` or `evaluate_bound`, by any method; not batched.
        baseline: another result for the same tasks, such as one of `setting="fixed"`, to compare the terms with.
        reference_names, target_names: a name for each class (`Task.class_names`); None counts from 0.

    Raises:
        ValueError: for a batched or failed result or baseline, a baseline with other class counts, or names that are
            not one for each class.
    """
    _check_single("result", result)
    coupling = np.asarray(result.coupling, np.float64)
    totals, change = _totals(result), None
    if baseline is not None:
        _check_single("baseline", baseline)
        if baseline.coupling.shape != coupling.shape:
            raise ValueError(
                "baseline must be about the same tasks: it has (target classes, reference classes) "
                f"{baseline.coupling.shape}, the result {coupling.shape}."
            )
        change = {term: (before, totals[term]) for term, before in _totals(baseline).items()}
    return Explanation(
        class_terms={term: np.asarray(getattr(result.class_terms, term), np.float64) for term in _TERMS},
        totals=totals,
        coupling=coupling,
        reference_loss=np.asarray(result.class_terms.reference_loss, np.float64),
        target_names=_names("target_names", target_names, coupling.shape[0]),
        reference_names=_names("reference_names", reference_names, coupling.shape[1]),
        change=change,
    )


def _check_single(name: str, result: Relatedness) -> None:
    if shape := np.shape(result.status):
        raise ValueError(
            f"{name} is batched, of shape {shape}: explain one at a time, jax.tree.map(lambda x: x[i], {name})."
        )
    if int(result.status) != Status.OK:
        raise ValueError(f"{name} failed, its bound cannot be explained: {' '.join(result.messages)}")


def _totals(result: Relatedness) -> dict[str, float]:
    return {term: float(getattr(result, term)) for term in (*BOUND_TERMS, "bound", "target_loss")}


def _names(argument: str, names: Sequence[object] | None, num_classes: int) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(num_classes)))
    if isinstance(names, str) or len(names) != num_classes:
        raise ValueError(f"{argument} must be one name for each of the {num_classes} classes, got {names!r}.")
    return tuple(map(str, names))


def _ratio(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Quotients, nan where the weight is 0."""
    return np.divide(values, weights, out=np.full(values.shape, np.nan), where=weights > 0)


# Text


def _by_expense(explanation: Explanation) -> np.ndarray:
    """Target classes by descending contribution to the bound."""
    return np.argsort(-explanation.bound_share, kind="stable")


def _class_table(explanation: Explanation) -> Table:
    order = _by_expense(explanation)
    shown, others = order[:_MOST_ROWS], order[_MOST_ROWS:]
    table = _table("Contributions of the target classes in nats; class bound = sum / prior")
    table.add_column("class", overflow="fold", max_width=16)
    for heading in (
        "prior",
        "class\nbound",
        "reference\nloss",
        "label\nmismatch",
        "distrib.\nmismatch",
        "sum",
        "target\nloss",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("leans on", overflow="fold")
    for k in shown:
        table.add_row(*_row(explanation, explanation.target_names[k], np.array([k])))
    if others.size:
        table.add_row(*_row(explanation, f"{others.size} other {_classes(others.size)}", others))
    table.add_section()
    table.add_row(*_row(explanation, "total", order, explanation.totals))
    return table


def _row(
    explanation: Explanation, name: str, classes: np.ndarray, terms: Mapping[str, float] | None = None
) -> tuple[str | Text, ...]:
    """Cells for a group of target classes; `terms` replaces the sums of their contributions."""
    from rich.text import Text

    if terms is None:
        terms = {term: float(share[classes].sum()) for term, share in explanation.class_terms.items()}
        terms["bound"] = sum(terms[term] for term in BOUND_TERMS)
    prior = explanation.target_prior[classes].sum()
    decimals = _decimals(explanation.totals["bound"])
    numbers = [terms[term] for term in (*BOUND_TERMS, "bound", "target_loss")]
    group_bound = f"{terms['bound'] / prior:.{decimals}f}" if prior > 0 else "-"
    leaning = _leaning(explanation.coupling[classes].sum(axis=0), explanation.reference_names)
    return (
        Text(name),
        f"{prior:.1%}",
        group_bound,
        *(f"{number:z.{decimals}f}" for number in numbers),
        Text(leaning),
    )


def _leaning(mass: np.ndarray, names: Sequence[str]) -> str:
    """The reference classes with most of the mass, in descending order: "3 (0.91), 7 (0.09)"."""
    if not mass.sum() > 0:
        return "-"
    weights = mass / mass.sum()
    heavy = _heaviest(weights)
    if not heavy:
        return f"{np.count_nonzero(weights)} classes < {_LEAST_WEIGHT}"
    items = [f"{names[c]}{_UNBROKEN}({weights[c]:.2f})" for c in heavy]
    rest = 1 - weights[heavy].sum()
    if rest >= _LEAST_WEIGHT:
        items.append(f"others{_UNBROKEN}({rest:.2f})")
    return ", ".join(items)


def _heaviest(weights: np.ndarray) -> list[int]:
    """The classes with most of a total mass of 1, in descending order."""
    return [int(c) for c in np.argsort(-weights, kind="stable")[:_MOST_LEANING] if weights[c] >= _LEAST_WEIGHT]


def _decimals(bound: float) -> int:
    """Number of decimals for five significant digits of the bound, at most six."""
    return 6 if bound <= 0 else min(max(4 - math.floor(math.log10(bound)), 0), 6)


def _dominance(explanation: Explanation) -> str:
    bound, share = explanation.totals["bound"], explanation.bound_share
    if not share.sum() > 0:
        return "The bound is 0."
    largest = max(BOUND_TERMS, key=explanation.totals.__getitem__)
    order = _by_expense(explanation)
    half = order[: 1 + int(np.searchsorted(np.cumsum(share[order]), share.sum() / 2))]
    prior = explanation.target_prior
    names = _listed([explanation.target_names[k] for k in half])
    return (
        f"The largest term is the {largest.replace('_', ' ')}, {explanation.totals[largest] / bound:.0%} of the bound. "
        f"Half of the bound is carried by {half.size} of {np.count_nonzero(prior)} target classes, which make up "
        f"{prior[half].sum():.0%} of the target: {names}."
    )


def _unused(explanation: Explanation) -> str:
    unused = np.flatnonzero(explanation.reference_prior == 0)
    if not unused.size:
        return ""
    names = _listed([explanation.reference_names[c] for c in unused])
    return f"No target class leans on {unused.size} reference {_classes(unused.size)}: {names}."


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _classes(count: int) -> str:
    return "class" if count == 1 else "classes"


def _change_table(change: Mapping[str, tuple[float, float]]) -> Table:
    table = _table("Change from the baseline in nats")
    table.add_column("term")
    for heading in ("baseline", "result", "difference"):
        table.add_column(heading, justify="right", overflow="fold")
    decimals = _decimals(max(change["bound"]))
    for term, (before, after) in change.items():
        table.add_row(
            term.replace("_", " "),
            f"{before:z.{decimals}f}",
            f"{after:z.{decimals}f}",
            f"{after - before:+z.{decimals}f}",
            end_section=term in (BOUND_TERMS[-1], "bound"),
        )
    return table


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")


def _plain(part: Table | str) -> str:
    """Plain text of a fixed width without escape codes, in a terminal, a notebook or neither."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(
        file=stream,
        width=_TEXT_WIDTH,
        color_system=None,
        force_terminal=False,
        force_jupyter=False,
        legacy_windows=False,
        emoji=False,
        markup=False,
        highlight=False,
    )
    console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().replace(_UNBROKEN, " ").splitlines())


# Picture


def plot_coupling(explanation: Explanation, path: str | PathLike[str] | None = None) -> Figure:
    """Plot the coupling J with its marginals beside the contribution of each target class to the bound.

    Args:
        explanation: the result of `explain`.
        path: the file to save the figure to; its suffix decides the format.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"{error} (pip install 'jaxrel[plot]')") from error
    height, width = (_extent(count) for count in explanation.coupling.shape)
    columns, rows = (width, 0.9, 3.6), (0.7, height, 0.12)
    left, below = _extent_of_names(explanation.target_names), _extent_of_names(explanation.reference_names)
    figure = Figure(figsize=(left + sum(columns) + 1, below + sum(rows) + 1.2), layout="constrained")
    grid = figure.add_gridspec(3, 3, width_ratios=columns, height_ratios=rows)
    matrix = figure.add_subplot(grid[1, 0])
    top = figure.add_subplot(grid[0, 0], sharex=matrix)
    right = figure.add_subplot(grid[1, 1], sharey=matrix)
    bars = figure.add_subplot(grid[1, 2], sharey=matrix)
    image = _draw_matrix(matrix, explanation, width, height)
    figure.colorbar(image, cax=figure.add_subplot(grid[2, 0]), orientation="horizontal").set_label("coupling J")
    _draw_marginals(top, right, explanation)
    _draw_contributions(bars, explanation)
    corner = figure.add_subplot(grid[0, 1:])
    corner.set_axis_off()
    corner.legend(*bars.get_legend_handles_labels(), loc="lower right", ncols=2, frameon=False, fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _extent(num_classes: int) -> float:
    """Inches for an axis with this many classes."""
    return min(max(_CELL * num_classes, 1.6), _LARGEST_MATRIX)


def _extent_of_names(names: Sequence[str]) -> float:
    """Upper limit on the inches that the longest name takes."""
    return 0.08 * min(max(map(len, names)), _LONGEST_NAME)


def _draw_matrix(axis: Any, explanation: Explanation, width: float, height: float) -> Any:
    image = axis.imshow(explanation.coupling, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    _name_classes(axis.xaxis, explanation.reference_names, width)
    _name_classes(axis.yaxis, explanation.target_names, height)
    axis.set_xlabel("reference class")
    axis.set_ylabel("target class")
    return image


def _name_classes(axis: Any, names: Sequence[str], extent: float) -> None:
    """Label an axis in the largest font that fits; if none is legible, name every n-th class. Rotate if needed."""
    step = math.ceil(len(names) * _LINE / extent)
    room = 72 * extent / len(names) * step  # points
    size = min(9.0, 0.75 * room)
    short = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
    upright = axis.axis_name == "x" and 0.7 * size * max(map(len, short)) > room
    axis.set_ticks(
        range(0, len(names), step), short[::step], fontsize=size, rotation=90 if upright else 0, parse_math=False
    )


def _draw_marginals(top: Any, right: Any, explanation: Explanation) -> None:
    reference, target = explanation.reference_prior, explanation.target_prior
    top.bar(range(reference.size), reference, color="0.6", width=0.8)
    right.barh(range(target.size), target, color="0.6", height=0.8)
    top.set_title("reference weight D", fontsize="medium")
    right.set_xlabel("target prior")
    top.tick_params(bottom=False, labelbottom=False, labelsize=7)
    right.tick_params(left=False, labelleft=False, labelsize=7)
    for axis in (top, right):
        axis.locator_params(axis="y" if axis is top else "x", nbins=2)
        axis.spines[["top", "right"]].set_visible(False)


def _draw_contributions(axis: Any, explanation: Explanation) -> None:
    places = np.arange(explanation.target_prior.size)
    start = np.zeros(places.size)
    for term, colour in zip(BOUND_TERMS, _COLOURS, strict=True):
        share = explanation.class_terms[term]
        axis.barh(places, share, left=start, color=colour, height=0.8, label=term.replace("_", " "))
        start = start + share
    axis.plot(
        explanation.class_terms["target_loss"],
        places,
        "D",
        color="white",
        markeredgecolor="black",
        markersize=4,
        linestyle="none",
        clip_on=False,
        label="target loss",
    )
    axis.set_xlim(left=0)
    axis.set_xlabel(f"contribution (nats); the bound is {explanation.totals['bound']:.4g}")
    axis.tick_params(left=False, labelleft=False, labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)

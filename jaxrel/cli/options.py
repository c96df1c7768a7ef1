"""Options that several commands share, in groups; nothing here may import JAX."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxrel.cli import names

__all__ = [
    "add_accuracy",
    "add_batch_size",
    "add_columns",
    "add_data_set",
    "add_encoder_options",
    "add_encoders",
    "add_metrics",
    "add_number",
    "add_official_splits",
    "add_output",
    "add_pictures",
    "add_printing",
    "add_reading",
    "add_regression",
    "add_running",
    "path_argument",
]

Group = argparse._ArgumentGroup


def add_number(
    group: Group, option: str, default: float | None, text: str, *, kind: Callable[[str], float] = int, **given: Any
) -> None:
    """A number; the help text is completed by its default."""
    shown = "" if default is None else f" (default: {default})"
    group.add_argument(option, type=kind, default=default, metavar="N", help=f"{text}{shown}.", **given)


# Data


def add_data_set(group: Group, option: str, text: str, **given: Any) -> None:
    """One or several data sets by name or path."""
    metavar = option[2].upper()
    action = group.add_argument(option, metavar=metavar, help=text, **given)
    _complete(action, lambda: names.with_plugins("data", names.DATA_SETS))


def add_columns(group: Group) -> None:
    """Where named data sets are located and how they are read."""
    add_official_splits(group)
    group.add_argument(
        "--data-path",
        nargs="+",
        type=_named_path,
        default=[],
        metavar="NAME=PATH",
        help="Read the data set NAME from your own copy of it.",
    )
    add_reading(group)


def add_reading(group: Group) -> None:
    """How samples are read, for every command that reads them."""
    group.add_argument(
        "--text-column",
        nargs="+",
        default=(),
        metavar="NAME",
        help="Join these columns of a table or of a Hub data set to one text; of a column of lists, each word is a "
        "sample.",
    )
    group.add_argument(
        "--pair", action="store_true", help="Make pairs of the texts of two columns, instead of joining them."
    )
    group.add_argument(
        "--label-column", metavar="NAME", help="Take the labels from this column of a table or of a Hub data set."
    )
    group.add_argument(
        "--skip-broken",
        action="store_true",
        help="Leave out pictures and texts that cannot be read, and list them.",
    )


def add_regression(group: Group) -> None:
    """The option of every command that supports regression targets."""
    group.add_argument(
        "--regression",
        action="store_true",
        help="Treat labels as regression targets; metrics of classes are not computed.",
    )


def add_official_splits(group: Group) -> None:
    """The option of every command that draws samples."""
    group.add_argument(
        "--official-splits",
        action="store_true",
        help="Use the data set's own training split, instead of three quarters of all samples.",
    )


# Encoders


class _Encoders(argparse.Action):
    """Names of encoders, with each `@LIST` replaced by its encoders."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        if any(name.startswith("@") for name in values):
            from jaxrel import encoders  # imported late: it is slow, and not needed to refuse other arguments

            try:
                values = encoders.expanded(values)
            except ValueError as error:
                parser.error(str(error))
        setattr(namespace, self.dest, values)


def add_encoders(group: Group, text: str, **given: Any) -> None:
    """The option of every command that takes encoders by name."""
    action = group.add_argument(
        "--encoder",
        nargs="+",
        action=_Encoders,
        metavar="E",
        help=f"{text}; a list stands for several encoders: {', '.join(names.LISTS)}.",
        **given,
    )
    _complete(action, encoder_names)


def encoder_names() -> tuple[str, ...]:
    """Encoders and lists of them."""
    return (*names.with_plugins("encoders", names.ENCODERS), *names.LISTS)


def add_encoder_options(group: Group) -> None:
    """How encoders are loaded, for every command that loads them."""
    add_number(group, "--image-size", None, "Scale images to N pixels (default: each network's own size)")
    group.add_argument(
        "--prompt",
        metavar="NAME_OR_TEXT",
        help="For text checkpoints, prefix each text with this: the name of one of their prompts, or a text "
        "(default: each checkpoint's own).",
    )
    add_number(group, "--width", None, "For text checkpoints, keep only the first N features")


def add_batch_size(group: Group) -> None:
    """Options of feature extraction."""
    add_number(group, "--batch-size", 32, "Encode N samples in one forward pass")


# Scoring


def add_metrics(group: Group, text: str, more: tuple[str, ...] = ()) -> None:
    """Metrics by name."""
    action = group.add_argument("--metric", nargs="+", metavar="M", help=text)
    _complete(action, lambda: (*names.with_plugins("metrics", names.METRICS), *more))


def add_accuracy(group: Group, *, samples: str) -> None:
    """Options of confidence intervals."""
    add_number(group, "--resamples", 1000, f"Resample the {samples} N times for the intervals; 0 leaves them out")
    add_number(group, "--confidence", 0.9, "Let intervals contain this share of the resamples", kind=float)


# Output


def add_output(group: Group, folder: str, *, pictures: str) -> None:
    """Options of every command that writes results."""
    group.add_argument(
        "--output",
        type=path_argument,
        default=Path(folder),
        metavar="DIR",
        help="Write results, pictures and finished work to this folder (default: %(default)s).",
    )
    add_pictures(group, pictures)
    add_printing(group, "the results file", quiet="no progress, no notes")


def add_pictures(group: Group, name: str) -> None:
    """Options of every command that draws."""
    plots = group.add_mutually_exclusive_group()
    plots.add_argument(
        "--plot-format",
        nargs="+",
        choices=names.PICTURES,
        default=[],
        metavar="F",
        help=f"Draw {name} into files of these formats in addition to png: {', '.join(names.PICTURES[1:])}.",
    )
    plots.add_argument("--no-plot", action="store_false", dest="plot", help="Draw nothing.")


def add_printing(group: Group, document: str, *, quiet: str = "") -> None:
    """What is printed: an option of every command, and a second one for commands that take time."""
    group.add_argument("--json", action="store_true", help=f"Print {document} as JSON instead of a table.")
    if quiet:
        group.add_argument("--quiet", action="store_true", help=f"Print only the result: {quiet}.")


# Running


def add_running(group: Group) -> None:
    """Options of every command that computes results."""
    group.add_argument("--strict", action="store_true", help="Stop at the first encoder or data set that fails.")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="Run the work on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT, or local for a cluster on this "
        "host only (pip install 'jaxrel[ray]'); keep features and data in folders that all hosts share.",
    )


def _complete(action: argparse.Action, words: Callable[[], tuple[str, ...]]) -> None:
    """Let a shell complete these words."""
    action.completer = lambda **_: words()  # type: ignore[attr-defined] # which argcomplete looks for


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH, such as mnist=/data/mnist")
    return name, path_argument(path)


def path_argument(text: str) -> Path:
    """A path on the command line, with `~` expanded, because a shell does not expand it in `--output=~/folder`."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: pass a folder or a file, or . for this folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a path: {error}") from None

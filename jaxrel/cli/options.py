"""Options that several commands have."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from jaxrel import data, encoders
from jaxrel.storage.assets import cache_dir
from jaxrel.study import Plan, Progress, Results, Settings, run
from jaxrel.study.drawing import FORMATS

__all__ = [
    "add_columns",
    "add_common",
    "add_encoders",
    "add_numbers",
    "add_plot",
    "add_ray",
    "add_regression",
    "add_skip_broken",
    "epilog",
    "executor",
    "path_argument",
    "run_plan",
    "settings_of",
]

_NAMES = (
    "A data set is one of {data_sets}; or the path of a file or folder; or hf:NAME of the Hugging Face Hub, or "
    "tfds:NAME of tensorflow-datasets. An encoder is one of {encoders}; NAME:random is the same network with random "
    "weights, NAME@CHECKPOINT has those of a file, a folder or a Hugging Face repository. Example: jaxrel {command} "
    "--target ./my-pictures --encoder mobilenet-v2 pixels vit@google/vit-base-patch16-224"
)


def epilog(command: str) -> str:
    """What names a command takes."""
    return _NAMES.format(data_sets=", ".join(data.names()), encoders=", ".join(encoders.names()), command=command)


class _Encoders(argparse.Action):
    """Names of encoders, with those of a list in the place of `@LIST`."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        try:
            setattr(namespace, self.dest, encoders.expanded(values))
        except ValueError as error:
            parser.error(str(error))


def add_encoders(command: argparse.ArgumentParser, text: str, **options: Any) -> None:
    """The option of every command that takes encoders by name."""
    lists = ", ".join(f"@{name}" for name in encoders.PRESETS)
    command.add_argument(
        "--encoder", nargs="+", action=_Encoders, metavar="E", help=f"{text}, or lists of them: {lists}", **options
    )


def add_numbers(command: argparse.ArgumentParser, numbers: Iterable[tuple[str, Callable[[str], Any], str]]) -> None:
    """Options by which `Settings` has fields."""
    defaults = Settings()
    for option, kind, text in numbers:
        default = getattr(defaults, option[2:].replace("-", "_"))
        shown = "" if default is None else f" (default: {default})"
        command.add_argument(option, type=kind, default=default, metavar="N", help=text + shown)


def add_common(command: argparse.ArgumentParser, *, output: str) -> None:
    """Options of every command that reads named data sets and writes results."""
    command.add_argument(
        "--official-splits", action="store_true", help="take the training samples that the data sets themselves declare"
    )
    command.add_argument(
        "--data-path", nargs="+", type=_named_path, default=[], metavar="NAME=PATH", help="your own copy"
    )
    add_columns(command)
    command.add_argument(
        "--output", type=path_argument, default=Path(output), metavar="DIR", help="default: %(default)s"
    )
    add_skip_broken(command)
    command.add_argument("--strict", action="store_true", help="stop at the first encoder or data set that fails")


def add_columns(command: argparse.ArgumentParser) -> None:
    """The options of every command that reads tables."""
    command.add_argument(
        "--text-column", nargs="+", default=(), metavar="NAME", help="columns of tables or hubs, joined to a text"
    )
    command.add_argument("--label-column", metavar="NAME", help="column of tables or hubs that has the labels")


def add_regression(command: argparse.ArgumentParser) -> None:
    """The option of every command whose data sets may have numbers to predict."""
    command.add_argument(
        "--regression", action="store_true", help="labels are numbers to predict: no metric of classes is computed"
    )


def add_skip_broken(command: argparse.ArgumentParser) -> None:
    """The option of every command that reads samples."""
    command.add_argument(
        "--skip-broken", action="store_true", help="leave out pictures and texts that cannot be read, and say which"
    )


def add_ray(command: argparse.ArgumentParser) -> None:
    """The option of every command that has workers do the work."""
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="have workers of a Ray cluster do the work: auto, HOST:PORT, ray://HOST:PORT, or local for one of this "
        "host alone (pip install 'jaxrel[ray]'); features and data are best kept in folders that all hosts see",
    )


@contextlib.contextmanager
def executor(options: argparse.Namespace) -> Iterator[Executor | None]:
    """The workers that the options ask for; None is this process."""
    if options.ray is None:
        yield None
        return
    import jax

    from jaxrel.study.ray import RayExecutor

    config: Any = jax.config  # whose settings have no types
    if not config.jax_platforms:
        config.update("jax_platforms", "cpu")  # accelerators of this host are for its workers
    with RayExecutor(options.ray) as workers:
        yield workers


def settings_of(options: argparse.Namespace, **given: Any) -> Settings:
    """The settings that options of the same names have, or that are given in place of them."""
    names = [field.name for field in dataclasses.fields(Settings) if hasattr(options, field.name)]
    return Settings(**({name: getattr(options, name) for name in names} | given))


def run_plan(plan: Plan, options: argparse.Namespace, progress: Progress) -> Results:
    """Run a study as the options have it; workers keep compiled programs as this command keeps its own."""
    with executor(options) as workers:
        return run(
            plan,
            output=options.output,
            executor=workers,
            compilation_cache=None if workers is None else cache_dir() / "programs",
            command=options.command,
            progress=progress,
        )


def add_plot(command: argparse.ArgumentParser, *, name: str) -> None:
    """Options of every command that draws; `name` is that of the file."""
    plots = command.add_mutually_exclusive_group()
    plots.add_argument(
        "--plot-format",
        nargs="+",
        choices=FORMATS,
        default=[],
        metavar="F",
        help=f"files that {name} is drawn into beside a png: {', '.join(FORMATS[1:])}",
    )
    plots.add_argument("--no-plot", action="store_false", dest="plot", help="draw nothing")


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH, such as mnist=/data/mnist")
    return name, path_argument(path)


def path_argument(text: str) -> Path:
    """A path on the command line, `~` included, which a shell leaves alone in `--output=~/folder`."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty: pass a folder or a file, or . for this folder")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be a path: {error}") from None

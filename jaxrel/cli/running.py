"""Runs a study with the options of a command."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

from jaxrel.storage.assets import cache_dir
from jaxrel.study import Plan, Progress, Results, Settings, run

__all__ = ["executor", "run_plan", "settings_of"]


@contextlib.contextmanager
def executor(options: argparse.Namespace) -> Iterator[Executor | None]:
    """The requested workers; None is this process."""
    if options.ray is None:
        yield None
        return
    import jax

    from jaxrel.study.ray import RayExecutor

    config: Any = jax.config  # whose settings have no types
    if not config.jax_platforms:
        config.update("jax_platforms", "cpu")  # accelerators of this host are reserved for its workers
    with RayExecutor(options.ray) as workers:
        yield workers


def settings_of(options: argparse.Namespace, **given: Any) -> Settings:
    """The settings from the options of the same names, overridden by those passed."""
    names = [field.name for field in dataclasses.fields(Settings) if hasattr(options, field.name)]
    return Settings(**({name: getattr(options, name) for name in names} | given))


def run_plan(plan: Plan, options: argparse.Namespace, progress: Progress) -> Results:
    """Run a study with these options; workers use the same compilation cache as this command."""
    with executor(options) as workers:
        return run(
            plan,
            output=options.output,
            executor=workers,
            compilation_cache=None if workers is None else cache_dir() / "programs",
            command=options.command,
            progress=progress,
        )

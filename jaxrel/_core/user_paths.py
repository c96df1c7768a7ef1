"""Paths as users write them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["user_path"]


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path, with the home directory for a `~` or `~user` that it begins with.

    Raises:
        ValueError: there is no such home directory.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{os.fspath(path)!r} begins with a home directory that there is not: write the path out"
        ) from error

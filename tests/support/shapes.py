"""Holds calls to the shapes that annotations name: `Float[Array, "n d"]` of jaxtyping is checked whenever a test calls.

Checkers of all types are too strict here: JAX takes a NumPy array wherever an `Array` is asked for, and so do these
functions. What is annotated `ArrayLike`, `Key` or `Samples` is checked by the function itself, with an error that tests
ask for. Everything else has to fit, and what is returned as an `Array` has to be one of JAX.
"""

from __future__ import annotations

import ast
import functools
import sys
import types
import typing
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

import jax
import numpy as np
from jaxtyping import AbstractArray, jaxtyped

__all__ = ["check_shapes_in", "checked"]

_CHECKED_BY_FUNCTIONS = ("ArrayLike", "Key", "Samples")
_UNIONS = (typing.Union, types.UnionType)


def check_shapes_in(package: str) -> None:
    """Have every function of a package checked that is imported from now on."""
    sys.meta_path.insert(0, _Finder(package))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, checked at every call; names of dimensions mean the same in all that one call takes and returns."""
    if not function.__annotations__:
        return function

    @functools.wraps(function)
    def checking(*args: Any, **kwargs: Any) -> Any:
        names, hints = _signature(function)
        if not hints:
            return function(*args, **kwargs)
        with jaxtyped("context"):
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            for name, hint in hints.items():
                if name in given and not _fits(given[name], hint, argument=True):
                    raise AssertionError(_fault(function, name, given, hints))
            result = function(*args, **kwargs)
            if "return" in hints and not _fits(result, hints["return"]):
                raise AssertionError(_fault(function, "return", given | {"return": result}, hints))
            return result

    return checking


def _signature(function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of what can be given by position, and the annotations that name arrays, once all of the module is there."""
    code = function.__code__
    place = (code.co_filename, code)  # inner functions are made at every call, from the same code
    if place not in _SIGNATURES:
        names = function.__globals__ | dict.fromkeys(_CHECKED_BY_FUNCTIONS, Any)
        hints = {name: _evaluated(hint, names) for name, hint in function.__annotations__.items()}
        _SIGNATURES[place] = (
            code.co_varnames[: code.co_argcount],
            {name: hint for name, hint in hints.items() if _has_arrays(hint)},
        )
    return _SIGNATURES[place]


_SIGNATURES: dict[tuple[str, types.CodeType], tuple[tuple[str, ...], dict[str, Any]]] = {}


def _evaluated(hint: str, names: dict[str, Any]) -> Any:
    try:
        return eval(hint, names)
    except (NameError, AttributeError):  # of a type that only type checkers know
        if "[Array" in hint or "[np.ndarray" in hint:
            raise
        return Any


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray)


def _has_arrays(hint: Any) -> bool:
    if _is_array(hint):
        return hint.array_type is not Any
    return typing.get_origin(hint) in (tuple, *_UNIONS) and any(map(_has_arrays, typing.get_args(hint)))


def _fits(value: Any, hint: Any, *, argument: bool = False) -> bool:
    """Whether all arrays fit, in a tuple or a union; of other types only those in a union are told apart."""
    if _is_array(hint):
        return isinstance(value, _of_numpy(hint) if argument and isinstance(value, np.ndarray) else hint)
    fits, parts = functools.partial(_fits, argument=argument), typing.get_args(hint)
    if typing.get_origin(hint) in _UNIONS:
        return any(fits(value, part) if _has_arrays(part) else _is(value, part) for part in parts)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        parts = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(value) == len(parts) and all(map(fits, value, parts))
    return True


@functools.cache
def _of_numpy(hint: Any) -> Any:
    return hint.dtype[np.ndarray, hint.dim_str] if hint.array_type is jax.Array else hint


def _is(value: Any, kind: Any) -> bool:
    return kind is Any or isinstance(value, typing.get_origin(kind) or kind)


def _fault(function: Callable[..., Any], name: str, values: dict[str, Any], hints: dict[str, Any]) -> str:
    def told(value: Any) -> str:
        return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}" if hasattr(leaf, "shape") else leaf, value))

    others = "".join(f"\n  {other}: {told(values[other])}, {hints[other]}" for other in values if other in hints)
    return f"{function.__module__}.{function.__qualname__}: {name} does not fit its annotation, of these:{others}"


class _Finder(MetaPathFinder):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] != self.package:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Adds the decorator to each function, below those that compile it. Nothing is kept on disk for runs without it."""

    def get_code(self, fullname: str) -> Any:
        tree = ast.parse(self.get_data(self.path), self.path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                decorator = ast.parse(f"__import__({__name__!r}).checked", mode="eval").body
                node.decorator_list.append(ast.copy_location(decorator, node))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)

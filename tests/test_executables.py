"""Compiled code is released before the process runs out of memory maps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxrel import executables


@pytest.fixture
def maps(tmp_path, monkeypatch):
    """Pretend to use `used` of `limit` maps."""

    def pretend(used, limit):
        (tmp_path / "maps").write_text("0-1 r-xp\n" * used)
        (tmp_path / "limit").write_text(f"{limit}\n")
        monkeypatch.setattr(executables, "_MAPS", tmp_path / "maps")
        monkeypatch.setattr(executables, "_LIMIT", tmp_path / "limit")

    return pretend


@pytest.mark.parametrize(("used", "released"), [(49, False), (50, True), (99, True)])
def test_caches_are_cleared_from_half_of_the_limit_on(maps, used, released):
    traces = []

    @jax.jit
    def function(x):
        traces.append(None)
        return x + 1

    function(jnp.ones(()))
    maps(used, 100)
    assert executables.release_if_many() is released
    function(jnp.ones(()))
    assert len(traces) == 1 + released


def test_systems_that_do_not_tell_are_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(executables, "_MAPS", tmp_path / "nothing")
    assert executables.release_if_many() is False


def test_a_real_process_is_far_from_the_limit():
    assert executables.release_if_many() is False

"""Compiled code is kept for later processes, and released before the process runs out of memory maps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrel import Task, transferability_score
from jaxrel._core import programs
from jaxrel._core.programs import compiled
from jaxrel.metrics import h_score


@pytest.fixture
def maps(tmp_path, monkeypatch):
    """Pretend to use `used` of `limit` maps."""

    def pretend(used, limit):
        (tmp_path / "maps").write_text("0-1 r-xp\n" * used)
        (tmp_path / "limit").write_text(f"{limit}\n")
        monkeypatch.setattr(programs, "_MAPS", tmp_path / "maps")
        monkeypatch.setattr(programs, "_LIMIT", tmp_path / "limit")

    return pretend


@pytest.mark.parametrize(
    ("used", "own_released", "all_released"), [(49, False, False), (50, True, False), (76, True, True)]
)
def test_own_programs_go_from_half_of_the_limit_on_and_those_of_others_from_three_quarters(
    maps, used, own_released, all_released
):
    own = compiled(lambda x: x + 1)
    others = jax.jit(lambda x: x + 1)
    own(jnp.ones(()))
    others(jnp.ones(()))
    maps(used, 100)
    assert programs.release_if_many() is own_released
    assert own._cache_size() == 1 - own_released
    assert others._cache_size() == 1 - all_released  # type: ignore[attr-defined]


def test_a_limit_above_that_of_linux_allows_no_more(maps):
    maps(40_000, 10**9)
    assert programs.release_if_many() is True


def test_calls_look_after_some_compilations_but_not_inside_a_transformation(maps, monkeypatch):
    monkeypatch.setattr(programs._compilations, "new", 0)
    own = compiled(lambda x: 2 * x)
    maps(50, 100)
    own(np.ones(1, np.float32))
    assert own._cache_size() == 1  # one compilation, or two, is no reason to look
    for size in range(2, 12):
        jax.jit(lambda x: x - 1)(np.ones(size, np.float32))
    jax.jit(own)(np.ones(1, np.float32))
    assert programs._compilations.new >= programs._BETWEEN_LOOKS
    np.testing.assert_array_equal(own(np.ones(1, np.float32)), [2])
    assert own._cache_size() == 0
    assert programs._compilations.new == 0


def test_metrics_and_verbs_let_programs_go_by_themselves(maps, monkeypatch):
    monkeypatch.setattr(programs, "_BETWEEN_LOOKS", 0)
    features, labels = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    maps(50, 100)
    for function in (lambda: h_score(features, labels), lambda: transferability_score(Task(features, labels))):
        function()
        assert not any(program._cache_size() for program in programs._programs)


def test_memory_maps_of_a_real_program_are_given_back():
    own = compiled(lambda x: jnp.linalg.svd(x @ x.T)[1] + jnp.sort(x[:, 0]))
    for size in range(3, 8):
        own(np.eye(size, dtype=np.float32))
    used = programs._maps_in_use()[0]
    own.clear_cache()
    assert used == 0 or programs._maps_in_use()[0] < used


def test_systems_that_do_not_tell_are_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(programs, "_MAPS", tmp_path / "nothing")
    assert programs.release_if_many() is False


def test_a_real_process_is_far_from_the_limit():
    assert programs.release_if_many() is False


@pytest.fixture
def settings():
    """Of the user, who has none; as they were before in the end."""
    names = ("dir", "max_size")
    before = {f"jax_compilation_cache_{name}": getattr(jax.config, f"jax_compilation_cache_{name}") for name in names}
    before |= {name: getattr(jax.config, name) for name in (LEAST_SECONDS, ENABLED)}
    jax.config.update(FOLDER, None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


FOLDER, ENABLED = "jax_compilation_cache_dir", "jax_enable_compilation_cache"
CONFIG: Any = jax.config  # which makes its attributes while it runs
LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def test_programs_are_kept_in_a_folder_of_this_processor(settings, tmp_path):
    programs.keep_in(tmp_path / "programs")
    (folder,) = (tmp_path / "programs").iterdir()
    assert CONFIG.jax_compilation_cache_dir == str(folder)
    assert CONFIG.jax_compilation_cache_max_size == programs._MOST_BYTES


@pytest.mark.parametrize("own", [(FOLDER, "of the user"), (ENABLED, False)])
def test_what_the_user_has_set_up_stays(settings, own, tmp_path):
    jax.config.update(*own)
    before = CONFIG.jax_compilation_cache_dir
    programs.keep_in(tmp_path / "programs")
    assert CONFIG.jax_compilation_cache_dir == before
    assert not (tmp_path / "programs").exists()


def test_without_a_folder_nothing_is_kept(settings, tmp_path):
    (tmp_path / "programs").write_text("a file")
    programs.keep_in(tmp_path / "programs")
    assert CONFIG.jax_compilation_cache_dir is None


def test_processors_have_different_names(monkeypatch):
    own = programs.processor()
    monkeypatch.setattr(programs.platform, "machine", lambda: "another")
    assert programs.processor() != own

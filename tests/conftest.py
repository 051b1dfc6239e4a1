"""What the whole suite runs under: JAX's own checks, a compilation cache and the shared data."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Switches on the key-reuse checker and the compilation cache before any test is imported."""
    jax.config.update("jax_debug_key_reuse", True)
    # One folder a worker: JAX writes cache entries in place, so two writers could meet in one file.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax") / worker))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture
def strict_ranks() -> Iterator[None]:
    """Adding [N] to [M, N] without saying so is an error inside the test (not for distrax code)."""
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The prepared data sets beside the checkout; the test is skipped where there are none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GENJAX_MODELS_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no prepared data sets in {folder}")
    return folder

"""What the whole suite runs under: JAX's own checks, a compilation cache and the shared data."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Switches on the key-reuse checker and the compilation cache before any test is imported."""
    jax.config.update("jax_debug_key_reuse", True)
    # `pytest --cache-clear` empties it. Entries carry a checksum: of one that another process is
    # still writing, or was killed while writing, JAX only warns, and compiles.
    jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("jax")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


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

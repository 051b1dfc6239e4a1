"""Compiled for one run: what these tests spend is compile time."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def few_optimizations() -> Iterator[None]:
    """Halves the time of a compilation; a certificate of 10^5 replicates is fast enough."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

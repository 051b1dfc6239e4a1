"""The oracles of this folder are exact to the last digits of float64."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    """Every array of a test is in float64, unless the test says otherwise."""
    with jax.enable_x64(True):
        yield

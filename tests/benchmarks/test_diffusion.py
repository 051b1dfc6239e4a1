"""The sampling benchmark at a tiny size: its rows, its ratios, and the verdict."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import diffusion
from benchmarks.diffusion import Cost, Settings
from benchmarks.timing import Interval
from genjax_models.interfaces import ConditionalNetwork


def test_a_row_for_each_way_of_sampling(tmp_path: Path) -> None:
    settings = Settings(
        rounds=6,
        num_timesteps=3,
        batch_size=2,
        image_size=4,
        features=(4,),
        markdown=tmp_path / "report.md",
    )
    diffusion.main(settings)
    lines = (tmp_path / "report.md").read_text().splitlines()
    rows = [line.strip("| ").split("|") for line in lines if re.search(r"\d \[", line)]
    assert [row[0].strip() for row in rows] == [
        *("ancestral sampling", "DDIM, as many steps", "network evaluations"),
    ]
    for row in rows[:2]:
        ratio = float(row[2].split()[0])
        assert math.isfinite(ratio) and ratio > 0
    assert "is within the limit" in lines[-1] or "is above the limit" in lines[-1]


def test_the_verdict_is_that_of_the_largest_ratio() -> None:
    def verdict(*medians: float) -> str:
        ratios = {str(i): Interval(m, m, m) for i, m in enumerate(medians)}
        return diffusion.report(Settings(), Cost(ratios, ratios)).splitlines()[-1]

    assert verdict(1.02, 1.09) == "The largest ratio, 1.090, is within the limit of 1.1."
    assert verdict(1.2, 1.09) == "The largest ratio, 1.200, is above the limit of 1.1."


def test_the_bare_loop_evaluates_the_network_once_a_step() -> None:
    """x, then x + 1 / T, and so on: every time from 1 down to 1 / T is added."""
    network = ConditionalNetwork(lambda key: {}, lambda params, x, time: x + time)
    key = jax.random.key(0)
    x = diffusion.evaluate(network, {}, key, 4, 3)
    start = jax.random.normal(jax.random.clone(key), (3,))
    np.testing.assert_allclose(x, start + jnp.sum(jnp.arange(1, 5) / 4), rtol=1e-6)


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 6"):
        Settings(rounds=5)

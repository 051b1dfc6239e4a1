"""The benchmark at a tiny size; and that annealing needs no products beyond those of its floor."""

import dataclasses
import math
from pathlib import Path

import jax
import pytest

from benchmarks import rbm
from benchmarks.rbm import Settings
from genjax_models.models.energy import rbm as machine

TINY = Settings(
    rounds=6,
    num_hidden=3,
    chains=4,
    temperatures=2,
    batch_sizes=(5,),
    examples=20,
    seconds=0.001,
)


def test_a_row_for_each_contender(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    rbm.main(dataclasses.replace(TINY, markdown=path))
    rows = [line.strip("| ").split(" | ") for line in path.read_text().splitlines()]
    names = ("genjax_models", "matrix products", "5")
    found = {row[0]: row[1:] for row in rows if len(row) == 4 and row[0] in names}
    assert set(found) == set(names)
    for cells in found.values():
        for cell in cells:
            value = float(cell.split()[0])
            assert math.isfinite(value) and value >= 0
    assert found["matrix products"][2].startswith("1.000")


def test_a_temperature_takes_two_products_of_matrices() -> None:
    """Two energies and two layers of a Gibbs step share v W."""
    params = machine.rbm(num_dims=40, num_hidden=30).init(jax.random.key(0))
    lowered = jax.jit(rbm.log_partition(5, num_chains=20)).lower(params, jax.random.key(0))
    assert lowered.compile().as_text().count(" dot(") == 2


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 6"):
        rbm.main(dataclasses.replace(TINY, rounds=5))

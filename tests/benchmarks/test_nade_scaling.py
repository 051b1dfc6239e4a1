"""The scaling benchmark at a tiny size: a row for each function and size, and its ratios."""

import math
from pathlib import Path

import pytest

from benchmarks import nade_scaling
from benchmarks.nade_scaling import Settings


def test_a_row_for_each_function_and_size(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    nade_scaling.main(
        Settings(
            num_dims=(8, 16), hidden_dim=2, batch_size=2, rounds=6, num_steps=1, markdown=report
        )
    )
    rows = [line.strip("| ").split(" | ") for line in report.read_text().splitlines()]
    rows = [row for row in rows if len(row) == 4]
    sizes = [(row[0], row[1]) for row in rows]
    assert sizes == [(n, d) for n in ("log_prob", "gradient", "sample") for d in ("8", "16")]
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first[3] == "–"
        median = float(second[3].split()[0])
        assert math.isfinite(median) and median > 0


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 6"):
        nade_scaling.main(Settings(rounds=5))

"""The ring's benchmark: its table is of its runs, and what is there is not run again."""

import json

import numpy as np
from matplotlib import image

from benchmarks import ring
from experiments import gan


def test_the_table_is_of_the_runs(tmp_path, monkeypatch, capsys) -> None:
    started = []

    def run(settings: gan.Settings):
        """Stands for the experiment: what it leaves behind."""
        started.append(settings)
        folder = tmp_path / f"{settings.loss}-{settings.seed}"
        assert settings.out == str(folder) and settings.resume == folder.exists()
        folder.mkdir(exist_ok=True)
        values = {"covered_modes": 8 - settings.seed % 2, "high_quality_samples": 0.9}
        values["mode_reverse_kl"] = 0.001 * settings.seed
        metrics = {name: {"value": value} for name, value in values.items()}
        (folder / "result.json").write_text(json.dumps({"metrics": metrics}))
        return folder

    monkeypatch.setattr(gan, "run", run)
    monkeypatch.setattr(
        ring, "_samples", lambda folder: np.random.default_rng(0).normal(size=(9, 2))
    )
    settings = ring.Settings(losses=("hinge", "non_saturating"), num_seeds=4, out=tmp_path)
    ring.main(settings)
    lines = capsys.readouterr().out.strip().splitlines()
    # Modes 8, 7, 8, 7: mean 7.5, deviation 0.577, over the root of four.
    assert lines[-1] == "| non-saturating | 7.5 ± 0.3 | 90.0 ± 0.0 % | 0.0015 ± 0.0006 |"
    assert {(s.loss, s.seed, s.data) for s in started} == {
        (loss, seed, "ring") for loss in ("hinge", "non_saturating") for seed in range(4)
    }
    assert image.imread(tmp_path / "hinge.png").shape[1] > 1000
    ring.main(settings)

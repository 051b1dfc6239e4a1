"""Modes that GANs cover on the ring of eight Gaussians: every loss, five seeds.

    python -m benchmarks.ring --out runs/ring --markdown ring.md

Each run is one of `python -m experiments.gan --data ring`; one that is there already is not run
again. The protocol is that of Srivastava et al. 2017: 2,500 samples, of high quality within three
standard deviations of a mode, a mode covered by one such sample.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tyro

from experiments import gan, harness
from experiments.harness import pictures

LOSSES = ("wasserstein", "non_saturating", "minimax", "hinge", "least_squares")
_COLUMNS = {
    "covered_modes": "modes covered, of 8",
    "high_quality_samples": "samples of high quality",
    "mode_reverse_kl": "reverse KL of the modes, nats",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    losses: tuple[str, ...] = LOSSES
    """Which losses."""
    penalty: str = "interpolated"
    """On the critic's gradient."""
    penalty_weight: float = 0.1
    """Of the penalty."""
    num_seeds: int = 5
    """Runs of each loss."""
    num_steps: int = 6000
    """Steps of the generator."""
    hidden: tuple[int, ...] = (128, 128)
    """Units of the hidden layers of either player."""
    out: Path = Path("runs/ring")
    """Folder of the runs, and of ring.png."""
    markdown: Path | None = None
    """File that the table is written to, besides the screen."""

    def __post_init__(self) -> None:
        if self.num_seeds < 2:
            raise ValueError(f"num_seeds must be at least 2 for an error bar, got {self.num_seeds}")


def main(settings: Settings) -> None:
    """Run what is not there yet, print the table and draw the samples."""
    folders = {
        loss: [run(settings, loss, seed) for seed in range(settings.num_seeds)]
        for loss in settings.losses
    }
    text = report(settings, folders)
    print(text)
    if settings.markdown:
        settings.markdown.write_text(text)
    for loss, runs in folders.items():
        draw(runs, settings.out / f"{loss}.png")


def run(settings: Settings, loss: str, seed: int) -> Path:
    """The folder of one run, trained to its end."""
    folder = settings.out / f"{loss}-{seed}"
    return gan.run(
        gan.Settings(
            data="ring",
            loss=loss,  # type: ignore[arg-type]
            penalty=settings.penalty,  # type: ignore[arg-type]
            penalty_weight=settings.penalty_weight,
            num_steps=settings.num_steps,
            hidden=settings.hidden,
            seed=seed,
            out=str(folder),
            resume=folder.exists(),
        )
    )


def report(settings: Settings, folders: dict[str, list[Path]]) -> str:
    """The table as Markdown: means over seeds with their standard errors."""
    lines = [
        f"Ring of eight Gaussians, {settings.num_seeds} seeds, {settings.num_steps} steps, penalty"
        f" {settings.penalty} of weight {settings.penalty_weight:g}; mean ± standard error.",
        "",
        "| loss | " + " | ".join(_COLUMNS.values()) + " |",
        "|---|" + "---|" * len(_COLUMNS),
    ]
    for loss, runs in folders.items():
        metrics = [json.loads((folder / "result.json").read_text())["metrics"] for folder in runs]
        cells = [_cell(name, [found[name]["value"] for found in metrics]) for name in _COLUMNS]
        lines.append(f"| {loss.replace('_', '-')} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(folders: Sequence[Path], path: Path) -> None:
    """The samples of every seed, side by side."""
    pictures.save_points(path, {f"seed {seed}": _samples(f) for seed, f in enumerate(folders)})


def _samples(folder: Path) -> np.ndarray:
    import jax

    model, params, settings = harness.load_run(folder)
    keys = jax.random.split(jax.random.key(settings.seed), 2500)
    return np.asarray(jax.jit(jax.vmap(model.sample, in_axes=(None, 0)))(params, keys))


def _cell(name: str, values: Sequence[float]) -> str:
    mean, error = np.mean(values), np.std(values, ddof=1) / math.sqrt(len(values))
    if name == "high_quality_samples":
        return f"{100 * mean:.1f} ± {100 * error:.1f} %"
    digits = 1 if name == "covered_modes" else 4
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

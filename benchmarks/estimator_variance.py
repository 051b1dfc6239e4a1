"""The laboratory: variance, cost and use of estimators of gradients, side by side.

    python -m benchmarks.estimator_variance                 # every part at its default size
    python -m benchmarks.estimator_variance --parts exact   # one part
    python -m benchmarks.estimator_variance --parts compare --estimators pathwise dreg --bound iwae

Parts: "exact" (quadrature beside measurement for one Gaussian variable), "logistic" (Bayesian
logistic regression), "signal_to_noise" (tighter bounds are not always better), "discrete" (sigmoid
belief nets), "compare" (any model, estimator and K), "many" (10^6 replicates of 10^4 parameters).
Each prints its tables, and writes them as CSV and JSON, with a picture, to the folder `out`.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

from benchmarks.laboratory import (
    compare,
    discrete,
    gaussian,
    logistic,
    many,
    pictures,
    report,
    signal_to_noise,
)
from benchmarks.laboratory.belief_nets import ESTIMATORS, STRUCTURES, SUMMING, applicable

Part = Literal["exact", "logistic", "signal_to_noise", "discrete", "compare", "many"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the laboratory."""

    parts: tuple[Part, ...] = ("exact", "logistic", "signal_to_noise", "discrete")
    """What to run."""
    out: Path = Path("runs/laboratory")
    """Folder for CSV, JSON and pictures."""
    seed: int = 0
    """Of every random number."""
    num_replicates: int | None = None
    """Estimates that a variance is measured on; None for the default of each part."""
    data: Literal["digits", "binarized_mnist"] = "digits"
    """Data of the belief nets."""
    data_dir: str | None = None
    """Where TFDS keeps its data sets."""
    structures: tuple[str, ...] = STRUCTURES
    """Belief nets: linear, nonlinear, two layers."""
    num_steps: int = 2000
    """Training steps of each belief net, and of the models of "compare"."""
    models: tuple[str, ...] = ("vae",)
    """For "compare": names, or "module:function" giving (model, params, x)."""
    estimators: tuple[str, ...] = ()
    """For "compare": names, or "module:function" of (model, bound, K) giving an objective (pathwise
    and rloo if none is given); for "discrete": names (all that apply if none is given)."""
    num_samples: tuple[int, ...] = (2, 10)
    """For "compare": K."""
    bound: str = "elbo"
    """For "compare": elbo, iwae, renyi, vr_max, cubo, tvo, jackknife or ciwae."""

    def __post_init__(self) -> None:
        if self.num_replicates is not None and self.num_replicates < 20:
            raise ValueError(f"num_replicates must be at least 20, got {self.num_replicates}")
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        for name in self.structures:
            if name not in STRUCTURES:
                raise ValueError(f"structures must be among {list(STRUCTURES)}, got {name!r}")


def main(settings: Settings) -> None:
    """Run the parts in order."""
    parts: dict[str, Callable[[Settings], str]] = {
        "exact": _exact,
        "logistic": _logistic,
        "signal_to_noise": _signal_to_noise,
        "discrete": _discrete,
        "compare": _compare,
        "many": _many,
    }
    for name in settings.parts:
        start = time.perf_counter()
        print(f"\n## {name}\n\n{parts[name](settings)}\n", flush=True)
        print(f"{time.perf_counter() - start:.1f} s", flush=True)


def _described(settings: Settings) -> dict[str, str]:
    return {name: str(value) for name, value in dataclasses.asdict(settings).items()}


def _exact(settings: Settings) -> str:
    rows = gaussian.table(jax.random.key(settings.seed), settings.num_replicates or 100_000)
    report.write(settings.out, "exact", rows, _described(settings))
    ks = np.linspace(0, 5, 101)
    curves = {cost: gaussian.curves(cost, ks) for cost in gaussian.COSTS}
    pictures.variance_against_k(settings.out / "exact.png", ks, curves, rows)
    found = [row for cost in gaussian.COSTS for row in gaussian.crossings(cost, ks)]
    report.write(settings.out, "crossings", found, _described(settings))
    return f"{report.markdown(rows)}\n\nWhere two are equal:\n\n{report.markdown(found)}"


def _logistic(settings: Settings) -> str:
    rows = logistic.table(
        jax.random.key(settings.seed), num_replicates=settings.num_replicates or 200
    )
    report.write(settings.out, "logistic", rows, _described(settings))
    title = "Bayesian logistic regression, 50 samples"
    pictures.variance_by_step(settings.out / "logistic.png", rows, title)
    return report.markdown(rows)


def _signal_to_noise(settings: Settings) -> str:
    found = signal_to_noise.measure(
        jax.random.key(settings.seed), num_replicates=settings.num_replicates or 40_000
    )
    report.write(settings.out, "signal_to_noise", found.rows, _described(settings))
    report.write(settings.out, "signal_to_noise-slopes", found.slopes, _described(settings))
    pictures.ratio_against_samples(settings.out / "signal_to_noise.png", found.rows)
    return f"{report.markdown(found.rows)}\n\n{report.markdown(found.slopes)}"


def _discrete(settings: Settings) -> str:
    dataset, examples = discrete.load(settings.data, settings.data_dir)
    spreads, bounds = [], []
    for structure in settings.structures:
        names = [n for n in applicable(structure) if n in (settings.estimators or ESTIMATORS)]
        spreads += discrete.variances(
            structure,
            names,
            examples,
            num_steps=settings.num_steps,
            num_replicates=settings.num_replicates or 100,
        )
        report.write(settings.out, "discrete-variance", spreads, _described(settings))
        here = [row for row in spreads if row["structure"] == structure]
        name = structure.replace(" ", "-")
        title = f"Sigmoid belief net, {structure}, {settings.data}"
        pictures.variance_by_step(settings.out / f"discrete-{name}.png", here, title)
        bounds += discrete.bounds_after_training(
            structure,
            [name for name in names if name not in SUMMING],
            dataset,
            examples,
            num_steps=settings.num_steps,
        )
        report.write(settings.out, "discrete-bounds", bounds, _described(settings))
    return f"{report.markdown(spreads)}\n\n{report.markdown(bounds)}"


def _compare(settings: Settings) -> str:
    rows = compare.compare(
        settings.models,
        settings.estimators or ("pathwise", "rloo"),
        settings.num_samples,
        bound=settings.bound,
        num_replicates=settings.num_replicates or 1000,
        num_steps=settings.num_steps,
    )
    report.write(settings.out, "compare", rows, _described(settings))

    def label(row: dict) -> str:
        return f"{row['model']}, {row['estimator']}, K = {row['K']}"

    pictures.bars(settings.out / "compare.png", rows, label)
    return report.markdown(rows)


def _many(settings: Settings) -> str:
    found = many.measure(
        jax.random.key(settings.seed), num_replicates=settings.num_replicates or 1_000_000
    )
    report.write(settings.out, "many", [found], _described(settings))
    return report.markdown([found])


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

"""The cost of each multi-sample gradient estimator beside one plain IWAE step.

    python -m benchmarks.multi_sample --markdown multi_sample.md

All train the network of `benchmarks.throughput` with the importance-weighted bound on one batch,
and take turns in one process; a ratio is the median over rounds of the ratio within a round, with
its 95 % interval from order statistics.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro

from benchmarks.contenders import (
    LEARNING_RATE,
    Contender,
    Sizes,
    draw_batch,
    draw_layers,
    draw_losses,
    repeat_step,
)
from benchmarks.laboratory.report import machine
from benchmarks.peers.library import model_and_params
from benchmarks.timing import median_interval, race, ratios
from genjax_models.learning import NVIL, bounds, variational
from genjax_models.training import gradient_descent, stateful_gradient_descent

ESTIMATORS = (
    "pathwise",
    "dreg",
    "score_function",
    "rloo",
    "vimco_geometric",
    "vimco_arithmetic",
    "nvil",
    "reweighted_wake_sleep",
)
WANTED = 1.15
"""The largest ratio to the first of them that is wanted."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    rounds: int = 15
    """Turns of each estimator; at least 15 for a result worth keeping."""
    num_samples: int = 50
    """K."""
    steps: int = 10
    """Timed steps of a turn."""
    chunk_size: int | None = None
    """Samples held at a time; adds DReG in chunks to the table."""
    markdown: Path | None = None
    """File that the report is written to, besides the screen."""


def contenders(
    num_samples: int,
    sizes: Sizes,
    *,
    names: Sequence[str] = ESTIMATORS,
    chunk_size: int | None = None,
) -> list[Contender]:
    """One for each estimator, on the same network and batch; plain IWAE comes first."""
    encoder, decoder = draw_layers(sizes.encoder, 0), draw_layers(sizes.decoder, 1)
    batch = jnp.asarray(draw_batch(sizes, 2))
    model, params = model_and_params(sizes, encoder, decoder)

    def contender(name: str, **options: Any) -> Contender:
        estimator: Any = NVIL() if name == "nvil" else name
        objective: Any = variational(
            model, bound=bounds.iwae, estimator=estimator, num_samples=num_samples, **options
        )
        optimizer, loss = optax.adam(LEARNING_RATE), mean_loss(objective)
        if name == "nvil":
            algorithm = stateful_gradient_descent(
                objective, optimizer, lambda key: params, objective.init_state
            )
            state = objective.init_state(params, jax.random.key(0))
            loss = lambda key: objective(params, state, key, batch)[0]  # noqa: E731
        else:
            algorithm = gradient_descent(objective, optimizer, lambda key: params)
        step = jax.jit(algorithm.step, donate_argnums=0)
        start = algorithm.init(jax.random.key(0))
        label = name + (f", chunks of {chunk_size}" if options else "")
        return Contender(label, repeat_step(step, start, batch), draw_losses(loss))

    def mean_loss(objective: Any) -> Callable[[jax.Array], jax.Array]:
        def loss(key: jax.Array) -> jax.Array:
            keys = jax.random.split(key, sizes.batch_size)
            losses, _ = jax.vmap(lambda key, x: objective(params, key, x))(keys, batch)
            return jnp.mean(losses)

        return loss

    found = [contender(name) for name in names]
    if chunk_size is not None:
        found.append(contender("dreg", chunk_size=chunk_size))
    return found


def report(settings: Settings) -> str:
    """The table, as Markdown."""
    if settings.rounds < 6:
        raise ValueError(f"rounds must be at least 6 for a 95 % interval, got {settings.rounds}")
    competing = contenders(settings.num_samples, Sizes(), chunk_size=settings.chunk_size)
    compile_seconds = []
    for contender in competing:
        start = time.perf_counter()
        contender.run(1)
        compile_seconds.append(time.perf_counter() - start)
    runs = [contender.run for contender in competing]
    race(runs, num_rounds=1, num_steps=settings.steps)
    seconds = race(runs, num_rounds=settings.rounds, num_steps=settings.steps)
    lines = [
        f"K = {settings.num_samples}: {settings.rounds} rounds of {settings.steps} steps, batch"
        f" {Sizes().batch_size}; at most {WANTED} is wanted. {machine()}",
        "",
        "| estimator | ms a step | this / plain IWAE | first call, s |",
        "|---|---|---|---|",
    ]
    for contender, turns, first in zip(competing, seconds, compile_seconds, strict=True):
        step = median_interval([1e3 * turn for turn in turns])
        cells = (contender.name, str(step), str(ratios(turns, seconds[0])), f"{first:.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(settings: Settings) -> None:
    """Run the benchmark and print its report."""
    text = report(settings)
    print(text)
    if settings.markdown:
        settings.markdown.write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

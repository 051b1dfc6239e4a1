"""Milliseconds of NADE's log_prob, its gradient and sampling as the number of dimensions doubles.

    python -m benchmarks.nade_scaling --markdown nade.md

All sizes take turns in one process (`benchmarks.timing.race`), and the ratio of successive sizes is
the median of the ratios within a round, with its 95 % interval: 2 is linear, 4 is quadratic.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from benchmarks.timing import median_interval, race, ratios
from genjax_models.interfaces import Array, Key, Params
from genjax_models.models.fully_observed import nade


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    num_dims: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    """D, each twice the one before."""
    hidden_dim: int = 500
    """Hidden units."""
    batch_size: int = 100
    """Examples, by vmap."""
    rounds: int = 15
    """Turns of each size."""
    num_steps: int = 2
    """Calls of a turn."""
    markdown: Path | None = None
    """File that the report is written to, besides the screen."""


def main(settings: Settings) -> None:
    """Run the benchmark and print its report."""
    if settings.rounds < 6:
        raise ValueError(f"rounds must be at least 6 for a 95 % interval, got {settings.rounds}")
    text = report(settings)
    print(text)
    if settings.markdown:
        settings.markdown.write_text(text)


def report(settings: Settings) -> str:
    """The table of times and ratios as Markdown."""
    lines = [
        f"NADE, {settings.hidden_dim} hidden units, batch {settings.batch_size};"
        f" {settings.rounds} rounds of {settings.num_steps} calls; {os.cpu_count()} processors,"
        f" jax {jax.__version__} on {jax.devices()[0].platform}.",
        "",
        "| | D | ms a call | ratio to D / 2 |",
        "|---|---|---|---|",
    ]
    for name in ("log_prob", "gradient", "sample"):
        runs = [compiled(name, settings, num_dims) for num_dims in settings.num_dims]
        race(runs, num_rounds=1, num_steps=1)
        seconds = race(runs, num_rounds=settings.rounds, num_steps=settings.num_steps)
        for index, (num_dims, turns) in enumerate(zip(settings.num_dims, seconds, strict=True)):
            ratio = str(ratios(turns, seconds[index - 1])) if index else "–"
            median = 1000 * median_interval(turns).median
            lines.append(f"| {name} | {num_dims} | {median:.1f} | {ratio} |")
    lines.append(f"\nLoad average at the end: {os.getloadavg()[0]:.1f}")
    return "\n".join(lines) + "\n"


def compiled(name: str, settings: Settings, num_dims: int) -> Callable[[int], None]:
    """`run(num_steps)` of one function for one size, compiled."""
    model = nade(num_dims=num_dims, hidden_dim=settings.hidden_dim)
    params_key, data_key, sample_key = jax.random.split(jax.random.key(0), 3)
    params = model.init(params_key)
    shape = (settings.batch_size, num_dims)
    xs = jax.random.bernoulli(data_key, 0.2, shape).astype(jnp.float32)
    keys = jax.random.split(sample_key, settings.batch_size)

    def log_prob(params: Params, xs: Array) -> Array:
        return jnp.mean(jax.vmap(model.log_prob, (None, 0))(params, xs))

    def sample(params: Params, keys: Key) -> Array:
        return jax.vmap(model.sample, (None, 0))(params, keys)

    functions: dict[str, tuple[Callable[..., Any], Array]] = {
        "log_prob": (log_prob, xs),
        "gradient": (jax.grad(log_prob), xs),
        "sample": (sample, keys),
    }
    function, argument = functions[name]
    call = functools.partial(jax.jit(function).lower(params, argument).compile(), params, argument)

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            jax.block_until_ready(call())

    return run


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

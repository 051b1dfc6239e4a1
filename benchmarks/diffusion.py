"""What a sampling run of a diffusion model costs beside its network evaluations alone.

    python -m benchmarks.diffusion --markdown diffusion.md

A run of T reverse steps with the U-Net, and a loop of T evaluations of the same U-Net on the same
batch, take turns in one process (`benchmarks.timing`): a ratio is the median over rounds of the
ratio within a round, with its 95 % interval, so that what else the machine does moves both sides.
The loop feeds each output to the next evaluation and does nothing else; so the ratio less one is
the share of all the rest: noise, posterior means, clipping, keys.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import tyro

from benchmarks.throughput import describe_machine
from benchmarks.timing import Interval, median_interval, race, ratios
from genjax_models import networks
from genjax_models.interfaces import Array, ConditionalNetwork, Key, Params
from genjax_models.models.markov_chain import diffusion, log_snr_schedule, sample_ddim

LIMIT = 1.1
BARE = "network evaluations"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    rounds: int = 15
    """Turns of each contender, at least 6."""
    num_timesteps: int = 50
    """T, steps of a sampling run."""
    batch_size: int = 8
    """Samples drawn together."""
    image_size: int = 28
    """Height and width."""
    features: tuple[int, ...] = (32, 64, 64)
    """Channels of the U-Net at each resolution."""
    markdown: Path | None = None
    """File that the report is written to, besides the screen."""

    def __post_init__(self) -> None:
        if self.rounds < 6:
            raise ValueError(f"rounds must be at least 6 for a 95 % interval, got {self.rounds}")


class Cost(NamedTuple):
    """Seconds of a sampling run by its name, and their ratios to its network evaluations alone."""

    seconds: dict[str, Interval]
    ratios: dict[str, Interval]


def measure(settings: Settings) -> Cost:
    """Time ancestral and DDIM sampling beside the network evaluations alone."""
    shape = (settings.image_size, settings.image_size)
    num_dims = settings.image_size**2
    network = networks.unet(shape, features=settings.features)
    model = diffusion(
        network,
        log_snr_schedule(settings.num_timesteps),
        num_dims=num_dims,
        likelihood="discretized_gaussian",
        num_levels=256,
    )
    params = jax.jit(model.init)(jax.random.key(0))
    contenders: dict[str, Callable[[Params, Key], Array]] = {
        "ancestral sampling": model.sample,
        "DDIM, as many steps": lambda params, key: sample_ddim(model, params, key),
        BARE: lambda params, key: evaluate(network, params, key, settings.num_timesteps, num_dims),
    }
    runs = [_runner(run, params, settings.batch_size) for run in contenders.values()]
    race(runs, num_rounds=1, num_steps=1)
    turns = race(runs, num_rounds=settings.rounds, num_steps=1)
    by_name = dict(zip(contenders, turns, strict=True))
    return Cost(
        {name: median_interval(seconds) for name, seconds in by_name.items()},
        {name: ratios(by_name[name], by_name[BARE]) for name in contenders if name != BARE},
    )


def evaluate(
    network: ConditionalNetwork, params: Params, key: Key, num_steps: int, num_dims: int
) -> Array:
    """T evaluations one after the other, each of the outputs of the one before."""

    def step(x: Array, t: Array) -> tuple[Array, None]:
        return network.apply(params, x, t / num_steps), None

    x = jax.random.normal(key, (num_dims,))
    return jax.lax.scan(step, x, jnp.arange(num_steps, 0, -1))[0]


def _runner(
    run: Callable[[Params, Key], Array], params: Params, batch_size: int
) -> Callable[[int], None]:
    @jax.jit
    def compiled(params: Params, seed: int) -> Array:
        keys = jax.random.split(jax.random.key(seed), batch_size)
        return jax.vmap(run, in_axes=(None, 0))(params, keys)

    def repeat(num_steps: int) -> None:
        for seed in range(num_steps):
            jax.block_until_ready(compiled(params, seed))

    return repeat


def report(settings: Settings, cost: Cost) -> str:
    """The table, and whether the limit holds."""
    lines = [
        f"### {settings.num_timesteps} steps, {settings.batch_size} images of"
        f" {settings.image_size} x {settings.image_size} at a time, U-Net {settings.features},"
        f" {settings.rounds} rounds",
        "",
        "| | seconds | / network evaluations |",
        "|---|---|---|",
    ]
    for name, median in cost.seconds.items():
        lines.append(f"| {name} | {median} | {cost.ratios.get(name, '')} |")
    worst = max(ratio.median for ratio in cost.ratios.values())
    verdict = "within" if worst <= LIMIT else "above"
    lines += ["", f"The largest ratio, {worst:.3f}, is {verdict} the limit of {LIMIT}."]
    return "\n".join(lines)


def main(settings: Settings) -> None:
    """Run the benchmark and print its report."""
    text = f"{describe_machine()}\n\n{report(settings, measure(settings))}\n"
    print(text)
    if settings.markdown:
        settings.markdown.write_text(text)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

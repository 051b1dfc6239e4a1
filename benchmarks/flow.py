"""Milliseconds of a RealNVP's training step, log_prob and sampling, beside zuko's.

    python -m benchmarks.flow --markdown flow.md

Contenders take turns in one process (`benchmarks.timing.race`), and a ratio is the median of the
ratios within a round, with its 95 % interval. They begin at the same flow, so that the losses at
the start must be equal. zuko takes part where it is installed (`pip install zuko`, which brings
PyTorch). The matrix products alone are a floor that no contender can be under.
"""

import dataclasses
import functools
import itertools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from benchmarks.contenders import LEARNING_RATE, Layers, draw_layers
from benchmarks.timing import Interval, median_interval, race, ratios
from genjax_models.interfaces import Array, Params
from genjax_models.learning import maximum_likelihood
from genjax_models.models.transformation import density, real_nvp_flow
from genjax_models.training import gradient_descent

Functions = dict[str, Callable[[int], None]]
FUNCTIONS = ("training step", "log_prob", "sample")
LOG_SCALE = 0.1
MAX_LOG_SCALE = 2.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    num_dims: int = 64
    """Size of x, even."""
    num_couplings: int = 8
    """Affine couplings with alternating masks."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of each network's hidden layers."""
    batch_size: int = 256
    """Examples of a step, and samples of a draw."""
    rounds: int = 21
    """Turns of each contender; at least 15 for a result worth keeping."""
    num_steps: int = 10
    """Calls of a turn."""
    markdown: Path | None = None
    """File that the report is written to, besides the screen."""


class Contender(NamedTuple):
    """One implementation.

    Attributes:
        name: what the table calls it.
        functions: `run(num_calls)` by the names in `FUNCTIONS`, returning when the last is done.
        loss: mean of -log p(x) over the batch at the start, in nats; None where there is none.
    """

    name: str
    functions: Functions
    loss: float | None


def main(settings: Settings) -> None:
    """Run the benchmark and print its report."""
    if settings.rounds < 6:
        raise ValueError(f"rounds must be at least 6 for a 95 % interval, got {settings.rounds}")
    if settings.num_dims % 2:
        raise ValueError(f"num_dims must be even, got {settings.num_dims}")
    text = report(settings)
    print(text)
    if settings.markdown:
        settings.markdown.write_text(text)


def report(settings: Settings) -> str:
    """The tables as Markdown."""
    # Compile times are of real compilations.
    jax.config.update("jax_enable_compilation_cache", False)
    competing = contenders(settings)
    lines = [
        f"{settings.num_dims} dimensions, {settings.num_couplings} affine couplings with"
        f" {'x'.join(map(str, settings.hidden))} rectifiers, batch {settings.batch_size};"
        f" {settings.rounds} rounds of {settings.num_steps} calls; {os.cpu_count()} processors, jax"
        f" {jax.__version__} on {jax.devices()[0].platform}.",
        "",
        "| | | ms a call | genjax_models / this | first call, s |",
        "|---|---|---|---|---|",
    ]
    for name in FUNCTIONS:
        runs = [contender.functions[name] for contender in competing]
        first_calls = [_seconds(run) for run in runs]
        race(runs, num_rounds=1, num_steps=settings.num_steps)
        seconds = race(runs, num_rounds=settings.rounds, num_steps=settings.num_steps)
        for contender, turns, first_call in zip(competing, seconds, first_calls, strict=True):
            call = Interval(*(1e3 * value for value in median_interval(turns)))
            ratio = ratios(seconds[0], turns)
            lines.append(f"| {name} | {contender.name} | {call} | {ratio} | {first_call:.2f} |")
    lines.append(f"\nLoad average at the end: {os.getloadavg()[0]:.1f}")
    return "\n".join(lines) + "\n"


def contenders(settings: Settings) -> list[Contender]:
    """Every contender whose packages are installed, all with the same flow and batch.

    Raises:
        RuntimeError: their losses at the start differ: they do not compute the same thing.
    """
    couplings = draw_couplings(settings)
    shape = (settings.batch_size, settings.num_dims)
    batch = np.random.default_rng(1).standard_normal(shape, np.float32)
    found = [library(settings, couplings, batch)]
    try:
        from benchmarks.peers import zuko_nice

        found.append(Contender("zuko", *zuko_nice.functions(couplings, LOG_SCALE, batch)))
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "zuko"):
            raise
    losses = [contender.loss for contender in found if contender.loss is not None]
    if max(losses) - min(losses) > 1e-4 * abs(losses[0]):
        raise RuntimeError(f"the contenders' losses differ: {losses}")
    return [*found, matrix_products(settings)]


def draw_couplings(settings: Settings) -> list[Layers]:
    """From data to noise, the layers of each coupling: from the kept half to shifts of the other.

    The shifts are those of z = x e^s + t; the log scales s are the same everywhere at the start,
    since every implementation bounds them in a way of its own.
    """
    half = settings.num_dims // 2
    units = [half, *settings.hidden, half]
    return [draw_layers(units, seed) for seed in range(settings.num_couplings)]


def library(settings: Settings, couplings: list[Layers], batch: np.ndarray) -> Contender:
    """The library, whose couplings have an actnorm besides."""
    dims = np.arange(settings.num_dims)
    # Coupling 0 is next to the noise; zuko's first is next to the data and keeps the even ones.
    masks = np.stack([(dims + i) % 2 == 0 for i in range(len(couplings))])[::-1]
    flow = real_nvp_flow(
        num_dims=settings.num_dims,
        num_couplings=settings.num_couplings,
        hidden=settings.hidden,
        masks=masks,
        max_log_scale=MAX_LOG_SCALE,
    )
    model = density(flow)
    params = jax.tree.map(jnp.array, jax.jit(flow.init)(jax.random.key(0)))
    params["network"] = _params(couplings[::-1], masks)
    objective, optimizer = maximum_likelihood(model), optax.adam(LEARNING_RATE)
    algorithm = gradient_descent(objective, optimizer, lambda key: params)
    step = jax.jit(algorithm.step, donate_argnums=0)
    log_prob = jax.jit(jax.vmap(model.log_prob, in_axes=(None, 0)))
    sample = jax.jit(jax.vmap(model.sample, in_axes=(None, 0)))
    key, x = jax.random.key(0), jnp.asarray(batch)
    keys = jax.random.split(key, settings.batch_size)
    state = algorithm.init(key)

    def train(num_steps: int) -> None:
        nonlocal state
        for _ in range(num_steps):
            state, metrics = step(state, key, x)
        jax.block_until_ready((state, metrics))

    def repeat(function: Callable[[Params, Array], Array], argument: Array, num_calls: int) -> None:
        for _ in range(num_calls):
            output = function(params, argument)
        output.block_until_ready()

    functions: Functions = {
        "training step": train,
        "log_prob": functools.partial(repeat, log_prob, x),
        "sample": functools.partial(repeat, sample, keys),
    }
    # Not by `log_prob`, whose first call is to be timed.
    loss = -float(jax.jit(lambda params: jnp.mean(log_prob(params, x)))(params))
    return Contender("genjax_models", functions, loss)


def _params(couplings: list[Layers], masks: np.ndarray) -> Params:
    """The library's networks, from noise to data: x = (z - t) e^-s, all dimensions in and out."""
    num_dims = masks.shape[1]
    stacked: dict[str, dict[str, list[np.ndarray]]] = {}
    for layers, mask in zip(couplings, masks, strict=True):
        (first, first_bias), *between, (last, last_bias) = layers
        inputs = np.zeros((num_dims, first.shape[1]), np.float32)
        inputs[mask] = first
        shift = np.zeros((last.shape[0] + 1, num_dims), np.float32)
        shift[:, ~mask] = -math.exp(-LOG_SCALE) * np.concatenate([last, last_bias[None]])
        raw = np.zeros_like(shift)
        raw[-1] = MAX_LOG_SCALE * math.atanh(-LOG_SCALE / MAX_LOG_SCALE)
        outputs = np.concatenate([shift, raw], axis=1)
        dense = [(inputs, first_bias), *between, (outputs[:-1], outputs[-1])]
        for i, (kernel, bias) in enumerate(dense):
            entry = stacked.setdefault(f"Dense_{i}", {"kernel": [], "bias": []})
            entry["kernel"].append(kernel)
            entry["bias"].append(bias)
    return {
        "params": {
            name: {part: jnp.asarray(np.stack(arrays)) for part, arrays in entry.items()}
            for name, entry in stacked.items()
        }
    }


def matrix_products(settings: Settings) -> Contender:
    """X W of every layer, and X^T G and G W^T for training; none waits for another."""
    half = settings.num_dims // 2
    units = [half, *settings.hidden, settings.num_dims]
    generator = np.random.default_rng(0)
    operands = [
        tuple(
            jnp.asarray(generator.standard_normal(shape, np.float32))
            for shape in ((settings.batch_size, m), (m, n), (settings.batch_size, n))
        )
        for m, n in list(itertools.pairwise(units)) * settings.num_couplings
    ]

    @jax.jit
    def forward(operands: list[tuple[Array, ...]]) -> list[Array]:
        return [x @ w for x, w, _ in operands]

    @jax.jit
    def both(operands: list[tuple[Array, ...]]) -> list[tuple[Array, ...]]:
        return [(x @ w, x.T @ g, g @ w.T) for x, w, g in operands]

    def repeat(function: Callable[..., object], num_calls: int) -> None:
        for _ in range(num_calls):
            outputs = function(operands)
        jax.block_until_ready(outputs)

    functions: Functions = {name: functools.partial(repeat, forward) for name in FUNCTIONS}
    functions["training step"] = functools.partial(repeat, both)
    return Contender("matrix products", functions, None)


def _seconds(run: Callable[[int], None]) -> float:
    start = time.perf_counter()
    run(1)
    return time.perf_counter() - start


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

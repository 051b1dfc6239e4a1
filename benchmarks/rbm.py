"""Restricted Boltzmann machines: annealing beside its floor, an epoch beside a peer.

    python -m benchmarks.rbm --markdown rbm.md

Contenders take turns in one process (see `benchmarks.timing`), so that what else the machine does
moves both sides of a ratio.

- **Annealing**: 1,000 chains of a machine of 784 + 500 units. The floor is the two products of
  matrices that a temperature cannot do without: v W and h W'. Time is linear in the number of
  temperatures (the program is a scan), so `--temperatures` of them are timed in each turn and the
  time of 10,000 is reported; `--temperatures 10000` times them all.
- **Training**: persistent contrastive divergence with one Gibbs step and as many chains as examples
  in the batch, which is what scikit-learn's BernoulliRBM does, in float32 both, on binary data of
  the size of MNIST.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from benchmarks.throughput import describe_machine
from benchmarks.timing import Interval, median_interval, race, ratios
from genjax_models.inference import annealed_importance_sampling
from genjax_models.learning import persistent_contrastive_divergence
from genjax_models.models.energy import rbm
from genjax_models.training import stateful_gradient_descent

NUM_DIMS = 784
NUM_TEMPERATURES = 10_000
LEARNING_RATE = 0.05

Run = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    rounds: int = 15
    """Turns of each contender."""
    num_hidden: int = 500
    """Hidden units."""
    chains: int = 1000
    """Chains of annealed importance sampling; 0 leaves it out."""
    temperatures: int = 100
    """Temperatures timed in a turn."""
    batch_sizes: tuple[int, ...] = (10, 100)
    """Batch sizes of training."""
    examples: int = 50_000
    """Examples of an epoch."""
    seconds: float = 1.0
    """About how long the peer's turn of training takes."""
    markdown: Path | None = None
    """File that the report is written to, besides the screen."""


def main(settings: Settings) -> None:
    """Run the benchmark and print its report."""
    if settings.rounds < 6:
        raise ValueError(f"rounds must be at least 6 for a 95 % interval, got {settings.rounds}")
    report = [describe_machine()]
    if settings.chains:
        report.append(annealing_report(settings))
        print("annealing done", file=sys.stderr)
    report.append(training_report(settings))
    text = "\n\n".join(report) + "\n"
    print(text)
    if settings.markdown:
        settings.markdown.write_text(text)


def annealing_report(settings: Settings) -> str:
    """Seconds of annealing, of its matrix products, and their ratio."""
    runs = [annealing(settings), annealing_floor(settings)]
    num_steps = settings.temperatures
    race(runs, num_rounds=1, num_steps=num_steps)  # Compiles.
    seconds = race(runs, num_rounds=settings.rounds, num_steps=num_steps)
    lines = [
        f"### Annealed importance sampling: {settings.chains:,} chains, {NUM_DIMS} +"
        f" {settings.num_hidden} units, {settings.rounds} rounds of {num_steps} temperatures",
        "",
        f"| | ms a temperature | s for {NUM_TEMPERATURES:,} | times its floor |",
        "|---|---|---|---|",
    ]
    for name, turns in zip(("genjax_models", "matrix products"), seconds, strict=True):
        whole = _scaled(turns, NUM_TEMPERATURES)
        lines.append(f"| {name} | {_scaled(turns, 1e3)} | {whole} | {ratios(turns, seconds[1])} |")
    return "\n".join(lines)


def annealing(settings: Settings) -> Run:
    """`run(num_steps)`: as many temperatures of annealed importance sampling."""
    params = _params(settings.num_hidden)
    programs: dict[int, Callable[..., jax.Array]] = {}

    def run(num_steps: int) -> None:
        if num_steps not in programs:
            programs[num_steps] = jax.jit(log_partition(num_steps, settings.chains))
        jax.block_until_ready(programs[num_steps](params, jax.random.key(0)))

    return run


def log_partition(num_temperatures: int, num_chains: int) -> Callable[..., jax.Array]:
    """`estimate(params, key) -> []`, of as many temperatures beyond the first."""
    ladder = np.linspace(0, 1, num_temperatures + 1)

    def estimate(params: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        path = rbm.annealing_path(params)
        return annealed_importance_sampling(path, key, ladder, num_chains=num_chains).value

    return estimate


def annealing_floor(settings: Settings) -> Run:
    """`run(num_steps)`: the two products of each temperature, and nothing else."""
    weights = _params(settings.num_hidden)["weights"]
    v, h = (_binary(settings.chains, size, seed) for seed, size in enumerate(weights.shape))
    products = jax.jit(lambda v, h, weights: (v @ weights, h @ weights.T))

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            outputs = products(v, h, weights)
        jax.block_until_ready(outputs)

    return run


def training_report(settings: Settings) -> str:
    """Seconds of an epoch of the library and of scikit-learn, and their ratio."""
    lines = [
        f"### An epoch of {settings.examples:,} examples: PCD-1, {NUM_DIMS} +"
        f" {settings.num_hidden} units, float32, {settings.rounds} rounds",
        "",
        "| batch size | genjax_models, s | scikit-learn, s | ratio |",
        "|---|---|---|---|",
    ]
    for batch_size in settings.batch_sizes:
        runs = [training(settings, batch_size), peer_training(settings, batch_size)]
        seconds = race(runs, num_rounds=1, num_steps=10)[1][0]
        num_steps = max(10, round(settings.seconds / seconds))
        race(runs, num_rounds=1, num_steps=num_steps)  # Compiles.
        ours, peer = race(runs, num_rounds=settings.rounds, num_steps=num_steps)
        steps_per_epoch = settings.examples // batch_size
        cells = [str(batch_size), _scaled(ours, steps_per_epoch), _scaled(peer, steps_per_epoch)]
        lines.append(f"| {' | '.join(map(str, [*cells, ratios(peer, ours)]))} |")
        print(f"batch size {batch_size} done", file=sys.stderr)
    return "\n".join(lines)


def training(settings: Settings, batch_size: int) -> Run:
    """`run(num_steps)`: as many steps in one compiled program, on batches that lie ready."""
    model = rbm.rbm(num_dims=NUM_DIMS, num_hidden=settings.num_hidden)
    persistent = persistent_contrastive_divergence(
        model, rbm.gibbs_kernel, lambda params, key: jnp.zeros(NUM_DIMS), num_chains=batch_size
    )
    algorithm = stateful_gradient_descent(
        persistent.objective, optax.sgd(LEARNING_RATE), model.init, persistent.init_state
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))

    @jax.jit
    def steps(state: Any, key: jax.Array, batches: jax.Array) -> Any:
        def step(state: Any, key_and_batch: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
            return algorithm.step(state, *key_and_batch)[0], None

        keys = jax.random.split(key, len(batches))
        return jax.lax.scan(step, state, (keys, batches))[0]

    prepared: dict[int, jax.Array] = {}

    def run(num_steps: int) -> None:
        nonlocal state
        if num_steps not in prepared:
            rows = _binary(num_steps * batch_size, NUM_DIMS, 0)
            prepared[num_steps] = rows.reshape(num_steps, batch_size, NUM_DIMS)
        state = jax.block_until_ready(steps(state, jax.random.key(1), prepared[num_steps]))

    return run


def peer_training(settings: Settings, batch_size: int) -> Run:
    """`run(num_steps)`: scikit-learn's fit of as many batches."""
    from sklearn.neural_network import BernoulliRBM

    peer = BernoulliRBM(
        n_components=settings.num_hidden,
        learning_rate=LEARNING_RATE,
        batch_size=batch_size,
        n_iter=1,
        random_state=0,
    )
    prepared: dict[int, np.ndarray] = {}

    def run(num_steps: int) -> None:
        if num_steps not in prepared:
            prepared[num_steps] = np.asarray(_binary(num_steps * batch_size, NUM_DIMS, 0))
        peer.fit(prepared[num_steps])

    return run


def _params(num_hidden: int) -> dict[str, jax.Array]:
    return rbm.rbm(num_dims=NUM_DIMS, num_hidden=num_hidden).init(jax.random.key(0))


def _binary(num_rows: int, num_columns: int, seed: int) -> jax.Array:
    """Zeros and ones, as many ones as MNIST has."""
    uniform = np.random.default_rng(seed).random((num_rows, num_columns), np.float32)
    return jnp.asarray(uniform < 0.13, jnp.float32)


def _scaled(turns: list[float], factor: float) -> str:
    interval = Interval(*(factor * value for value in median_interval(turns)))
    return f"{interval.median:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

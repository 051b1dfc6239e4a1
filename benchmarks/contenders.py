"""What every contender of the throughput benchmark is given, and what it gives back.

All of them train one network on one batch: an encoder 784-200-200-(2x50) and a decoder
50-200-200-784, both tanh, a Bernoulli likelihood, a standard normal prior and Adam.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

LEARNING_RATE = 1e-3

Layers = list[tuple[np.ndarray, np.ndarray]]
"""(kernel [num_inputs, num_outputs], bias [num_outputs]) of each dense layer."""


class Sizes(NamedTuple):
    """Sizes of network and batch."""

    num_dims: int = 784
    num_hidden: int = 200
    latent_dim: int = 50
    batch_size: int = 100

    @property
    def encoder(self) -> list[int]:
        """Units from x to the means and log standard deviations of q(z | x)."""
        return [self.num_dims, self.num_hidden, self.num_hidden, 2 * self.latent_dim]

    @property
    def decoder(self) -> list[int]:
        """Units from z to the logits of p(x | z)."""
        return [self.latent_dim, self.num_hidden, self.num_hidden, self.num_dims]


class Contender(NamedTuple):
    """One implementation, ready to be timed.

    Attributes:
        name: what the table calls it.
        run: `run(num_steps)` trains for as many steps and returns when the last has finished.
        losses: `losses(num_draws) -> [num_draws]`, independent draws of the loss, in nats an
            example, at the parameters that were given; None where there is no loss.
    """

    name: str
    run: Callable[[int], None]
    losses: Callable[[int], np.ndarray] | None


def draw_layers(units: list[int], seed: int) -> Layers:
    """Glorot-uniform kernels, and small biases so that a forgotten one shows."""
    generator = np.random.default_rng(seed)
    layers = []
    for num_inputs, num_outputs in itertools.pairwise(units):
        limit = (6 / (num_inputs + num_outputs)) ** 0.5
        kernel = generator.uniform(-limit, limit, (num_inputs, num_outputs))
        bias = generator.uniform(-0.1, 0.1, num_outputs)
        layers.append((kernel.astype(np.float32), bias.astype(np.float32)))
    return layers


def draw_batch(sizes: Sizes, seed: int) -> np.ndarray:
    """Binary data [batch_size, num_dims], three ones in ten."""
    uniform = np.random.default_rng(seed).random((sizes.batch_size, sizes.num_dims))
    return (uniform < 0.3).astype(np.float32)


def repeat_step(step: Callable[..., Any], state: Any, batch: jax.Array) -> Callable[[int], None]:
    """`run` of a contender in JAX: `step(state, key, batch) -> (state, output)`, one key a step."""
    # Made beforehand and used again and again: drawing keys is not what is timed.
    keys = itertools.cycle(list(jax.random.split(jax.random.key(0), 256)))

    def run(num_steps: int) -> None:
        nonlocal state
        for key in itertools.islice(keys, num_steps):
            state, output = step(state, key, batch)
        jax.block_until_ready((state, output))

    return run


def draw_losses(loss: Callable[[jax.Array], jax.Array]) -> Callable[[int], np.ndarray]:
    """`losses` of a contender in JAX: `loss(key) -> []`."""

    def losses(num_draws: int) -> np.ndarray:
        keys = jax.random.split(jax.random.key(1), num_draws)
        return np.asarray(jax.jit(jax.vmap(loss))(keys))

    return losses

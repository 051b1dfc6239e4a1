"""(b) The same by hand: one file, jax.numpy and optax.adam, batched, as an expert writes it.

The samples of all examples are rows of one matrix from the decoder's first layer to its last:
activations [batch, K, units] would make XLA transpose the logits' gradient for the product that
gives the last layer's, a tenth of the step at K = 50.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.contenders import (
    LEARNING_RATE,
    Contender,
    Layers,
    Sizes,
    draw_losses,
    repeat_step,
)

OPTIMIZER = optax.adam(LEARNING_RATE)


def mlp(layers: Any, inputs: jax.Array) -> jax.Array:
    """Outputs [rows, num_outputs] of inputs [rows, num_inputs]."""
    *hidden, (kernel, bias) = layers
    for hidden_kernel, hidden_bias in hidden:
        inputs = jnp.tanh(inputs @ hidden_kernel + hidden_bias)
    return inputs @ kernel + bias


def loss(params: Any, key: jax.Array, x: jax.Array, num_samples: int) -> jax.Array:
    """Minus the importance-weighted bound of x [batch, num_dims], with K = 1 minus the ELBO."""
    loc, log_scale = jnp.split(mlp(params["encoder"], x)[:, None], 2, axis=-1)
    noise = jax.random.normal(key, (x.shape[0], num_samples, loc.shape[-1]))
    z = loc + jnp.exp(log_scale) * noise
    rows = z.reshape(-1, z.shape[-1])
    logits = mlp(params["decoder"], rows).reshape(*z.shape[:2], -1)
    log_likelihood = jnp.sum(x[:, None] * logits - jax.nn.softplus(logits), axis=-1)
    log_prior_ratio = jnp.sum(0.5 * noise**2 + log_scale - 0.5 * z**2, axis=-1)
    bound = jax.nn.logsumexp(log_likelihood + log_prior_ratio, axis=1) - math.log(num_samples)
    return -jnp.mean(bound)


@partial(jax.jit, static_argnames="num_samples", donate_argnums=0)
def train_step(state: Any, key: jax.Array, x: jax.Array, num_samples: int) -> Any:
    """One step of Adam on `(params, optimizer_state)`; also the loss."""
    params, optimizer_state = state
    value, gradient = jax.value_and_grad(loss)(params, key, x, num_samples)
    updates, optimizer_state = OPTIMIZER.update(gradient, optimizer_state)
    return (optax.apply_updates(params, updates), optimizer_state), value


def contender(
    sizes: Sizes, num_samples: int, encoder: Layers, decoder: Layers, batch: np.ndarray
) -> Contender:
    """The hand-written VAE (K = 1) or IWAE (K > 1)."""
    x = jnp.asarray(batch)
    params = jax.tree.map(jnp.asarray, {"encoder": encoder, "decoder": decoder})
    # A copy, since the step eats its state.
    state = (jax.tree.map(jnp.copy, params), OPTIMIZER.init(params))
    return Contender(
        "hand-written JAX",
        repeat_step(partial(train_step, num_samples=num_samples), state, x),
        draw_losses(lambda key: loss(params, key, x, num_samples)),
    )

"""Exact answers for latent-variable models with few discrete latents, by summing over them all."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from genjax_models.checks import check_sizes
from genjax_models.interfaces import Array, LatentVariableModel, Params, PyTree

_MOST_UNITS = 20


def binary_states(latent_dims: Sequence[int]) -> tuple[Array, ...]:
    """Every value of several layers of binary units.

    Args:
        latent_dims: sizes of the layers, in the order of the event: for a belief net
            (z_L, ..., z_1) the top layer's first.

    Returns:
        A tuple of layers, each [2^(sum of sizes), size], of zeros and ones.

    Raises:
        ValueError: a size below one, or more than 20 units in all.
    """
    sizes = tuple(latent_dims)
    check_sizes(latent_dims=sizes)
    num_units = sum(sizes)
    if not 1 <= num_units <= _MOST_UNITS:
        raise ValueError(
            f"latent_dims must have 1 to {_MOST_UNITS} units in all to be enumerated, got"
            f" {num_units}"
        )
    bits = np.arange(2**num_units)[:, None] >> np.arange(num_units) & 1
    layers = np.split(bits.astype(np.float32), np.cumsum(sizes)[:-1], axis=1)
    return tuple(jnp.asarray(layer) for layer in layers)


def joint_log_probs(
    model: LatentVariableModel, params: Params, x: PyTree, states: PyTree, *, chunk_size: int = 4096
) -> Array:
    """log p(x, z) of one x and many values of z; less their logsumexp, log p(z | x).

    Args:
        model: any latent-variable model.
        params: its parameters.
        x: one example.
        states: values of z, every leaf with a leading axis [S]: every value once, where sums over
            them are to be exact.
        chunk_size: values whose activations are held at a time.

    Returns:
        Log-probabilities, [S], in nats.
    """
    prior = model.prior(params)

    # Computed again by the gradient, which would else hold the activations of every chunk.
    @jax.checkpoint
    def joint(z: PyTree) -> Array:
        return prior.log_prob(z) + model.likelihood(params, z).log_prob(x)

    num_states = jax.tree.leaves(states)[0].shape[0]
    return jax.lax.map(joint, states, batch_size=min(chunk_size, num_states))


def enumerated_log_likelihood(
    model: LatentVariableModel, params: Params, x: PyTree, states: PyTree, *, chunk_size: int = 4096
) -> Array:
    """log p(x) = log sum_z p(x, z) of one example, exactly; so is its `jax.grad`.

    Args:
        model: any latent-variable model with discrete latents.
        params: its parameters.
        x: one example.
        states: every value of z once, as of `binary_states`.
        chunk_size: values whose activations are held at a time.

    Returns:
        log p(x), a scalar in nats.
    """
    return logsumexp(joint_log_probs(model, params, x, states, chunk_size=chunk_size))

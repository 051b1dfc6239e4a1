"""(c) NumPyro's SVI: `Trace_ELBO` for K = 1, `RenyiELBO(alpha=0)` for K > 1."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO

from benchmarks.contenders import (
    LEARNING_RATE,
    Contender,
    Layers,
    Sizes,
    draw_losses,
)


def contender(
    sizes: Sizes, num_samples: int, encoder: Layers, decoder: Layers, batch: np.ndarray
) -> Contender:
    """NumPyro's VAE (K = 1) or IWAE (K > 1), its particles vectorised."""
    x = jnp.asarray(batch)

    def model(x: jax.Array) -> None:
        decode = numpyro.module("decoder", _network(decoder), (sizes.latent_dim,))
        with numpyro.plate("examples", x.shape[0]):
            prior = dist.Normal(jnp.zeros(sizes.latent_dim), 1.0).to_event(1)
            z = numpyro.sample("z", prior)
            numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)

    def guide(x: jax.Array) -> None:
        encode = numpyro.module("encoder", _network(encoder), (sizes.num_dims,))
        loc, log_scale = jnp.split(encode(x), 2, axis=-1)
        with numpyro.plate("examples", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    bound = Trace_ELBO() if num_samples == 1 else RenyiELBO(alpha=0, num_particles=num_samples)
    svi = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), bound)
    # The state holds the key, which every update splits.
    state = svi.init(jax.random.key(0), x)
    params = jax.tree.map(jnp.copy, svi.get_params(state))
    update = jax.jit(svi.update, donate_argnums=0)

    def run(num_steps: int) -> None:
        nonlocal state
        for _ in range(num_steps):
            state, loss = update(state, x)
        jax.block_until_ready((state, loss))

    # NumPyro's loss is a sum over the batch.
    losses = draw_losses(lambda key: bound.loss(key, params, model, guide, x) / sizes.batch_size)
    return Contender("NumPyro SVI", run, losses)


def _network(layers: Layers) -> tuple[Any, Any]:
    """A stax-style pair of functions, as `numpyro.module` wants it, that starts at `layers`."""

    def init(key: jax.Array, input_shape: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
        return (layers[-1][1].size,), jax.tree.map(jnp.asarray, layers)

    def apply(layers: Any, inputs: jax.Array) -> jax.Array:
        *hidden, (kernel, bias) = layers
        for hidden_kernel, hidden_bias in hidden:
            inputs = jnp.tanh(inputs @ hidden_kernel + hidden_bias)
        return inputs @ kernel + bias

    return init, apply

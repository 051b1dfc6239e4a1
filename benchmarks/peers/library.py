"""(a) The library, as its user writes it."""

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
from genjax_models.learning import bounds, variational
from genjax_models.models import latent
from genjax_models.training import gradient_descent


def model_and_params(sizes: Sizes, encoder: Layers, decoder: Layers) -> tuple[Any, Any]:
    """The library's model, and its parameters with the given layers."""
    hidden = (sizes.num_hidden, sizes.num_hidden)
    model = latent.vae(
        num_dims=sizes.num_dims,
        latent_dim=sizes.latent_dim,
        hidden=hidden,
        likelihood="bernoulli",
    )
    params = model.init(jax.random.key(0))
    params["posterior"] = _as_flax(encoder)
    params["likelihood"]["network"] = _as_flax(decoder)
    return model, params


def contender(
    sizes: Sizes,
    num_samples: int,
    encoder: Layers,
    decoder: Layers,
    batch: np.ndarray,
    *,
    microbatch_size: int | None = None,
) -> Contender:
    """The library's VAE (K = 1) or IWAE (K > 1)."""
    model, params = model_and_params(sizes, encoder, decoder)
    bound = bounds.elbo if num_samples == 1 else bounds.iwae
    objective = variational(model, bound=bound, estimator="pathwise", num_samples=num_samples)
    algorithm = gradient_descent(
        objective,
        optax.adam(LEARNING_RATE),
        lambda key: params,
        microbatch_size=microbatch_size,
    )
    x = jnp.asarray(batch)

    def mean_loss(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, sizes.batch_size)
        losses, _ = jax.vmap(lambda key, x: objective(params, key, x))(keys, x)
        return jnp.mean(losses)

    name = "genjax_models"
    if microbatch_size is not None:
        name += f", microbatches of {microbatch_size}"
    state = algorithm.init(jax.random.key(0))
    step = jax.jit(algorithm.step, donate_argnums=0)
    return Contender(name, repeat_step(step, state, x), draw_losses(mean_loss))


def _as_flax(layers: Layers) -> dict[str, Any]:
    return {
        "params": {
            f"Dense_{i}": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
            for i, (kernel, bias) in enumerate(layers)
        }
    }

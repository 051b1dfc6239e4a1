"""Hierarchies: the library's two-layer IWAE, ladder and belief net of binary units, and by hand.

By hand, from the same parameters, the samples of all examples are rows of one matrix (see
`handwritten`), and a layer that both the ladder's prior and its posterior use is computed once.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.contenders import LEARNING_RATE, Contender, draw_losses, repeat_step
from genjax_models.interfaces import LatentVariableModel, Objective
from genjax_models.learning import bounds, variational
from genjax_models.models import latent
from genjax_models.training import gradient_descent

OPTIMIZER = optax.adam(LEARNING_RATE)
BELIEF_NET = "three-layer belief net, VIMCO"
MODELS: dict[str, Callable[..., LatentVariableModel]] = {
    "two-layer IWAE": latent.gaussian_belief_net,
    "ladder VAE": latent.ladder_vae,
    BELIEF_NET: partial(latent.sigmoid_belief_net, latent_dims=(200, 200, 200)),
}

Gaussian = tuple[jax.Array, jax.Array]
"""Means and log standard deviations."""


def contenders(
    name: str,
    num_samples: int,
    batch: np.ndarray,
    *,
    microbatch_size: int | None = None,
    **sizes: Any,
) -> list[Contender]:
    """The library, plain and in microbatches, and the hand-written version of one of `MODELS`."""
    model = MODELS[name](num_dims=batch.shape[1], **sizes)
    params = model.init(jax.random.key(0))
    x = jnp.asarray(batch)
    estimator = "vimco_arithmetic" if name == BELIEF_NET else "pathwise"
    objective = variational(model, bound=bounds.iwae, estimator=estimator, num_samples=num_samples)
    found = [_library(objective, params, x, None)]
    if microbatch_size is not None:
        found.append(_library(objective, params, x, microbatch_size))
    loss = partial(LOSSES[name], x=x, num_samples=num_samples)
    state = (jax.tree.map(jnp.copy, params), OPTIMIZER.init(params))
    step = partial(_train_step, loss=LOSSES[name], num_samples=num_samples)
    by_hand = Contender(
        "hand-written JAX",
        repeat_step(step, state, x),
        draw_losses(lambda key: loss(params, key)),
    )
    return [*found, by_hand]


def _library(
    objective: Objective, params: Any, x: jax.Array, microbatch_size: int | None
) -> Contender:
    algorithm = gradient_descent(
        objective,
        optax.adam(LEARNING_RATE),
        lambda key: params,
        microbatch_size=microbatch_size,
    )

    def mean_loss(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(x))
        return jnp.mean(jax.vmap(lambda key, x: objective(params, key, x)[0])(keys, x))

    name = "genjax_models"
    if microbatch_size is not None:
        name += f", microbatches of {microbatch_size}"
    state = algorithm.init(jax.random.key(0))
    step = jax.jit(algorithm.step, donate_argnums=0)
    return Contender(name, repeat_step(step, state, x), draw_losses(mean_loss))


@partial(jax.jit, static_argnames=("loss", "num_samples"), donate_argnums=0)
def _train_step(state: Any, key: jax.Array, x: jax.Array, loss: Any, num_samples: int) -> Any:
    params, optimizer_state = state
    value, gradient = jax.value_and_grad(loss)(params, key, x, num_samples)
    updates, optimizer_state = OPTIMIZER.update(gradient, optimizer_state)
    return (optax.apply_updates(params, updates), optimizer_state), value


def two_layer_loss(params: Any, key: jax.Array, x: jax.Array, num_samples: int) -> jax.Array:
    """Minus the importance-weighted bound of the two-layer belief net."""
    lower_key, upper_key = jax.random.split(key)
    lower, upper = params["posterior"]
    loc, log_scale = _gaussian(lower, x, jnp.tanh)
    noise = jax.random.normal(lower_key, (len(x), num_samples, loc.shape[-1]))
    z_1 = (loc[:, None] + jnp.exp(log_scale[:, None]) * noise).reshape(-1, loc.shape[-1])
    log_q = _log_normal(noise, log_scale[:, None]).reshape(-1)
    loc, log_scale = _gaussian(upper, z_1, jnp.tanh)
    noise = jax.random.normal(upper_key, loc.shape)
    z_2 = loc + jnp.exp(log_scale) * noise
    log_q += _log_normal(noise, log_scale)
    loc, log_scale = _gaussian(params["prior"]["layers"][0], z_2, jnp.tanh)
    log_p = _log_normal((z_1 - loc) * jnp.exp(-log_scale), log_scale) + _log_normal(z_2, 0.0)
    logits = _mlp(params["likelihood"]["network"], z_1, jnp.tanh)
    return _bound(x, logits, log_p - log_q, num_samples)


def ladder_loss(params: Any, key: jax.Array, x: jax.Array, num_samples: int) -> jax.Array:
    """Minus the importance-weighted bound of the ladder."""
    evidence, activity = [], x
    for trunk, head in zip(
        params["posterior"]["trunks"], params["posterior"]["heads"], strict=True
    ):
        activity = jax.nn.leaky_relu(_mlp(trunk, activity, jax.nn.leaky_relu))
        evidence.append(_gaussian(head, activity, jax.nn.leaky_relu))
    keys = jax.random.split(key, len(evidence))
    loc, log_scale = (jnp.repeat(part, num_samples, axis=0) for part in evidence[-1])
    noise = jax.random.normal(keys[0], loc.shape)
    z = loc + jnp.exp(log_scale) * noise
    log_ratio = _log_normal(z, 0.0) - _log_normal(noise, log_scale)
    layers = zip(params["prior"]["layers"], evidence[-2::-1], keys[1:], strict=True)
    for layer, (seen_loc, seen_log_scale), layer_key in layers:
        loc, log_scale = _gaussian(layer, z, jax.nn.leaky_relu)
        seen_loc = jnp.repeat(seen_loc, num_samples, axis=0)
        seen_precision = jnp.repeat(jnp.exp(-2 * seen_log_scale), num_samples, axis=0)
        precision = seen_precision + jnp.exp(-2 * log_scale)
        merged_loc = (seen_precision * seen_loc + jnp.exp(-2 * log_scale) * loc) / precision
        merged_log_scale = -0.5 * jnp.log(precision)
        noise = jax.random.normal(layer_key, loc.shape)
        z = merged_loc + jnp.exp(merged_log_scale) * noise
        log_ratio += _log_normal((z - loc) * jnp.exp(-log_scale), log_scale)
        log_ratio -= _log_normal(noise, merged_log_scale)
    logits = _mlp(params["likelihood"]["network"], z, jax.nn.leaky_relu)
    return _bound(x, logits, log_ratio, num_samples)


def belief_net_loss(params: Any, key: jax.Array, x: jax.Array, num_samples: int) -> jax.Array:
    """Minus the importance-weighted bound of the belief net, with VIMCO's gradient."""
    num_layers = len(params["posterior"])
    rows, drawn = x, []
    log_q: Any = 0.0
    for level, layer_key in enumerate(jax.random.split(key, num_layers)):
        logits = _centred(params["posterior"][level], rows)
        if level == 0:
            logits = jnp.repeat(logits, num_samples, axis=0)
        uniform = jax.random.uniform(layer_key, logits.shape)
        rows = jax.lax.stop_gradient(uniform < jax.nn.sigmoid(logits)).astype(x.dtype)
        log_q += _log_bernoulli(logits, rows)
        drawn.append(rows)
    log_p = _log_bernoulli(params["prior"]["top"]["logits"], drawn[-1])
    for layer, above, below in zip(
        params["prior"]["layers"], drawn[:0:-1], drawn[-2::-1], strict=True
    ):
        log_p += _log_bernoulli(_centred(layer, above), below)
    visible = jnp.repeat(x, num_samples, axis=0)
    log_p += _log_bernoulli(_centred(params["likelihood"], drawn[0]), visible)
    log_q = log_q.reshape(len(x), num_samples)
    log_weights = log_p.reshape(len(x), num_samples) - log_q
    bound = jax.nn.logsumexp(log_weights, axis=1) - math.log(num_samples)
    is_own = jnp.eye(num_samples, dtype=bool)
    others = jnp.where(is_own, -jnp.inf, jax.lax.stop_gradient(log_weights)[:, None])
    baselines = jax.nn.logsumexp(others, axis=2) - math.log(num_samples - 1)
    signals = jax.lax.stop_gradient(bound)[:, None] - baselines
    surrogate = jnp.sum(signals * log_q, axis=1)
    return -jnp.mean(bound + surrogate - jax.lax.stop_gradient(surrogate))


LOSSES = {
    "two-layer IWAE": two_layer_loss,
    "ladder VAE": ladder_loss,
    BELIEF_NET: belief_net_loss,
}


def _centred(params: Any, rows: jax.Array) -> jax.Array:
    return _mlp(params["network"], 2 * rows - 1, jnp.tanh)


def _log_bernoulli(logits: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.sum(rows * logits - jax.nn.softplus(logits), axis=-1)


def _mlp(params: Any, inputs: jax.Array, activation: Any) -> jax.Array:
    layers = params["params"]
    for i in range(len(layers)):
        layer = layers[f"Dense_{i}"]
        inputs = (activation(inputs) if i else inputs) @ layer["kernel"] + layer["bias"]
    return inputs


def _gaussian(params: Any, inputs: jax.Array, activation: Any) -> Gaussian:
    loc, log_scale = jnp.split(_mlp(params, inputs, activation), 2, axis=-1)
    return loc, log_scale


def _log_normal(noise: jax.Array, log_scale: jax.Array | float) -> jax.Array:
    """But for the constant, which cancels."""
    return -jnp.sum(0.5 * noise**2 + log_scale, axis=-1)


def _bound(x: jax.Array, logits: jax.Array, log_ratio: jax.Array, num_samples: int) -> jax.Array:
    logits = logits.reshape(len(x), num_samples, -1)
    log_likelihood = jnp.sum(x[:, None] * logits - jax.nn.softplus(logits), axis=-1)
    log_weights = log_likelihood + log_ratio.reshape(len(x), num_samples)
    return -jnp.mean(jax.nn.logsumexp(log_weights, axis=1) - math.log(num_samples))

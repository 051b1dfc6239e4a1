"""Belief nets of binary units written down unit by unit, for the tests of `sigmoid_belief_net`."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.interfaces import LatentVariableModel
from genjax_models.models.latent import sigmoid_belief_net

NUM_DIMS, LATENT_DIMS, NADE_DIM = 3, (2, 2), 3
KINDS = ("sigmoid", "autoregressive", "nade")


@functools.cache
def net(kind: str) -> LatentVariableModel:
    """Three visible units below two layers of two."""
    return sigmoid_belief_net(
        num_dims=NUM_DIMS,
        latent_dims=LATENT_DIMS,
        generative=kind,
        recognition=kind,
        nade_dim=NADE_DIM,
    )


@functools.cache
def params(kind: str, seed: int = 0) -> Any:
    """Parameters of order one, none of them zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net(kind).init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.float32(rng.standard_normal(leaf.shape)), shapes)


def unit_by_unit(kind: str, own: Any, above: Any, units: Any) -> Any:
    """log p(units | above) of one layer; above is None for the top."""
    logits, hidden_bias = _biases(kind, own, above, len(units))
    observation = own.get("observation", own)
    total = 0.0
    for d in range(len(units)):
        unit, logit = units[d], logits[d]
        if kind == "autoregressive":
            for j in range(d):
                logit = logit + observation["weights"][d, j] * units[j]
        if kind == "nade":
            pre_activation = hidden_bias
            for j in range(d):
                pre_activation = pre_activation + own["input_weights"][j] * units[j]
            hidden = 1 / (1 + jnp.exp(-pre_activation))
            logit = logit + jnp.dot(own["output_weights"][d], hidden)
        probability = 1 / (1 + jnp.exp(-logit))
        total = total + unit * jnp.log(probability) + (1 - unit) * jnp.log(1 - probability)
    return total


def _biases(kind: str, own: Any, above: Any, num_units: int) -> tuple[Any, Any]:
    if above is None:
        return (own["output_bias"], own["hidden_bias"]) if kind == "nade" else (own["logits"], None)
    dense = own["network"]["params"]["Dense_0"]
    outputs = dense["bias"]
    for i in range(len(above)):
        outputs = outputs + dense["kernel"][i] * (2 * above[i] - 1)
    return outputs[:num_units], outputs[num_units:]


def log_joint(kind: str, own: Any, x: Any, z: tuple) -> Any:
    """log p(x, z), z = (z_2, z_1)."""
    top, lower = z
    (downwards,) = own["prior"]["layers"]
    return (
        unit_by_unit(kind, own["prior"]["top"], None, top)
        + unit_by_unit(kind, downwards, top, lower)
        + unit_by_unit(kind, own["likelihood"], lower, x)
    )


def log_posterior(kind: str, own: Any, x: Any, z: tuple) -> Any:
    """log q(z | x)."""
    top, lower = z
    first, second = own["posterior"]
    return unit_by_unit(kind, first, x, lower) + unit_by_unit(kind, second, lower, top)

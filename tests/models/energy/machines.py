"""Small restricted Boltzmann machines and their exact answers, by enumeration in float64."""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]


def machine(num_dims: int = 4, num_hidden: int = 3, *, scale: float = 1.0, seed: int = 0) -> Params:
    """Random parameters, biases too: a symmetric target hides an error of sign or index."""
    rng = np.random.default_rng(seed)
    shapes = {
        "weights": (num_dims, num_hidden),
        "visible_bias": (num_dims,),
        "hidden_bias": (num_hidden,),
    }
    return {
        name: jnp.asarray(scale * rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }


def tempered(params: Params, beta: float, reference: Any = 0.0) -> Params:
    """The machine whose distribution is that of `params` at an inverse temperature."""
    bias = (1 - beta) * reference + beta * params["visible_bias"]
    return {
        "weights": beta * params["weights"],
        "visible_bias": bias,
        "hidden_bias": beta * params["hidden_bias"],
    }


def states(num_dims: int) -> np.ndarray:
    """All binary vectors, [2^num_dims, num_dims]; row i is i in binary, the first bit leading."""
    return np.array(list(itertools.product([0.0, 1.0], repeat=num_dims)))


def index_of(v: Any) -> np.ndarray:
    """Row of `states` of each v [..., num_dims]."""
    v = np.asarray(v)
    return (v @ 2.0 ** np.arange(v.shape[-1])[::-1]).astype(int)


def one_hot(v: Any) -> np.ndarray:
    """Which state each v [..., num_dims] is, [..., 2^num_dims]."""
    v = np.asarray(v)
    return np.eye(2 ** v.shape[-1])[index_of(v)]


def log_joint(params: Params) -> np.ndarray:
    """-E(v, h) of every v and h, [2^D, 2^H]."""
    w, b, c = (
        np.asarray(params[name], np.float64) for name in ("weights", "visible_bias", "hidden_bias")
    )
    v, h = states(len(b)), states(len(c))
    return (v @ b)[:, None] + h @ c + v @ w @ h.T


def log_partition(params: Params) -> float:
    """log Z."""
    return float(np.logaddexp.reduce(log_joint(params), axis=None))


def joint(params: Params) -> np.ndarray:
    """p(v, h), [2^D, 2^H]."""
    return np.exp(log_joint(params) - log_partition(params))


def marginal(params: Params) -> np.ndarray:
    """p(v), [2^D]."""
    return joint(params).sum(axis=1)


def transitions(params: Params) -> np.ndarray:
    """Block Gibbs: T[v, v'] = sum_h p(h | v) p(v' | h)."""
    p = joint(params)
    return p / p.sum(axis=1, keepdims=True) @ (p / p.sum(axis=0)).T


def golf_hole(num_dims: int, *, share: float = 0.9) -> Params:
    """A single state, all ones, has this share of the mass, and all others are alike.

    Its one hidden unit is on there alone: nothing near the hole leads to it.
    """
    bonus, steepness = num_dims * np.log(2) + np.log(share / (1 - share)), 14.0
    return {
        "weights": jnp.full((num_dims, 1), steepness),
        "visible_bias": jnp.zeros(num_dims),
        "hidden_bias": jnp.array([bonus - steepness * num_dims], jnp.float32),
    }


def two_modes(num_dims: int = 6, strength: float = 3.0) -> Params:
    """All ones with probability 3/4 or so, all zeros nearly else, and hardly anything between."""
    num_hidden = 3
    return {
        "weights": jnp.full((num_dims, num_hidden), strength),
        "visible_bias": jnp.full(num_dims, -strength * num_hidden / 2 + 0.2),
        "hidden_bias": jnp.full(num_hidden, -strength * num_dims / 2),
    }

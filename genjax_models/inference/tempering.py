"""Parallel tempering: chains at several temperatures that exchange their states."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.inference.annealed_importance import check_ladder
from genjax_models.interfaces import Array, Key, Params, PyTree


def parallel_tempering(
    energy: Callable[[Params, PyTree, Array], Array],
    kernel: Callable[[Params, Key, PyTree, Array], PyTree],
    inverse_temperatures: Any,
) -> Callable[[Params, Key, PyTree], PyTree]:
    """A kernel of L replicas, each at its temperature, that leaves the product of all invariant.

        x_i ~ kernel at beta_i, for every i; then, for the pairs (i, i + 1) with i even or those
        with i odd, as a coin says, exchange x_i and x_{i+1} with probability
        min(1, f_{beta_i}(x_{i+1}) f_{beta_{i+1}}(x_i) / (f_{beta_i}(x_i) f_{beta_{i+1}}(x_{i+1})))

    Hot replicas move between modes and hand them down to the cold one, x_L at beta = 1
    (`coldest`). It serves persistent contrastive divergence as a kernel like any other.

    Args:
        energy: `energy(params, x, beta) -> []`, -log f_beta(x), e.g. `rbm.tempered_energy`.
        kernel: `kernel(params, key, x, beta) -> x`, which leaves f_beta invariant, e.g.
            `rbm.gibbs_kernel`.
        inverse_temperatures: 0 <= beta_1 < ... < beta_L = 1, concrete numbers, L >= 2.

    Returns:
        `step(params, key, states) -> states`, each leaf with leading axis [L].

    Raises:
        ValueError: inverse temperatures that do not increase strictly to 1, or states of another
            number of replicas (from the kernel).

    Source: Swendsen & Wang 1986; Desjardins et al. 2010 (Tempered Markov chain Monte Carlo for
    training of restricted Boltzmann machines).
    """
    betas = check_ladder(inverse_temperatures)
    num_replicas = betas.size
    # Row 0 pairs (0, 1), (2, 3), ...; row 1 pairs (1, 2), (3, 4), ...; the rest with themselves.
    partners = np.stack([_partners(num_replicas, first) for first in (0, 1)])

    def step(params: Params, key: Key, states: PyTree) -> PyTree:
        sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(states)}
        if sizes != {(num_replicas,)}:
            raise ValueError(
                f"states must have the leading axis [{num_replicas}], one for each temperature,"
                f" got shapes {[jnp.shape(leaf) for leaf in jax.tree.leaves(states)]}"
            )
        move_key, coin_key, exchange_key = jax.random.split(key, 3)
        moved = jax.vmap(kernel, in_axes=(None, 0, 0, 0))(
            params, jax.random.split(move_key, num_replicas), states, jnp.asarray(betas)
        )
        partner = jnp.asarray(partners)[jax.random.bernoulli(coin_key).astype(int)]
        accepted = _accepted(energy, params, exchange_key, moved, jnp.asarray(betas), partner)
        source = jnp.where(accepted, partner, jnp.arange(num_replicas))
        return jax.tree.map(lambda leaf: leaf[source], moved)

    return step


def coldest(states: PyTree) -> PyTree:
    """The replica at beta = 1: the last one.

    Args:
        states: of all replicas, each leaf with leading axis [L].

    Returns:
        The state at beta = 1.
    """
    return jax.tree.map(lambda leaf: leaf[-1], states)


def _accepted(
    energy: Callable[[Params, PyTree, Array], Array],
    params: Params,
    key: Key,
    states: PyTree,
    betas: Array,
    partner: Array,
) -> Array:
    """Which replicas change places with their partners, [L]."""

    def gains(x: PyTree, beta: Array, other_beta: Array) -> Array:
        return energy(params, x, beta) - energy(params, x, other_beta)

    gain = jax.vmap(gains)(states, betas, betas[partner])
    # One number for each pair: that of its lower replica.
    uniform = jax.random.uniform(key, betas.shape)[jnp.minimum(jnp.arange(betas.size), partner)]
    return jnp.log(uniform) < gain + gain[partner]


def _partners(num_replicas: int, first: int) -> np.ndarray:
    partners = np.arange(num_replicas)
    for lower in range(first, num_replicas - 1, 2):
        partners[lower], partners[lower + 1] = lower + 1, lower
    return partners

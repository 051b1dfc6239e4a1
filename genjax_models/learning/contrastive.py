"""Contrastive divergence: maximum likelihood of an energy model, with the chain's own samples.

    grad -log p(x) = grad E(x) - E_{x' ~ p}[grad E(x')]

The expectation is taken over states of a Markov chain that leaves p invariant: a short one from the
data, or a persistent one. A kernel is any `kernel(params, key, x) -> x` of one example, such as
`models.energy.rbm.gibbs_kernel`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.interfaces import (
    Array,
    EnergyModel,
    Key,
    Metrics,
    Objective,
    Params,
    PyTree,
    StatefulObjective,
)
from genjax_models.kernels import Kernel, as_state, run_chain


def contrastive_divergence(model: EnergyModel, kernel: Kernel, *, num_steps: int = 1) -> Objective:
    """Contrastive divergence CD-k of one example, as an objective for `jax.grad`.

        loss = E(x) - E(x_k),  x_k: k steps of the kernel from x, held constant

    The gradient is that of -log p(x) where the chain has forgotten x, and biased for small k. The
    loss itself bounds nothing: it is negative where the chain finds better states than the data.

    Args:
        model: any energy model.
        kernel: leaves p(x) invariant.
        num_steps: k >= 1.

    Returns:
        `objective(params, key, x, *, num_steps=k) -> (loss, metrics)`: a schedule may fill in
        num_steps (at least 1, rounded down). Metrics "energy" and "chain_energy" are those of x and
        x_k.

    Raises:
        ValueError: num_steps < 1.

    Source: Hinton 2002 (Training products of experts by minimizing contrastive divergence).
    """
    check_sizes(num_steps=num_steps)

    def objective(
        params: Params, key: Key, x: PyTree, *, num_steps: int | Array = num_steps
    ) -> tuple[Array, Metrics]:
        steps = num_steps if isinstance(num_steps, int) else jnp.int32(num_steps)
        constant = jax.lax.stop_gradient(params)
        chain = jax.lax.stop_gradient(run_chain(kernel, constant, key, x, steps))
        return _loss(model.energy(params, x), model.energy(params, chain))

    return objective


class PersistentContrastiveDivergence(NamedTuple):
    """What `training.stateful_gradient_descent` takes.

    Attributes:
        objective: `objective(params, chains, key, batch) -> (loss, (chains, metrics))`.
        init_state: `init_state(params, key) -> chains`, states with leading axis [num_chains].
    """

    objective: StatefulObjective
    init_state: Callable[[Params, Key], PyTree]


def persistent_contrastive_divergence(
    model: EnergyModel,
    kernel: Kernel,
    init_chain: Callable[[Params, Key], PyTree],
    *,
    num_steps: int = 1,
    num_chains: int = 100,
    example_of: Callable[[PyTree], PyTree] = lambda state: state,
) -> PersistentContrastiveDivergence:
    """Persistent contrastive divergence, with chains that go on from step to step.

        chains: k steps of the kernel from where they were, held constant
        loss = mean over the batch of E(x) - mean over the chains of E(x')

    Where parameters move slowly against the chains, the chains are near p, and the gradient is
    that of -log p(x) on the batch.

    Args:
        model: any energy model.
        kernel: leaves p(x) invariant; it moves the state of one chain.
        init_chain: `init_chain(params, key) -> state`, where one chain starts.
        num_steps: k >= 1.
        num_chains: number of chains, whatever the batch.
        example_of: from the state of a chain to its example: `inference.coldest` for one of
            `inference.parallel_tempering`.

    Returns:
        The objective (metrics "energy" and "chain_energy" are the two means) and its initial state.

    Raises:
        ValueError: num_steps or num_chains < 1.

    Source: Younes 1989; Tieleman 2008 (Training restricted Boltzmann machines using approximations
    to the likelihood gradient).
    """
    check_sizes(num_steps=num_steps, num_chains=num_chains)

    def init_state(params: Params, key: Key) -> PyTree:
        def start(chain_key: Key) -> PyTree:
            return as_state(kernel, params, init_chain(params, chain_key))

        return jax.vmap(start)(jax.random.split(key, num_chains))

    def objective(
        params: Params, chains: PyTree, key: Key, batch: PyTree
    ) -> tuple[Array, tuple[PyTree, Metrics]]:
        constant = jax.lax.stop_gradient(params)

        def move(chain_key: Key, state: PyTree) -> PyTree:
            return run_chain(kernel, constant, chain_key, state, num_steps)

        moved = jax.lax.stop_gradient(jax.vmap(move)(jax.random.split(key, num_chains), chains))

        # Together, so that each use of the parameters is one product of matrices.
        examples = jax.tree.map(
            lambda *parts: jnp.concatenate(parts), batch, jax.vmap(example_of)(moved)
        )
        energies = jax.vmap(model.energy, in_axes=(None, 0))(params, examples)
        loss, metrics = _loss(jnp.mean(energies[:-num_chains]), jnp.mean(energies[-num_chains:]))
        return loss, (moved, metrics)

    return PersistentContrastiveDivergence(objective, init_state)


def _loss(energy: Array, chain_energy: Array) -> tuple[Array, Metrics]:
    metrics = {"energy": energy, "chain_energy": chain_energy}
    return energy - chain_energy, jax.lax.stop_gradient(metrics)

"""Filling in what was not observed of x, by a latent-variable model and its amortised posterior.

With y what was observed, the target is p(x, z | y). The posterior q(z | x) is that of a whole x.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import logsumexp

from genjax_models.distributions import has_log_prob, sample_and_log_prob
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.inference.observations import Observation
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params, PyTree


class ImputationChain(NamedTuple):
    """The end of a Markov chain over (x, z), and its averages.

    Attributes:
        x: the last state.
        mean: the mean of E[x | z_t, y] over the steps after the burn-in, an estimate of E[x | y].
        acceptance: the share of accepted proposals after the burn-in; one for pseudo-Gibbs.
    """

    x: Array
    mean: Array
    acceptance: Array


class Resampled(NamedTuple):
    """Importance samples of z, and what they say of x.

    Attributes:
        x: a draw from p(x | z_k, y) with k resampled by weight.
        mean: sum_k of normalised weights times E[x | z_k, y], an estimate of E[x | y].
        log_prob: the logarithm of the mean weight: an estimate of log p(y), unbiased before the
            logarithm (up to the observation's constant).
        effective_sample_size: (sum w)^2 / sum w^2, from 1 to num_samples.
    """

    x: Array
    mean: Array
    log_prob: Array
    effective_sample_size: Array


def pseudo_gibbs(
    model: LatentVariableModel,
    params: Params,
    key: Key,
    observation: Observation,
    x: Array,
    num_steps: int,
    *,
    num_burn_in: int = 0,
) -> ImputationChain:
    """Draw z ~ q(z | x) and x ~ p(x | z, y) in turn.

    Where q is the exact posterior this is Gibbs sampling of p(x, z | y). Elsewhere its equilibrium
    is off by as much as q is, and there is nothing to say by how much: see
    `metropolis_within_gibbs`.

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key.
        observation: y, e.g. `missing(x, mask)`, which is for independent dimensions given z.
        x: where the chain begins, one whole example, e.g. with means in the missing dimensions.
        num_steps: steps in all, at least 1.
        num_burn_in: how many of them are left out of the averages.

    Returns:
        The end of the chain.

    Raises:
        ValueError: no steps, none after the burn-in, or a number of them that is no integer.

    Source: Rezende et al. 2014 (Stochastic backpropagation), appendix F.
    """
    _check_steps(num_steps, num_burn_in)

    def step(carry: tuple[Array, Array], index: Array) -> tuple[tuple[Array, Array], None]:
        x, total = carry
        z_key, x_key = jax.random.split(jax.random.fold_in(key, index))
        likelihood = model.likelihood(params, model.posterior(params, x).sample(seed=z_key))
        filled = observation.sample(likelihood, x_key).astype(x.dtype)
        return (filled, _add(total, observation.mean(likelihood), index >= num_burn_in)), None

    x = at_least_float32(x)
    (x, total), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), jnp.arange(num_steps))
    return ImputationChain(x, total / (num_steps - num_burn_in), jnp.ones(()))


def metropolis_within_gibbs(
    model: LatentVariableModel,
    params: Params,
    key: Key,
    observation: Observation,
    x: Array,
    num_steps: int,
    *,
    num_burn_in: int = 0,
) -> ImputationChain:
    """Pseudo-Gibbs whose z is a proposal, so that p(x, z | y) is left invariant whatever q is.

    z' ~ q(z | x) is accepted with probability

        min(1, [p(x | z') p(z') q(z | x)] / [p(x | z) p(z) q(z' | x)]);

    then x ~ p(x | z, y). The chain begins with x, z ~ q(z | x): start it where pseudo-Gibbs or
    importance resampling ends.

    Args:
        model: any latent-variable model whose posterior has a `log_prob`.
        params: its parameters.
        key: PRNG key.
        observation: y, e.g. `missing(x, mask)`, which is for independent dimensions given z.
        x: where the chain begins, one whole example.
        num_steps: steps in all, at least 1.
        num_burn_in: how many of them are left out of the averages.

    Returns:
        The end of the chain.

    Raises:
        TypeError: the posterior has no `log_prob`.
        ValueError: no steps, none after the burn-in, or a number of them that is no integer.

    Source: Mattei & Frellsen 2018 (Leveraging the exact likelihood of deep latent variable models),
    section 3.3.
    """
    _check_steps(num_steps, num_burn_in)
    x = at_least_float32(x)
    start = model.posterior(params, x)
    if not has_log_prob(start):
        raise TypeError(
            "metropolis_within_gibbs needs log_prob of the posterior, which a"
            f" {type(start).__name__} does not have: use pseudo_gibbs"
        )
    start_key, steps_key = jax.random.split(key)
    return _metropolis_chain(
        model,
        params,
        steps_key,
        observation,
        x,
        start.sample(seed=start_key),
        num_steps,
        num_burn_in,
    )


def _metropolis_chain(
    model: LatentVariableModel,
    params: Params,
    key: Key,
    observation: Observation,
    x: Array,
    z: PyTree,
    num_steps: int,
    num_burn_in: int,
) -> ImputationChain:
    prior = model.prior(params)

    def log_weight(x: Array, z: PyTree, log_posterior: Array) -> Array:
        log_likelihood = at_least_float32(model.likelihood(params, z).log_prob(x))
        return log_likelihood + at_least_float32(prior.log_prob(z)) - log_posterior

    def step(carry: Any, index: Array) -> tuple[Any, None]:
        x, z, total, num_accepted = carry
        z_key, accept_key, x_key = jax.random.split(jax.random.fold_in(key, index), 3)
        posterior: Any = model.posterior(params, x)
        proposed, log_posterior = sample_and_log_prob(posterior, seed=z_key)
        log_ratio = log_weight(x, proposed, log_posterior)
        log_ratio -= log_weight(x, z, posterior.log_prob(z))
        accepted = jnp.log(jax.random.uniform(accept_key)) < log_ratio
        z = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposed, z)
        likelihood = model.likelihood(params, z)
        x = observation.sample(likelihood, x_key).astype(x.dtype)
        counts = index >= num_burn_in
        total = _add(total, observation.mean(likelihood), counts)
        return (x, z, total, num_accepted + (accepted & counts)), None

    carry = (x, z, jnp.zeros_like(x), jnp.zeros((), jnp.int32))
    (x, _, total, num_accepted), _ = jax.lax.scan(step, carry, jnp.arange(num_steps))
    kept = num_steps - num_burn_in
    return ImputationChain(x, total / kept, num_accepted / kept)


def importance_resampling(
    model: LatentVariableModel,
    params: Params,
    key: Key,
    observation: Observation,
    x: Array,
    num_samples: int,
) -> Resampled:
    """Weigh z_k ~ q(z | x) by p(y | z_k) p(z_k) / q(z_k | x).

    Args:
        model: any latent-variable model whose posterior's samples come with a log-probability.
        params: its parameters.
        key: PRNG key.
        observation: y, e.g. `missing(x, mask)`.
        x: one whole example for the posterior to propose by, e.g. with means in the missing
            dimensions.
        num_samples: K >= 1.

    Returns:
        A draw, the posterior mean and log p(y), all of them exact as K grows.

    Raises:
        ValueError: K is no integer, or K < 1.

    Source: Rubin 1987 (the SIR algorithm); Mattei & Frellsen 2019 (MIWAE), section 4.
    """
    if not hasattr(num_samples, "__index__") or num_samples < 1:
        raise ValueError(f"num_samples must be an integer of at least 1, got {num_samples}")
    samples_key, resample_key, x_key = jax.random.split(key, 3)
    prior, posterior = model.prior(params), model.posterior(params, x)

    def draw(key: Key) -> tuple[PyTree, Array, Array]:
        z, log_posterior = sample_and_log_prob(posterior, seed=key)
        likelihood = model.likelihood(params, z)
        log_weight = observation.log_prob(likelihood)
        log_weight += at_least_float32(prior.log_prob(z)) - at_least_float32(log_posterior)
        return z, log_weight, observation.mean(likelihood)

    zs, log_weights, means = jax.vmap(draw)(jax.random.split(samples_key, num_samples))
    weights = jax.nn.softmax(log_weights)
    chosen = jax.random.categorical(resample_key, log_weights)
    z = jax.tree.map(lambda leaf: leaf[chosen], zs)
    return Resampled(
        x=observation.sample(model.likelihood(params, z), x_key),
        mean=weights @ means,
        log_prob=logsumexp(log_weights) - jnp.log(num_samples),
        effective_sample_size=1 / jnp.sum(weights**2),
    )


def _add(total: Array, mean: Array, counts: Array) -> Array:
    return total + jnp.where(counts, mean, 0)


def _check_steps(num_steps: int, num_burn_in: int) -> None:
    if not hasattr(num_steps, "__index__") or num_steps < 1:
        raise ValueError(f"num_steps must be an integer of at least 1, got {num_steps}")
    if not hasattr(num_burn_in, "__index__") or not 0 <= num_burn_in < num_steps:
        raise ValueError(
            f"num_burn_in must be an integer in 0..num_steps - 1, {num_steps - 1}, got"
            f" {num_burn_in}"
        )

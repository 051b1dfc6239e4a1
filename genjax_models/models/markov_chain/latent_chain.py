"""A diffusion model as what it also is: a latent-variable model whose posterior is fixed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import DiagonalGaussian
from genjax_models.distributions.numerics import check_event
from genjax_models.interfaces import Array, Distribution, Key, LatentVariableModel, Params
from genjax_models.models.markov_chain.diffusion import Diffusion


def as_latent_variable_model(model: Diffusion) -> LatentVariableModel:
    """The same model with z = (x_1, ..., x_T), stacked as [T, num_dims].

        p(z) = N(x_T; 0, I) prod_(t = 2..T) p(x_(t-1) | x_t)
        p(x | z) = p(x | x_1)
        q(z | x) = prod_(t = 1..T) q(x_t | x_(t-1)),  x_0 = x

    Everything that takes a latent-variable model takes it. It is there to be compared with, and for
    importance samples; to train it that way takes T network evaluations where one suffices
    (`learning.variational_diffusion`), with far noisier gradients.

    Args:
        model: a diffusion model.

    Returns:
        The latent-variable model, of the same parameters.

    Source: Ho et al. 2020, section 2.
    """

    def prior(params: Params) -> ReverseChain:
        return ReverseChain(
            jax.tree_util.Partial(model.reverse, params),
            jnp.zeros(model.num_dims),
            jnp.arange(2, model.schedule.num_steps + 1),
        )

    def likelihood(params: Params, z: Array) -> Distribution:
        return model.likelihood(params, z[0])

    def posterior(params: Params, x: Array) -> NoisingChain:
        beta = model.schedule.beta[1:]
        return NoisingChain(
            model.observation.scale(x),
            jnp.asarray(np.sqrt(1 - beta), float),
            jnp.asarray(0.5 * np.log(beta), float),
        )

    return LatentVariableModel(model.init, prior, likelihood, posterior)


class NoisingChain(NamedTuple):
    """q(x_1..x_T | x_0) = prod_t N(x_t; decay_t x_(t-1), scale_t^2 I), one event [T, num_dims].

    Attributes:
        x_0: where the chain starts, [num_dims].
        decay: sqrt(1 - beta_t), [T].
        log_scale: log sqrt(beta_t), [T].
    """

    x_0: Array
    decay: Array
    log_scale: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are differentiable functions of x_0."""
        return True

    def sample(self, *, seed: Key) -> Array:
        """One chain, [T, num_dims]."""
        return self.sample_and_log_prob(seed=seed)[0]

    def log_prob(self, value: Array) -> Array:
        """Log-density of a chain [T, num_dims], a scalar in nats."""
        value = check_event(value, jnp.zeros((*self.decay.shape, *self.x_0.shape)))
        before = jnp.concatenate([self.x_0[None], value[:-1]])
        return jnp.sum(jax.vmap(_log_prob)(self._steps(before), value))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A chain and its log-density."""

        def step(x: Array, row: tuple[Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
            index, decay, log_scale = row
            distribution = DiagonalGaussian(decay * x, log_scale)
            return _draw(distribution, jax.random.fold_in(seed, index))

        rows = (jnp.arange(self.decay.shape[0]), self.decay, self.log_scale)
        x_0 = self.x_0.astype(jnp.result_type(self.x_0, self.decay))
        _, (chain, log_probs) = jax.lax.scan(step, x_0, rows)
        return chain, jnp.sum(log_probs)

    def _steps(self, before: Array) -> DiagonalGaussian:
        return DiagonalGaussian(self.decay[:, None] * before, self.log_scale)


class ReverseChain(NamedTuple):
    """p(x_1, ..., x_T) = N(x_T; 0, I) prod_(t = 2..T) p(x_(t-1) | x_t), one event [T, num_dims].

    Attributes:
        reverse: `reverse(x_t, t) -> p(x_(t-1) | x_t)`, a `jax.tree_util.Partial` of parameters.
        loc: zeros, the mean of x_T, [num_dims].
        steps: 2..T, [T - 1].
    """

    reverse: Any
    loc: Array
    steps: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are differentiable functions of the parameters."""
        return True

    def sample(self, *, seed: Key) -> Array:
        """One chain, [T, num_dims]; entry t - 1 is x_t."""
        return self.sample_and_log_prob(seed=seed)[0]

    def log_prob(self, value: Array) -> Array:
        """Log-density of a chain [T, num_dims], a scalar in nats."""
        value = check_event(value, jnp.zeros((self.steps.shape[0] + 1, *self.loc.shape)))

        def step(total: Array, row: tuple[Array, Array, Array]) -> tuple[Array, None]:
            x_t, x_before, t = row
            return total + self.reverse(x_t, t).log_prob(x_before), None

        rows = (value[1:], value[:-1], self.steps)
        return jax.lax.scan(step, self._last().log_prob(value[-1]), rows)[0]

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A chain and its log-density."""
        last_key, chain_key = jax.random.split(seed)

        def step(x_t: Array, t: Array) -> tuple[Array, tuple[Array, Array]]:
            return _draw(self.reverse(x_t, t), jax.random.fold_in(chain_key, t))

        x_T, log_prob = self._last().sample_and_log_prob(seed=last_key)
        _, (chain, log_probs) = jax.lax.scan(step, x_T, self.steps, reverse=True)
        return jnp.concatenate([chain, x_T[None]]), log_prob + jnp.sum(log_probs)

    def _last(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.loc, jnp.zeros(()))


def _draw(distribution: DiagonalGaussian, key: Key) -> tuple[Array, tuple[Array, Array]]:
    """A draw, to be carried to the next step, beside itself and its log-density."""
    x, log_prob = distribution.sample_and_log_prob(seed=key)
    return x, (x, log_prob)


def _log_prob(distribution: DiagonalGaussian, value: Array) -> Array:
    return distribution.log_prob(value)

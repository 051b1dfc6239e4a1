"""The diagonal Gaussian."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import (
    LOG_SQRT_2PI,
    at_least_float32,
    check_event,
    sum_event,
)
from genjax_models.interfaces import Array, Key


class DiagonalGaussian(NamedTuple):
    """Independent Gaussians, one event in all.

    log p(x) = -sum_d [(x_d - m_d)^2 / (2 s_d^2) + log s_d + log(2 pi) / 2].

    Attributes:
        loc: means m, any shape.
        log_scale: log standard deviations log s, of the same shape, or a scalar that all share.
    """

    loc: Array
    log_scale: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are differentiable functions of the parameters."""
        return True

    def sample(self, *, seed: Key) -> Array:
        """m + s * eps with eps standard normal: pathwise differentiable."""
        return self._move(self._noise(seed))

    def log_prob(self, value: Array) -> Array:
        """Log-density of `value`, of the means' shape, as a scalar in nats."""
        distance = at_least_float32(check_event(value, self.loc)) - self.loc
        return self._log_density(distance * jnp.exp(-at_least_float32(self.log_scale)))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-density, which needs no division since the noise is at hand."""
        noise = self._noise(seed)
        return self._move(noise), self._log_density(noise)

    def mean(self) -> Array:
        """The means."""
        return self.loc

    def _noise(self, seed: Key) -> Array:
        return jax.random.normal(seed, jnp.shape(self.loc), at_least_float32(self.loc).dtype)

    def _move(self, noise: Array) -> Array:
        value = self.loc + jnp.exp(at_least_float32(self.log_scale)) * noise
        return value.astype(jnp.result_type(self.loc))

    def _log_density(self, noise: Array) -> Array:
        log_scale = jnp.broadcast_to(at_least_float32(self.log_scale), jnp.shape(self.loc))
        return -sum_event(0.5 * jnp.square(noise) + log_scale + LOG_SQRT_2PI)

"""The Gaussian with a rank-one term in its precision."""

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


class RankOneGaussian(NamedTuple):
    """A Gaussian whose precision is diagonal but for a rank-one term, C^-1 = D + u u'.

    Attributes:
        loc: mean m, [n].
        log_precision: log of the diagonal of D, [n].
        direction: u, [n].

    Source: Rezende et al. 2014, equations 17 and 18.
    """

    loc: Array
    log_precision: Array
    direction: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are differentiable functions of the parameters."""
        return True

    def sample(self, *, seed: Key) -> Array:
        """m + R eps with R R' = C and eps standard normal."""
        return self.sample_and_log_prob(seed=seed)[0]

    def log_prob(self, value: Array) -> Array:
        """Log-density of `value` [n], in nats."""
        distance = at_least_float32(check_event(value, self.loc)) - self.loc
        projected = jnp.sum(at_least_float32(self.direction) * distance)
        scaled = jnp.square(distance) * jnp.exp(at_least_float32(self.log_precision))
        return self._log_density(sum_event(scaled) + jnp.square(projected))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-density."""
        log_precision = at_least_float32(self.log_precision)
        noise = jax.random.normal(seed, jnp.shape(self.loc), log_precision.dtype)
        scale = jnp.exp(-0.5 * log_precision)
        # R = (I - c v v') D^(-1/2) turned round: with w = D^(-1/2) u and s = w'w,
        # R = D^(-1/2) [I - (1 - (1 + s)^(-1/2)) / s  w w'].
        w = scale * self.direction
        s = jnp.sum(jnp.square(w))
        root = jnp.sqrt(1 + s)
        # (1 - 1 / sqrt(1 + s)) / s without the difference of nearly equal numbers.
        shrinkage = 1 / (root * (1 + root))
        moved = scale * (noise - shrinkage * jnp.sum(w * noise) * w)
        value = (self.loc + moved).astype(jnp.result_type(self.loc))
        return value, self._log_density(jnp.sum(jnp.square(noise)))

    def mean(self) -> Array:
        """The means."""
        return self.loc

    def _log_density(self, squared_distance: Array) -> Array:
        log_precision = at_least_float32(self.log_precision)
        ratio = jnp.sum(jnp.exp(-log_precision) * jnp.square(self.direction))
        log_det = sum_event(log_precision) + jnp.log1p(ratio)
        return 0.5 * (log_det - squared_distance) - len(self.loc) * LOG_SQRT_2PI

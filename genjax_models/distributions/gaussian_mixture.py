"""The mixture of diagonal Gaussians."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp

from genjax_models.distributions.gaussian import DiagonalGaussian
from genjax_models.distributions.numerics import LOG_SQRT_2PI, at_least_float32, check_event
from genjax_models.interfaces import Array, Key


class GaussianMixture(NamedTuple):
    """A mixture of K diagonal Gaussians over vectors.

    p(z) = sum_k softmax(a)_k N(z; m_k, diag s_k^2).

    The squares are expanded into matrix products, sum_d (z - m)^2 / s^2 = z^2 . s^-2 - 2 z . m s^-2
    + m^2 . s^-2, so that a batch of B values needs [B, K] numbers, not [B, K, D]. In float32 the
    log-density of a component is exact to about 1e-7 |m / s|^2 nats, after the mean of the
    components has been taken off: 1e-3 at a hundred standard deviations, ten nats at ten thousand,
    but never above its own maximum. A scale below e^-20 counts as e^-20, so that nothing overflows.

    Attributes:
        logits: a, unnormalised log weights, [K].
        loc: means m, [K, D].
        log_scale: log standard deviations log s, [K, D].
    """

    logits: Array
    loc: Array
    log_scale: Array

    @property
    def reparameterized(self) -> bool:
        """The choice of a component is discrete: no pathwise gradient."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """A vector [D] of a component that is drawn first."""
        component_key, value_key = jax.random.split(seed)
        component = jax.random.categorical(component_key, at_least_float32(self.logits))
        # As jax arrays: one of numpy, as a restored run has, takes no traced index.
        chosen = DiagonalGaussian(jnp.asarray(self.loc)[component], self._log_scale()[component])
        return chosen.sample(seed=value_key)

    def log_prob(self, value: Array) -> Array:
        """Log-density of `value`, [D], a scalar in nats."""
        value = at_least_float32(check_event(value, self.loc[0]))
        log_weights = log_softmax(at_least_float32(self.logits))
        return logsumexp(log_weights + self._component_log_probs(value))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-density."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """sum_k softmax(a)_k m_k."""
        return jax.nn.softmax(self.logits) @ self.loc

    def _log_scale(self) -> Array:
        """Log standard deviations of which no precision overflows, [K, D]."""
        return jnp.maximum(jnp.asarray(self.log_scale), -20)

    def _component_log_probs(self, value: Array) -> Array:
        """log N(z; m_k, s_k) of every component, [K]."""
        loc, log_scale = at_least_float32(self.loc), at_least_float32(self._log_scale())
        # Any origin gives the same value; this one keeps the products that cancel small.
        origin = jax.lax.stop_gradient(jnp.mean(loc, axis=0))
        value, loc = value - origin, loc - origin[None]
        precision = jnp.exp(-2 * log_scale)
        weighted = loc * precision
        highest = jax.lax.Precision.HIGHEST  # An accelerator would round the factors to 10 bits.
        squares = jnp.dot(jnp.square(value), precision.T, precision=highest)
        products = jnp.dot(value, weighted.T, precision=highest)
        # Rounding may leave less than nothing of terms that cancel.
        distances = jnp.maximum(squares - 2 * products + jnp.sum(loc * weighted, axis=1), 0)
        normalizers = jnp.sum(log_scale, axis=1) + LOG_SQRT_2PI * loc.shape[1]
        return -distances / 2 - normalizers

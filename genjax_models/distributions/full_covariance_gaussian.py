"""The Gaussian with a full covariance matrix."""

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


class FullCovarianceGaussian(NamedTuple):
    """N(m, L L'), with L lower triangular; every value of the attributes is a Gaussian.

    log p(x) = -|L^-1 (x - m)|^2 / 2 - sum_d [log L_dd + log(2 pi) / 2].

    Attributes:
        loc: means m, [num_dims].
        log_diagonal: log L_dd, [num_dims].
        off_diagonal: L below the diagonal, row after row, [num_dims * (num_dims - 1) / 2].
    """

    loc: Array
    log_diagonal: Array
    off_diagonal: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are differentiable functions of the parameters."""
        return True

    @property
    def scale_tril(self) -> Array:
        """L, [num_dims, num_dims], in float32 at least."""
        num_dims = len(self.loc)
        num_entries = num_dims * (num_dims - 1) // 2
        shapes = jnp.shape(self.log_diagonal), jnp.shape(self.off_diagonal)
        if shapes != ((num_dims,), (num_entries,)):
            raise ValueError(
                f"for loc of {num_dims} dimensions log_diagonal must have shape [{num_dims}] and"
                f" off_diagonal [{num_entries}], got {shapes[0]} and {shapes[1]}"
            )
        diagonal = jnp.diag(jnp.exp(at_least_float32(self.log_diagonal)))
        below = jnp.tril_indices(num_dims, -1)
        return diagonal.at[below].set(at_least_float32(self.off_diagonal).astype(diagonal.dtype))

    def sample(self, *, seed: Key) -> Array:
        """m + L eps with eps standard normal: pathwise differentiable."""
        return self._move(self._noise(seed))

    def log_prob(self, value: Array) -> Array:
        """Log-density of `value`, [num_dims], as a scalar in nats."""
        distance = at_least_float32(check_event(value, self.loc)) - self.loc
        noise = jax.scipy.linalg.solve_triangular(self.scale_tril, distance, lower=True)
        return self._log_density(noise)

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-density, for which no system is solved since the noise is at hand."""
        noise = self._noise(seed)
        return self._move(noise), self._log_density(noise)

    def mean(self) -> Array:
        """The means."""
        return self.loc

    def _noise(self, seed: Key) -> Array:
        return jax.random.normal(seed, jnp.shape(self.loc), at_least_float32(self.loc).dtype)

    def _move(self, noise: Array) -> Array:
        return (self.loc + self.scale_tril @ noise).astype(jnp.result_type(self.loc))

    def _log_density(self, noise: Array) -> Array:
        log_diagonal = at_least_float32(self.log_diagonal)
        return -sum_event(0.5 * jnp.square(noise) + log_diagonal + LOG_SQRT_2PI)

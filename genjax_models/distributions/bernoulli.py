"""Independent Bernoulli variables from logits."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, check_event, sigmoid, sum_event
from genjax_models.interfaces import Array, Key


class Bernoulli(NamedTuple):
    """Independent binary variables with log-odds `logits`, one event in all.

    log p(x) = sum_d [x_d l_d - log(1 + e^(l_d))]. Neither value nor gradient overflows for logits
    of +-1e4 in float32, and a term keeps its relative precision where the probability is near one.

    Attributes:
        logits: l_d = log p(x_d = 1) / p(x_d = 0), any shape.
    """

    logits: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete: no pathwise gradient."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """Zeros and ones, of the logits' shape and dtype."""
        probabilities = jax.nn.sigmoid(at_least_float32(self.logits))
        return jax.random.bernoulli(seed, probabilities).astype(jnp.result_type(self.logits))

    def log_prob(self, value: Array) -> Array:
        """Log-probability of `value`, zeros and ones of the logits' shape, a scalar in nats."""
        logits = at_least_float32(self.logits)
        return sum_event(_log_mass(logits, check_event(value, logits).astype(logits.dtype)))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """The probabilities of a one."""
        return jax.nn.sigmoid(self.logits)


@jax.custom_jvp
def _log_mass(logits: Array, value: Array) -> Array:
    """x l - log(1 + e^l), elementwise; x l - max(l, 0) is exact where x is zero or one."""
    return value * logits - jnp.maximum(logits, 0) - jnp.log1p(jnp.exp(-jnp.abs(logits)))


@_log_mass.defjvp
def _log_mass_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
    (logits, value), (logits_tangent, value_tangent) = primals, tangents
    tangent = (value - sigmoid(logits)) * logits_tangent + logits * value_tangent
    return _log_mass(logits, value), tangent

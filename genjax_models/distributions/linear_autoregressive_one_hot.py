"""Categories of which each is a softmax regression on all before it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.distributions.one_hot_categorical import OneHotCategorical
from genjax_models.distributions.rows import rows_dot_general
from genjax_models.distributions.sequential import one_by_one
from genjax_models.interfaces import Array, Key


class LinearAutoregressiveOneHot(NamedTuple):
    """A fully visible belief net of categories, as one-hot vectors.

    p(z) = prod_m softmax(a_m + sum_{n < m} W_mn z_n), z_m one-hot.

    A log-probability is one product of z with the weights below the diagonal of (m, n); the others
    are not looked at. A draw takes the variables one after the other.

    Attributes:
        logits: a, [M, C]: C categories of each of M variables.
        weights: W, [M, C, M, C].

    Source: Bengio & Bengio 2000 (Modeling high-dimensional discrete data with multi-layer neural
    networks), whose model without the hidden layer it is.
    """

    logits: Array
    weights: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """One-hot vectors, of the logits' shape and dtype."""
        logits = at_least_float32(self.logits)
        noise = jax.random.gumbel(seed, logits.shape, logits.dtype)
        z = one_by_one(
            self,
            lambda logits, noise: jax.nn.one_hot(jnp.argmax(logits + noise), logits.size),
            noise,
        )
        return z.astype(jnp.result_type(self.logits))

    def log_prob(self, value: Array) -> Array:
        """Log-probability of one-hot vectors of the logits' shape, a scalar in nats."""
        value = check_event(value, self.logits)
        return OneHotCategorical(self.conditional_logits(value)).log_prob(value)

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """Each variable's probabilities, those before it at their own: close to E[z].

        Equal to it where the weights are zero.
        """
        z = one_by_one(
            self, lambda logits, _: jax.nn.softmax(logits), at_least_float32(self.logits)
        )
        return z.astype(jnp.result_type(self.logits))

    def conditional_logits(self, value: Array) -> Array:
        """Logits of every variable given those before it, [M, C]."""
        num_variables = self.logits.shape[0]
        below = jnp.tril(jnp.ones((num_variables, num_variables), bool), k=-1)
        weights = jnp.where(below[:, None, :, None], at_least_float32(self.weights), 0)
        matrix = weights.reshape(self.logits.size, self.logits.size)
        product = rows_dot_general(at_least_float32(value).reshape(-1), matrix.T)
        return at_least_float32(self.logits) + product.reshape(self.logits.shape)

    def start(self) -> Array:
        """The summary is z itself, with zeros for what is to come, [M, C]."""
        return jnp.zeros_like(at_least_float32(self.logits))

    def next_logits(self, summary: Array, index: int | Array) -> Array:
        """The logits of variable `index` given those before it, [C]."""
        before = jnp.arange(summary.shape[0]) < index
        weights = jnp.where(before[:, None], self.weights[index].astype(summary.dtype), 0)
        return self.logits[index] + jnp.tensordot(weights, summary, 2)

    def see(self, summary: Array, index: int | Array, x: Array) -> Array:
        """The summary that has variable `index` in it."""
        return summary.at[index].set(x)

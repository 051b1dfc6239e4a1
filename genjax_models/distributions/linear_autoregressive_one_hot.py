"""Categories of which each is a softmax regression on all before it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.distributions.one_hot_categorical import OneHotCategorical
from genjax_models.distributions.rows import rows_dot_general
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
        return self._one_by_one(
            lambda logit, noise: jax.nn.one_hot(jnp.argmax(logit + noise), logit.size), noise
        )

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

        The exact mean is a sum over all states, and this its mean-field approximation; the two are
        equal where the weights are zero.
        """
        return self._one_by_one(lambda logit, _: jax.nn.softmax(logit), jnp.zeros_like(self.logits))

    def conditional_logits(self, value: Array) -> Array:
        """Logits of every variable given those before it, [M, C]."""
        num_variables = self.logits.shape[0]
        below = jnp.tril(jnp.ones((num_variables, num_variables), bool), k=-1)
        weights = jnp.where(below[:, None, :, None], at_least_float32(self.weights), 0)
        matrix = weights.reshape(self.logits.size, self.logits.size)
        product = rows_dot_general(at_least_float32(value).reshape(-1), matrix.T)
        return at_least_float32(self.logits) + product.reshape(self.logits.shape)

    def _one_by_one(self, choose: Callable[[Array, Array], Array], noise: Array) -> Array:
        """Every variable chosen by its logits and noise, given those before it."""
        logits = at_least_float32(self.logits)

        def choose_next(z: Array, variable: tuple[Array, ...]) -> tuple[Array, None]:
            index, logit, weights, noise = variable
            # What is not drawn yet is zero, so that only the weights below the diagonal matter.
            own = choose(logit + jnp.tensordot(weights, z, 2), noise)
            return z.at[index].set(own.astype(z.dtype)), None

        variables = jnp.arange(len(logits)), logits, self.weights.astype(logits.dtype), noise
        z, _ = jax.lax.scan(choose_next, jnp.zeros_like(logits), variables)
        return z.astype(jnp.result_type(self.logits))

"""One of several categories as a one-hot vector."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array, Key


class OneHotCategorical(NamedTuple):
    """A category with probabilities softmax(logits), as a vector with a single one.

    log p(y) = sum_c y_c log softmax(a)_c, with logits a.

    Attributes:
        logits: a, [num_categories].
    """

    logits: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """A one-hot vector, [num_categories]."""
        category = jax.random.categorical(seed, at_least_float32(self.logits))
        return jax.nn.one_hot(category, len(self.logits), dtype=jnp.result_type(self.logits))

    def log_prob(self, value: Array) -> Array:
        """Log-probability of a one-hot vector, a scalar in nats."""
        log_probs = jax.nn.log_softmax(at_least_float32(self.logits))
        chosen = check_event(value, self.logits)
        # Zero times an infinite log-probability is not a number.
        return jnp.sum(jnp.where(chosen == 0, 0.0, chosen * log_probs))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """The probabilities."""
        return jax.nn.softmax(self.logits)

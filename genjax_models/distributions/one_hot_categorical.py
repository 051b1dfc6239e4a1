"""Categories as one-hot vectors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array, Key


class OneHotCategorical(NamedTuple):
    """Independent categories with probabilities softmax(logits), as vectors with a single one.

    log p(y) = sum_m sum_c y_mc log softmax(a_m)_c, with logits a; one event in all. Between the
    one-hot vectors it is linear in y, as relaxations of y need it.

    Attributes:
        logits: a, [..., num_categories]: of one variable, or of each row.
    """

    logits: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """One-hot vectors, of the logits' shape and dtype."""
        category = jax.random.categorical(seed, at_least_float32(self.logits))
        num_categories = jnp.shape(self.logits)[-1]
        return jax.nn.one_hot(category, num_categories, dtype=jnp.result_type(self.logits))

    def log_prob(self, value: Array) -> Array:
        """Log-probability of one-hot vectors of the logits' shape, a scalar in nats."""
        log_probs = jax.nn.log_softmax(at_least_float32(self.logits))
        chosen = check_event(value, self.logits)
        # Zero times an infinite log-probability is not a number.
        is_left_out = (chosen == 0) & jnp.isneginf(log_probs)
        return jnp.sum(chosen * jnp.where(is_left_out, 0.0, log_probs))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """The probabilities."""
        return jax.nn.softmax(self.logits)

"""Binary variables of which each is a logistic regression on all before it."""

from typing import NamedTuple

import jax.numpy as jnp

from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.distributions.rows import rows_dot_general
from genjax_models.distributions.sequential import mean_field_bits, sample_bits
from genjax_models.interfaces import Array, Key


class LinearAutoregressiveBernoulli(NamedTuple):
    """A fully visible sigmoid belief net.

    p(x) = prod_d Bernoulli(x_d; sigmoid(l_d + sum_{j < d} W_dj x_j)).

    A log-probability is one product of x with the weights below the diagonal; the others are not
    looked at. A draw takes the variables one after the other, at the same number of products.

    Attributes:
        logits: l, [D].
        weights: W, [D, D].

    Source: Frey et al. 1996 (Does the wake-sleep algorithm produce good density estimators?).
    """

    logits: Array
    weights: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete: no pathwise gradient."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """Zeros and ones, of the logits' shape and dtype."""
        return sample_bits(self, self.logits, seed=seed)

    def log_prob(self, value: Array) -> Array:
        """Log-probability of `value`, zeros and ones of the logits' shape, a scalar in nats."""
        value = check_event(value, self.logits)
        return Bernoulli(self.conditional_logits(value)).log_prob(value)

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """Each probability of a one, those before it at their own probabilities: close to E[x].

        Equal to it where the weights are zero.
        """
        return mean_field_bits(self, self.logits)

    def conditional_logits(self, value: Array) -> Array:
        """log p(x_d = 1 | x_<d) / p(x_d = 0 | x_<d) of every variable, [D]."""
        logits = at_least_float32(self.logits)
        below = jnp.tril(self.weights.astype(logits.dtype), k=-1)
        return logits + rows_dot_general(at_least_float32(value), below.T)

    def start(self) -> Array:
        """The summary is x itself, with zeros for what is to come, [D]."""
        return jnp.zeros_like(at_least_float32(self.logits))

    def next_logits(self, summary: Array, index: int | Array) -> Array:
        """The logit of variable `index` given those before it, []."""
        before = jnp.arange(summary.shape[0]) < index
        weights = jnp.where(before, self.weights[index].astype(summary.dtype), 0)
        return self.logits[index] + weights @ summary

    def see(self, summary: Array, index: int | Array, x: Array) -> Array:
        """The summary that has variable `index` in it."""
        return summary.at[index].set(x)

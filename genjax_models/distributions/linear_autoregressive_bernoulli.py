"""Binary variables of which each is a logistic regression on all before it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.distributions.rows import rows_dot_general
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
        logits = at_least_float32(self.logits)
        noise = jax.random.logistic(seed, logits.shape, logits.dtype)
        # u < sigmoid(l) for a uniform u where a logistic variable is below l.
        return self._one_by_one(lambda logit, noise: noise < logit, noise)

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

        The exact mean is a sum over all states, and this its mean-field approximation; the two are
        equal where the weights are zero.
        """
        return self._one_by_one(lambda logit, _: jax.nn.sigmoid(logit), jnp.zeros_like(self.logits))

    def conditional_logits(self, value: Array) -> Array:
        """log p(x_d = 1 | x_<d) / p(x_d = 0 | x_<d) of every variable, [D]."""
        logits = at_least_float32(self.logits)
        return logits + rows_dot_general(at_least_float32(value), self._below().T)

    def _one_by_one(self, choose: Callable[[Array, Array], Array], noise: Array) -> Array:
        """Every variable chosen by its logit and noise, given those before it."""
        logits = at_least_float32(self.logits)

        def choose_next(x: Array, variable: tuple[Array, ...]) -> tuple[Array, None]:
            index, logit, weights, noise = variable
            return x.at[index].set(choose(logit + weights @ x, noise).astype(x.dtype)), None

        variables = jnp.arange(logits.shape[0]), logits, self._below(), noise
        x, _ = jax.lax.scan(choose_next, jnp.zeros_like(logits), variables)
        return x.astype(jnp.result_type(self.logits))

    def _below(self) -> Array:
        """The weights that count, in the dtype of the conditionals."""
        return jnp.tril(self.weights.astype(at_least_float32(self.logits).dtype), k=-1)

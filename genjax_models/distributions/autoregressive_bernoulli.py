"""Binary variables of which each sees a few of those before it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array, Key


class AutoregressiveBernoulli(NamedTuple):
    """A product of conditionals of binary variables, each given its neighbours before it.

    p(x) = prod_d Bernoulli(x_d; sigmoid(l_d + g(x_n(d), f_d))), n(d) a subset of 0..d-1.

    The log-probability of a given x takes all conditionals at once; a draw takes them one after
    the other, at the same cost in all. The function g is shared by all d, which makes it a masked
    convolution where the neighbours are a window; as `jax.tree_util.Partial` of a function and its
    parameters it crosses `jit` and `vmap`.

    Attributes:
        logits: l, [D].
        features: f, [D, ...].
        correction: `correction(neighbor_values [W], features [...]) -> g`, a scalar.
        neighbors: n, integers [D, W] in 0..D; D stands for none, and gives a value of zero.
    """

    logits: Array
    features: Array
    correction: Callable[[Array, Array], Array]
    neighbors: Array

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
        """Each probability of a one, its neighbours at their own probabilities: close to E[x].

        The exact mean is a sum over all states, and this its mean-field approximation; the two are
        equal where no variable has a neighbour.
        """
        return self._one_by_one(lambda logit, _: jax.nn.sigmoid(logit), jnp.zeros_like(self.logits))

    def conditional_logits(self, value: Array) -> Array:
        """log p(x_d = 1 | ...) / p(x_d = 0 | ...) of every variable given its neighbours', [D]."""
        value = at_least_float32(value)
        padded = jnp.concatenate([value, jnp.zeros(1, value.dtype)])
        corrections = jax.vmap(self.correction)(padded[self.neighbors], self.features)
        return at_least_float32(self.logits) + corrections

    def _one_by_one(self, choose: Callable[[Array, Array], Array], noise: Array) -> Array:
        """Every variable chosen by its logit and noise, given those before it."""
        num_dims = self.logits.shape[0]
        conditionals = self.logits, self.features, jnp.asarray(self.neighbors), noise

        def choose_next(padded: Array, conditional: tuple) -> tuple[Array, None]:
            index, (logit, features, neighbors, noise) = conditional
            logit = logit + self.correction(padded[neighbors], features)
            return padded.at[index].set(choose(logit, noise).astype(padded.dtype)), None

        nothing = jnp.zeros(num_dims + 1, noise.dtype)
        padded, _ = jax.lax.scan(choose_next, nothing, (jnp.arange(num_dims), conditionals))
        return padded[:num_dims].astype(jnp.result_type(self.logits))

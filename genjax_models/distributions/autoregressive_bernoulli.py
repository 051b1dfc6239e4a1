"""Binary variables of which each sees a few of those before it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.distributions.sequential import mean_field_bits, sample_bits
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
        """Each probability of a one, its neighbours at their own probabilities: close to E[x].

        Equal to it where no variable has a neighbour.
        """
        return mean_field_bits(self, self.logits)

    def conditional_logits(self, value: Array) -> Array:
        """log p(x_d = 1 | ...) / p(x_d = 0 | ...) of every variable given its neighbours', [D]."""
        value = at_least_float32(value)
        padded = jnp.concatenate([value, jnp.zeros(1, value.dtype)])
        corrections = jax.vmap(self.correction)(padded[self.neighbors], self.features)
        return at_least_float32(self.logits) + corrections

    def start(self) -> Array:
        """The summary is x, with zeros for what is to come, and a zero for none, [D + 1]."""
        return jnp.zeros(self.logits.shape[0] + 1, at_least_float32(self.logits).dtype)

    def next_logits(self, summary: Array, index: int | Array) -> Array:
        """The logit of variable `index` given its neighbours before it, []."""
        neighbors = jnp.asarray(self.neighbors)[index]
        return self.logits[index] + self.correction(summary[neighbors], self.features[index])

    def see(self, summary: Array, index: int | Array, x: Array) -> Array:
        """The summary that has variable `index` in it."""
        return summary.at[index].set(x)

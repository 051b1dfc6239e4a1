"""A distribution with a known density, of which an invertible map goes to the noise."""

from collections.abc import Callable
from typing import NamedTuple

from genjax_models.distributions.reparameterization import is_reparameterized
from genjax_models.interfaces import Array, Distribution, Key, PyTree


class Pullback(NamedTuple):
    """z for which f(z) ~ base, with f invertible: the density of every value by f.

    log p(z) = log p_0(f(z)) + log |det df / dz|.

    The counterpart of `Pushforward`, for where f is cheap and its inverse is not, or the density of
    a given z is wanted. Both maps are functions; as `jax.tree_util.Partial` of a function and its
    parameters they cross `jit` and `vmap`.

    Attributes:
        base: p_0, the distribution of the noise.
        transform: `transform(z) -> (f(z), log |det df / dz|)`.
        inverse: `inverse(noise) -> z`; draws alone need it.
    """

    base: Distribution
    transform: Callable[[PyTree], tuple[PyTree, Array]]
    inverse: Callable[[PyTree], PyTree]

    @property
    def reparameterized(self) -> bool:
        """As of the base."""
        return is_reparameterized(self.base)

    def sample(self, *, seed: Key) -> PyTree:
        """The preimage of a draw of the base."""
        return self.inverse(self.base.sample(seed=seed))

    def log_prob(self, value: PyTree) -> Array:
        """Log-density of `value`, a scalar in nats."""
        noise, log_det = self.transform(value)
        return self.base.log_prob(noise) + log_det

    def sample_and_log_prob(self, *, seed: Key) -> tuple[PyTree, Array]:
        """A draw and its log-density."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

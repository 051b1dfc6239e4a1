"""Distributions made from others: moved by an invertible map, or with a part left out."""

from collections.abc import Callable
from typing import NamedTuple

from genjax_models.distributions.chain import sample_and_log_prob
from genjax_models.distributions.reparameterization import is_reparameterized
from genjax_models.interfaces import Array, Distribution, Key, PyTree


class Pushforward(NamedTuple):
    """z = f(z_0) with z_0 ~ base and f invertible: a density for its own draws alone.

    log q(z) = log q_0(z_0) - log |det df / dz_0|.

    There is no `log_prob`, since the inverse of f need not be known. The transform is a function;
    as `jax.tree_util.Partial` of a function and its parameters it crosses `jit` and `vmap`.

    Attributes:
        base: q_0, a distribution over the events that f takes.
        transform: `transform(z_0) -> (f(z_0), log |det df / dz_0|)`.
    """

    base: Distribution
    transform: Callable[[PyTree], tuple[PyTree, Array]]

    @property
    def reparameterized(self) -> bool:
        """As of the base."""
        return is_reparameterized(self.base)

    def sample(self, *, seed: Key) -> PyTree:
        """The image of a draw of the base."""
        return self.transform(self.base.sample(seed=seed))[0]

    def sample_and_log_prob(self, *, seed: Key) -> tuple[PyTree, Array]:
        """A draw and its log-density, a scalar in nats."""
        start, log_prob = sample_and_log_prob(self.base, seed=seed)
        value, log_det = self.transform(start)
        return value, log_prob - log_det


class Marginal(NamedTuple):
    """z of a joint draw (a, z), where the auxiliary a is weighed by a reverse model r(a | z).

    Its log-probability is that of the draw, log q(a, z) - log r(a | z): on average an upper bound
    on that of z alone,

        E_q(a | z) [log q(a, z) - log r(a | z)] = log q(z) + KL(q(a | z) || r(a | z)),

    so that a bound on log p(x) with this posterior is a bound on log p(x), and tight where r is
    q(a | z). There is no `log_prob`. The reverse model is a function; as `jax.tree_util.Partial`
    of a function and its parameters it crosses `jit` and `vmap`.

    Attributes:
        joint: q(a, z), over events that are a pair (a, z).
        reverse: `reverse(z) -> r(a | z)`.
    """

    joint: Distribution
    reverse: Callable[[PyTree], Distribution]

    @property
    def reparameterized(self) -> bool:
        """As of the joint distribution."""
        return is_reparameterized(self.joint)

    def sample(self, *, seed: Key) -> PyTree:
        """z of a joint draw."""
        return self.joint.sample(seed=seed)[1]

    def sample_and_log_prob(self, *, seed: Key) -> tuple[PyTree, Array]:
        """z of a joint draw, and log q(a, z) - log r(a | z) in nats."""
        (auxiliary, value), log_prob = sample_and_log_prob(self.joint, seed=seed)
        return value, log_prob - self.reverse(value).log_prob(auxiliary)

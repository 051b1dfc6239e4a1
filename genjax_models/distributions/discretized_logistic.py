"""The logistic distribution on a grid of grey levels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, check_event, softplus, sum_event
from genjax_models.interfaces import Array, Key

# A scale of exp(-60) is a point mass in any precision, and 1e4 * exp(60) is finite in float32.
_MAX_LOG_PRECISION = 60.0


class DiscretizedLogistic(NamedTuple):
    """Independent logistic variables rounded to the levels 0, 1/(L-1), ..., 1, one event in all.

    With bin width w = 1/(L-1) and F the logistic cumulative distribution function, an inner level
    has P(x) = F((x + w/2 - m)/s) - F((x - w/2 - m)/s); the lowest and highest levels take the
    tails, so that the L probabilities sum to one.

    With a = (x + w/2 - m)/s, b = (x - w/2 - m)/s the difference is computed as
    F(a) F(-b) (1 - e^(b-a)), which keeps its relative precision at both ends (a difference of
    sigmoids becomes zero there, and its logarithm needs an ad-hoc floor).

    Source: Kingma et al. 2016 (Improved variational inference with inverse autoregressive flow),
    appendix on the likelihood of pixels; the identity is ours.

    Attributes:
        loc: m, any shape.
        log_scale: log s, of the same shape.
        num_levels: L >= 2.
    """

    loc: Array
    log_scale: Array
    num_levels: int | Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete: no pathwise gradient."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """Levels k/(L-1) in [0, 1], of the locations' shape and dtype."""
        loc, scale = at_least_float32(self.loc), jnp.exp(at_least_float32(self.log_scale))
        steps = jnp.asarray(self.num_levels, loc.dtype) - 1
        value = loc + scale * jax.random.logistic(seed, loc.shape, loc.dtype)
        level = jnp.round(jnp.clip(value, 0, 1) * steps) / steps
        return level.astype(jnp.result_type(self.loc))

    def log_prob(self, value: Array) -> Array:
        """Log-probability of `value`, levels k/(L-1) of the locations' shape, a scalar in nats."""
        value = at_least_float32(check_event(value, self.loc))
        return sum_event(log_mass(value, self.loc, self.log_scale, self.num_levels))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """E[x] = w sum_k P(x >= k w) over the levels k = 1, ..., L-1; exact, one pass a level."""
        loc, width = at_least_float32(self.loc), _width(self.num_levels, self.loc)
        precision = _precision(self.log_scale)

        def add_level(k: Array, total: Array) -> Array:
            return total + jax.nn.sigmoid((loc - (k - 0.5) * width) * precision)

        total = jax.lax.fori_loop(1, self.num_levels, add_level, jnp.zeros_like(loc))
        return (width * total).astype(jnp.result_type(self.loc))


def log_mass(value: Array, loc: Array, log_scale: Array, num_levels: int | Array) -> Array:
    """log P(x) of one variable, elementwise; see `DiscretizedLogistic`.

    Args:
        value: levels k/(L-1), in float32 at least.
        loc: m.
        log_scale: log s.
        num_levels: L.

    Returns:
        Log-probabilities in nats, of the shape to which the others broadcast.
    """
    width, precision = _width(num_levels, loc), _precision(log_scale)
    centred = value - loc
    # Half a level inside the edge, so that rounding of k/(L-1) does not matter.
    is_lowest, is_highest = value < width / 2, value > 1 - width / 2
    log_below_upper = -softplus(-(centred + width / 2) * precision)
    log_above_lower = -softplus((centred - width / 2) * precision)
    log_inside = _log1mexp_of_exp(jnp.log(width) - at_least_float32(log_scale))
    return (
        jnp.where(is_highest, 0, log_below_upper)
        + jnp.where(is_lowest, 0, log_above_lower)
        + jnp.where(is_lowest | is_highest, 0, log_inside)
    )


def _width(num_levels: int | Array, loc: Array) -> Array:
    return 1 / (jnp.asarray(num_levels, at_least_float32(loc).dtype) - 1)


def _precision(log_scale: Array) -> Array:
    return jnp.exp(jnp.minimum(-at_least_float32(log_scale), _MAX_LOG_PRECISION))


def _log1mexp_of_exp(t: Array) -> Array:
    """log(1 - exp(-e^t)), elementwise: t where t is very negative, 0 where it is large."""
    is_small = t < -10
    # The double where keeps the branch that is not taken finite, and so its derivative.
    exact = jnp.log(-jnp.expm1(-jnp.exp(jnp.clip(jnp.where(is_small, 0.0, t), max=80.0))))
    return jnp.where(is_small, t - jnp.exp(jnp.minimum(t, 0)) / 2, exact)

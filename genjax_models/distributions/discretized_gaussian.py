"""The Gaussian on a grid of grey levels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr

from genjax_models.distributions.numerics import (
    LOG_SQRT_2PI,
    at_least_float32,
    check_event,
    sum_event,
)
from genjax_models.interfaces import Array, Key

# A scale of exp(-30) is a point mass in any precision, and (1e4 exp(30))^2 is finite in float32.
_MAX_LOG_PRECISION = 30.0
# Bins narrower than this, in standard deviations, have the mass of width times density.
_NARROW = 1e-3
# Beyond it in the tail so many levels of the continued fraction of Mills' ratio are exact.
_TAIL = -5.0
_FRACTION_DEPTH = 20


class DiscretizedGaussian(NamedTuple):
    """Independent Gaussians rounded to the levels 0, 1/(L-1), ..., 1, one event in all.

    With bin width w = 1/(L-1) and Phi the standard normal cumulative distribution function, an
    inner level has P(x) = Phi((x + w/2 - m)/s) - Phi((x - w/2 - m)/s); the lowest and highest
    levels take the tails, so that the L probabilities sum to one.

    An inner level is first mirrored into the lower tail, where log Phi keeps its relative
    precision: with a > b the ends of its bin, log P = log Phi(a) + log(1 - Phi(b) / Phi(a)).

    Source: Ho et al. 2020 (Denoising diffusion probabilistic models), equation 13, for levels
    scaled to [-1, 1].

    Attributes:
        loc: m, any shape.
        log_scale: log s, of the same shape, or a scalar that all share.
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
        loc = at_least_float32(self.loc)
        noise = jax.random.normal(seed, loc.shape, loc.dtype)
        value = loc + jnp.exp(at_least_float32(self.log_scale)) * noise
        return round_to_levels(value, self.num_levels).astype(jnp.result_type(self.loc))

    def log_prob(self, value: Array) -> Array:
        """Log-probability of `value`, levels k/(L-1) of the locations' shape, a scalar in nats."""
        value = at_least_float32(check_event(value, self.loc))
        width, precision = self._width(), self._precision()
        half = 0.5 * width * precision
        centre = (value - self.loc) * precision
        # Half a level inside the edge, so that rounding of k/(L-1) does not matter.
        is_lowest, is_highest = value < width / 2, value > 1 - width / 2
        # Each level takes one branch: the tail below its upper end, above its lower end, or a bin.
        tail = _log_ndtr(jnp.where(is_highest, half - centre, centre + half))
        log_width = jnp.log(width) - at_least_float32(self.log_scale)
        inside = _log_mass(-jnp.abs(centre), half, log_width)
        return sum_event(jnp.where(is_lowest | is_highest, tail, inside))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """E[x] = w sum_k P(x >= k w) over the levels k = 1, ..., L-1; exact, one pass a level."""
        loc, width, precision = at_least_float32(self.loc), self._width(), self._precision()

        def add_level(k: Array, total: Array) -> Array:
            return total + ndtr((loc - (k - 0.5) * width) * precision)

        total = jax.lax.fori_loop(1, self.num_levels, add_level, jnp.zeros_like(loc))
        return (width * total).astype(jnp.result_type(self.loc))

    def _width(self) -> Array:
        return 1 / (jnp.asarray(self.num_levels, at_least_float32(self.loc).dtype) - 1)

    def _precision(self) -> Array:
        return jnp.exp(jnp.minimum(-at_least_float32(self.log_scale), _MAX_LOG_PRECISION))


def round_to_levels(value: Array, num_levels: int | Array) -> Array:
    """The nearest of the levels 0, 1/(L-1), ..., 1, elementwise."""
    steps = jnp.asarray(num_levels, jnp.result_type(value)) - 1
    return jnp.round(jnp.clip(value, 0, 1) * steps) / steps


def _log_mass(centre: Array, half: Array, log_width: Array) -> Array:
    """log(Phi(c + h) - Phi(c - h)) for c <= 0 and h > 0, log_width = log(2 h), elementwise."""
    is_narrow = half < _NARROW / 2
    # The double where keeps the branch that is not taken finite, and so its derivative.
    safe = jnp.where(is_narrow, 1.0, half)
    log_upper, log_lower = _log_ndtr(centre + safe), _log_ndtr(centre - safe)
    exact = log_upper + _log1mexp(log_upper - log_lower)
    return jnp.where(is_narrow, log_width - 0.5 * centre**2 - LOG_SQRT_2PI, exact)


def _log1mexp(t: Array) -> Array:
    """log(1 - e^-t) for t > 0, elementwise; what rounding makes 0 or less counts as tiny."""
    t = jnp.maximum(t, jnp.finfo(t.dtype).tiny)
    return jnp.where(t < 0.69, jnp.log(-jnp.expm1(-t)), jnp.log1p(-jnp.exp(-t)))


@jax.custom_jvp
def _log_ndtr(x: Array) -> Array:
    """log Phi(x), elementwise.

    The derivative 1 / Mills' ratio keeps its relative precision in the tail; that of
    `jax.scipy.special.log_ndtr` is the exponential of a difference of numbers like x^2.
    """
    return jax.scipy.special.log_ndtr(x)


@_log_ndtr.defjvp
def _log_ndtr_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    value = _log_ndtr(x)
    is_tail = x < _TAIL
    inner = jnp.where(is_tail, 0.0, x)
    near = jnp.exp(-0.5 * inner**2 - LOG_SQRT_2PI - jnp.where(is_tail, 0.0, value))
    # phi(y) / Phi(-y) = y + 1 / (y + 2 / (y + 3 / ...)), y > 0.
    y = jnp.where(is_tail, -x, 1.0)
    far = jax.lax.fori_loop(0, _FRACTION_DEPTH, lambda i, tail: y + (_FRACTION_DEPTH - i) / tail, y)
    return value, jnp.where(is_tail, far, near) * tangent

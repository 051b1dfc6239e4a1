"""From bounded or discrete data to what a flow models: the logit transform and dequantisation."""

import dataclasses
import functools
import math
from typing import NamedTuple

import distrax
import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import (
    at_least_float32,
    check_event,
    sigmoid,
    softplus,
    sum_event,
)
from genjax_models.interfaces import Array, DensityModel, Key, LatentVariableModel, Params

# x = k / (L - 1) is a level where it is so near one, in units of levels; float32 is nearer.
_LEVEL_TOLERANCE = 0.05
# The least argument of a logit, whose slope there is still far from overflow.
_LOWEST = 1e-30


class LogitTransform(distrax.Bijector):
    """From real u to y in (0, 1), or slightly beyond it: the inverse of the logit, elementwise.

        y = (sigma(u) - a) / (1 - 2 a)        u = logit(a + (1 - 2 a) y)
        log |dy/du| = log sigma(u) + log sigma(-u) - log(1 - 2 a)

    With a > 0 the ends 0 and 1 have finite logits, and y in [0, 1] is in the inside of the support
    (-a / (1 - 2 a), 1 + a / (1 - 2 a)). Outside of it the density is zero: the inverse has a
    log-determinant of -inf there.

    Where sigma(u) is 0 or 1 up to rounding, y is the end of the support, and the inverse gives the
    outermost u that can be told apart (beyond -16 or 16 in float32) rather than an infinite one.

    Source: Dinh et al. 2017 (RealNVP), section 4.1, who have a = 0.05 and map [0, 1] to [a, 1];
    Papamakarios et al. 2017 (MAF), section 4.3, who have the symmetric form.
    """

    def __init__(self, alpha: float) -> None:
        """Bind a.

        Args:
            alpha: a, in [0, 1/2).

        Raises:
            ValueError: `alpha` is not in [0, 1/2).
        """
        if not 0 <= alpha < 0.5:
            raise ValueError(f"alpha must be in [0, 1/2), got {alpha}")
        super().__init__(event_ndims_in=0)
        self._alpha = alpha

    def forward_and_log_det(self, x: Array) -> tuple[Array, Array]:
        """From u to y, and log |dy/du|."""
        u = at_least_float32(x)
        return (sigmoid(u) - self._alpha) / (1 - 2 * self._alpha), self._log_det(u)

    def inverse_and_log_det(self, y: Array) -> tuple[Array, Array]:
        """From y to u, and log |du/dy|."""
        s = self._alpha + (1 - 2 * self._alpha) * at_least_float32(y)
        info = jnp.finfo(s.dtype)
        lowest = max(_LOWEST, float(info.eps) * self._alpha)
        inside = (s > -4 * info.eps) & (s < 1 + 4 * info.eps)
        s = jnp.clip(s, lowest, 1 - float(info.epsneg))
        u = jnp.log(s) - jnp.log1p(-s)
        return u, jnp.where(inside, -self._log_det(u), -jnp.inf)

    def _log_det(self, u: Array) -> Array:
        return -softplus(u) - softplus(-u) - math.log1p(-2 * self._alpha)


def logit_transformed(model: DensityModel, *, alpha: float) -> DensityModel:
    """The model of y = (sigma(u) - alpha) / (1 - 2 alpha), where `model` is that of u.

        log p(y) = log p(u) + sum_d log |du_d / dy_d|,    u = logit(alpha + (1 - 2 alpha) y)

    Args:
        model: a density over real vectors; the parameters are its own.
        alpha: in [0, 1/2); see `LogitTransform`.

    Returns:
        The density over y. With alpha > 0 it reaches slightly beyond [0, 1].

    Raises:
        ValueError: `alpha` is not in [0, 1/2).
    """
    transform = LogitTransform(alpha)

    def log_prob(params: Params, y: Array) -> Array:
        u, log_det = transform.inverse_and_log_det(y)
        return model.log_prob(params, u) + sum_event(log_det)

    def sample(params: Params, key: Key) -> Array:
        return transform.forward(model.sample(params, key))

    return DensityModel(model.init, log_prob, sample)


def dequantized(model: DensityModel, *, num_levels: int) -> LatentVariableModel:
    """A model of grey levels x = k / (L - 1) from a density over continuous y.

        z = y ~ p(y)
        P(x | z) = 1 if every y_d is in the bin of x_d, else 0
        q(z | x) = uniform on the bin of x, [k/L, (k+1)/L) in every dimension

    so that P(x) is the integral of p(y) over the bin of x, and a log weight is
    log p(y) - D log L with y = (k + noise) / L. The ELBO is what "uniform dequantisation" reports;
    with K samples the importance-weighted bound tightens to log P(x). In bits per dimension either
    is -value / (D log 2).

    Levels 0 and L - 1 have everything below and above their bins too, so that the probabilities
    sum to one where p(y) reaches beyond [0, 1]. q does not: the mass that p(y) puts there, small
    after training, is missing from every bound.

    Args:
        model: a density over [0, 1]^D, such as `logit_transformed` gives.
        num_levels: L >= 2.

    Returns:
        The model; its parameters are those of the density. x and z are arrays of one shape.

    Raises:
        ValueError: fewer than two levels.

    Source: Theis et al. 2016 (A note on the evaluation of generative models), section 3.1; Ho et
    al. 2019 (Flow++), section 3.1, for q as a variational posterior.
    """
    if num_levels < 2:
        raise ValueError(f"num_levels must be at least 2, got {num_levels}")

    def prior(params: Params) -> ModelDensity:
        return ModelDensity(model, params)

    def likelihood(params: Params, z: Array) -> Quantized:
        return Quantized(z, num_levels)

    def posterior(params: Params, x: Array) -> UniformBin:
        return UniformBin(x, num_levels)

    return LatentVariableModel(model.init, prior, likelihood, posterior)


def dequantize(key: Key, x: Array, *, num_levels: int) -> Array:
    """y = (k + noise) / L in [0, 1] for levels x = k / (L - 1), with noise uniform on [0, 1).

    Args:
        key: PRNG key.
        x: levels, any shape.
        num_levels: L.

    Returns:
        y, of the shape of x.
    """
    return UniformBin(x, num_levels).sample(seed=key)


class UniformBin(NamedTuple):
    """The uniform distribution on the bin [k/L, (k+1)/L) of each level x = k / (L - 1), one event.

    Attributes:
        x: levels, any shape.
        num_levels: L.
    """

    x: Array
    num_levels: int | Array

    @property
    def reparameterized(self) -> bool:
        """Samples do not depend on parameters at all."""
        return True

    def sample(self, *, seed: Key) -> Array:
        """(k + noise) / L, of the shape of x, in float32 at least."""
        levels = _levels(self.x, self.num_levels)
        noise = jax.random.uniform(seed, levels.shape, levels.dtype)
        return (levels + noise) / self.num_levels

    def log_prob(self, value: Array) -> Array:
        """D log L in the bin of x and -inf outside of it, a scalar in nats."""
        value = at_least_float32(check_event(value, self.x))
        inside = _is_in_bin(value * self.num_levels, _levels(self.x, self.num_levels), self)
        return jnp.where(jnp.all(inside), self._log_density(), -jnp.inf)

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and D log L."""
        return self.sample(seed=seed), self._log_density()

    def mean(self) -> Array:
        """(k + 1/2) / L."""
        return (_levels(self.x, self.num_levels) + 0.5) / self.num_levels

    def _log_density(self) -> Array:
        num_levels = jnp.asarray(self.num_levels, at_least_float32(self.x).dtype)
        return jnp.size(self.x) * jnp.log(num_levels)


class Quantized(NamedTuple):
    """The level of the bin that each value lies in, with certainty: one event.

    Attributes:
        value: any shape; below 0 the level is 0, above 1 it is L - 1.
        num_levels: L.
    """

    value: Array
    num_levels: int | Array

    @property
    def reparameterized(self) -> bool:
        """Levels are discrete: no pathwise gradient."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """The levels k / (L - 1)."""
        return self.mean()

    def log_prob(self, value: Array) -> Array:
        """0 for the levels themselves (either one at the edge of two bins) and -inf for others."""
        x = check_event(value, self.value)
        inside = jnp.clip(at_least_float32(self.value), 0, 1) * self.num_levels
        is_level = _is_in_bin(inside, _levels(x, self.num_levels), self)
        distance = at_least_float32(x) * (self.num_levels - 1) - _levels(x, self.num_levels)
        is_level &= jnp.abs(distance) < _LEVEL_TOLERANCE
        return jnp.where(jnp.all(is_level), jnp.zeros((), inside.dtype), -jnp.inf)

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """The levels, and 0."""
        levels = self.mean()
        return levels, jnp.zeros((), levels.dtype)

    def mean(self) -> Array:
        """The levels k / (L - 1), in float32 at least."""
        levels = jnp.floor(at_least_float32(self.value) * self.num_levels)
        return jnp.clip(levels, 0, self.num_levels - 1) / (self.num_levels - 1)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["model"])
@dataclasses.dataclass(frozen=True)
class ModelDensity:
    """A density model with its parameters, as a distribution.

    Attributes:
        model: any density model.
        params: its parameters.
    """

    model: DensityModel
    params: Params

    @property
    def reparameterized(self) -> bool:
        """Not known of a density model, and so denied."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """One exact draw."""
        return self.model.sample(self.params, seed)

    def log_prob(self, value: Array) -> Array:
        """Log-density of `value`, a scalar in nats."""
        return self.model.log_prob(self.params, value)

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-density."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)


def _levels(x: Array, num_levels: int | Array) -> Array:
    """k, as floats."""
    return jnp.round(at_least_float32(x) * (num_levels - 1))


def _is_in_bin(value: Array, levels: Array, distribution: UniformBin | Quantized) -> Array:
    """Whether L y is in [k, k + 1], to rounding: (k + noise) / L may round onto the next bin."""
    slack = 4 * jnp.finfo(value.dtype).eps * distribution.num_levels
    return (value > levels - slack) & (value < levels + 1 + slack)

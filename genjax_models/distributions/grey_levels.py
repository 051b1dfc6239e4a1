"""Distributions of grey levels that need not have one peak."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, logsumexp

from genjax_models.distributions.discretized_logistic import DiscretizedLogistic, log_mass
from genjax_models.distributions.numerics import at_least_float32, check_event, sum_event
from genjax_models.interfaces import Array, Key


class DiscretizedLogisticMixture(NamedTuple):
    """Independent grey levels, each of a mixture of discretised logistics; one event in all.

    p(x) = prod_d sum_m softmax(a_d)_m DiscretizedLogistic(x_d; m_dm, s_dm, L).

    Every dimension has weights of its own and picks its component by itself.

    Source: Salimans et al. 2017 (PixelCNN++), section 2.1, without the coupling of the colours.

    Attributes:
        logits: a, unnormalised log weights, [num_components, ...].
        loc: m, of the same shape.
        log_scale: log s, of the same shape.
        num_levels: L >= 2.
    """

    logits: Array
    loc: Array
    log_scale: Array
    num_levels: int | Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete: no pathwise gradient."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """Levels k/(L-1) in [0, 1], of the shape and dtype of one component's locations."""
        component_key, level_key = jax.random.split(seed)
        logits = at_least_float32(self.logits)
        component = jax.random.categorical(component_key, logits, axis=0)[None]
        loc, log_scale = (
            jnp.take_along_axis(values, component, axis=0)[0]
            for values in (self.loc, self.log_scale)
        )
        return DiscretizedLogistic(loc, log_scale, self.num_levels).sample(seed=level_key)

    def log_prob(self, value: Array) -> Array:
        """Log-probability of `value`, levels k/(L-1) of one component's shape, in nats."""
        value = at_least_float32(check_event(value, self.loc[0]))
        log_weights = log_softmax(at_least_float32(self.logits), axis=0)
        log_masses = log_mass(value[None], self.loc, self.log_scale, self.num_levels)
        return sum_event(logsumexp(log_weights + log_masses, axis=0))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """E[x], exact, one pass a level."""
        means = DiscretizedLogistic(self.loc, self.log_scale, self.num_levels).mean()
        weights = jax.nn.softmax(at_least_float32(self.logits), axis=0)
        return jnp.sum(weights * means, axis=0).astype(jnp.result_type(self.loc))


class CategoricalLevels(NamedTuple):
    """Independent grey levels k/(L-1), each with any probabilities; one event in all.

    p(x) = prod_d softmax(l_d)_k, where x_d = k/(L-1).

    Source: van den Oord et al. 2016 (Pixel recurrent neural networks), section 2.2.

    Attributes:
        logits: l, unnormalised log-probabilities, [L, ...], L >= 2.
    """

    logits: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete: no pathwise gradient."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """Levels k/(L-1) in [0, 1], of the shape of one level's logits, and their dtype."""
        steps = self._steps()
        level = jax.random.categorical(seed, at_least_float32(self.logits), axis=0)
        return (level / steps).astype(jnp.result_type(self.logits))

    def log_prob(self, value: Array) -> Array:
        """Log-probability of `value`, levels k/(L-1) of one level's shape, in nats."""
        steps = self._steps()
        value = at_least_float32(check_event(value, self.logits[0]))
        level = jnp.clip(jnp.round(value * steps), 0, steps).astype(jnp.int32)
        log_probs = log_softmax(at_least_float32(self.logits), axis=0)
        chosen = jnp.take_along_axis(log_probs, level[None], axis=0)[0]
        # As an integer, what is not a number would be a level.
        return sum_event(jnp.where(jnp.isnan(value), jnp.nan, chosen))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """E[x]."""
        steps = self._steps()
        probabilities = jax.nn.softmax(at_least_float32(self.logits), axis=0)
        levels = jnp.arange(steps + 1, dtype=probabilities.dtype) / steps
        return jnp.tensordot(levels, probabilities, 1).astype(jnp.result_type(self.logits))

    def _steps(self) -> int:
        shape = jnp.shape(self.logits)
        if not shape or shape[0] < 2:
            raise ValueError(f"logits must have shape [L, ...] with L >= 2 levels, got {shape}")
        return shape[0] - 1

"""Ancestral distributions over a tuple of layers."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32
from genjax_models.distributions.reparameterization import is_reparameterized
from genjax_models.interfaces import Array, Distribution, Key, Posterior, PyTree

Event = tuple[PyTree, ...]
Conditional = Callable[[Event], Distribution]


class Chain(NamedTuple):
    """Layers drawn one after the other, each given all before it; the event is their tuple.

    log p(z_1, ..., z_L) = log p(z_1) + sum_l log p(z_l | z_1, ..., z_(l-1)).

    The conditionals are functions; as `jax.tree_util.Partial` of a function and its parameters
    they let the chain cross `jit` and `vmap`.

    Attributes:
        first: p(z_1).
        rest: for each further layer, `conditional((z_1, ..., z_(l-1))) -> p(z_l | ...)`.
    """

    first: Distribution
    rest: tuple[Conditional, ...] = ()

    @property
    def reparameterized(self) -> bool:
        """Whether every layer's samples are differentiable functions of its parameters."""
        return self._of_all_layers(is_reparameterized)

    @property
    def has_log_prob(self) -> bool:
        """Whether every layer has a `log_prob`, without which the chain's raises a `TypeError`."""
        return self._of_all_layers(has_log_prob)

    def sample(self, *, seed: Key) -> Event:
        """A tuple of layers, from first to last."""
        value: Event = ()
        for conditional, key in zip(self._conditionals(), self._keys(seed), strict=True):
            value = (*value, conditional(value).sample(seed=key))
        return value

    def log_prob(self, value: Event) -> Array:
        """Log-probability of a tuple of layers, a scalar in nats."""
        return jnp.sum(self.layer_log_probs(value))

    def layer_log_probs(self, value: Event) -> Array:
        """log p(z_l | z_1, ..., z_(l-1)) of each layer, [L], in nats."""
        if not isinstance(value, tuple) or len(value) != len(self.rest) + 1:
            raise ValueError(
                f"value must be a tuple of {len(self.rest) + 1} layers, got"
                f" {f'one of {len(value)}' if isinstance(value, tuple) else type(value).__name__}"
            )
        layers = [conditional(value[:i]) for i, conditional in enumerate(self._conditionals())]
        for layer in layers:
            if not has_log_prob(layer):
                raise TypeError(
                    f"log_prob of a chain needs that of every layer, which a {type(layer).__name__}"
                    " does not have: use sample_and_log_prob"
                    ' (estimator="pathwise" in `learning.variational`)'
                )
        return _stack(layer.log_prob(v) for layer, v in zip(layers, value, strict=True))

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Event, Array]:
        """A draw and its log-probability."""
        value, log_probs = self.sample_and_layer_log_probs(seed=seed)
        return value, jnp.sum(log_probs)

    def sample_and_layer_log_probs(self, *, seed: Key) -> tuple[Event, Array]:
        """A draw and the log-probability of each layer given those before it, [L]."""
        value: Event = ()
        log_probs = []
        for conditional, key in zip(self._conditionals(), self._keys(seed), strict=True):
            layer, log_prob = sample_and_log_prob(conditional(value), seed=key)
            value = (*value, layer)
            log_probs.append(log_prob)
        return value, _stack(log_probs)

    def _of_all_layers(self, predicate: Callable[[Posterior], bool]) -> bool:
        found: list[bool] = []

        def draw(key: Key) -> None:
            value: Event = ()
            for conditional, layer_key in zip(self._conditionals(), self._keys(key), strict=True):
                layer = conditional(value)
                found.append(predicate(layer))
                value = (*value, layer.sample(seed=layer_key))

        # Which distribution a conditional gives is only known once it is called.
        jax.eval_shape(draw, jax.eval_shape(jax.random.key, 0))
        return all(found)

    def _conditionals(self) -> tuple[Conditional, ...]:
        return (lambda value: self.first, *self.rest)

    def _keys(self, seed: Key) -> Iterator[Key]:
        return iter(jax.random.split(seed, len(self.rest) + 1))


class Reversed(NamedTuple):
    """A chain whose event is the tuple of its layers from last to first.

    A posterior that goes from the data upwards, q(z_1 | x) q(z_2 | z_1), as a distribution over
    the event (z_2, z_1) of a prior that goes downwards, p(z_2) p(z_1 | z_2).

    Attributes:
        chain: the chain, in the order in which its layers are drawn.
    """

    chain: Chain

    @property
    def reparameterized(self) -> bool:
        """As of the chain."""
        return self.chain.reparameterized

    @property
    def has_log_prob(self) -> bool:
        """As of the chain."""
        return self.chain.has_log_prob

    def sample(self, *, seed: Key) -> Event:
        """A tuple of layers, the last drawn in front."""
        return self.chain.sample(seed=seed)[::-1]

    def log_prob(self, value: Event) -> Array:
        """Log-probability of such a tuple, a scalar in nats."""
        return self.chain.log_prob(value[::-1])

    def layer_log_probs(self, value: Event) -> Array:
        """Log-probability of each layer given those that the chain draws before it, [L]."""
        return self.chain.layer_log_probs(value[::-1])[::-1]

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Event, Array]:
        """A draw and its log-probability."""
        value, log_prob = self.chain.sample_and_log_prob(seed=seed)
        return value[::-1], log_prob

    def sample_and_layer_log_probs(self, *, seed: Key) -> tuple[Event, Array]:
        """A draw and the log-probability of each of its layers, [L]."""
        value, log_probs = self.chain.sample_and_layer_log_probs(seed=seed)
        return value[::-1], log_probs[::-1]


def has_log_prob(distribution: Posterior) -> bool:
    """Whether values other than a distribution's own draws have a log-probability.

    Args:
        distribution: any. One whose `log_prob` may not work says so by an attribute
            `has_log_prob: bool`.

    Returns:
        True if `log_prob(value)` may be asked.
    """
    declared = getattr(distribution, "has_log_prob", None)
    return declared if isinstance(declared, bool) else hasattr(distribution, "log_prob")


def sample_and_log_prob(distribution: Posterior, *, seed: Key) -> tuple[PyTree, Array]:
    """A draw of any distribution and its log-probability, in one go where it can.

    Args:
        distribution: any; `sample_and_log_prob` may be missing.
        seed: PRNG key.

    Returns:
        The event and its log-probability.
    """
    if hasattr(distribution, "sample_and_log_prob"):
        return distribution.sample_and_log_prob(seed=seed)
    value = distribution.sample(seed=seed)
    return value, cast(Distribution, distribution).log_prob(value)


def _stack(log_probs: Any) -> Array:
    return jnp.stack([at_least_float32(log_prob) for log_prob in log_probs])

"""Distributions whose dimensions are independent, taken apart."""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.discretized_gaussian import DiscretizedGaussian
from genjax_models.distributions.discretized_logistic import DiscretizedLogistic
from genjax_models.distributions.gaussian import DiagonalGaussian
from genjax_models.distributions.grey_levels import CategoricalLevels, DiscretizedLogisticMixture
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array

# Their parameters have the dimensions of the event last, or none where all dimensions share them.
_FACTORIZED = (
    Bernoulli,
    CategoricalLevels,
    DiagonalGaussian,
    DiscretizedGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
)


def check_factorized(distribution: Any) -> None:
    """Raise a `TypeError` unless the distribution's dimensions are known to be independent."""
    if hasattr(distribution, "log_prob_per_dimension") or isinstance(distribution, _FACTORIZED):
        return
    distrax = sys.modules.get("distrax")
    if distrax is not None and isinstance(distribution, distrax.Independent):
        inner = distribution.distribution
        if inner.event_shape == () and len(inner.batch_shape) == 1:
            return
    raise TypeError(
        f"the dimensions of a {type(distribution).__name__} are not known to be independent: give"
        " the class a method log_prob_per_dimension(value) -> [num_dims] if they are"
    )


def log_prob_per_dimension(distribution: Any, value: Array) -> Array:
    """log p(x_d) of every dimension of a vector with independent dimensions.

        log p(x) = sum_d log p(x_d)

    Args:
        distribution: one of ours with independent dimensions; a `distrax.Independent` of scalar
            distributions; or any with a method `log_prob_per_dimension(value) -> [num_dims]`.
        value: x, [num_dims].

    Returns:
        [num_dims], in nats; the log-probability of a part of the dimensions is the sum over them.

    Raises:
        TypeError: the distribution's dimensions are not known to be independent.
        ValueError: the value is no vector, or not of the distribution's shape.
    """
    value = jnp.asarray(value)
    if value.ndim != 1:
        raise ValueError(f"value must be a vector, got shape {value.shape}")
    check_factorized(distribution)
    if hasattr(distribution, "log_prob_per_dimension"):
        return distribution.log_prob_per_dimension(value)
    if isinstance(distribution, _FACTORIZED):
        return _map_dimensions(distribution, value)
    # A distrax.Independent of scalars.
    value = check_event(value, jnp.empty(distribution.distribution.batch_shape))
    return at_least_float32(distribution.distribution.log_prob(value))


def _map_dimensions(distribution: Any, value: Array) -> Array:
    leaves, structure = jax.tree.flatten(distribution)
    is_shared = [not jnp.ndim(leaf) for leaf in leaves]
    own = [leaf for leaf, shared in zip(leaves, is_shared, strict=True) if not shared]

    def of_one(own: list[Array], value: Array) -> Array:
        rest = iter(own)
        parts = [
            leaf if shared else next(rest) for leaf, shared in zip(leaves, is_shared, strict=True)
        ]
        return jax.tree.unflatten(structure, parts).log_prob(value)

    return jax.vmap(of_one, in_axes=(-1, 0))(own, value)

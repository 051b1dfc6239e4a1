"""The rate of a latent-variable model, KL(q(z | x) || p(z)), layer by layer and by dimension."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions import (
    Chain,
    DiagonalGaussian,
    Reversed,
    kl_divergence,
    kl_per_dimension,
)
from genjax_models.distributions import sample_and_log_prob as draw_and_weigh
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import (
    Array,
    Distribution,
    Key,
    LatentVariableModel,
    Metrics,
    Params,
    Posterior,
    PyTree,
)
from genjax_models.learning import bounds
from genjax_models.learning.importance import (
    bound_metrics,
    check_num_samples,
    check_pathwise,
    check_weights,
    scalar_log_prob,
)


class Rates(NamedTuple):
    """A draw z ~ q(z | x), what it says of x, and the divergences of its layers.

    Attributes:
        z: the draw.
        log_likelihood: log p(x | z), [], in nats.
        layers: for each layer, the KL divergence of its posterior from its prior given the drawn
            layers above it: of each dimension where both are independent, otherwise in all, [].
            Where no closed form is known it is log q - log p of the draw, whose expectation it is.
    """

    z: PyTree
    log_likelihood: Array
    layers: tuple[Array, ...]

    @property
    def total(self) -> Array:
        """The divergence of all layers together, []."""
        return sum((jnp.sum(layer) for layer in self.layers), jnp.zeros(()))


def draw_rates(model: LatentVariableModel, params: Params, key: Key, x: PyTree) -> Rates:
    """Draw z ~ q(z | x) for one x, with the divergences of its layers.

    The posterior of a hierarchy that draws its layers in the prior's order (`distributions.Chain`)
    has a divergence for each. One that draws them upwards from the data (`Reversed`) has the terms
    log q(z_l | .) - log p(z_l | .), which are no divergences one by one: a term may be negative in
    expectation, their sum is not. Any other posterior counts as one layer.

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key; the draw is that of `posterior.sample(seed=key)`.
        x: one example.

    Returns:
        The draw, its log-likelihood and the divergences.
    """
    prior, posterior = model.prior(params), model.posterior(params, x)
    z, layers = _draw_layers(posterior, prior, key)
    log_likelihood = scalar_log_prob("likelihood", model.likelihood(params, z).log_prob(x))
    return Rates(z, log_likelihood, layers)


def pathwise_rates(
    model: LatentVariableModel, params: Params, key: Key, x: PyTree, num_samples: int = 1
) -> Rates:
    """K such draws, with leading axis [K], of a posterior that is differentiable in its parameters.

    Args:
        model: any latent-variable model with a reparameterised posterior.
        params: its parameters.
        key: PRNG key; draw k uses `jax.random.split(key, num_samples)[k]`.
        x: one example.
        num_samples: K.

    Returns:
        The draws.

    Raises:
        TypeError: a posterior whose samples are not reparameterised.
    """
    check_pathwise(model.posterior(params, x))
    keys = jax.random.split(key, num_samples)
    return jax.vmap(lambda key: draw_rates(model, params, key, x))(keys)


def rate_metrics(log_likelihood: Array, divergence: Array) -> Metrics:
    """What the objectives report, without derivatives: the ELBO and its two parts."""
    return bound_metrics(bounds.elbo, jnp.reshape(log_likelihood, (-1,)), jnp.mean(divergence))


def gaussian_log_probs(gaussian: DiagonalGaussian, value: Array) -> Array:
    """Log-density of each dimension of a value of any shape, of that shape, in nats."""
    log_scale = jnp.broadcast_to(at_least_float32(gaussian.log_scale), jnp.shape(gaussian.loc))
    noise = (at_least_float32(value) - gaussian.loc) * jnp.exp(-log_scale)
    return jax.scipy.stats.norm.logpdf(noise) - log_scale


def batch_size(objective: str, *, at_least: int = 1) -> int:
    """The size of the axis "batch", or a `ValueError` where there is none or it is too small."""
    try:
        size = jax.lax.axis_size("batch")
    except NameError:
        raise ValueError(
            f'{objective} is of a whole batch: run it inside jax.vmap(..., axis_name="batch"), as'
            " training.gradient_descent does"
        ) from None
    if size < at_least:
        raise ValueError(f"{objective} needs at least {at_least} examples in a batch, got {size}")
    return size


def check_objective(num_samples: int, **weights: float) -> None:
    """As `importance.check_weights`, and the number of samples."""
    check_num_samples(num_samples)
    check_weights(**weights)


def _draw_layers(
    posterior: Posterior, prior: Distribution, key: Key
) -> tuple[PyTree, tuple[Array, ...]]:
    """A draw of the posterior and the divergences of its layers."""
    if not isinstance(prior, Chain):
        return _draw_layer(posterior, prior, key)
    if isinstance(posterior, Reversed):
        z, log_probs = posterior.sample_and_layer_log_probs(seed=key)
        return z, tuple(log_probs - prior.layer_log_probs(z))
    if not isinstance(posterior, Chain) or len(posterior.rest) != len(prior.rest):
        return _draw_layer(posterior, prior, key)
    value: tuple[PyTree, ...] = ()
    layers: tuple[Array, ...] = ()
    # The keys of the chain itself.
    keys = jax.random.split(key, len(prior.rest) + 1)
    pairs = zip(_conditionals(posterior), _conditionals(prior), keys, strict=True)
    for conditional, prior_conditional, layer_key in pairs:
        z, (divergence,) = _draw_layer(conditional(value), prior_conditional(value), layer_key)
        value, layers = (*value, z), (*layers, divergence)
    return value, layers


def _draw_layer(posterior: Posterior, prior: Distribution, key: Key) -> tuple[PyTree, tuple[Array]]:
    for closed_form in (kl_per_dimension, kl_divergence):
        try:
            divergence = closed_form(posterior, prior)
        except TypeError:
            continue
        return posterior.sample(seed=key), (at_least_float32(divergence),)
    z, log_posterior = draw_and_weigh(posterior, seed=key)
    log_posterior = scalar_log_prob("posterior", log_posterior)
    return z, (log_posterior - scalar_log_prob("prior", prior.log_prob(z)),)


def _conditionals(chain: Chain) -> tuple[Callable[[tuple], Distribution], ...]:
    return (lambda value: chain.first, *chain.rest)

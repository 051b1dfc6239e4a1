"""Objectives that hold the rate KL(q(z | x) || p(z)) up: free bits, and a controlled capacity."""

from typing import Literal

import jax
import jax.numpy as jnp

from genjax_models.distributions import Reversed
from genjax_models.interfaces import (
    Array,
    Key,
    LatentVariableModel,
    Metrics,
    Objective,
    Params,
    PyTree,
)
from genjax_models.learning.importance import check_weights
from genjax_models.learning.rates import (
    batch_size,
    check_objective,
    pathwise_rates,
    rate_metrics,
)


def free_bits(
    model: LatentVariableModel,
    *,
    minimum: float,
    group: Literal["dimension", "layer"] = "dimension",
    num_samples: int = 1,
) -> Objective:
    """The negative ELBO whose rate is not worth lowering below a minimum in any group of latents.

        mean over the batch of loss = mean of -log p(x | z) + sum_j max(lambda, mean of KL_j)

    KL_j is the divergence of group j of the latents of q(z | x) from that of p(z): of one dimension
    or of one layer. A group below lambda has no gradient but that of the reconstruction, so that it
    does not collapse early in training; the minimum is of the mean over the batch, as Kingma et al.
    have it, not of each example. With lambda = 0 it is the negative ELBO.

    Args:
        model: any latent-variable model with a reparameterised posterior.
        minimum: lambda >= 0, in nats for each group.
        group: "dimension", where posterior and prior are independent over the dimensions of each
            layer (given those above it); or "layer": of a hierarchy whose posterior draws its
            layers in the prior's order, or all of z where there is one layer. Where no closed form
            is known the divergence is estimated by the samples, and lambda = 0 clips its noise.
        num_samples: K >= 1.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`, **to be run inside
        `vmap(axis_name="batch")`**, as `training.gradient_descent` does; the mean over the batch is
        the equation above and its gradient. Metrics "bound" (the ELBO), "log_likelihood",
        "kl_divergence" and "free_groups" (how many are below lambda).

    Raises:
        ValueError: a negative minimum, an unknown group, or (from the objective) no axis "batch".
        TypeError: (from the objective) a posterior that is not reparameterised, has no divergence
            of each dimension, or draws its layers upwards (where there is none of each layer).

    Source: Kingma et al. 2016 (Improved variational inference with inverse autoregressive flow),
    the appendix on free bits.
    """
    check_objective(num_samples, minimum=minimum)
    if group not in ("dimension", "layer"):
        raise ValueError(f'group must be "dimension" or "layer", got {group!r}')

    def objective(params: Params, key: Key, x: PyTree) -> tuple[Array, Metrics]:
        batch_size("free_bits")
        if isinstance(model.posterior(params, x), Reversed):
            raise TypeError(
                "free_bits is not for a posterior that draws its layers upwards from the data: the"
                " terms of its layers are no divergences"
            )
        rates = pathwise_rates(model, params, key, x, num_samples)
        if group == "layer":
            groups = [jnp.sum(layer, axis=range(1, layer.ndim)) for layer in rates.layers]
            divergences = jnp.stack([jnp.mean(layer) for layer in groups])
        else:
            _check_dimensions(model, params, x, rates.layers, rates.z)
            layers = [jnp.mean(layer, axis=0).reshape(-1) for layer in rates.layers]
            divergences = jnp.concatenate(layers)
        # Which groups are free is of the batch; the gradient of max(lambda, mean) is that of
        # the mean or none, so that no derivative goes through the mean over the batch itself.
        mean = jax.lax.pmean(jax.lax.stop_gradient(divergences), "batch")
        is_free = mean < minimum
        held = jnp.where(is_free, minimum, divergences)
        log_likelihood = jnp.mean(rates.log_likelihood)
        metrics = rate_metrics(rates.log_likelihood, jnp.sum(divergences))
        metrics["free_groups"] = jnp.sum(is_free).astype(divergences.dtype)
        return jnp.sum(held) - log_likelihood, metrics

    return objective


def controlled_capacity(
    model: LatentVariableModel, *, gamma: float, num_samples: int = 1
) -> Objective:
    """The beta-VAE whose rate is drawn towards a capacity, which a schedule raises.

        mean over the batch of loss = mean of -log p(x | z) + gamma |mean of KL - C|

    The capacity C is the objective's scheduled keyword `capacity`, in nats. The paper writes the
    equation for one x; the rate is that of the batch here, so that one example may take more of
    it than another. With C = 0 it is the beta-VAE of beta = gamma, and with gamma = 1 besides the
    negative ELBO.

    Args:
        model: any latent-variable model with a reparameterised posterior.
        gamma: weight of the distance from the capacity, >= 0.
        num_samples: K >= 1.

    Returns:
        `objective(params, key, x, *, capacity=0.0) -> (loss, metrics)`, **to be run inside
        `vmap(axis_name="batch")`**, as `training.gradient_descent` does. Metrics "bound" (the
        ELBO), "log_likelihood", "kl_divergence" and "capacity".

    Raises:
        ValueError: a negative gamma or capacity, or (from the objective) no axis "batch".
        TypeError: (from the objective) a posterior that is not reparameterised.

    Source: Burgess et al. 2018 (Understanding disentangling in beta-VAE), equation 8.
    """
    check_objective(num_samples, gamma=gamma)

    def objective(
        params: Params, key: Key, x: PyTree, *, capacity: float | Array = 0.0
    ) -> tuple[Array, Metrics]:
        batch_size("controlled_capacity")
        check_weights(capacity=capacity)
        rates = pathwise_rates(model, params, key, x, num_samples)
        divergence = jnp.mean(jax.vmap(lambda one: one.total)(rates))
        mean = jax.lax.pmean(jax.lax.stop_gradient(divergence), "batch")
        # A rate of zero lies below no capacity: the derivative of |KL| there is that of KL.
        side = jnp.where(mean >= capacity, 1, -1)
        loss = gamma * side * (divergence - capacity) - jnp.mean(rates.log_likelihood)
        metrics = rate_metrics(rates.log_likelihood, divergence)
        metrics["capacity"] = jnp.asarray(capacity, divergence.dtype)
        return loss, metrics

    return objective


def _check_dimensions(
    model: LatentVariableModel, params: Params, x: PyTree, layers: tuple[Array, ...], z: PyTree
) -> None:
    """Raise a `TypeError` unless every number of z has a divergence of its own."""
    num_divergences = sum(layer[0].size for layer in layers)
    num_dims = sum(leaf[0].size for leaf in jax.tree.leaves(z))
    if num_divergences != num_dims:
        names = type(model.posterior(params, x)).__name__, type(model.prior(params)).__name__
        raise TypeError(
            f"the divergence of a {names[0]} posterior from a {names[1]} prior is not a sum over"
            ' the dimensions of z: use group="layer"'
        )

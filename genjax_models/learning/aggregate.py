"""Objectives of the aggregate posterior q(z), the mean of q(z | x) over the data.

Both see the whole batch, by collectives over the axis "batch" of the `vmap` that they run in.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.nn import logsumexp

from genjax_models.distributions import DiagonalGaussian, is_reparameterized
from genjax_models.distributions.divergences import as_diagonal_gaussian
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import (
    Array,
    Key,
    LatentVariableModel,
    Metrics,
    Objective,
    Params,
    Posterior,
    PyTree,
)
from genjax_models.learning.importance import check_weights
from genjax_models.learning.rates import (
    batch_size,
    check_objective,
    gaussian_log_probs,
    pathwise_rates,
    rate_metrics,
)

Kernel = Callable[[Array], Array]
"""`kernel(squared_distance) -> k`, elementwise, k(0) = 1."""


def gaussian_kernel(bandwidth: float) -> Kernel:
    """k(z, z') = exp(-|z - z'|^2 / (2 s^2)).

    Args:
        bandwidth: s > 0.

    Returns:
        The kernel, as a function of the squared distance.

    Raises:
        ValueError: a bandwidth that is not above zero.
    """
    _check_positive("bandwidth", bandwidth)
    return lambda squared_distance: jnp.exp(-squared_distance / (2 * bandwidth**2))


def inverse_multiquadratic_kernel(scale: float) -> Kernel:
    """k(z, z') = c / (c + |z - z'|^2), with heavier tails than the Gaussian.

    Args:
        scale: c > 0; Tolstikhin et al. 2018 take twice the number of dimensions.

    Returns:
        The kernel, as a function of the squared distance.

    Raises:
        ValueError: a scale that is not above zero.
    """
    _check_positive("scale", scale)
    return lambda squared_distance: scale / (scale + squared_distance)


def info_vae(
    model: LatentVariableModel,
    *,
    alpha: float = 0.0,
    scale: float = 1.0,
    kernel: Kernel | None = None,
) -> Objective:
    """The InfoVAE: part of the rate gives way to the MMD of aggregate posterior and prior.

        mean over the batch of loss = mean of -log p(x | z) + (1 - alpha) KL(q(z | x) || p(z))
            + (alpha + lambda - 1) MMD^2(q(z), p(z))

    MMD^2 is the unbiased estimate from the batch: one draw z_i ~ q(z | x_i) and one z'_i ~ p(z) for
    each example, and no draw is compared with itself. alpha weighs the mutual information of x and
    z, which the plain rate punishes: alpha = 0, lambda = 1 is the negative ELBO; alpha = 1 the
    MMD-VAE, -log p(x | z) + lambda MMD^2.

    Args:
        model: any latent-variable model whose posterior and prior are reparameterised. z may be a
            tuple of layers: its MMD is that of all of them together.
        alpha: at most 1.
        scale: lambda, so that alpha + lambda - 1 >= 0.
        kernel: `gaussian_kernel(s)`, `inverse_multiquadratic_kernel(c)` or any other function of
            the squared distance; by default the Gaussian with s^2 the number of dimensions of z,
            for which the kernel of two draws of a standard normal is about 1/e.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`, **to be run inside
        `vmap(axis_name="batch")`** of at least two examples, as `training.gradient_descent` does.
        The loss of one example has its share of the MMD: the mean over the batch is the equation
        above, and its gradient that of the mean. Metrics "bound" (the ELBO), "log_likelihood",
        "kl_divergence" and "mmd" (of the batch; unbiased, so that it may be negative).

    Raises:
        ValueError: alpha above one, a negative weight of the MMD, or (from the objective) no axis
            "batch", or fewer than two examples.
        TypeError: (from the objective) a posterior or a prior that is not reparameterised.

    Source: Zhao et al. 2019 (InfoVAE), equation 6; MMD: Gretton et al. 2012, lemma 6.
    """
    if not float("-inf") < alpha <= 1:
        raise ValueError(f"alpha must be finite and at most 1, got {alpha}")
    weight = alpha + scale - 1
    if not 0 <= weight < float("inf"):
        raise ValueError(
            f"scale (lambda) must be at least 1 - alpha = {1 - alpha}, so that the MMD has a weight"
            f" >= 0, got {scale}"
        )

    def objective(params: Params, key: Key, x: PyTree) -> tuple[Array, Metrics]:
        batch_size("info_vae", at_least=2)
        prior = model.prior(params)
        if not is_reparameterized(prior):
            raise TypeError(
                f"info_vae needs a reparameterised prior, and samples of a {type(prior).__name__}"
                " are not differentiable in its parameters: its part of the MMD would be missing"
            )
        posterior_key, prior_key = jax.random.split(key)
        rates = pathwise_rates(model, params, posterior_key, x)
        z = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], rates.z))[0]
        z_prior = ravel_pytree(prior.sample(seed=prior_key))[0]
        share = _mmd_share(z, z_prior, kernel or gaussian_kernel(z.size**0.5))
        log_likelihood, divergence = rates.log_likelihood[0], rates.total
        loss = (1 - alpha) * divergence + weight * share - log_likelihood
        metrics = rate_metrics(log_likelihood, divergence)
        return loss, metrics | {"mmd": jax.lax.stop_gradient(share)}

    return objective


def beta_tcvae(
    model: LatentVariableModel,
    *,
    num_examples: int,
    alpha: float = 1.0,
    gamma: float = 1.0,
    estimator: Literal["weighted", "stratified"] = "weighted",
) -> Objective:
    """The beta-TCVAE: the rate in three parts, each with a weight of its own.

        mean over the batch of loss = mean of -log p(x | z) + alpha [log q(z | x) - log q(z)]
            + beta [log q(z) - sum_d log q(z_d)] + gamma sum_d [log q(z_d) - log p(z_d)]

    at z ~ q(z | x). The brackets are estimates of the mutual information of x and z under q, of
    the total correlation of q(z) and of the divergences of its dimensions from the prior's; all
    weights 1 make the negative ELBO, whatever the estimator. The total correlation's weight beta is
    the objective's scheduled keyword.

    The aggregate posterior is that of the N training examples, estimated from a batch of B: with
    w_ij the weight of example j for the draw of example i, q(z_i) ~ sum_j w_ij q(z_i | x_j).

    - "weighted": w_ij = 1 / (N B), minibatch-weighted sampling; a lower bound on log q(z), biased.
    - "stratified": w_ii = 1 / N and w_ij = (N - 1) / (N (B - 1)), an unbiased estimate of q(z) for
      a batch without repetitions, and exact where it is the whole training set. The paper's
      estimator puts 1 / (B - 1) on all others but one and the rest on that one; this is its mean
      over which one that is, with less variance.

    Args:
        model: any latent-variable model whose posterior and prior are diagonal Gaussians.
        num_examples: N, of the training set.
        alpha: weight of the mutual information, >= 0.
        gamma: weight of the divergences of the dimensions, >= 0.
        estimator: one of the above.

    Returns:
        `objective(params, key, x, *, beta=1.0) -> (loss, metrics)`, **to be run inside
        `vmap(axis_name="batch")`**, as `training.gradient_descent` does. Metrics "bound" (the
        ELBO), "log_likelihood", "kl_divergence", "mutual_information", "total_correlation" and
        "dimension_wise_kl", the last three as the estimator has them.

    Raises:
        ValueError: a negative weight, an unknown estimator, fewer than one training example, or
            (from the objective) no axis "batch", a batch larger than the training set, or one
            example where the estimator is "stratified".
        TypeError: (from the objective) a posterior or a prior that is no diagonal Gaussian.

    Source: Chen et al. 2018 (Isolating sources of disentanglement in VAEs), equations 2 to 5 and
    appendix C.
    """
    check_objective(1, alpha=alpha, gamma=gamma)
    if estimator not in ("weighted", "stratified"):
        raise ValueError(f'estimator must be "weighted" or "stratified", got {estimator!r}')
    if not hasattr(num_examples, "__index__") or num_examples < 1:
        raise ValueError(f"num_examples must be an integer >= 1, got {num_examples!r}")

    def objective(
        params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0
    ) -> tuple[Array, Metrics]:
        size = batch_size("beta_tcvae", at_least=2 if estimator == "stratified" else 1)
        if size > num_examples:
            raise ValueError(
                f"num_examples must be at least the batch size, {size}, got {num_examples}"
            )
        check_weights(beta=beta)
        posterior = _diagonal_gaussian("posterior", model.posterior(params, x))
        prior = _diagonal_gaussian("prior", model.prior(params))
        rates = pathwise_rates(model, params, key, x)
        z = rates.z[0]
        log_posterior = jnp.sum(gaussian_log_probs(posterior, z))
        log_prior = gaussian_log_probs(prior, z)
        log_weights = _log_weights(size, num_examples, estimator)
        log_joint, log_marginals = _log_aggregate(posterior, z, log_weights)
        parts = {
            "mutual_information": log_posterior - log_joint,
            "total_correlation": log_joint - jnp.sum(log_marginals),
            "dimension_wise_kl": jnp.sum(log_marginals - log_prior),
        }
        log_likelihood = rates.log_likelihood[0]
        weighted = zip((alpha, beta, gamma), parts.values(), strict=True)
        loss = sum((weight * part for weight, part in weighted), -log_likelihood)
        metrics = rate_metrics(log_likelihood, log_posterior - jnp.sum(log_prior))
        return loss, metrics | jax.lax.stop_gradient(parts)

    return objective


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be finite and above zero, got {value}")


def _mmd_share(z: Array, z_prior: Array, kernel: Kernel) -> Array:
    """The share of one example in the batch's MMD^2: its mean over the batch is the estimate."""
    own = jax.lax.axis_index("batch")
    zs, zs_prior = jax.lax.all_gather((z, z_prior), "batch")
    num = zs.shape[0]
    others = jnp.arange(num) != own

    def mean_kernel(one: Array, many: Array, kept: Array, divisor: int) -> Array:
        squared = jnp.sum(jnp.square(at_least_float32(many) - one[None, :]), axis=1)
        # Double where: the kernel may have no derivative at distance zero.
        return jnp.sum(jnp.where(kept, kernel(jnp.where(kept, squared, 1.0)), 0.0)) / divisor

    everyone = jnp.ones(num, bool)
    within = mean_kernel(z, zs, others, num - 1) + mean_kernel(z_prior, zs_prior, others, num - 1)
    across = mean_kernel(z, zs_prior, everyone, num) + mean_kernel(z_prior, zs, everyone, num)
    return within - across


def _log_weights(size: int, num_examples: int, estimator: str) -> Array:
    """log w_ij of this example i, [B]."""
    if estimator == "weighted":
        return jnp.full(size, -jnp.log(1.0 * num_examples * size))
    is_own = jnp.arange(size) == jax.lax.axis_index("batch")
    other = (num_examples - 1) / (num_examples * (size - 1))
    return jnp.log(jnp.where(is_own, 1 / num_examples, other))


def _log_aggregate(
    posterior: DiagonalGaussian, z: Array, log_weights: Array
) -> tuple[Array, Array]:
    """log q(z), [], and log q(z_d) of every dimension, of the event's shape."""
    gathered = jax.lax.all_gather(posterior, "batch")
    log_probs = jax.vmap(gaussian_log_probs, (0, None))(gathered, z)
    flat = log_probs.reshape(log_probs.shape[0], -1)
    log_marginals = logsumexp(flat + log_weights[:, None], axis=0)
    return logsumexp(jnp.sum(flat, axis=1) + log_weights), log_marginals.reshape(z.shape)


def _diagonal_gaussian(name: str, distribution: Posterior) -> DiagonalGaussian:
    gaussian = as_diagonal_gaussian(distribution)
    if gaussian is None:
        raise TypeError(
            f"beta_tcvae needs a diagonal Gaussian as {name}, whose dimensions are independent, got"
            f" a {type(distribution).__name__}"
        )
    return gaussian

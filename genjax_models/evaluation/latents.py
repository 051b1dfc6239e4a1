"""What the latents of a model carry: active units, and the parts of the rate under q.

With the aggregate posterior q(z), the mean of q(z | x) over the data,

    E KL(q(z | x) || p(z)) = I(x; z) + KL(q(z) || p(z))
                           = I(x; z) + TC(q(z)) + sum_d KL(q(z_d) || p(z_d)),

where the total correlation TC and the last sum are of a prior with independent dimensions.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from genjax_models.distributions import has_log_prob
from genjax_models.distributions.divergences import as_diagonal_gaussian
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params, PyTree
from genjax_models.learning.importance import check_num_samples, scalar_log_prob
from genjax_models.learning.rates import draw_rates, gaussian_log_probs


class PosteriorMean(NamedTuple):
    """E_q[z | x] of one example, all layers in one vector.

    Attributes:
        value: [D].
        variance: of the value over the draws, [D]; zero where it is exact.
    """

    value: Array
    variance: Array


class ActiveUnits(NamedTuple):
    """Which dimensions of z depend on x.

    Attributes:
        variances: Cov_x(E_q[z_d | x]) of each dimension, [D].
        num_active: how many are above the threshold.
    """

    variances: Array
    num_active: Array


class RateParts(NamedTuple):
    """The rate under q and its parts, in nats. Missing parts are None.

    Attributes:
        kl_divergence: E KL(q(z | x) || p(z)).
        mutual_information: I(x; z) for x uniform on the N examples, which is at most log N; in
            expectation a **lower bound** on I(x; z) for the distribution that they come from.
        mutual_information_upper: the same with q(z) from the other N - 1 examples alone: in
            expectation an **upper bound** on the latter.
        marginal_kl: KL(q(z) || p(z)), with q(z) of the N examples.
        total_correlation: of q(z); None unless posterior and prior are diagonal Gaussians.
        dimension_wise_kl: KL(q(z_d) || p(z_d)), of the event's shape; None likewise.
    """

    kl_divergence: Array
    mutual_information: Array
    mutual_information_upper: Array
    marginal_kl: Array
    total_correlation: Array | None
    dimension_wise_kl: Array | None


class RateEstimate(NamedTuple):
    """Estimates of the parts of the rate.

    Attributes:
        value: the means over one draw z ~ q(z | x) for each example.
        standard_error: standard deviation over the draws, divided by sqrt(N). The draws share
            q(z), so that it is not exact.
    """

    value: RateParts
    standard_error: RateParts


def posterior_mean(
    model: LatentVariableModel, params: Params, key: Key, x: PyTree, *, num_samples: int = 100
) -> PosteriorMean:
    """E_q[z | x] in closed form where the posterior has a `mean`, otherwise from samples.

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key.
        x: one example.
        num_samples: S >= 2, for a posterior without a mean.

    Returns:
        The mean and its variance over the draws.

    Raises:
        ValueError: fewer than two samples.
    """
    check_num_samples(num_samples, at_least=2)
    posterior = model.posterior(params, x)
    if hasattr(posterior, "mean"):
        mean = at_least_float32(ravel_pytree(posterior.mean())[0])
        return PosteriorMean(mean, jnp.zeros_like(mean))
    keys = jax.random.split(key, num_samples)
    draws = jax.vmap(lambda key: ravel_pytree(posterior.sample(seed=key))[0])(keys)
    draws = at_least_float32(draws)
    return PosteriorMean(
        jnp.mean(draws, axis=0), jnp.var(draws, axis=0, ddof=1) / jnp.asarray(num_samples)
    )


def active_units(means: PosteriorMean, *, threshold: float = 0.01) -> ActiveUnits:
    """The dimensions of z whose posterior mean varies with x: Cov_x(E_q[z_d | x]) > threshold.

    Args:
        means: of N >= 2 examples, from `jax.vmap` of `posterior_mean`: leaves [N, D].
        threshold: 0.01 in the paper.

    Returns:
        The variances over the examples, from which that of the draws is subtracted, and how many
        are above the threshold.

    Raises:
        ValueError: fewer than two examples.

    Source: Burda et al. 2016 (Importance weighted autoencoders), section 5.2.
    """
    if jnp.ndim(means.value) != 2 or jnp.shape(means.value)[0] < 2:
        raise ValueError(f"means must be [N >= 2, D], got shape {jnp.shape(means.value)}")
    variances = jnp.var(means.value, axis=0, ddof=1) - jnp.mean(means.variance, axis=0)
    return ActiveUnits(variances, jnp.sum(variances > threshold))


def layer_rates(
    model: LatentVariableModel, params: Params, key: Key, x: PyTree, *, num_samples: int = 1
) -> tuple[Array, ...]:
    """KL(q(z | x) || p(z)) of one x for each layer, and by dimension where there is such a form.

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key.
        x: one example.
        num_samples: K >= 1 draws of the layers above; one layer in closed form needs none.

    Returns:
        A tuple of one entry a layer, the top one in front: of the layer's shape, or []. For what
        is meant where there is no closed form, or a posterior draws its layers from the data
        upwards, see `learning.rates`.

    Raises:
        ValueError: K < 1.
    """
    check_num_samples(num_samples)
    keys = jax.random.split(key, num_samples)
    layers = jax.vmap(lambda key: draw_rates(model, params, key, x).layers)(keys)
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), layers)


def rate_parts(model: LatentVariableModel, params: Params, key: Key, xs: PyTree) -> RateEstimate:
    """The rate, mutual information and marginal divergence of q over N examples.

    Each example gives one draw z_i ~ q(z | x_i); log q(z_i) is exact for the aggregate posterior of
    the N examples, and compared with it all quantities are unbiased:

        I(x; z) ~ mean of log q(z_i | x_i) - log q(z_i),  q(z) = (1/N) sum_j q(z | x_j)

    It takes N^2 densities, one example's posterior at a time.

    Args:
        model: any latent-variable model whose posterior has a `log_prob`.
        params: its parameters.
        key: PRNG key.
        xs: examples, each leaf [N, ...], N >= 2.

    Returns:
        The parts with their errors.

    Raises:
        ValueError: fewer than two examples, or a single one without the axis [N].
        TypeError: a posterior without a `log_prob`.

    Source: Hoffman & Johnson 2016 (ELBO surgery); Chen et al. 2018, equation 2; the two bounds on
    the mutual information are those of Poole et al. 2019 (On variational bounds of mutual
    information), section 2.4.
    """
    num_examples = _num_examples(xs)
    prior = model.prior(params)
    first = model.posterior(params, jax.tree.map(lambda leaf: leaf[0], xs))
    if not has_log_prob(first):
        raise TypeError(f"the posterior, a {type(first).__name__}, has no log_prob")
    by_dimension = all(as_diagonal_gaussian(one) is not None for one in (first, prior))
    keys = jax.random.split(key, num_examples)
    zs = jax.vmap(lambda key, x: model.posterior(params, x).sample(seed=key))(keys, xs)

    def log_densities(distribution: Any) -> tuple[Array, Array | None]:
        def at(z: PyTree) -> tuple[Array, Array | None]:
            log_prob = scalar_log_prob("posterior", distribution.log_prob(z))
            gaussian = as_diagonal_gaussian(distribution) if by_dimension else None
            return log_prob, None if gaussian is None else gaussian_log_probs(gaussian, z)

        return jax.vmap(at)(zs)

    def add(sums: PyTree, index: Array) -> tuple[PyTree, Array]:
        x = jax.tree.map(lambda leaf: leaf[index], xs)
        joint, marginals = log_densities(model.posterior(params, x))
        others = jnp.where(jnp.arange(num_examples) == index, -jnp.inf, joint)
        added = jax.tree.map(jnp.logaddexp, sums, (joint, others, marginals))
        return added, joint[index]

    log_prior, log_prior_marginals = log_densities(prior)
    nothing = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, -jnp.inf), (log_prior, log_prior, log_prior_marginals)
    )
    (joint, others, marginals), log_own = jax.lax.scan(add, nothing, jnp.arange(num_examples))
    log_joint = joint - jnp.log(1.0 * num_examples)
    log_others = others - jnp.log(num_examples - 1.0)
    terms = RateParts(
        kl_divergence=log_own - log_prior,
        mutual_information=log_own - log_joint,
        mutual_information_upper=log_own - log_others,
        marginal_kl=log_joint - log_prior,
        total_correlation=None,
        dimension_wise_kl=None,
    )
    if by_dimension:
        log_marginals = marginals - jnp.log(1.0 * num_examples)
        terms = terms._replace(
            total_correlation=log_joint - _sum_event(log_marginals),
            dimension_wise_kl=log_marginals - log_prior_marginals,
        )
    return RateEstimate(
        jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), terms),
        jax.tree.map(lambda leaf: jnp.std(leaf, axis=0, ddof=1) / num_examples**0.5, terms),
    )


def _num_examples(xs: PyTree) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(xs)]
    if not shapes or () in shapes or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(f"xs must be examples, each leaf [N, ...] of one N, got shapes {shapes}")
    if shapes[0][0] < 2:
        raise ValueError(f"xs must be at least 2 examples, got {shapes[0][0]}")
    return shapes[0][0]


def _sum_event(values: Array) -> Array:
    return jnp.sum(values.reshape(values.shape[0], -1), axis=1)

"""Latent-variable models written by hand from distrax's distributions, and their exact answers.

The parameters are asymmetric on purpose: a symmetric target hides an error of sign or index. The
answers are written down anew, without the library; their gradients are those of `jax.grad`.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.interfaces import LatentVariableModel

Array = jax.Array
Params = dict[str, Array]


@functools.cache
def linear_gaussian(*, exact_posterior: bool = False) -> LatentVariableModel:
    """Factor analysis: z ~ N(m, diag t^2), x | z ~ N(W z + b, diag s^2), q(z | x) ~ N(V x + c, .).

    q has a diagonal covariance, or is the exact posterior, whose covariance is not diagonal.
    """

    def prior(params: Params) -> distrax.Distribution:
        return distrax.MultivariateNormalDiag(
            params["prior_loc"], jnp.exp(params["prior_log_scale"])
        )

    def likelihood(params: Params, z: Array) -> distrax.Distribution:
        loc = params["loading"] @ z + params["bias"]
        return distrax.MultivariateNormalDiag(loc, jnp.exp(params["log_noise"]))

    def posterior(params: Params, x: Array) -> distrax.Distribution:
        if exact_posterior:
            return distrax.MultivariateNormalFullCovariance(*linear_gaussian_posterior(params, x))
        loc = params["encoder"] @ x + params["encoder_bias"]
        return distrax.MultivariateNormalDiag(loc, jnp.exp(params["log_scale"]))

    return LatentVariableModel(linear_gaussian_params, prior, likelihood, posterior)


@functools.cache
def structured_linear_gaussian() -> LatentVariableModel:
    """The same model with z = (first, {"second": ...}) and x = {"pair": [2], "last": []}."""

    def prior(params: Params) -> distrax.Distribution:
        return _structured_normal(params["prior_loc"], params["prior_log_scale"])

    def likelihood(params: Params, z: Any) -> distrax.Distribution:
        first, second = z[0], z[1]["second"]
        loc = params["loading"] @ jnp.stack([first, second]) + params["bias"]
        scale = jnp.exp(params["log_noise"])
        pair = distrax.MultivariateNormalDiag(loc[:2], scale[:2])
        return distrax.Joint({"pair": pair, "last": distrax.Normal(loc[2], scale[2])})

    def posterior(params: Params, x: Any) -> distrax.Distribution:
        flat = jnp.append(x["pair"], x["last"])
        loc = params["encoder"] @ flat + params["encoder_bias"]
        return _structured_normal(loc, params["log_scale"])

    return LatentVariableModel(linear_gaussian_params, prior, likelihood, posterior)


def structured_x() -> dict[str, Array]:
    """The same example."""
    x = linear_gaussian_x()
    return {"pair": x[:2], "last": x[2]}


def linear_gaussian_params(key: Array | None = None) -> Params:
    """Two latent and three observed dimensions; q is near the exact posterior, but not on it."""
    return _arrays(
        prior_loc=[0.3, -0.2],
        prior_log_scale=[0.1, -0.3],
        loading=[[0.9, -0.4], [0.3, 0.7], [-0.5, 0.2]],
        bias=[0.1, -0.3, 0.6],
        log_noise=[-0.4, -0.1, 0.2],
        encoder=[[0.5, 0.15, -0.2], [-0.2, 0.4, 0.1]],
        encoder_bias=[0.5, 0.2],
        log_scale=[-0.5, -0.35],
    )


def linear_gaussian_x() -> Array:
    """One example."""
    return jnp.array([0.8, -0.5, 1.1])


def linear_gaussian_log_marginal(params: Params, x: Array) -> Array:
    """log p(x) = log N(x; W m + b, W diag(t^2) W' + diag s^2)."""
    loading, noise = params["loading"], jnp.exp(2 * params["log_noise"])
    mean = loading @ params["prior_loc"] + params["bias"]
    covariance = (loading * jnp.exp(2 * params["prior_log_scale"])) @ loading.T + jnp.diag(noise)
    return jax.scipy.stats.multivariate_normal.logpdf(x, mean, covariance)


def linear_gaussian_posterior(params: Params, x: Array) -> tuple[Array, Array]:
    """Mean and covariance of p(z | x)."""
    weighted = params["loading"].T * jnp.exp(-2 * params["log_noise"])
    prior_precision = jnp.exp(-2 * params["prior_log_scale"])
    covariance = jnp.linalg.inv(weighted @ params["loading"] + jnp.diag(prior_precision))
    mean = covariance @ (weighted @ (x - params["bias"]) + prior_precision * params["prior_loc"])
    return mean, covariance


def linear_gaussian_approximate_posterior(params: Params, x: Array) -> tuple[Array, Array]:
    """Mean and covariance of the diagonal q(z | x)."""
    mean = params["encoder"] @ x + params["encoder_bias"]
    return mean, jnp.diag(jnp.exp(2 * params["log_scale"]))


def linear_gaussian_kl(params: Params, x: Array) -> Array:
    """KL(q(z | x) || p(z | x)) of the diagonal q."""
    return gaussian_kl(
        *linear_gaussian_approximate_posterior(params, x), *linear_gaussian_posterior(params, x)
    )


def linear_gaussian_elbo(params: Params, x: Array, beta: float = 1.0) -> Array:
    """E_q[log p(x | z)] - beta KL(q(z | x) || p(z)) of the diagonal q."""
    mean, covariance = linear_gaussian_approximate_posterior(params, x)
    residual = x - params["loading"] @ mean - params["bias"]
    spread = jnp.diag(params["loading"] @ covariance @ params["loading"].T)
    variance = jnp.exp(2 * params["log_noise"])
    log_likelihood = -0.5 * jnp.sum(
        (residual**2 + spread) / variance + jnp.log(2 * jnp.pi * variance)
    )
    prior_covariance = jnp.diag(jnp.exp(2 * params["prior_log_scale"]))
    kl = gaussian_kl(mean, covariance, params["prior_loc"], prior_covariance)
    return log_likelihood - beta * kl


def linear_gaussian_chi_square(params: Params, x: Array) -> Array:
    """Variance of w / p(x), w = p(x, z) / q(z | x): the chi-square divergence of p(z | x), q."""
    mean, covariance = linear_gaussian_posterior(params, x)
    q_mean, q_covariance = linear_gaussian_approximate_posterior(params, x)
    precision, q_precision = jnp.linalg.inv(covariance), jnp.linalg.inv(q_covariance)
    excess = 2 * precision - q_precision
    shift = q_precision @ (mean - q_mean)
    exponent = shift @ jnp.linalg.solve(excess, shift) + shift @ (mean - q_mean)
    determinants = jnp.linalg.det(q_precision) * jnp.linalg.det(excess)
    return jnp.linalg.det(precision) / jnp.sqrt(determinants) * jnp.exp(exponent / 2) - 1


def linear_gaussian_expectation(
    bound: Callable[[Array], Array],
    params: Params,
    x: Array,
    num_samples: int,
    *,
    beta: float = 1.0,
    num_nodes: int = 12,
) -> Array:
    """E[bound(log w_1, ..., log w_K)] of the diagonal q, by Gauss-Hermite quadrature over all z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    grid = np.array(list(itertools.product(nodes, repeat=2)))
    grid_weights = np.array(list(map(np.prod, itertools.product(weights, repeat=2)))) / (2 * np.pi)
    scale = jnp.exp(params["log_scale"])
    z = params["encoder"] @ x + params["encoder_bias"] + scale * grid
    log_likelihood = _log_normal(x, z @ params["loading"].T + params["bias"], params["log_noise"])
    log_prior = _log_normal(z, params["prior_loc"], params["prior_log_scale"])
    log_posterior = _log_normal(grid * scale, 0.0, params["log_scale"])
    log_weights = log_likelihood + beta * (log_prior - log_posterior)
    return _expectation(bound, log_weights, grid_weights, num_samples)


@functools.cache
def discrete() -> LatentVariableModel:
    """z in {0, 1, 2}, x three binary variables, every distribution from a table of logits."""

    def prior(params: Params) -> distrax.Distribution:
        return distrax.Categorical(params["prior"])

    def likelihood(params: Params, z: Array) -> distrax.Distribution:
        return distrax.Independent(distrax.Bernoulli(params["likelihood"][z]), 1)

    def posterior(params: Params, x: Array) -> distrax.Distribution:
        return distrax.Categorical(params["encoder"] @ x + params["encoder_bias"])

    return LatentVariableModel(discrete_params, prior, likelihood, posterior)


def discrete_params(key: Array | None = None) -> Params:
    """Logits of a model with asymmetric tables."""
    return _arrays(
        prior=[0.4, -0.7, 0.1],
        likelihood=[[1.2, -0.4, 0.3], [-0.8, 0.9, 1.5], [0.2, -1.3, 0.6]],
        encoder=[[0.7, -0.2, 0.1], [-0.5, 0.3, 0.4], [0.2, 0.6, -0.9]],
        encoder_bias=[0.1, -0.4, 0.2],
    )


def discrete_x() -> Array:
    """One example."""
    return jnp.array([1.0, 0.0, 1.0])


def discrete_log_probs(params: Params, x: Array) -> tuple[Array, Array, Array]:
    """log p(x | z), log p(z) and log q(z | x) of every z, each [3]."""
    logits = params["likelihood"]
    log_likelihood = jnp.sum(x * logits - jnp.log1p(jnp.exp(logits)), axis=1)
    log_posterior = jax.nn.log_softmax(params["encoder"] @ x + params["encoder_bias"])
    return log_likelihood, jax.nn.log_softmax(params["prior"]), log_posterior


def discrete_log_marginal(params: Params, x: Array) -> Array:
    """log p(x), by enumeration."""
    log_likelihood, log_prior, _ = discrete_log_probs(params, x)
    return jax.nn.logsumexp(log_likelihood + log_prior)


def discrete_expectation(
    bound: Callable[[Array], Array],
    params: Params,
    x: Array,
    num_samples: int,
    *,
    beta: float = 1.0,
) -> Array:
    """E[bound(log w_1, ..., log w_K)] by enumeration of all 3^K tuples of z."""
    log_likelihood, log_prior, log_posterior = discrete_log_probs(params, x)
    log_weights = log_likelihood + beta * (log_prior - log_posterior)
    return _expectation(bound, log_weights, jnp.exp(log_posterior), num_samples)


def gaussian_kl(mean_q: Array, covariance_q: Array, mean_p: Array, covariance_p: Array) -> Array:
    """KL(N(mean_q, covariance_q) || N(mean_p, covariance_p))."""
    precision = jnp.linalg.inv(covariance_p)
    difference = mean_p - mean_q
    log_ratio = jnp.linalg.slogdet(covariance_p)[1] - jnp.linalg.slogdet(covariance_q)[1]
    trace = jnp.trace(precision @ covariance_q)
    return 0.5 * (trace + difference @ precision @ difference - mean_q.size + log_ratio)


def _structured_normal(loc: Array, log_scale: Array) -> distrax.Distribution:
    first, second = map(distrax.Normal, loc, jnp.exp(log_scale))
    return distrax.Joint((first, {"second": second}))


def _expectation(
    bound: Callable[[Array], Array], log_weights: Array, probabilities: Array, num_samples: int
) -> Array:
    """Mean of `bound` over all tuples of `num_samples` of the log weights [S]."""
    size = len(log_weights)
    tuples = np.indices((size,) * num_samples).reshape(num_samples, -1).T
    values = jax.vmap(bound)(log_weights[tuples])
    return jnp.sum(values * jnp.prod(jnp.asarray(probabilities)[tuples], axis=1))


def _log_normal(value: Any, loc: Any, log_scale: Array) -> Array:
    noise = (value - loc) * jnp.exp(-log_scale)
    return -jnp.sum(0.5 * noise**2 + log_scale + 0.5 * jnp.log(2 * jnp.pi), axis=-1)


def _arrays(**values: list) -> Params:
    return {name: jnp.array(value) for name, value in values.items()}

"""Factor analysis: a Gaussian whose covariance is of low rank plus a diagonal.

The model is `factor_analysis`; its posterior (`posterior`) and what expectation maximisation wants
of it (`expected_statistics`, `maximize`, `model_statistics`) stand beside it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array, DensityModel, Key, Params

_LOG_2PI = math.log(2 * math.pi)

Statistics = dict[str, Array]
"""Means over examples, with c the centre and u = (z, 1): "latent" E[u u'] [L + 1, L + 1],
"cross" E[(x - c) u'] [D, L + 1] and "square" E[(x - c)^2] [D]."""


class Posterior(NamedTuple):
    """The Gaussian p(z | x).

    Attributes:
        mean: [L].
        covariance: [L, L], the same for every x.
    """

    mean: Array
    covariance: Array


def factor_analysis(*, num_dims: int = 784, latent_dim: int = 50) -> DensityModel:
    """A Gaussian with correlations through L factors only.

        p(z) = N(0, I),  p(x | z) = N(W z + m, diag v)
        p(x) = N(m, W W' + diag v)

    Its parameters are "loading" W [D, L], "mean" m [D] and "log_variance" log v [D]. The likelihood
    has a rotation of W for free, and no maximum on data with a constant dimension, where v_d falls
    to zero and the density grows without bound: leave such dimensions out.

    `log_prob` costs O(D L) an example and O(D L^2) once, by the matrix inversion lemma.

    Args:
        num_dims: D, the size of the vector x.
        latent_dim: L, the size of the vector z.

    Returns:
        The model. `init` draws W, with m = 0 and v = 1; `principal_components` starts from data.

    Raises:
        ValueError: a size below one, or more factors than dimensions.

    Source: Rubin & Thayer 1982 (EM algorithms for ML factor analysis); Barber 2012 (Bayesian
    reasoning and machine learning), section 21.1.
    """
    _check_sizes(num_dims, latent_dim)

    def init(key: Key) -> Params:
        loading = jax.random.normal(key, (num_dims, latent_dim)) / math.sqrt(latent_dim)
        return {
            "loading": loading,
            "mean": jnp.zeros(num_dims),
            "log_variance": jnp.zeros(num_dims),
        }

    def log_prob(params: Params, x: Array) -> Array:
        return _log_prob_and_posterior_mean(params, x)[0]

    def sample(params: Params, key: Key) -> Array:
        latent_key, noise_key = jax.random.split(key)
        loading, mean, log_variance = _float32(params)
        z = jax.random.normal(latent_key, (latent_dim,), loading.dtype)
        noise = jax.random.normal(noise_key, (num_dims,), loading.dtype)
        x = mean + loading @ z + jnp.exp(log_variance / 2) * noise
        return x.astype(jnp.result_type(params["mean"]))

    return DensityModel(init, log_prob, sample)


def posterior(params: Params, x: Array) -> Posterior:
    """The exact posterior of the factors.

        p(z | x) = N(S W' V^-1 (x - m), S),  S = (I + W' V^-1 W)^-1,  V = diag v

    Args:
        params: of `factor_analysis`.
        x: one example, [D].

    Returns:
        Its mean and covariance.

    Source: Rubin & Thayer 1982, section 2; Bishop 2006 (PRML), equation 12.66.
    """
    covariance, gain, _ = _posterior_map(params)
    with jax.default_matmul_precision("highest"):
        return Posterior(gain @ (check_event(x, params["mean"]) - params["mean"]), covariance)


def expected_statistics(
    params: Params, batch: Array, *, center: Array | float = 0.0
) -> tuple[Array, Statistics]:
    """The E-step: log-likelihood and expected sufficient statistics, as means over a batch.

        E[u u'],  E[(x - c) u'],  E[(x - c)^2],  with u = (z, 1) under p(z | x)

    A function of the batch, since its sums are matrix products, O(N D L); a vmapped function of
    one example would hold an outer product for each. `maximize` subtracts numbers of the size of
    (m - c)^2, so that in float32 c should be near the data's mean where that is far from zero.

    Args:
        params: of `factor_analysis`.
        batch: examples, [N, D].
        center: c, a scalar or [D]: the same for every call, here and in `maximize`. It changes
            nothing but rounding.

    Returns:
        The mean of log p(x) in nats, and the statistics.

    Raises:
        ValueError: the batch is not [N, D] with N >= 1.

    Source: Rubin & Thayer 1982, section 2; Ghahramani & Hinton 1996 (The EM algorithm for mixtures
    of factor analyzers), section 2.
    """
    num_dims, latent_dim = params["loading"].shape
    if jnp.ndim(batch) != 2 or batch.shape[0] < 1 or batch.shape[1] != num_dims:
        raise ValueError(f"batch must be [N, {num_dims}] with N >= 1, got {jnp.shape(batch)}")
    log_probs, means = jax.vmap(_log_prob_and_posterior_mean, (None, 0))(params, batch)
    num_examples = batch.shape[0]
    augmented = jnp.concatenate([means, jnp.ones((num_examples, 1), means.dtype)], axis=1)
    centered = at_least_float32(batch) - jnp.broadcast_to(center, (1, num_dims))
    with jax.default_matmul_precision("highest"):
        latent = augmented.T @ augmented / num_examples
        cross = centered.T @ augmented / num_examples
    covariance = _posterior_map(params)[0]
    statistics = {
        "latent": latent.at[:latent_dim, :latent_dim].add(covariance),
        "cross": cross,
        "square": jnp.mean(jnp.square(centered), axis=0),
    }
    return jnp.mean(log_probs), statistics


def maximize(
    statistics: Statistics,
    params: Params,
    *,
    center: Array | float = 0.0,
    min_variance: float = 1e-6,
) -> Params:
    """The M-step: the parameters under which the expected statistics are likeliest.

        (W, m - c) = E[(x - c) u'] E[u u']^-1,  v = E[(x - c)^2] - diag((W, m - c) E[u (x - c)'])

    Args:
        statistics: of `expected_statistics`, or running averages of them.
        params: not used: the maximum is unique.
        center: c, as it was there.
        min_variance: the least v. It binds where a dimension is constant or a factor explains all
            of it (Heywood), and keeps the likelihood bounded there.

    Returns:
        The parameters.

    Source: Ghahramani & Hinton 1996, equations 5 and 6, with the mean as one more column.
    """
    with jax.default_matmul_precision("highest"):
        coefficients = jnp.linalg.solve(statistics["latent"], statistics["cross"].T).T
    variance = statistics["square"] - jnp.sum(coefficients * statistics["cross"], axis=1)
    return {
        "loading": coefficients[:, :-1],
        "mean": center + coefficients[:, -1],
        "log_variance": jnp.log(jnp.maximum(variance, min_variance)),
    }


def model_statistics(params: Params, *, center: Array | float = 0.0) -> Statistics:
    """The expected statistics of data that the model itself draws: `maximize` gives it back.

    Args:
        params: of `factor_analysis`.
        center: c, as of `expected_statistics`.

    Returns:
        What `expected_statistics` tends to on samples of the model.
    """
    loading, mean, log_variance = _float32(params)
    offset = mean - center
    square = jnp.sum(jnp.square(loading), axis=1) + jnp.exp(log_variance) + jnp.square(offset)
    return {
        "latent": jnp.eye(loading.shape[1] + 1, dtype=loading.dtype),
        "cross": jnp.concatenate([loading, offset[:, None]], axis=1),
        "square": square,
    }


def principal_components(xs: Array, *, latent_dim: int, min_variance: float = 1e-6) -> Params:
    """A start from data: the likeliest W among models with one variance for all dimensions.

        W = U (Lambda - s^2 I)^(1/2),  v = diag(C - W W')

    with the L largest eigenvalues Lambda of the covariance C, and s^2 the mean of the others.

    Args:
        xs: examples, [N, D].
        latent_dim: L.
        min_variance: the least v.

    Returns:
        Parameters of `factor_analysis`.

    Raises:
        ValueError: fewer than two examples, a size below one, or more factors than dimensions.

    Source: Tipping & Bishop 1999 (Probabilistic principal component analysis), section 3.2.
    """
    if jnp.ndim(xs) != 2 or len(xs) < 2:
        raise ValueError(f"xs must be [N, D] with N >= 2, got {jnp.shape(xs)}")
    xs = at_least_float32(xs)
    num_dims = xs.shape[1]
    _check_sizes(num_dims, latent_dim)
    mean = jnp.mean(xs, axis=0, keepdims=True)
    with jax.default_matmul_precision("highest"):
        covariance = (xs - mean).T @ (xs - mean) / len(xs)
    eigenvalues, eigenvectors = jnp.linalg.eigh(covariance)  # the smallest first
    num_rest = num_dims - latent_dim
    noise = jnp.sum(eigenvalues[:num_rest]) / max(num_rest, 1)
    scale = jnp.sqrt(jnp.maximum(eigenvalues[num_rest:] - noise, 0))
    loading = eigenvectors[:, num_rest:] * scale[None]
    variance = jnp.diag(covariance) - jnp.sum(jnp.square(loading), axis=1)
    return {
        "loading": loading,
        "mean": mean[0],
        "log_variance": jnp.log(jnp.maximum(variance, min_variance)),
    }


def _log_prob_and_posterior_mean(params: Params, x: Array) -> tuple[Array, Array]:
    """log p(x) and E[z | x]: the distance is |V^-1/2 (r - W z)|^2 + |z|^2 at the posterior mean z.

    A sum of squares, so that nothing cancels, and least at that z, so that its rounding errors
    enter squared only.
    """
    loading, mean, log_variance = _float32(params)
    _, gain, log_determinant = _posterior_map(params)
    residual = at_least_float32(check_event(x, mean)) - mean
    with jax.default_matmul_precision("highest"):
        z = gain @ residual
        unexplained = residual - loading @ z
    distance = jnp.sum(jnp.square(unexplained) * jnp.exp(-log_variance)) + jnp.sum(jnp.square(z))
    return -0.5 * (distance + log_determinant + mean.size * _LOG_2PI), z


def _posterior_map(params: Params) -> tuple[Array, Array, Array]:
    """S = (I + W' V^-1 W)^-1, the gain S W' V^-1, and log det (W W' + V)."""
    loading, _, log_variance = _float32(params)
    weighted = loading.T * jnp.exp(-log_variance)[None]
    identity = jnp.eye(loading.shape[1], dtype=loading.dtype)
    with jax.default_matmul_precision("highest"):
        factor = cho_factor(identity + weighted @ loading, lower=True)
        covariance, gain = cho_solve(factor, identity), cho_solve(factor, weighted)
    log_determinant = jnp.sum(log_variance) + 2 * jnp.sum(jnp.log(jnp.diag(factor[0])))
    return covariance, gain, log_determinant


def _float32(params: Params) -> tuple[Array, Array, Array]:
    """W, m and log v in float32 at least."""
    loading, mean, log_variance = (
        at_least_float32(params[name]) for name in ("loading", "mean", "log_variance")
    )
    return loading, mean, log_variance


def _check_sizes(num_dims: int, latent_dim: int) -> None:
    check_sizes(num_dims=num_dims, latent_dim=latent_dim)
    if latent_dim > num_dims:
        raise ValueError(f"latent_dim must be at most num_dims, {num_dims}, got {latent_dim}")

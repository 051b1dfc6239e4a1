"""Binary factor analysis: answers to yes-or-no questions that depend on each other by few factors.

The model is `binary_factor_analysis`, whose posterior is variational (`posterior`); its `bound`,
what expectation maximisation wants of it (`expected_statistics`, `maximize`) and, for one or two
factors, the exact evidence (`quadrature_log_prob`) stand beside it.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import logsumexp
from jax.scipy.linalg import solve_triangular

from genjax_models.checks import check_sizes
from genjax_models.distributions import (
    Bernoulli,
    DiagonalGaussian,
    FullCovarianceGaussian,
    kl_divergence,
)
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params

# Below this xi^2 the series of tanh(xi / 2) / xi is exact to the last digit of float64.
_SMALL = 4e-3
# The square root of zero has no derivative.
_TINY = 1e-30
# With more nodes the smallest weights of the rule are zero in float64.
_MAX_POINTS = 200

Statistics = dict[str, Array]
"""Means over examples, with u = (z, 1): "precision" E[c_d u u'] [D, L + 1, L + 1], c_d the
curvature of dimension d, and "signal" E[(x_d - 1/2) u'] [D, L + 1]."""


def binary_factor_analysis(
    *, num_dims: int = 784, latent_dim: int = 2, num_updates: int = 20
) -> LatentVariableModel:
    """Binary dimensions with correlations through L Gaussian factors only.

        p(z) = N(0, I),  p(x_d = 1 | z) = sigmoid(w_d . z + b_d)
        q(z | x) = N(m, S), which maximises a lower bound on log p(x): see `posterior`

    Latent trait analysis; in one dimension, the two-parameter model of item response theory. Its
    parameters are "loading" W [D, L] and "bias" b [D]. The posterior has none of its own. The
    likelihood has a rotation of W for free.

    Args:
        num_dims: D, the size of the vector x of zeros and ones.
        latent_dim: L, the size of the vector z.
        num_updates: fixed-point steps that make the posterior.

    Returns:
        The model. `init` draws W, with b = 0.

    Raises:
        ValueError: a size or a number of updates below one, or more factors than dimensions.

    Source: Bartholomew 1987 (Latent variable models and factor analysis); Tipping 1999
    (Probabilistic visualisation of high-dimensional binary data), section 2.
    """
    check_sizes(num_dims=num_dims, latent_dim=latent_dim, num_updates=num_updates)
    if latent_dim > num_dims:
        raise ValueError(f"latent_dim must be at most num_dims, {num_dims}, got {latent_dim}")

    def init(key: Key) -> Params:
        loading = jax.random.normal(key, (num_dims, latent_dim)) / math.sqrt(latent_dim)
        return {"loading": loading, "bias": jnp.zeros(num_dims)}

    def prior(params: Params) -> DiagonalGaussian:
        return _standard_normal(latent_dim)

    def likelihood(params: Params, z: Array) -> Bernoulli:
        loading, bias = _float32(params)
        return Bernoulli(_logits(loading, bias, z).astype(jnp.result_type(params["bias"])))

    return LatentVariableModel(
        init, prior, likelihood, lambda params, x: posterior(params, x, num_updates=num_updates)
    )


def posterior(params: Params, x: Array, *, num_updates: int = 20) -> FullCovarianceGaussian:
    """The Gaussian q(z | x) = N(m, S) that maximises `bound`, by a number of fixed-point steps.

        S = (I + sum_d c_d w_d w_d')^-1,  m = S sum_d (x_d - 1/2 - c_d b_d) w_d
        c_d = tanh(xi_d / 2) / (2 xi_d),  xi_d^2 = E_q[(w_d . z + b_d)^2]

    each from the other, beginning with xi of the prior. Every step raises the bound, and the error
    falls by a constant factor, the smaller the weights the faster.

    Args:
        params: of `binary_factor_analysis`.
        x: one example, [D].
        num_updates: steps.

    Returns:
        The Gaussian.

    Raises:
        ValueError: fewer than one update.

    Source: Jaakkola & Jordan 1997 (A variational approach to Bayesian logistic regression models
    and their extensions), section 3; Tipping 1999, equations 6 to 9.
    """
    check_sizes(num_updates=num_updates)
    loading, bias = _float32(params)
    signal = at_least_float32(check_event(x, bias)) - 0.5

    def update(_: Array, square: Array) -> Array:
        return _second_moments(loading, bias, *_gaussian(loading, bias, signal, square))

    first = jnp.sum(jnp.square(loading), axis=1) + jnp.square(bias)
    square = jax.lax.fori_loop(0, num_updates - 1, update, first)
    mean, scale_tril = _gaussian(loading, bias, signal, square)
    below = scale_tril[jnp.tril_indices(mean.size, -1)]
    return FullCovarianceGaussian(mean, jnp.log(jnp.diag(scale_tril)), below)


def bound(params: Params, x: Array, *, num_updates: int = 20) -> Array:
    """A lower bound on log p(x) in closed form, below the evidence lower bound of the same q.

        sum_d [(x_d - 1/2) E_q[a_d] - log 2 cosh(xi_d / 2)] - KL(q || p),  a_d = w_d . z + b_d

    with xi_d^2 = E_q[a_d^2]: log 2 cosh(sqrt(s) / 2) is concave in s, so that its value at the
    mean of a_d^2 is above the mean of log 2 cosh(a_d / 2).

    Args:
        params: of `binary_factor_analysis`.
        x: one example, [D].
        num_updates: steps of `posterior`.

    Returns:
        A scalar in nats; log p(x) itself where the weights are zero.

    Source: Jaakkola & Jordan 1997, equation 10.
    """
    return _bound(params, x, posterior(params, x, num_updates=num_updates))[0]


def quadrature_log_prob(
    params: Params, x: Array, *, num_points: int = 32, num_updates: int = 20
) -> Array:
    """log p(x) of a model with one or two factors, by Gauss-Hermite quadrature.

        p(x) = sum_i v_i p(x | z_i) p(z_i) / q(z_i | x),  z_i = m + L e_i,  L L' = S

    with nodes e_i and weights v_i of a standard normal: the rule is moved to where the integrand
    is, by the variational posterior N(m, S). The gradient is that of log p(x).

    Args:
        params: of `binary_factor_analysis`.
        x: one example, [D].
        num_points: nodes of each dimension of z. More of them tell how exact the value is.
        num_updates: steps of `posterior`.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: no nodes, so many that their weights underflow, or more than two factors, for
            which a grid is too large.

    Source: Naylor & Smith 1982 (Applications of a method for the efficient computation of
    posterior distributions); Bock & Aitkin 1981 (Marginal maximum likelihood estimation of item
    parameters), with the rule at the prior.
    """
    latent_dim = params["loading"].shape[1]
    if not 1 <= num_points <= _MAX_POINTS:
        raise ValueError(f"num_points must be in 1..{_MAX_POINTS}, got {num_points}")
    if latent_dim > 2:
        raise ValueError(
            f"quadrature is for 1 or 2 factors, got {latent_dim}: use evaluation.log_likelihood"
        )
    loading, bias = _float32(params)
    # Where the nodes are does not change the integral, and so has no part in its gradient.
    q = jax.lax.stop_gradient(posterior(params, x, num_updates=num_updates))
    nodes, log_weights = _hermite_grid(num_points, latent_dim)

    def log_term(node: Array, log_weight: Array) -> Array:
        z = q.loc + q.scale_tril @ node
        log_joint = Bernoulli(_logits(loading, bias, z)).log_prob(x)
        log_joint += _standard_normal(latent_dim).log_prob(z)
        return log_weight + log_joint - q.log_prob(z)

    rule = (jnp.asarray(part, loading.dtype) for part in (nodes, log_weights))
    return logsumexp(jax.vmap(log_term)(*rule))


def expected_statistics(
    params: Params, batch: Array, *, num_updates: int = 20
) -> tuple[Array, Statistics]:
    """The E-step: the bound and expected statistics, as means over a batch.

        E[c_d u u'],  E[(x_d - 1/2) u'],  with u = (z, 1) under q(z | x)

    Args:
        params: of `binary_factor_analysis`.
        batch: examples, [N, D], zeros and ones.
        num_updates: steps of `posterior`. EM never lowers the bound once they have converged.

    Returns:
        The mean of `bound` in nats, and the statistics.

    Raises:
        ValueError: the batch is not [N, D] with N >= 1.

    Source: Tipping 1999, section 2.2.
    """
    num_dims, latent_dim = params["loading"].shape
    if jnp.ndim(batch) != 2 or batch.shape[0] < 1 or batch.shape[1] != num_dims:
        raise ValueError(f"batch must be [N, {num_dims}] with N >= 1, got {jnp.shape(batch)}")

    def of_one(x: Array) -> tuple[Array, Array, Array, Array]:
        q = posterior(params, x, num_updates=num_updates)
        value, square = _bound(params, x, q)
        mean = jnp.append(q.loc, 1)
        scale_tril = q.scale_tril
        second = jnp.outer(mean, mean)
        second = second.at[:latent_dim, :latent_dim].add(scale_tril @ scale_tril.T)
        return value, mean, second, _curvature(square)

    with jax.default_matmul_precision("highest"):
        values, means, seconds, curvatures = jax.vmap(of_one)(batch)
        signal = at_least_float32(batch) - 0.5
        statistics = {
            "precision": jnp.einsum("nd,nij->dij", curvatures, seconds) / batch.shape[0],
            "signal": signal.T @ means / batch.shape[0],
        }
    return jnp.mean(values), statistics


def maximize(statistics: Statistics, params: Params, *, decay: float = 0.0) -> Params:
    """The M-step: the parameters under which the bound is highest with q and xi as they are.

        (w_d, b_d) = (E[c_d u u'] + a I)^-1 E[(x_d - 1/2) u]

    a > 0 is a Gaussian prior on every weight and bias, of variance 1 / (a N) for N training
    examples: what EM then never lowers is the mean bound less a |(W, b)|^2 / 2. Without it the
    bias of a dimension that is always zero grows without end, if slowly.

    Args:
        statistics: of `expected_statistics`.
        params: not used: the maximum is unique.
        decay: a >= 0.

    Returns:
        The parameters.

    Raises:
        ValueError: a decay that is negative or not finite.

    Source: Tipping 1999, equation 11.
    """
    if not 0 <= decay < math.inf:
        raise ValueError(f"decay must be finite and not negative, got {decay}")
    precision = statistics["precision"]
    identity = jnp.eye(precision.shape[-1], dtype=precision.dtype)
    with jax.default_matmul_precision("highest"):
        rows = jnp.linalg.solve(
            precision + decay * identity[None], statistics["signal"][..., None]
        )[..., 0]
    return {"loading": rows[:, :-1], "bias": rows[:, -1]}


def _bound(params: Params, x: Array, q: FullCovarianceGaussian) -> tuple[Array, Array]:
    """The bound at q, and the xi^2 that make it highest, [D].

    With s = 2 x - 1, mean m_d and variance v_d of a_d, each dimension's term is (s m - |m|) / 2 -
    v / (2 (xi + |m|)) - log(1 + e^-xi): none is positive, so that nothing cancels.
    """
    loading, bias = _float32(params)
    signs = 2 * at_least_float32(check_event(x, bias)) - 1
    scale_tril = q.scale_tril
    mean = _logits(loading, bias, q.loc)
    square = _second_moments(loading, bias, q.loc, scale_tril)
    xi = jnp.sqrt(jnp.maximum(square, _TINY))
    with jax.default_matmul_precision("highest"):
        variance = jnp.sum(jnp.square(loading @ scale_tril), axis=1)
    magnitude = jnp.maximum(mean, -mean)  # Its slope at zero is zero.
    terms = (signs * mean - magnitude) / 2 - variance / (2 * (xi + magnitude))
    divergence = kl_divergence(q, _standard_normal(loading.shape[1]))
    return jnp.sum(terms - jnp.log1p(jnp.exp(-xi))) - divergence, square


def _gaussian(loading: Array, bias: Array, signal: Array, square: Array) -> tuple[Array, Array]:
    """m [L] and the Cholesky factor of S [L, L], given xi^2 [D]."""
    curvature = _curvature(square)
    with jax.default_matmul_precision("highest"):
        identity = jnp.eye(loading.shape[1], dtype=loading.dtype)
        precision = identity + (loading.T * curvature[None]) @ loading
        scale_tril = _inverse_factor(precision)
        mean = scale_tril @ (scale_tril.T @ (loading.T @ (signal - curvature * bias)))
    return mean, scale_tril


def _inverse_factor(precision: Array) -> Array:
    """Lower triangular L with L L' the inverse of the precision.

    One and two factors are written out: for so small a matrix a call of LAPACK for each example and
    update takes ten times as long as all the rest.
    """
    if len(precision) == 1:
        return jax.lax.rsqrt(precision)
    if len(precision) == 2:
        (a, b), (_, c) = precision
        first, second = jax.lax.rsqrt(a - b * b / c), jax.lax.rsqrt(c)
        return jnp.array([[first, jnp.zeros_like(first)], [-b / c * first, second]])
    # With rows and columns in reverse, the factor of the precision gives that of its inverse.
    factor = jnp.linalg.cholesky(precision[::-1, ::-1])
    identity = jnp.eye(len(precision), dtype=precision.dtype)
    return solve_triangular(factor, identity, lower=True).T[::-1, ::-1]


def _second_moments(loading: Array, bias: Array, mean: Array, scale_tril: Array) -> Array:
    """E[(w_d . z + b_d)^2] under N(m, L L'), [D]."""
    with jax.default_matmul_precision("highest"):
        spread = jnp.sum(jnp.square(loading @ scale_tril), axis=1)
    return spread + jnp.square(_logits(loading, bias, mean))


def _curvature(square: Array) -> Array:
    """tanh(xi / 2) / (2 xi) from xi^2; the double where keeps 0 / 0 out."""
    is_small = square < _SMALL
    xi = jnp.sqrt(jnp.where(is_small, 1, square))
    y = jnp.where(is_small, square, 0) / 4
    series = (1 - y / 3 + 2 * y**2 / 15 - 17 * y**3 / 315 + 62 * y**4 / 2835) / 4
    return jnp.where(is_small, series, jnp.tanh(xi / 2) / (2 * xi))


def _logits(loading: Array, bias: Array, z: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        return loading @ z + bias


def _hermite_grid(num_points: int, latent_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes [P, L] and log weights [P] of the standard normal in L dimensions."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_points)
    log_weights = np.log(weights) - 0.5 * math.log(2 * math.pi)
    grids = np.meshgrid(*[nodes] * latent_dim, indexing="ij")
    log_grids = np.meshgrid(*[log_weights] * latent_dim, indexing="ij")
    return np.stack([g.ravel() for g in grids], axis=1), np.sum(log_grids, axis=0).ravel()


def _standard_normal(latent_dim: int) -> DiagonalGaussian:
    return DiagonalGaussian(jnp.zeros(latent_dim), jnp.zeros(latent_dim))


def _float32(params: Params) -> tuple[Array, Array]:
    """W and b in float32 at least."""
    return at_least_float32(params["loading"]), at_least_float32(params["bias"])

"""Active units and the parts of the rate, on models whose aggregate posterior is Gaussian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from jax.tree_util import Partial

from genjax_models.distributions import Chain, DiagonalGaussian, Reversed
from genjax_models.evaluation import (
    PosteriorMean,
    active_units,
    layer_rates,
    posterior_mean,
    rate_parts,
)
from genjax_models.interfaces import LatentVariableModel
from genjax_models.models import latent
from tests import oracles
from tests.statistics import assert_mean, jit_once

NUM_EXAMPLES = 100


class WithoutMean:
    """A posterior that can only be drawn from."""

    reparameterized = True

    def __init__(self, gaussian: DiagonalGaussian) -> None:
        self.sample = gaussian.sample


@functools.cache
def on_a_line():
    """q(z | x) = N(w x, diag s^2) for x on standard normal quantiles; p = N(0, diag t^2)."""
    params = {
        "weight": jnp.array([0.9, -0.6, 0.0]),
        "log_scale": jnp.array([-0.5, -0.9, 0.3]),
        "prior": jnp.array([0.1, 0.2, 0.3]),
    }
    model = LatentVariableModel(
        lambda key: params,
        lambda params: DiagonalGaussian(jnp.zeros(3), params["prior"]),
        lambda params, z: DiagonalGaussian(z[0], jnp.zeros(())),
        lambda params, x: DiagonalGaussian(params["weight"] * x, params["log_scale"]),
    )
    xs = norm.ppf((jnp.arange(NUM_EXAMPLES) + 0.5) / NUM_EXAMPLES)
    return model, params, xs


def exact() -> dict[str, np.ndarray]:
    """The parts where q(z) is Gaussian, with the quantiles' own variance."""
    _, params, xs = on_a_line()
    weight, log_scale, prior = (
        np.asarray(params[name], np.float64) for name in ("weight", "log_scale", "prior")
    )
    spread = np.var(np.asarray(xs, np.float64))
    covariance = spread * np.outer(weight, weight) + np.diag(np.exp(2 * log_scale))
    variances, log_det = np.diag(covariance), np.linalg.slogdet(covariance)[1]
    dimension_wise = 0.5 * (variances / np.exp(2 * prior) - 1 - np.log(variances)) + prior
    correlation = 0.5 * (np.sum(np.log(variances)) - log_det)
    information = 0.5 * log_det - np.sum(log_scale)
    return {
        "mutual_information": information,
        "total_correlation": correlation,
        "dimension_wise_kl": dimension_wise,
        "marginal_kl": correlation + dimension_wise.sum(),
        "kl_divergence": information + correlation + dimension_wise.sum(),
    }


@functools.cache
def estimates():
    model, params, xs = on_a_line()
    run = jit_once(lambda keys: jax.lax.map(lambda key: rate_parts(model, params, key, xs), keys))
    return jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(0), 200)))


@pytest.mark.parametrize("name", exact())
def test_the_parts_of_the_rate_are_the_closed_forms(name: str) -> None:
    # The density of a mixture of 100 is not quite the Gaussian's.
    assert_mean(getattr(estimates().value, name), exact()[name], scale=0.5, floor=3e-3)


def test_the_parts_make_up_the_rate_of_every_draw() -> None:
    parts = estimates().value
    marginal = parts.total_correlation + parts.dimension_wise_kl.sum(axis=-1)
    np.testing.assert_allclose(parts.marginal_kl, marginal, atol=1e-5)
    whole = parts.mutual_information + parts.marginal_kl
    np.testing.assert_allclose(parts.kl_divergence, whole, atol=1e-5)


def test_mutual_information_against_scipy() -> None:
    """The aggregate posterior of the examples, and that of the others."""
    model, params, xs = on_a_line()
    xs = xs[::20]
    key = jax.random.key(3)
    found = jit_once(lambda key: rate_parts(model, params, key, xs))(jax.random.clone(key))
    keys = jax.random.split(key, len(xs))
    draw = lambda key, x: model.posterior(params, x).sample(seed=key)  # noqa: E731
    zs = np.asarray(jax.vmap(draw)(keys, xs))
    from scipy.stats import norm as scipy_norm

    loc = np.asarray(params["weight"]) * np.asarray(xs)[:, None]
    pairs = scipy_norm.logpdf(zs[:, None], loc[None], np.exp(params["log_scale"])).sum(axis=-1)
    own, density = np.diag(pairs), np.exp(pairs)
    lower = own - np.log(density.mean(axis=1))
    others = (density.sum(axis=1) - np.diag(density)) / (len(xs) - 1)
    np.testing.assert_allclose(found.value.mutual_information, lower.mean(), rtol=1e-4)
    upper = found.value.mutual_information_upper
    np.testing.assert_allclose(upper, (own - np.log(others)).mean(), rtol=1e-4)
    error = lower.std(ddof=1) / np.sqrt(len(xs))
    np.testing.assert_allclose(found.standard_error.mutual_information, error, rtol=1e-4)


def test_few_examples_bound_the_mutual_information_from_both_sides() -> None:
    """x ~ N(0, 1): below with the example's own posterior in q(z), above without it."""
    model, params, _ = on_a_line()

    def one(key):
        x_key, draw_key = jax.random.split(key)
        value = rate_parts(model, params, draw_key, jax.random.normal(x_key, (4,))).value
        return value.mutual_information, value.mutual_information_upper

    lower, upper = jit_once(jax.vmap(one))(jax.random.split(jax.random.key(1), 4000))
    weight, log_scale = np.asarray(params["weight"]), np.asarray(params["log_scale"])
    covariance = np.outer(weight, weight) + np.diag(np.exp(2 * log_scale))
    information = 0.5 * np.linalg.slogdet(covariance)[1] - log_scale.sum()
    error = lambda values: np.std(values) / np.sqrt(len(values))  # noqa: E731
    assert lower.mean() + 5 * error(lower) < information < upper.mean() - 5 * error(upper)
    # The latter is an average with a heavy tail: the maximum of the first is log 4.
    assert lower.max() <= np.log(4) + 1e-5


def test_a_posterior_without_independent_dimensions_has_the_joint_parts() -> None:
    model = oracles.linear_gaussian(exact_posterior=True)
    params = oracles.linear_gaussian_params()
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(10, 3)))
    found = jit_once(lambda key: rate_parts(model, params, key, xs))(jax.random.key(0)).value
    assert found.total_correlation is None and found.dimension_wise_kl is None
    whole = found.mutual_information + found.marginal_kl
    np.testing.assert_allclose(found.kl_divergence, whole, atol=1e-5)
    assert 0 < found.mutual_information < np.log(10) + 1e-5


def test_active_units_are_those_whose_mean_moves() -> None:
    model, params, xs = on_a_line()
    weight = np.asarray(params["weight"])
    keys = jax.random.split(jax.random.key(0), NUM_EXAMPLES)
    mean = jax.vmap(lambda key, x: posterior_mean(model, params, key, x))(keys, xs)
    found = active_units(mean)
    expected = weight**2 * np.var(np.asarray(xs), ddof=1)
    np.testing.assert_allclose(found.variances, expected, rtol=1e-5)
    assert found.num_active == 2
    assert active_units(mean, threshold=0.5).num_active == 1


def test_active_units_from_samples_subtract_the_variance_of_the_draws() -> None:
    model, params, xs = on_a_line()
    plain = model.posterior
    sampled = model._replace(posterior=lambda params, x: WithoutMean(plain(params, x)))
    expected = np.asarray(params["weight"]) ** 2 * np.var(np.asarray(xs), ddof=1)

    def one(key):
        keys = jax.random.split(key, NUM_EXAMPLES)
        of_example = lambda key, x: posterior_mean(sampled, params, key, x, num_samples=5)  # noqa: E731
        return active_units(jax.vmap(of_example)(keys, xs)).variances

    found = jit_once(jax.vmap(one))(jax.random.split(jax.random.key(2), 400))
    assert_mean(found, expected, scale=0.5)
    # Without the subtraction the dead unit would have a variance of 0.36.
    assert abs(float(found[:, 2].mean())) < 0.02


def _given_top(scale, above):
    return DiagonalGaussian(above[-1] * scale, jnp.full(1, -0.2))


def chains(upwards: bool) -> LatentVariableModel:
    def chain(params, first, scale):
        return Chain(DiagonalGaussian(first, jnp.full(1, 0.1)), (Partial(_given_top, scale),))

    def posterior(params, x):
        drawn = chain(params, x[:1], params["q"])
        return Reversed(drawn) if upwards else drawn

    params = {"q": jnp.array(0.5), "p": jnp.array(-0.4)}
    return LatentVariableModel(
        lambda key: params,
        lambda params: chain(params, jnp.zeros(1), params["p"]),
        lambda params, z: DiagonalGaussian(jnp.concatenate(z), jnp.zeros(2)),
        posterior,
    )


def test_a_hierarchy_has_a_rate_for_each_layer() -> None:
    """Top: N(x, s^2) from N(0, s^2); below: N(q z, t^2) from N(p z, t^2), averaged over z."""
    model = chains(upwards=False)
    params, x = model.init(jax.random.key(0)), jnp.array([0.7, 0.0])
    run = jit_once(jax.vmap(lambda key: layer_rates(model, params, key, x)))
    top, below = run(jax.random.split(jax.random.key(1), 4000))
    assert top.shape == below.shape == (4000, 1)
    np.testing.assert_allclose(top, 0.5 * 0.7**2 * np.exp(-0.2), rtol=1e-5)
    second_moment = 0.7**2 + np.exp(0.2)
    assert_mean(below[:, 0], 0.5 * 0.9**2 * second_moment * np.exp(0.4), resolution=0.03)


def test_the_layers_of_a_posterior_that_goes_upwards_make_up_the_rate() -> None:
    model = chains(upwards=True)
    params, x = model.init(jax.random.key(0)), jnp.array([0.7, 0.0])

    own = lambda key: jax.random.split(key, 1)[0]  # noqa: E731
    layers = jit_once(lambda key: jnp.stack(layer_rates(model, params, key, x)))(jax.random.key(5))
    posterior, prior = model.posterior(params, x), model.prior(params)
    z, log_posterior = posterior.sample_and_log_prob(seed=own(jax.random.key(5)))
    np.testing.assert_allclose(layers.sum(), log_posterior - prior.log_prob(z), rtol=1e-5)
    expected = posterior.layer_log_probs(z) - prior.layer_log_probs(z)
    np.testing.assert_allclose(layers, expected, rtol=1e-5)


def test_too_little_is_refused() -> None:
    model, params, xs = on_a_line()
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="xs must be at least 2 examples, got 1"):
        rate_parts(model, params, key, xs[:1])
    vectors = latent.vae(num_dims=5, latent_dim=2, hidden=(3,))
    of_vectors = vectors.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"must be one example of shape \(5,\), got \(\)"):
        rate_parts(vectors, of_vectors, key, jnp.zeros(5))
    for one in (jnp.zeros(()), (), (jnp.zeros((3, 5)), jnp.zeros(2))):
        with pytest.raises(ValueError, match=r"xs must be examples, each leaf \[N, ...\]"):
            rate_parts(vectors, of_vectors, key, one)
    with pytest.raises(ValueError, match="means must be"):
        active_units(PosteriorMean(jnp.zeros((1, 3)), jnp.zeros((1, 3))))
    with pytest.raises(ValueError, match="num_samples must be an integer >= 2, got 1"):
        posterior_mean(model, params, key, xs[0], num_samples=1)
    sampled = model._replace(posterior=lambda params, x: WithoutMean(model.posterior(params, x)))
    with pytest.raises(TypeError, match="the posterior, a WithoutMean, has no log_prob"):
        rate_parts(sampled, params, key, xs)

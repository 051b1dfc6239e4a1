"""Kullback-Leibler divergences against enumeration, the general formula and Monte Carlo."""

import itertools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from tensorflow_probability.substrates import jax as tfp

from genjax_models.distributions import (
    Bernoulli,
    DiagonalGaussian,
    DiscretizedLogistic,
    kl_divergence,
    kl_per_dimension,
)
from tests import oracles
from tests.statistics import assert_mean

LOC = {"q": jnp.array([0.7, -1.2, 0.1]), "p": jnp.array([0.2, -0.5, 1.0])}
SCALE = {"q": jnp.array([0.6, 1.4, 0.9]), "p": jnp.array([1.1, 0.8, 1.7])}
GAUSSIANS = {
    "ours": lambda loc, scale: DiagonalGaussian(loc, jnp.log(scale)),
    "distrax": distrax.MultivariateNormalDiag,
    "independent": lambda loc, scale: distrax.Independent(distrax.Normal(loc, scale), 1),
}


def exact_kl(q: str = "q", p: str = "p") -> jax.Array:
    arguments = LOC[q], jnp.diag(SCALE[q] ** 2), LOC[p], jnp.diag(SCALE[p] ** 2)
    return jax.jit(oracles.gaussian_kl)(*arguments)


@pytest.mark.parametrize(("q", "p"), list(itertools.product(GAUSSIANS, repeat=2)))
def test_diagonal_gaussians_of_any_make_in_both_orders(q: str, p: str) -> None:
    first = GAUSSIANS[q](LOC["q"], SCALE["q"])
    second = GAUSSIANS[p](LOC["p"], SCALE["p"])
    np.testing.assert_allclose(kl_divergence(first, second), exact_kl("q", "p"), rtol=1e-5)
    np.testing.assert_allclose(kl_divergence(second, first), exact_kl("p", "q"), rtol=1e-5)
    np.testing.assert_allclose(kl_divergence(first, first), 0, atol=1e-6)


def test_gaussians_against_monte_carlo() -> None:
    """The oracle's formula and ours might share a mistake; the definition shares none."""
    q, p = (GAUSSIANS["ours"](LOC[name], SCALE[name]) for name in "qp")

    def log_ratio(key):
        z, log_q = q.sample_and_log_prob(seed=key)
        return log_q - p.log_prob(z)

    keys = jax.random.split(jax.random.key(0), 20_000)
    assert_mean(jax.jit(jax.vmap(log_ratio))(keys), kl_divergence(q, p))


def test_a_shared_scale_counts_for_every_dimension() -> None:
    each = DiagonalGaussian(LOC["q"], jnp.full(3, 0.3))
    shared = DiagonalGaussian(LOC["q"], jnp.array(0.3))
    other = GAUSSIANS["ours"](LOC["p"], SCALE["p"])
    np.testing.assert_allclose(kl_divergence(shared, other), kl_divergence(each, other))
    np.testing.assert_allclose(kl_divergence(other, shared), kl_divergence(other, each))
    np.testing.assert_allclose(
        kl_divergence(shared, DiagonalGaussian(LOC["p"], jnp.array(0.1))),
        kl_divergence(each, DiagonalGaussian(LOC["p"], jnp.full(3, 0.1))),
        rtol=1e-6,
    )


def test_gradients_of_gaussians() -> None:
    def ours(loc_q, scale_q, loc_p, scale_p):
        return kl_divergence(GAUSSIANS["ours"](loc_q, scale_q), GAUSSIANS["ours"](loc_p, scale_p))

    def exact(loc_q, scale_q, loc_p, scale_p):
        return oracles.gaussian_kl(loc_q, jnp.diag(scale_q**2), loc_p, jnp.diag(scale_p**2))

    arguments = LOC["q"], SCALE["q"], LOC["p"], SCALE["p"]
    gradients = (jax.jit(jax.grad(kl, (0, 1, 2, 3)))(*arguments) for kl in (ours, exact))
    for first, second in zip(*gradients, strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)


def test_gaussians_that_nearly_agree_keep_their_digits() -> None:
    """The KL of two Gaussians whose log scales differ by d is about d^2."""
    q, p = (DiagonalGaussian(jnp.zeros(1), jnp.array([d])) for d in (1e-3, 0.0))
    np.testing.assert_allclose(kl_divergence(q, p), 1e-6, rtol=0.05)


def test_bernoullis_against_enumeration() -> None:
    q, p = Bernoulli(jnp.array([1.3, -0.7, 0.2])), Bernoulli(jnp.array([-0.4, 0.1, 2.0]))
    events = np.array(list(itertools.product([0, 1], repeat=3)), np.float32)
    log_q, log_p = jax.vmap(q.log_prob)(events), jax.vmap(p.log_prob)(events)
    exact = np.sum(np.exp(log_q) * (log_q - log_p))
    np.testing.assert_allclose(kl_divergence(q, p), exact, rtol=1e-5)
    assert abs(kl_divergence(p, q) - exact) > 0.01


@pytest.mark.parametrize("logit", [-1e4, -30.0, 30.0, 1e4])
def test_bernoullis_at_the_extremes(logit: float) -> None:
    """KL of a certain event from probability sigmoid(0.5) is its surprise."""
    p = Bernoulli(jnp.array([0.5]))
    kl = lambda logit: kl_divergence(Bernoulli(logit), p)  # noqa: E731
    value, gradient = jax.value_and_grad(kl)(jnp.array([logit]))
    exact = -scipy.special.log_expit(np.sign(logit) * 0.5)
    np.testing.assert_allclose(value, exact, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(gradient, 0, atol=1e-8)


def test_pairs_that_distrax_knows() -> None:
    """Full covariances, and products of categoricals."""
    covariance = jnp.array([[1.0, 0.3, 0.0], [0.3, 0.8, -0.2], [0.0, -0.2, 1.5]])
    q = distrax.MultivariateNormalFullCovariance(LOC["q"], covariance)
    p = distrax.MultivariateNormalDiag(LOC["p"], SCALE["p"])
    exact = oracles.gaussian_kl(LOC["q"], covariance, LOC["p"], jnp.diag(SCALE["p"] ** 2))
    np.testing.assert_allclose(kl_divergence(q, p), exact, rtol=1e-5)

    logits = jax.random.normal(jax.random.key(0), (2, 4, 3))
    q, p = (distrax.Independent(distrax.Categorical(table), 1) for table in logits)
    log_q, log_p = jax.nn.log_softmax(logits)
    exact = jnp.sum(jnp.exp(log_q) * (log_q - log_p))
    np.testing.assert_allclose(kl_divergence(q, p), exact, rtol=1e-5)


def test_pairs_of_tfp() -> None:
    tfd = tfp.distributions
    q = tfd.MultivariateNormalDiag(LOC["q"], SCALE["q"])
    p = tfd.MultivariateNormalDiag(LOC["p"], SCALE["p"])
    np.testing.assert_allclose(kl_divergence(q, p), exact_kl(), rtol=1e-5)
    wrapped = map(distrax.as_distribution, (q, p))
    np.testing.assert_allclose(kl_divergence(*wrapped), exact_kl(), rtol=1e-5)


@pytest.mark.parametrize("other", GAUSSIANS)
def test_a_batch_of_distributions_is_refused(other: str) -> None:
    batch = distrax.Normal(LOC["q"], SCALE["q"])
    event = GAUSSIANS[other](LOC["p"], SCALE["p"])
    for pair in ((batch, batch), (batch, event), (event, batch)):
        with pytest.raises(ValueError, match="Independent"):
            kl_divergence(*pair)


def test_events_of_different_shape_are_refused() -> None:
    q, p = (DiagonalGaussian(jnp.zeros(size), jnp.zeros(size)) for size in (1, 3))
    for pair in ((q, p), (p, q)):
        with pytest.raises(ValueError, match="shape"):
            kl_divergence(*pair)
    with pytest.raises(ValueError, match="shape"):
        kl_divergence(Bernoulli(jnp.zeros(1)), Bernoulli(jnp.zeros(3)))


def test_an_unknown_pair_names_the_remedy() -> None:
    gaussian = DiagonalGaussian(jnp.zeros(2), jnp.zeros(2))
    grid = DiscretizedLogistic(jnp.zeros(2), jnp.zeros(2), 17)
    laplace = distrax.Independent(distrax.Laplace(jnp.zeros(2), jnp.ones(2)), 1)
    mixture = distrax.MixtureSameFamily(
        distrax.Categorical(jnp.zeros(2)), distrax.Normal(jnp.zeros(2), jnp.ones(2))
    )
    for pair in ((gaussian, grid), (grid, grid), (gaussian, laplace), (mixture, mixture)):
        with pytest.raises(TypeError, match="Monte Carlo"):
            kl_divergence(*pair)
    with pytest.raises(TypeError, match="object"):
        kl_divergence(object(), object())


def test_dimensions_that_are_independent_make_up_the_whole() -> None:
    """Each against the divergence of that dimension alone."""
    gaussians = [DiagonalGaussian(LOC[name], jnp.array([0.3, -0.2, 0.1])) for name in "qp"]
    bernoullis = [Bernoulli(LOC[name]) for name in "qp"]
    for q, p in (gaussians, bernoullis):
        each = kl_per_dimension(q, p)
        assert each.shape == (3,)
        alone = [
            kl_divergence(*(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], d) for d in (q, p)))
            for i in range(3)
        ]
        np.testing.assert_allclose(each, alone, rtol=1e-6)
    shared = DiagonalGaussian(LOC["q"], jnp.array(0.3))
    assert kl_per_dimension(shared, gaussians[1]).shape == (3,)
    with pytest.raises(TypeError, match=r"KL\(DiagonalGaussian \|\| Bernoulli\) has no closed"):
        kl_per_dimension(gaussians[0], bernoullis[1])

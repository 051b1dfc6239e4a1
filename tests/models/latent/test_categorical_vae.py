"""The VAE with categorical latents against enumeration of all of them."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.evaluation import log_likelihood
from genjax_models.learning import relaxed, variational
from genjax_models.models.latent import categorical, categorical_vae, sample
from genjax_models.networks import mlp
from tests.statistics import assert_mean, jit_once

XS = np.array(list(itertools.product([0.0, 1.0], repeat=3)), np.float32)
PAIRS = np.array(list(itertools.product(range(3), repeat=2)))
ZS = np.eye(3, dtype=np.float32)[PAIRS]
SIZES = {"num_dims": 3, "num_variables": 2, "num_categories": 3, "hidden": (4,)}
PRIORS = ("uniform", "independent", "autoregressive")


@functools.cache
def small(prior: str) -> Any:
    """A model and parameters that are not those of the start."""
    model = categorical_vae(prior=getattr(categorical, prior)(2, 3), **SIZES)
    noise = np.random.default_rng(0)
    perturb = lambda leaf: leaf + jnp.asarray(noise.normal(0, 0.8, leaf.shape), leaf.dtype)  # noqa: E731
    return model, jax.tree.map(perturb, model.init(jax.random.key(0)))


@functools.cache
def enumerated(prior: str) -> tuple[np.ndarray, ...]:
    """log p(x | z), log p(z) and log q(z | x) of all x and z, each [8, 9].

    From the networks' own outputs and tables of softmaxes.
    """
    _, params = small(prior)
    decoder = mlp(6, (4,), 3)
    logits = jax.vmap(decoder.apply, (None, 0))(params["likelihood"]["network"], ZS.reshape(9, 6))
    logits = np.asarray(logits, np.float64)
    log_on, log_off = -np.log1p(np.exp(-logits)), -np.log1p(np.exp(logits))
    log_likelihood = XS @ log_on.T + (1 - XS) @ log_off.T
    encoder = mlp(3, (4,), 6)
    outputs = jax.vmap(encoder.apply, (None, 0))(params["posterior"], XS).reshape(8, 2, 3)
    rows = np.asarray(jax.nn.log_softmax(outputs), np.float64)
    log_q = rows[:, 0, PAIRS[:, 0]] + rows[:, 1, PAIRS[:, 1]]
    learned = jax.tree.map(np.asarray, params["prior"])
    first, second = learned.get("logits", np.zeros((2, 3)))
    second = np.tile(second, (3, 1))
    if prior == "autoregressive":
        second = second + learned["weights"][1, :, 0, :].T
    first, second = (np.asarray(jax.nn.log_softmax(a)) for a in (first, second))
    log_p = first[PAIRS[:, 0]] + second[PAIRS[:, 0], PAIRS[:, 1]]
    return log_likelihood, np.tile(log_p, (8, 1)), log_q


@pytest.mark.parametrize("prior", PRIORS)
def test_the_parts_are_the_equations(prior: str) -> None:
    model, params = small(prior)

    @jit_once
    @jax.vmap
    def parts(x: jax.Array) -> Any:
        def one(z: jax.Array) -> Any:
            log_probs = model.likelihood(params, z).log_prob(x), model.prior(params).log_prob(z)
            return *log_probs, model.posterior(params, x).log_prob(z)

        return jax.vmap(one)(ZS)

    for found, expected in zip(parts(XS), enumerated(prior), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)
    log_likelihood, log_p, log_q = enumerated(prior)
    # log p(x) is of a distribution over x.
    evidence = np.logaddexp.reduce(log_likelihood + log_p, axis=1)
    np.testing.assert_allclose(np.exp(evidence).sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(log_q).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_bound_is_that_of_enumeration(prior: str) -> None:
    """Of the unbiased estimators and of the relaxation, with both kinds of KL where there are."""
    model, params = small(prior)
    log_likelihood, log_p, log_q = (part[5] for part in enumerated(prior))
    exact = np.exp(log_q) @ (log_likelihood + log_p - log_q)
    kls = ["monte_carlo"] if prior == "autoregressive" else ["monte_carlo", "analytic"]

    @jit_once
    @jax.vmap
    def metrics(key: jax.Array) -> dict[str, Any]:
        found = {}
        for index, kl in enumerate(kls):
            keys = jax.random.split(jax.random.fold_in(key, index))
            unbiased = variational(model, estimator="rloo", num_samples=2, kl=kl)
            found[f"rloo, {kl}"] = unbiased(params, keys[0], XS[5])[1]["bound"]
            found[f"relaxed, {kl}"] = relaxed(model, kl=kl)(params, keys[1], XS[5])[1]["bound"]
        return found

    for found in metrics(jax.random.split(jax.random.key(0), 20_000)).values():
        assert_mean(found, exact)


def test_the_log_likelihood_is_that_of_enumeration() -> None:
    model, params = small("independent")
    log_likelihood_of_z, log_p, _ = enumerated("independent")
    exact = np.logaddexp.reduce(log_likelihood_of_z[5] + log_p[5])
    key = jax.random.key(0)
    estimate = jax.jit(
        functools.partial(log_likelihood, model, num_samples=20_000, chunk_size=1000)
    )(params, key, XS[5])
    assert abs(estimate.value - exact) < 5 * estimate.monte_carlo_error < 0.3


def test_samples_have_the_models_own_probabilities() -> None:
    model, params = small("autoregressive")
    log_likelihood, log_p, _ = enumerated("autoregressive")
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jit_once(jax.vmap(lambda key: sample(model, params, key)))(keys))
    exact = np.exp(np.logaddexp.reduce(log_likelihood + log_p, axis=1))
    assert_mean((drawn[:, None] == XS).all(axis=-1), exact)


def test_every_prior_starts_uniform() -> None:
    for name in PRIORS:
        prior = getattr(categorical, name)(2, 3)
        distribution = prior.distribution(prior.init(jax.random.key(0)))
        np.testing.assert_allclose(distribution.log_prob(ZS[4]), -2 * np.log(3), rtol=1e-6)
        for size in ({"num_variables": 0}, {"num_categories": 0}):
            with pytest.raises(ValueError, match="must be at least 1"):
                getattr(categorical, name)(**{"num_variables": 2, "num_categories": 3} | size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_variables": 0}, "num_variables must be at least 1"),
        ({"num_categories": 0}, "num_categories must be at least 1"),
        ({"hidden": (3, 0)}, "hidden must be at least 1"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"encoder": mlp(3, (), 7)}, r"encoder must map \[3\] to \[6\]"),
        ({"decoder": mlp(6, (), 2)}, r"decoder must map \[6\] to \[3\]"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        categorical_vae(**SIZES | settings).init(jax.random.key(0))


def test_a_z_of_another_shape_is_refused() -> None:
    """Its transpose has as many numbers."""
    model, params = small("uniform")
    with pytest.raises(ValueError, match=r"z must have shape \(2, 3\), got \(3, 2\)"):
        model.likelihood(params, ZS[0].T)


def test_pathwise_gradients_are_refused() -> None:
    model, params = small("uniform")
    with pytest.raises(TypeError, match='estimator "pathwise" needs reparameterised samples'):
        variational(model)(params, jax.random.key(0), XS[0])

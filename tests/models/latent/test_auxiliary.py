"""Auxiliary posteriors and models: one dimension by quadrature, the optimal reverse model."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import DiagonalGaussian, Marginal, is_reparameterized
from genjax_models.interfaces import LatentVariableModel, Network
from genjax_models.learning import log_weights, variational
from genjax_models.models.latent import (
    auxiliary_vae,
    parts,
    skip_deep_generative_model,
)
from genjax_models.models.latent.auxiliary import auxiliary
from genjax_models.networks import mlp
from tests.statistics import assert_mean, jit_once

X = jnp.array([0.6, -0.3])
GRID = np.linspace(-9, 9, 601)
STEP = GRID[1] - GRID[0]


def fixed(*outputs: list[float]) -> parts.Conditional:
    """N(W [inputs, 1], .): rows of weights, the last column a constant; (mean, log scale)."""
    matrix = jnp.array(outputs)
    network = Network(
        lambda key: jnp.array(matrix), lambda params, x: params[:, :-1] @ x + params[:, -1]
    )
    return parts.gaussian(network)


# Given x = (0.6, -0.3): a ~ N(m, s^2), z | a, x ~ N(slope a + d, t^2).
MIXING = fixed([0.5, -1.0, 0.2], [0.3, 0.1, 0.4])
GIVEN = fixed([-0.8, 0.3, 0.4, -0.1], [0.0, 0.2, -0.5, -0.4])
REVERSE = fixed([0.3, 0.5, -0.2, 0.1], [0.05, -0.1, 0.3, 0.5])


def densities(reverse: parts.Conditional = REVERSE) -> tuple[np.ndarray, np.ndarray]:
    """log q(a, z | x) and log r(a | z, x) on the grid [a, z], from the networks' own numbers."""
    a, z = np.meshgrid(GRID, GRID, indexing="ij")

    def log_normal(matrix, value, *inputs):
        rows = [sum(w * i for w, i in zip(row, (*inputs, 1.0), strict=True)) for row in matrix]
        noise = (value - rows[0]) * np.exp(-rows[1])
        return -0.5 * noise**2 - rows[1] - 0.5 * np.log(2 * np.pi)

    x = np.asarray(X, np.float64)
    mixing, given, backwards = (
        np.asarray(part.init(None), np.float64) for part in (MIXING, GIVEN, reverse)
    )
    joint = log_normal(mixing, a, *x) + log_normal(given, z, a, *x)
    return joint, log_normal(backwards, a, z, *x)


def optimal_reverse() -> parts.Conditional:
    """q(a | z, x) = N(., .): the precisions of q(a | x) and of q(z | a, x) add up."""
    x = np.append(np.asarray(X, np.float64), 1.0)
    mixing, given = (np.asarray(part.init(None), np.float64) for part in (MIXING, GIVEN))
    (mean, log_scale), slope = mixing @ x, given[0, 0]
    offset, noise = given[:, 1:] @ x
    precision = np.exp(-2 * log_scale) + slope**2 * np.exp(-2 * noise)
    of_z = slope * np.exp(-2 * noise) / precision
    constant = (mean * np.exp(-2 * log_scale)) / precision - of_z * offset
    return fixed([of_z, 0.0, 0.0, constant], [0.0, 0.0, 0.0, -0.5 * np.log(precision)])


def posterior(reverse: parts.Conditional = REVERSE) -> Marginal:
    part = auxiliary(MIXING, GIVEN, reverse)
    return part.distribution(part.init(jax.random.key(0)), X)


def draws(distribution: Marginal, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    keys = jax.random.split(jax.random.key(2), num_draws)
    draw = jit_once(jax.vmap(lambda key: distribution.sample_and_log_prob(seed=key)))
    return draw(keys)


def test_with_the_optimal_reverse_model_the_auxiliary_is_integrated_out() -> None:
    """Every draw has the log-density log q(z | x), the integral over a by quadrature."""
    zs, log_probs = draws(posterior(optimal_reverse()), 200)
    joint, _ = densities()
    marginal = np.exp(joint).sum(axis=0) * STEP
    exact = np.interp(np.asarray(zs[:, 0]), GRID, np.log(marginal))
    np.testing.assert_allclose(log_probs, exact, atol=2e-3)
    assert np.std(exact) > 0.5


def test_another_reverse_model_costs_its_divergence_from_the_optimal_one() -> None:
    """E[log q(a, z) - log r(a | z)] = E[log q(z)] + E KL(q(a | z) || r(a | z)), by quadrature."""
    joint, backwards = densities()
    probability = np.exp(joint) * STEP**2
    marginal = probability.sum(axis=0) / STEP
    exact = np.sum(probability * (joint - backwards))
    log_conditional = joint - np.log(marginal)
    divergence = np.sum(probability * (log_conditional - backwards))
    np.testing.assert_allclose(exact, np.sum(marginal * np.log(marginal)) * STEP + divergence)
    assert divergence > 0.1
    zs, log_probs = draws(posterior(), 40_000)
    assert_mean(log_probs, exact)
    mean = np.sum(marginal * GRID) * STEP
    assert_mean(zs, np.array([mean]))
    assert_mean((zs - mean) ** 2, np.array([np.sum(marginal * (GRID - mean) ** 2) * STEP]))


def test_the_marginal_is_a_distribution_of_z_alone() -> None:
    distribution = posterior()
    assert is_reparameterized(distribution) and not hasattr(distribution, "log_prob")
    z = distribution.sample(seed=jax.random.key(3))
    again, _ = distribution.sample_and_log_prob(seed=jax.random.key(3))
    np.testing.assert_array_equal(z, again)
    assert z.shape == (1,)
    batch = jax.jit(jax.vmap(lambda _: distribution))(jnp.arange(2))
    sample = jax.jit(jax.vmap(lambda q: q.sample(seed=jax.random.key(3))))
    np.testing.assert_allclose(sample(batch), jnp.stack([z, z]), rtol=1e-6)


SIZES = {"num_dims": 2, "latent_dims": (1,), "auxiliary_dims": (1,), "hidden": (3,)}
XB = jnp.array([1.0, 0.0])


@functools.cache
def made(name: str, num_layers: int = 1) -> tuple[LatentVariableModel, Any]:
    """A model of one-dimensional layers, and parameters whose weights have a small variance.

    Of what proposes the scales are larger than those of a new network, of what weighs smaller.
    """
    factory: Callable = {"avae": auxiliary_vae, "sdgm": skip_deep_generative_model}[name]
    sizes = SIZES | {"latent_dims": (1,) * num_layers, "auxiliary_dims": (1,) * num_layers}
    model = factory(**sizes, activation=jnp.tanh)
    params = jax.jit(model.init)(jax.random.key(5))

    def widen(path, leaf):
        names = [getattr(part, "key", None) for part in path]
        if names[-2:] != ["Dense_1", "bias"]:
            return 0.4 * leaf
        return leaf.at[1].add(-0.3 if "reverse" in names else 0.5)

    return model, params | {"posterior": jax.tree.map_with_path(widen, params["posterior"])}


def log_marginal(name: str) -> jax.Array:
    """log p(x) of one layer, by quadrature over z, and a where the model has it."""
    model, params = made(name)
    grid = jnp.linspace(-8.0, 8.0, 161)
    if name == "avae":
        points = grid[:, None]
        log_joint = lambda z: (  # noqa: E731
            model.prior(params).log_prob((z,)) + model.likelihood(params, (z,)).log_prob(XB)
        )
    else:
        points = jnp.stack(jnp.meshgrid(grid, grid), axis=-1).reshape(-1, 1, 2)
        log_joint = lambda pair: (  # noqa: E731
            model.prior(params).log_prob(((pair[:, 0], pair[:, 1]),))
            + model.likelihood(params, ((pair[:, 0], pair[:, 1]),)).log_prob(XB)
        )
    values = jit_once(jax.vmap(log_joint))(points)
    return jax.nn.logsumexp(values) + jnp.log(grid[1] - grid[0]) * (1 if name == "avae" else 2)


@pytest.mark.parametrize("name", ["avae", "sdgm"])
def test_importance_weights_have_the_mean_p_x(name: str) -> None:
    model, params = made(name)
    draw = jit_once(log_weights, static_argnums=(0, 4))
    weights = np.exp(draw(model, params, jax.random.key(0), XB, 40_000))
    assert_mean(weights, np.exp(log_marginal(name)), resolution=0.03)
    assert np.std(weights) > 1e-3


@pytest.mark.parametrize("name", ["avae", "sdgm"])
def test_probabilities_of_all_x_add_up_to_one(name: str) -> None:
    """With two layers: importance weights of the four binary x, summed."""
    model, params = made(name, 2)

    @jit_once
    def total(key):
        xs = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        weights = jax.vmap(lambda key, x: jnp.exp(log_weights(model, params, key, x, 20_000)))(
            jax.random.split(key, 4), xs
        )
        return jnp.sum(weights, axis=0)

    assert_mean(total(jax.random.key(1)), 1.0, resolution=0.03)


def layer(network_params: Any, *inputs: Any) -> DiagonalGaussian:
    """A conditional of the model, applied to what it should be given."""
    network = mlp(sum(map(len, inputs)), (3,), 2, activation=jnp.tanh)
    return parts.gaussian(network).distribution(network_params, jnp.concatenate(inputs))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_what_each_conditional_of_the_skip_model_is_given(num_layers: int) -> None:
    """log p and log q of some (z, a), written out as in the docstring."""
    model, params = made("sdgm", num_layers)
    z1, a1, z2, a2 = (jnp.array([v]) for v in (0.3, -0.8, 1.2, 0.5))
    prior, recognition = params["prior"], params["posterior"]
    top, top_a = (z1, a1) if num_layers == 1 else (z2, a2)
    log_p = -0.5 * (top[0] ** 2 + jnp.log(2 * jnp.pi))
    log_p += layer(prior["top"]["layers"][0], top).log_prob(top_a)
    log_q = layer(recognition[0]["first"], XB).log_prob(a1)
    log_q += layer(recognition[0]["second"], a1, XB).log_prob(z1)
    value = ((z1, a1),)
    if num_layers == 2:
        below = prior["layers"][0]
        log_p += layer(below["first"], z2, a2).log_prob(z1) + layer(below["second"], z1).log_prob(
            a1
        )
        log_q += layer(recognition[1]["first"], z1, a1).log_prob(a2)
        log_q += layer(recognition[1]["second"], a2, z1, a1).log_prob(z2)
        value = ((z2, a2), (z1, a1))
    np.testing.assert_allclose(model.prior(params).log_prob(value), log_p, rtol=1e-5)
    np.testing.assert_allclose(model.posterior(params, XB).log_prob(value), log_q, rtol=1e-5)
    decoder = mlp(2, (3,), 2, activation=jnp.tanh)
    logits = decoder.apply(params["likelihood"]["network"], jnp.concatenate([z1, a1]))
    np.testing.assert_allclose(model.likelihood(params, value).logits, logits, rtol=1e-5)


def test_what_each_conditional_of_the_auxiliary_model_is_given() -> None:
    """A draw of two layers and its log-probability, by the draw's own keys."""
    model, params = made("avae", 2)
    key = jax.random.key(8)
    value, log_prob = model.posterior(params, XB).sample_and_log_prob(seed=key)
    below, expected = XB, 0.0
    for i, layer_key in enumerate(jax.random.split(jax.random.clone(key), 2)):
        own = params["posterior"][i]
        a_key, z_key = jax.random.split(layer_key)
        mixing = layer(own["joint"]["first"], below)
        a = mixing.sample(seed=a_key)
        given = layer(own["joint"]["second"], a, below)
        z = given.sample(seed=z_key)
        reverse = layer(own["reverse"], z, below)
        expected += mixing.log_prob(a) + given.log_prob(z) - reverse.log_prob(a)
        np.testing.assert_allclose(value[1 - i], z, rtol=1e-5)
        below = z
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4)
    # The model has no auxiliary: z_1 given z_2, x given z_1.
    z2, z1 = value
    log_p = -0.5 * (z2[0] ** 2 + jnp.log(2 * jnp.pi))
    log_p += layer(params["prior"]["layers"][0], z2).log_prob(z1)
    np.testing.assert_allclose(model.prior(params).log_prob(value), log_p, rtol=1e-5)


def test_a_posterior_without_density_says_so() -> None:
    model, params = made("avae")
    with pytest.raises(TypeError, match="log_prob"):
        variational(model, estimator="rloo", num_samples=2)(params, jax.random.key(0), XB)


@pytest.mark.parametrize("factory", [auxiliary_vae, skip_deep_generative_model])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_dims": (3, 2)}, r"auxiliary_dims must have one size.*\(1,\).*\(3, 2\)"),
        ({"latent_dims": (), "auxiliary_dims": ()}, "auxiliary_dims"),
        ({"latent_dims": (0,)}, "latent_dims"),
        ({"auxiliary_dims": (0,)}, "auxiliary_dims"),
        ({"hidden": (0,)}, "hidden"),
        ({"num_dims": 0}, "num_dims"),
        ({"likelihood": "poisson"}, "likelihood"),
    ],
)
def test_settings_that_are_refused(factory: Callable, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory(**(SIZES | options))


def test_networks_of_the_default_sizes() -> None:
    """Those of the paper: one auxiliary and one latent layer of 100, networks of 500 and 500."""
    params = jax.eval_shape(auxiliary_vae().init, jax.random.key(0))
    given = params["posterior"][0]["joint"]["second"]["params"]
    kernels = [leaf["kernel"].shape for leaf in given.values()]
    assert kernels == [(884, 500), (500, 500), (500, 200)]

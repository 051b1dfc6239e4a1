"""The lossy auto-encoder: what each pixel sees, that its states sum to one, its limits."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import variational
from genjax_models.models.latent import lossy_vae, priors, vae, windowed_bernoulli
from tests.statistics import assert_mean, jit_once

STATES = np.array(list(np.ndindex(*(2,) * 6)), np.float32)


def likelihood_of(shape, radius: int, size: float = 1.0):
    """p(x | z) at an arbitrary output of the decoder, with weights that are not small."""
    part = windowed_bernoulli(shape, radius, num_features=2, hidden=(8,))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + size * rng.normal(size=leaf.shape).astype(np.float32),
        part.init(jax.random.key(0)),
    )
    outputs = size * rng.normal(size=part.num_outputs_per_dim * shape[0] * shape[1])
    return part.distribution(params, jnp.asarray(outputs, jnp.float32))


def window_of(shape, radius: int) -> np.ndarray:
    """Whether pixel j (column) is in the window of pixel i (row), by the distance of the two."""
    rows, columns = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    above = rows[:, None] - rows
    aside = columns[:, None] - columns
    before = (above > 0) | ((above == 0) & (aside > 0))
    return before & (above <= radius) & (np.abs(aside) <= radius)


@pytest.mark.parametrize(("shape", "radius"), [((5, 4), 1), ((5, 6), 2), ((2, 7), 3)])
def test_each_conditional_depends_on_exactly_its_window(shape, radius: int) -> None:
    distribution = likelihood_of(shape, radius)
    x = np.random.default_rng(1).integers(0, 2, shape[0] * shape[1]).astype(np.float32)
    found = jit_once(jax.jacobian(distribution.conditional_logits))(x)
    np.testing.assert_array_equal(np.asarray(found) != 0, window_of(shape, radius))


@functools.cache
def probabilities() -> np.ndarray:
    """Of all states of an image of 2 x 3 pixels."""
    distribution = likelihood_of((2, 3), 1, 0.5)
    return np.exp(jit_once(jax.vmap(distribution.log_prob))(STATES), dtype=np.float64)


def test_the_probabilities_of_all_states_sum_to_one() -> None:
    assert probabilities().sum() == pytest.approx(1, abs=1e-5)


def test_draws_have_these_probabilities() -> None:
    """Means and products: drawn one by one they see what the parallel log-probability does."""
    distribution = likelihood_of((2, 3), 1, 0.5)
    keys = jax.random.split(jax.random.key(0), 40_000)
    draws = jit_once(jax.vmap(lambda key: distribution.sample(seed=key)))(keys)
    exact = np.einsum("s,si,sj->ij", probabilities(), STATES, STATES)
    assert_mean(draws[:, :, None] * draws[:, None, :], exact, scale=0.2)


def test_the_mean_takes_the_neighbours_at_their_means() -> None:
    distribution = likelihood_of((2, 3), 1, 0.5)
    found = jit_once(distribution.mean)()
    # A fixed point: the conditional probabilities of the means are the means.
    logits = jit_once(distribution.conditional_logits)(found)
    np.testing.assert_allclose(found, jax.nn.sigmoid(logits), rtol=1e-5)
    exact = probabilities() @ STATES
    assert np.abs(np.asarray(found) - exact).max() < 0.15


def test_an_empty_window_is_the_plain_auto_encoder() -> None:
    options = {"latent_dim": 2, "hidden": (5,)}
    lossy, plain = lossy_vae(image_shape=(2, 3), radius=0, **options), vae(num_dims=6, **options)
    params = lossy.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, params, plain.init(jax.random.key(0)))
    losses = [
        jit_once(variational(model))(params, jax.random.key(1), jnp.asarray(STATES[21]))[0]
        for model in (lossy, plain)
    ]
    assert losses[0] == losses[1]


def test_extreme_logits_are_finite() -> None:
    part = windowed_bernoulli((2, 3), 1, num_features=1, hidden=(4,))
    params = jax.tree.map(lambda leaf: 1e2 * leaf, part.init(jax.random.key(0)))

    def log_prob(outputs, x):
        return part.distribution(params, outputs).log_prob(x)

    outputs = jnp.asarray(1e4 * np.where(np.arange(12) % 2, 1, -1), jnp.float32)
    for number in jax.tree.leaves(jit_once(jax.value_and_grad(log_prob))(outputs, STATES[9])):
        assert np.isfinite(number).all()


def test_it_takes_an_autoregressive_prior() -> None:
    prior = priors.autoregressive_flow(2, num_flows=1, hidden=(4,))
    model = lossy_vae(image_shape=(3, 3), radius=1, latent_dim=2, hidden=(5,), prior=prior)
    params = model.init(jax.random.key(0))
    z = jnp.array([0.3, -0.2])
    assert model.prior(params).log_prob(z) == prior.distribution(params["prior"]).log_prob(z)


@pytest.mark.parametrize(("shape", "radius"), [((2, 3), 2), ((4, 4), 3), ((1, 3), 2), ((4, 1), 7)])
def test_a_window_over_everything_is_warned_of(shape, radius: int) -> None:
    assert window_of(shape, radius).sum() == np.prod(shape) * (np.prod(shape) - 1) / 2
    with pytest.warns(UserWarning, match="the code will be ignored"):
        lossy_vae(image_shape=shape, radius=radius)


def test_a_window_that_leaves_out_a_pixel_is_not() -> None:
    for shape, radius in [((2, 3), 1), ((4, 4), 2), ((1, 3), 1)]:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lossy_vae(image_shape=shape, radius=radius)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (4, 4, 1)}, "image_shape must be"),
        ({"image_shape": (0, 4)}, "image_shape must be at least 1"),
        ({"radius": -1}, "radius must be an integer of at least 0, got -1"),
        ({"num_features": 0}, "num_features must be at least 1"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
    ],
)
def test_arguments_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lossy_vae(**{"image_shape": (4, 4), "radius": 1} | options)

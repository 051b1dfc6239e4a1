"""The VampPrior: a mixture of its posteriors, a Gaussian prior in the limit, its pseudo-inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import GaussianMixture
from genjax_models.evaluation import log_likelihood
from genjax_models.interfaces import Network
from genjax_models.learning import variational
from genjax_models.models.latent import start_at_examples, vae, vamp_prior_vae
from tests.statistics import jit_once

X = jnp.array([1.0, 0.0, 1.0, 1.0])


def model_of(num_pseudo_inputs: int = 3, **options):
    return vamp_prior_vae(
        num_dims=4, latent_dim=2, hidden=(5,), num_pseudo_inputs=num_pseudo_inputs, **options
    )


def test_the_prior_is_the_mean_of_the_posteriors_at_the_pseudo_inputs() -> None:
    model = model_of(data_range=(-1.0, 3.0))
    params = model.init(jax.random.key(0))
    z = jnp.array([0.4, -0.3])
    inputs = -1 + 4 * jax.nn.sigmoid(params["prior"]["pseudo_inputs"])
    densities = [jnp.exp(model.posterior(params, u).log_prob(z)) for u in inputs]
    found = jnp.exp(model.prior(params).log_prob(z))
    np.testing.assert_allclose(found, np.mean(densities), rtol=1e-5)


def constant_encoder() -> Network:
    """The code N(0, I) of every x, with parameters that stay out of it."""
    return Network(lambda key: {"zero": jnp.zeros(())}, lambda params, x: jnp.zeros(4))


def test_one_pseudo_input_at_a_fixed_code_is_a_gaussian_prior() -> None:
    """The bound, its gradient for the decoder and log p(x) are those of the plain auto-encoder."""
    plain = vae(num_dims=4, latent_dim=2, hidden=(5,), encoder=constant_encoder())
    vamp = model_of(1, encoder=constant_encoder())
    params = vamp.init(jax.random.key(0))

    def run(model, key):
        loss_key, estimate_key = jax.random.split(key)
        objective = jax.value_and_grad(variational(model), has_aux=True)
        (loss, _), gradient = objective(params, loss_key, X)
        estimate = log_likelihood(model, params, estimate_key, X, num_samples=20, chunk_size=20)
        return loss, gradient["likelihood"], estimate

    found, exact = (
        jit_once(run, static_argnums=0)(model, jax.random.key(1)) for model in (vamp, plain)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, exact)


def test_the_prior_follows_the_posterior_and_the_pseudo_inputs() -> None:
    model = model_of()
    params = model.init(jax.random.key(0))
    gradient = jit_once(jax.grad(lambda params: model.prior(params).log_prob(jnp.ones(2))))(params)
    for part in ("prior", "posterior"):
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient[part]))


def test_a_start_at_examples_stays_inside_the_range() -> None:
    model = model_of(2, data_range=(0.0, 2.0))
    examples = np.array([[0, 2, 1, 0.5], [2, 2, 0, 0]])
    params = start_at_examples(model.init(jax.random.key(0)), examples, data_range=(0.0, 2.0))
    inputs = 2 * jax.nn.sigmoid(params["prior"]["pseudo_inputs"])
    np.testing.assert_allclose(inputs, 0.1 + 0.9 * examples, rtol=1e-5)
    mixture = model.prior(params)
    assert isinstance(mixture, GaussianMixture) and mixture.loc.shape == (2, 2)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (np.full((3, 4), 1.5), r"range of the data, \(0.0, 1.0\), got values from 1.5 to 1.5"),
        (np.full((3, 4), -0.01), "range of the data"),
        (np.full((3, 4), np.nan), "range of the data"),
        (np.zeros((2, 4)), r"shape of the pseudo-inputs, \(3, 4\), got \(2, 4\)"),
    ],
)
def test_examples_that_are_refused(examples, message: str) -> None:
    params = model_of().init(jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        start_at_examples(params, examples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_pseudo_inputs": 0}, "num_pseudo_inputs must be at least 1, got 0"),
        ({"data_range": (1.0, 1.0)}, "data_range must be"),
        ({"data_range": (0.0, np.inf)}, "data_range must be"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
    ],
)
def test_arguments_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of(**options)

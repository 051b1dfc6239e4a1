"""The inference gap of a linear-Gaussian model: both parts are KL divergences in closed form."""

import jax
import numpy as np
import optax

from genjax_models.distributions import DiagonalGaussian
from genjax_models.evaluation import inference_gap
from genjax_models.learning import refine
from tests import oracles
from tests.statistics import jit_once


def amortized(params, x):
    return DiagonalGaussian(params["encoder"] @ x + params["encoder_bias"], params["log_scale"])


def test_both_parts_against_the_closed_forms() -> None:
    model = oracles.linear_gaussian()._replace(posterior=amortized)
    params, x = oracles.linear_gaussian_params(), oracles.linear_gaussian_x()
    num_steps = 300
    refined = refine(
        model,
        num_steps=num_steps,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.1, num_steps)),
        num_samples=16,
    )

    @jit_once
    def run(key):
        return inference_gap(
            model, refined, params, key, x, num_samples=20_000, importance_samples=20_000
        )

    found = run(jax.random.key(0))
    exact = oracles.linear_gaussian_posterior(params, x)
    variances = 1 / np.diag(np.linalg.inv(exact[1]))
    approximation = oracles.gaussian_kl(exact[0], np.diag(variances), *exact)
    amortization = oracles.linear_gaussian_kl(params, x) - approximation
    for name, value in {"approximation": approximation, "amortization": amortization}.items():
        error = getattr(found, f"{name}_error")
        assert 0 < error < 0.1 * value, name
        # What refinement leaves is of second order in its own error.
        assert abs(getattr(found, name) - value) < 5 * error + 1e-3, name
    log_marginal = oracles.linear_gaussian_log_marginal(params, x)
    np.testing.assert_allclose(found.log_likelihood, log_marginal, atol=0.01)
    parts = found.log_likelihood - found.amortized_bound
    np.testing.assert_allclose(found.approximation + found.amortization, parts, rtol=1e-4)

"""Rich posteriors as experiments: a short run, and how settings reach the models."""

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments import auxiliary, flow_posterior, hamiltonian, harness
from genjax_models.distributions import FullCovarianceGaussian, Pushforward
from genjax_models.models import latent

KEY = jax.eval_shape(jax.random.key, 0)
DATA = {"num_dims": 6, "example_shape": (2, 3), "num_levels": 17}


@pytest.fixture(scope="module")
def planar(tmp_path_factory) -> Path:
    """The folder of a short run on the digits."""
    out = str(tmp_path_factory.mktemp("planar"))
    sizes = {"latent_dim": 3, "num_flows": 2, "hidden": (8,)}
    settings = flow_posterior.Settings(out=out, num_epochs=3, evaluation_samples=3, **sizes)
    return flow_posterior.run(settings)


def test_a_run_measures_and_draws(planar: Path) -> None:
    result = json.loads((planar / "result.json").read_text())
    assert result["model"] == "vae, planar posterior, 2 flows"
    bound, log_likelihood = (
        result["metrics"][part]["value"] for part in ("test_bound", "test_log_likelihood")
    )
    # No worse than fair coins.
    assert -64 * math.log(2) - 2 < bound < log_likelihood + 0.5 < -20
    pictures = {path.name for path in planar.glob("*.png")}
    assert pictures >= {"samples.png", "reconstructions.png", "curves.png"}


def test_load_run_gives_back_the_model(planar: Path) -> None:
    model, params, settings = harness.load_run(planar)[:3]
    assert (settings.latent_dim, settings.num_flows) == (3, 2)
    posterior = model.posterior(params, jnp.ones(64))
    assert posterior.transform.args[0].shape == (2, 7)


def shapes(model) -> Any:
    """Of its parameters."""
    return jax.tree.map(jnp.shape, jax.eval_shape(model.init, KEY))


@pytest.mark.parametrize(
    "name", typing.get_args(typing.get_type_hints(flow_posterior.Settings)["posterior"])
)
def test_every_posterior_that_is_offered_is_made(name: str) -> None:
    settings = flow_posterior.Settings(
        posterior=name, latent_dim=3, hidden=(4,), num_flows=2, num_reflections=5, flow_hidden=(4,)
    )
    model = flow_posterior.build_model(settings, DATA)
    posterior = jax.eval_shape(lambda key: model.posterior(model.init(key), jnp.ones(6)), KEY)
    assert jax.eval_shape(lambda q: q.sample(seed=jax.random.key(0)), posterior).shape == (3,)
    if name == "full_covariance":
        assert isinstance(posterior, FullCovarianceGaussian)
    if name in ("planar", "radial", "sylvester"):
        sizes = {"planar": 7, "radial": 5, "sylvester": 9 + 2 * 3 + 5 * 3}
        assert isinstance(posterior, Pushforward)
        assert posterior.transform.args[0].shape == (2, sizes[name])
        shared = flow_posterior.build_model(dataclasses.replace(settings, amortized=False), DATA)
        assert shapes(shared)["posterior"]["flows"] == (2, sizes[name])


def test_the_settings_reach_the_hamiltonian_model() -> None:
    settings = hamiltonian.Settings(
        latent_dim=3, hidden=(4,), num_steps=3, num_iterations=2, initial_step_size=0.3
    )
    model = hamiltonian.build_model(settings, DATA)
    like = latent.hamiltonian_vae(num_dims=6, latent_dim=3, hidden=(4,), num_iterations=2)
    assert shapes(model) == shapes(like)
    x = jnp.ones(6)
    text = str(
        jax.make_jaxpr(lambda p: model.posterior(p, x).sample(seed=jax.random.key(0)))(
            jax.eval_shape(model.init, KEY)
        )
    )
    assert "length=3" in text and "length=2" in text


@pytest.mark.parametrize(
    ("name", "factory"),
    [("auxiliary", latent.auxiliary_vae), ("skip", latent.skip_deep_generative_model)],
)
def test_the_settings_reach_the_auxiliary_models(name: str, factory) -> None:
    sizes = {"latent_dims": (3, 2), "auxiliary_dims": (2, 1), "hidden": (4,)}
    settings = auxiliary.Settings(model=name, likelihood="discretized_logistic", **sizes)
    like = factory(num_dims=6, likelihood="discretized_logistic", num_levels=17, **sizes)
    assert shapes(auxiliary.build_model(settings, DATA)) == shapes(like)


def test_settings_that_are_refused() -> None:
    with pytest.raises(ValueError, match="num_flows"):
        flow_posterior.build_model(flow_posterior.Settings(num_flows=-1), DATA)
    with pytest.raises(ValueError, match="num_steps"):
        hamiltonian.build_model(hamiltonian.Settings(num_steps=0), DATA)
    with pytest.raises(ValueError, match="auxiliary_dims"):
        auxiliary.build_model(auxiliary.Settings(latent_dims=(3, 2)), DATA)

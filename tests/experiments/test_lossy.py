"""The lossy auto-encoder as an experiment: a short run, its settings, what is refused."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import image

from experiments import harness, lossy
from experiments.lossy import Settings
from genjax_models.distributions import AutoregressiveBernoulli, Bernoulli, Pullback

SMALL = {
    "latent_dim": 3,
    "hidden": (8,),
    "num_features": 2,
    "pixel_hidden": (8,),
    "flow_hidden": (8,),
}
DATA = {"num_dims": 64, "example_shape": (8, 8), "num_levels": 17}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run with an autoregressive prior on the digits."""
    out = str(tmp_path_factory.mktemp("lossy"))
    settings = {"num_epochs": 10, "evaluation_samples": 3, "learning_rate": 1e-2}
    return lossy.run(Settings(prior="autoregressive", out=out, **settings, **SMALL))


def test_a_run_measures_and_draws_binary_images(digits: Path) -> None:
    result = json.loads((digits / "result.json").read_text())
    assert result["model"] == "lossy vae, radius 1, autoregressive prior"
    # Independent pixels have 26.9 nats: the window alone is better after a few steps.
    assert -26.5 < result["metrics"]["test_log_likelihood"]["value"] < -20
    for name in ("samples.png", "reconstructions.png", "curves.png"):
        assert min(image.imread(digits / name).shape[:2]) >= 100


def test_load_run_gives_back_the_model(digits: Path) -> None:
    model, params, settings = harness.load_run(digits)
    prior = model.prior(params)
    assert isinstance(prior, Pullback) and settings.prior == "autoregressive"
    likelihood = model.likelihood(params, prior.sample(seed=jax.random.key(0)))
    assert likelihood.neighbors.shape == (64, 4)
    x = np.asarray(likelihood.sample(seed=jax.random.key(1)))
    assert set(np.unique(x)) <= {0.0, 1.0}


def test_the_settings_reach_the_model() -> None:
    for radius, kind in [(0, Bernoulli), (2, AutoregressiveBernoulli)]:
        model = lossy.build_model(Settings(radius=radius, **SMALL), DATA)
        params = jax.eval_shape(model.init, jax.random.key(0))
        likelihood = jax.eval_shape(model.likelihood, params, np.zeros(3, np.float32))
        assert isinstance(likelihood, kind)
        if radius:
            assert likelihood.neighbors.shape == (64, 12)
            assert likelihood.features.shape == (64, 2)


def test_a_window_over_the_whole_image_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="the code will be ignored"):
        lossy.build_model(Settings(radius=7, **SMALL), DATA)


def test_grey_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="likelihood must be bernoulli"):
        Settings(likelihood="categorical")

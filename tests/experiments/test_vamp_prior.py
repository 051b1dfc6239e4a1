"""Learned priors as an experiment: a short run, its pseudo-inputs, what is refused."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from experiments import harness, vamp_prior
from experiments.vamp_prior import Settings
from genjax_models.distributions import DiagonalGaussian, GaussianMixture, Pullback

SMALL = {"latent_dim": 3, "hidden": (8,), "num_components": 20, "evaluation_samples": 3}
DATA = {"num_dims": 64, "example_shape": (8, 8), "num_levels": 17}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run with a VampPrior on the digits."""
    out = str(tmp_path_factory.mktemp("vamp"))
    return vamp_prior.run(Settings(out=out, num_epochs=3, **SMALL))


def test_a_run_measures_and_draws_the_pseudo_inputs(digits: Path) -> None:
    result = json.loads((digits / "result.json").read_text())
    assert result["model"] == "vae, vamp prior"
    assert -44 < result["metrics"]["test_log_likelihood"]["value"] < -20
    pixels = image.imread(digits / "pseudo_inputs.png")
    assert min(pixels.shape[:2]) >= 20 and pixels[..., :3].std() > 0.02


def test_load_run_gives_back_a_prior_whose_pseudo_inputs_began_at_examples(digits: Path) -> None:
    model, params, settings = harness.load_run(digits)
    assert isinstance(model.prior(params), GaussianMixture)
    # Three epochs move them little: each is still next to the example that it began at.
    dataset = harness.load("digits", likelihood="bernoulli")
    start = vamp_prior.start_at_examples(settings, dataset)(params)["prior"]["pseudo_inputs"]
    found = np.asarray(params["prior"]["pseudo_inputs"])
    distances = np.linalg.norm(found[:, None] - np.asarray(start), axis=-1)
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(20))
    assert (np.diag(distances) > 0).all()


def test_the_start_is_at_different_training_examples() -> None:
    settings = Settings(likelihood="categorical", **SMALL)
    dataset = harness.load("digits", likelihood="categorical")
    model = vamp_prior.build_model(settings, DATA)
    params = vamp_prior.start_at_examples(settings, dataset)(model.init(jax.random.key(0)))
    inputs = np.asarray(jax.nn.sigmoid(params["prior"]["pseudo_inputs"]))
    levels = np.round((inputs - 0.05) / 0.9 * 16).astype(int)
    rows = {tuple(row) for row in np.asarray(dataset.train.x, int)}
    assert len({tuple(row) for row in levels}) == 20
    assert {tuple(row) for row in levels} <= rows


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("normal", DiagonalGaussian),
        ("vamp", GaussianMixture),
        ("mixture", GaussianMixture),
        ("autoregressive", Pullback),
    ],
)
def test_the_settings_name_the_prior(name: str, kind: type) -> None:
    model = vamp_prior.build_model(Settings(prior=name, **SMALL), DATA)
    prior = model.prior(model.init(jax.random.key(0)))
    assert isinstance(prior, kind)
    assert jnp.shape(prior.log_prob(jnp.zeros(3))) == ()
    if kind is GaussianMixture:
        assert prior.loc.shape == (20, 3)


def test_what_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    for changed, message in [
        ({"num_components": 10_000}, "at most the number of training examples, 1437"),
        ({"data_range": (0.2, 1.0)}, "pseudo-inputs must lie in the range of the data"),
        ({"data_range": (1.0, 0.0)}, "data_range must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            vamp_prior.run(Settings(out=out, **SMALL | changed))
    assert not Path(out).exists()

"""The hierarchies as an experiment: a short run, its model, what is refused."""

import json
from pathlib import Path

import jax
import pytest

from experiments import harness, hierarchy
from experiments.hierarchy import Settings
from genjax_models.models import latent

SMALL = {
    "latent_dims": (3, 2),
    "hidden": (8, 6),
    "num_hidden_layers": 1,
    "num_epochs": 3,
    "evaluation_samples": 3,
}


@pytest.fixture(scope="module")
def ladder(tmp_path_factory) -> Path:
    """The folder of a short run of a small ladder on the digits."""
    out = str(tmp_path_factory.mktemp("ladder"))
    return hierarchy.run(Settings(model="ladder", bound="iwae", num_samples=2, out=out, **SMALL))


def test_a_run_measures_and_draws(ladder: Path) -> None:
    result = json.loads((ladder / "result.json").read_text())
    assert result["model"] == "ladder, 2 layers, iwae"
    assert result["metrics"]["test_bound"]["estimator"] == "iwae"
    bound, log_likelihood = (
        result["metrics"][name]["value"] for name in ("test_bound", "test_log_likelihood")
    )
    # Better than independent pixels, which have 26.9 nats.
    assert -44 < bound < log_likelihood + 0.5 < -20
    assert {path.name for path in ladder.glob("*.png")} >= {
        "samples.png",
        "reconstructions.png",
        "curves.png",
    }


def test_load_run_gives_back_the_model(ladder: Path) -> None:
    model, params, settings = harness.load_run(ladder)[:3]
    assert settings.model == "ladder"
    z = model.prior(params).sample(seed=jax.random.key(0))
    assert [layer.shape for layer in z] == [(2,), (3,)]


@pytest.mark.parametrize(
    ("name", "factory"),
    [
        ("belief_net", latent.gaussian_belief_net),
        ("ladder", latent.ladder_vae),
        ("deep_latent_gaussian", latent.deep_latent_gaussian_model),
    ],
)
def test_the_settings_reach_the_model(name: str, factory) -> None:
    data = {"num_dims": 6, "example_shape": (2, 3), "num_levels": 17}
    settings = Settings(model=name, likelihood="discretized_logistic", **SMALL)
    model = hierarchy.build_model(settings, data)
    like = factory(
        num_dims=6,
        latent_dims=(3, 2),
        hidden=(8, 6),
        num_hidden_layers=1,
        likelihood="discretized_logistic",
        num_levels=17,
    )
    shapes = [jax.eval_shape(m.init, jax.random.key(0)) for m in (model, like)]
    assert shapes[0] == shapes[1]


def test_skips_are_for_the_belief_net() -> None:
    with pytest.raises(ValueError, match="skip is for model belief_net, not ladder"):
        Settings(model="ladder", skip=True)

"""The VAE with categorical latents as an experiment."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import categorical_vae, harness
from experiments.categorical_vae import Settings
from genjax_models.evaluation import bound_estimate
from genjax_models.learning import bounds

SMALL = {"num_variables": 4, "num_categories": 3, "hidden": (16,), "evaluation_samples": 5}
DATA = {"num_dims": 4, "example_shape": (2, 2), "num_levels": 2}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on the digits through relaxed samples."""
    out = str(tmp_path_factory.mktemp("categorical"))
    return categorical_vae.run(Settings(out=out, num_epochs=20, prior="independent", **SMALL))


def test_the_result_is_the_bound_of_the_discrete_model(digits: Path) -> None:
    result = json.loads((digits / "result.json").read_text())
    assert result["model"] == "categorical vae, soft"
    stored = result["metrics"]["test_bound"]
    model, params, _ = harness.load_run(digits)
    xs = harness.load("digits", likelihood="bernoulli").test.x.astype(np.float32)

    @jax.jit
    @jax.vmap
    def estimate(key: jax.Array, x: jax.Array) -> Any:
        return bound_estimate(model, params, key, x, bound=bounds.elbo, num_replicates=50)

    found = estimate(jax.random.split(jax.random.key(9), len(xs)), xs)
    error = np.sqrt(np.mean(found.monte_carlo_error**2) / len(xs))
    assert abs(stored["value"] - found.value.mean()) < 5 * np.hypot(
        error, stored["monte_carlo_error"]
    )
    assert -44 < stored["value"] < -24


def test_the_records_have_the_relaxed_value_under_its_own_name(digits: Path) -> None:
    records = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    first, last = records[0], records[-1]
    assert last["bound"] > first["bound"] + 0.3
    assert last["loss"] == pytest.approx(-last["bound"], rel=1e-5)
    assert abs(last["relaxed_bound"] - last["bound"]) > 1e-3
    # Means over the steps of a record; it falls by the same factor every step.
    ends = [1.0, 0.1]
    assert ends[1] < last["temperature"] < first["temperature"] < ends[0]
    assert first["temperature"] * last["temperature"] == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    "changed",
    [
        {"relaxation": "straight_through"},
        {"relaxation": "none", "num_samples": 2},
        {"relaxation": "none", "estimator": "vimco_geometric", "num_samples": 2, "bound": "iwae"},
    ],
)
def test_the_other_gradients_train(changed: dict[str, Any]) -> None:
    settings = Settings(**SMALL | {"learning_rate": 0.02, "num_epochs": 100} | changed)
    model = categorical_vae.build_model(settings, DATA)
    hooks: dict[str, Any] = {}
    if settings.relaxation != "none":
        hooks["objective"] = categorical_vae.build_objective(settings, model)
        hooks["schedules"] = lambda per_epoch: categorical_vae.schedules(settings, per_epoch)
    algorithm = harness.variational.build_algorithm(settings, model, 1, **hooks)
    batch = jnp.tile(jnp.array([[1.0, 0, 1, 1], [0, 1, 0, 0]]), (4, 1))
    keys = jax.random.split(jax.random.key(1), 100)
    state = algorithm.init(jax.random.key(0))
    train = jax.jit(lambda: jax.lax.scan(lambda s, k: algorithm.step(s, k, batch), state, keys))
    found = train()[1]["bound"]
    assert found[-10:].mean() > found[:10].mean() + 0.5


def test_the_temperature_is_the_schedules() -> None:
    settings = Settings(temperature=2.0, final_temperature=0.5, num_epochs=3)
    schedule = categorical_vae.schedules(settings, 4)["temperature"]
    np.testing.assert_allclose([schedule(step) for step in (0, 6, 12)], [2.0, 1.0, 0.5], rtol=1e-6)


def test_bad_settings_are_refused() -> None:
    for name in ("temperature", "final_temperature"):
        with pytest.raises(ValueError, match=f"{name} must be above zero"):
            Settings(**{name: 0.0})
    with pytest.raises(ValueError, match="a relaxation trains bound elbo, got 'iwae'"):
        Settings(bound="iwae", num_samples=5)
    with pytest.raises(ValueError, match="temperature must be finite, got inf"):
        Settings(temperature=float("inf"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"chunk_size": 7, "num_samples": 2}, "chunk_size has no effect with relaxation soft"),
        (
            {"relaxation": "straight_through", "estimator": "nvil"},
            "estimator has no effect with relaxation straight_through, got nvil",
        ),
        (
            {"relaxation": "none", "final_temperature": 0.5},
            "final_temperature has no effect with relaxation none, got 0.5",
        ),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**settings)

"""The experiment from end to end: what a run leaves behind, and whether its numbers are right."""

import functools
import json
import typing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from experiments import harness, vae
from experiments.harness import variational
from experiments.vae import Settings
from genjax_models import evaluation
from genjax_models.interfaces import Algorithm
from genjax_models.learning import bounds
from genjax_models.models import latent

ON_DIGITS = {
    "num_epochs": 200,
    "hidden": (64,),
    "latent_dim": 2,
    "learning_rate": 1e-2,
    "learning_rate_schedule": "constant",
    "evaluation_samples": 50,
}
BOUNDS = {"train_bound", "test_bound", "test_log_likelihood"}
LATENT_MEASURES = {
    *("test_active_units", "test_kl_divergence", "test_mutual_information", "test_marginal_kl"),
}
PICTURES = {"samples.png", "reconstructions.png", "curves.png"}
PICTURES_OF_A_PLANE = {"manifold.png", "embedding.png"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """The folder of a short run on the digits, with two latent dimensions."""
    return vae.run(Settings(out=str(tmp_path_factory.mktemp("digits")), **ON_DIGITS))


@pytest.fixture(scope="module")
def own_data(tmp_path_factory) -> Path:
    """The folder of an importance-weighted run on a user's few grey images that are not square."""
    folder = tmp_path_factory.mktemp("own")
    levels = np.random.default_rng(0).integers(0, 256, (57, 6, 5)).astype(np.uint8)
    splits = np.split(levels, [40, 50])
    np.savez(folder / "grey.npz", **dict(zip(("train", "validation", "test"), splits, strict=True)))
    settings = Settings(
        data=str(folder / "grey.npz"),
        likelihood="discretized_logistic",
        bound="iwae",
        num_samples=2,
        latent_dim=3,
        hidden=(8,),
        batch_size=10,
        num_epochs=5,
        warm_up_epochs=2,
        evaluation_samples=7,
        out=str(folder / "run"),
    )
    return vae.run(settings)


def read_json(path: Path) -> Any:
    """Strict JSON: NaN and Infinity are none."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(path.read_text(), parse_constant=refuse)


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_result_says_what_was_measured_and_how(digits):
    result = read_json(digits / "result.json")
    assert result["experiment"] == result["model"] == "vae"
    assert result["data"] == {
        "name": "digits",
        "protocol": "dynamic",
        "split": "stratified 80/10/10, seed 0",
        "num_examples": {"train": 1437, "validation": 180, "test": 180},
    }
    metrics = result["metrics"]
    assert set(metrics) == BOUNDS | LATENT_MEASURES
    for name, metric in metrics.items():
        if name in LATENT_MEASURES:
            continue
        assert set(metric) == {
            *("value", "standard_error", "monte_carlo_error"),
            *("estimator", "num_samples", "bound", "unit"),
        }
        assert 0 < metric["monte_carlo_error"] < metric["standard_error"] < 0.5
        is_bound = name != "test_log_likelihood"
        assert metric["estimator"] == ("elbo" if is_bound else "importance sampling")
        assert metric["num_samples"] == (1 if is_bound else 50)
        assert metric["bound"] == "lower"
    assert (result["seed"], result["steps"]) == (0, 200 * 14)
    assert result["command"] == (
        "python -m experiments.vae --num-epochs 200"
        " --learning-rate 0.01 --learning-rate-schedule constant --evaluation-samples 50"
        " --latent-dim 2 --hidden 64"
    )
    assert set(result["seconds"]) == {"compile", "train", "evaluate"}
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert result["device"]
    assert result["versions"]["jax"] == jax.__version__
    assert {"python", "flax", "optax", "distrax", "numpy"} <= set(result["versions"])


def test_the_result_says_what_the_latents_carry(digits):
    """The numbers of the library on the loaded model, and identities between them."""
    model, params, _ = harness.load_run(digits)
    xs = harness.load("digits", likelihood="bernoulli").test.x.astype(np.float32)
    metrics = read_json(digits / "result.json")["metrics"]
    kl, units = metrics["test_kl_divergence"], metrics["test_active_units"]
    layers = jax.jit(
        jax.vmap(lambda x: evaluation.layer_rates(model, params, jax.random.key(0), x))
    )(xs)
    np.testing.assert_allclose(kl["per_dimension"][0], layers[0].mean(axis=0), rtol=1e-4)
    assert kl["value"] == pytest.approx(sum(kl["per_dimension"][0]), rel=1e-4)
    assert kl["per_layer"] == pytest.approx([kl["value"]], rel=1e-4)
    assert (units["value"], units["unit"]) == (2, "units")
    assert len(units["variances"]) == 2 and min(units["variances"]) > units["threshold"]
    information, marginal = metrics["test_mutual_information"], metrics["test_marginal_kl"]
    assert information["bound"] == "lower" and marginal["bound"] == "upper"
    assert 1 < information["value"] < information["largest_possible"] == pytest.approx(np.log(180))
    assert information["upper_bound"] > information["value"]
    error = kl["standard_error"] + marginal["standard_error"]
    # The parts are of one draw for each example, the whole is in closed form.
    assert abs(information["value"] + marginal["value"] - kl["value"]) < 5 * error < 1
    parts = marginal["total_correlation"] + sum(marginal["per_dimension"])
    assert marginal["value"] == pytest.approx(parts, abs=1e-4)
    last = records_of(digits)[-1]
    assert last["active_units"] == 2
    assert last["validation_kl"] == pytest.approx(kl["value"], rel=0.2)
    assert 1 < last["validation_mutual_information"] < np.log(180)


def test_the_result_of_the_users_own_data(own_data):
    result = read_json(own_data / "result.json")
    assert result["model"] == "iwae auto-encoder"
    assert result["data"] == {
        "name": "grey.npz",
        "protocol": "grey",
        "split": "the file's own",
        "num_examples": {"train": 40, "validation": 10, "test": 7},
    }
    assert result["steps"] == 5 * 4
    metrics = result["metrics"]
    assert metrics["test_bound"]["estimator"] == "iwae"
    assert metrics["test_bound"]["num_samples"] == 2
    assert metrics["test_log_likelihood"]["num_samples"] == 7


def test_the_folder_holds_what_a_person_wants_to_see(digits, own_data):
    for folder, pictures in ((digits, PICTURES | PICTURES_OF_A_PLANE), (own_data, PICTURES)):
        assert {path.name for path in folder.iterdir()} == pictures | {
            *("config.json", "metrics.jsonl", "result.json"),
            *("tensorboard", "checkpoints"),
        }
        for name in pictures:
            pixels = image.imread(folder / name)
            assert min(pixels.shape[:2]) >= 100 and max(pixels.shape[:2]) >= 500, name
            assert pixels[..., :3].std() > 0.02, name
        events = list((folder / "tensorboard").iterdir())
        assert events and all(path.stat().st_size > 100 for path in events)


def test_the_records_follow_the_bound_as_it_rises(digits):
    records = records_of(digits)
    assert [record["step"] for record in records] == [*range(100, 2900, 100)]
    for record in records:
        assert record["bound"] == pytest.approx(-record["loss"], rel=1e-5)
        parts = record["log_likelihood"] - record["kl_divergence"]
        assert record["bound"] == pytest.approx(parts, rel=1e-5)
    # The last validation bound is the test bound's like: 180 other examples, and the same model.
    validation = records[-1]["validation_bound"]
    test_bound = read_json(digits / "result.json")["metrics"]["test_bound"]
    assert validation > records[0]["validation_bound"] + 1
    assert abs(validation - test_bound["value"]) < 5 * 2**0.5 * test_bound["standard_error"]


def test_a_run_gives_back_its_model_parameters_and_settings(digits):
    model, params, settings = harness.load_run(digits)
    assert settings == Settings(out=str(digits), **ON_DIGITS)
    keys = jax.random.split(jax.random.key(1), 500)
    samples = jax.vmap(lambda key: latent.sample(model, params, key))(keys)
    assert samples.shape == (500, 64)
    assert set(np.unique(samples)) == {0.0, 1.0}
    # Sampled pixels are on as often as those of the digits, on average within a tenth.
    train = harness.load("digits", likelihood="bernoulli").train.x / 16
    assert np.abs(samples.mean(axis=0) - train.mean(axis=0)).mean() < 0.1


def test_the_loaded_model_has_the_log_likelihood_of_the_result(digits):
    model, params, settings = harness.load_run(digits)
    xs = harness.load("digits", likelihood="bernoulli").test.x.astype(np.float32)

    def one_example(key: jax.Array, x: jax.Array) -> evaluation.LogLikelihood:
        return evaluation.log_likelihood(
            model, params, key, x, num_samples=settings.evaluation_samples
        )

    estimates = jax.jit(jax.vmap(one_example))(jax.random.split(jax.random.key(7), len(xs)), xs)
    mean = evaluation.mean_estimate(estimates.value, estimates.monte_carlo_error)
    stored = read_json(digits / "result.json")["metrics"]["test_log_likelihood"]
    # The error over examples is that of the same examples; that over draws is of other draws.
    assert stored["standard_error"] == pytest.approx(float(mean.standard_error), rel=0.05)
    error = np.hypot(stored["monte_carlo_error"], mean.monte_carlo_error)
    assert abs(stored["value"] - mean.value) < 5 * error < 0.2


def test_a_short_run_is_better_than_independent_pixels(digits):
    data = harness.load("digits", likelihood="bernoulli")
    probability = np.clip(data.train.x.mean(axis=0) / 16, 1e-3, 1 - 1e-3)
    on = data.test.x.astype(bool)
    baseline = np.where(on, np.log(probability), np.log1p(-probability)).sum(axis=1).mean()
    bound = read_json(digits / "result.json")["metrics"]["test_bound"]
    assert bound["value"] - 5 * bound["standard_error"] > baseline


def test_the_loaded_model_of_the_users_own_data_draws_its_levels(own_data):
    model, params, settings = harness.load_run(own_data)
    assert (settings.hidden, settings.bound) == ((8,), "iwae")
    x = latent.sample(model, params, jax.random.key(0))
    assert x.shape == (30,)
    np.testing.assert_allclose(x * 255, np.rint(x * 255), atol=1e-3)


burda = functools.partial(Settings, learning_rate_schedule="burda")


def test_the_stages_of_the_learning_rate_are_those_of_burda():
    steps_per_epoch = 11
    schedule = variational.learning_rate(burda(learning_rate=1e-3), 3280 * steps_per_epoch)
    epoch = 0
    for stage in range(8):
        first, epoch = epoch, epoch + 3**stage
        for step in (first * steps_per_epoch, epoch * steps_per_epoch - 1):
            expected = 1e-3 * 10 ** (-stage / 7)
            assert float(schedule(jnp.int32(step))) == pytest.approx(expected, rel=1e-5)
    assert epoch == 3280


def test_the_cosine_falls_from_the_rate_to_zero():
    schedule = variational.learning_rate(Settings(learning_rate=3.0), 100)
    rates = [float(schedule(jnp.int32(step))) for step in (0, 25, 50, 100)]
    np.testing.assert_allclose(rates, [3.0, 1.5 + 1.5 * 0.5**0.5, 1.5, 0.0], atol=1e-6)


def test_a_shorter_run_has_the_same_stages_in_proportion():
    schedule = jax.vmap(variational.learning_rate(burda(learning_rate=7.0), 10_000))
    rates = np.asarray(schedule(jnp.arange(10_000)))
    values, counts = np.unique(rates, return_counts=True)
    np.testing.assert_allclose(values[::-1], 7 * 10 ** (-np.arange(8) / 7), rtol=1e-5)
    np.testing.assert_allclose(counts[::-1], 3.0 ** np.arange(8) / 3280 * 10_000, atol=1)
    settings = Settings(learning_rate=7.0, learning_rate_schedule="constant")
    constant = variational.learning_rate(settings, 10)
    assert float(constant(0)) == float(constant(9)) == 7


def test_beta_rises_in_equal_steps_and_stays():
    schedule = variational.beta(Settings(beta=4.0), 8)
    found = [float(schedule(step)) for step in (0, 1, 2, 4, 8, 9, 1000)]
    np.testing.assert_allclose(found, [0, 0.5, 1, 2, 4, 4, 4], rtol=1e-6)
    assert float(variational.beta(Settings(beta=4.0), 0)(0)) == 4.0


def test_beta_reaches_the_objective_at_its_step():
    settings = Settings(beta=3.0, warm_up_epochs=2, latent_dim=2, hidden=(4,))
    data = {"num_dims": 6, "example_shape": (2, 3), "num_levels": None}
    algorithm = variational.build_algorithm(
        settings, vae.build_model(settings, data), steps_per_epoch=5
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))
    step = jax.jit(algorithm.step)
    for number, beta in [(0, 0.0), (5, 1.5), (10, 3.0), (99, 3.0)]:
        key = jax.random.key(number)
        _, metrics = step(state._replace(step=jnp.int32(number)), key, jnp.ones((3, 6)))
        expected = beta * metrics["kl_divergence"] - metrics["log_likelihood"]
        assert float(metrics["loss"]) == pytest.approx(float(expected), rel=1e-5)


def test_the_settings_name_the_bound():
    log_weights = jnp.float32([-3, -1, -2.5])
    for changed, expected in [
        ({}, bounds.elbo(log_weights)),
        ({"bound": "iwae"}, bounds.iwae(log_weights)),
        ({"bound": "renyi", "alpha": 0.25}, bounds.renyi(log_weights, 0.25)),
        ({"bound": "vr_max"}, -1),
        ({"bound": "tvo", "betas": (0.0, 0.3, 1.0)}, bounds.tvo(log_weights, (0.0, 0.3, 1.0))),
        ({"bound": "jackknife"}, bounds.jackknife(log_weights)),
        ({"bound": "miwae", "num_groups": 3}, bounds.elbo(log_weights)),
        ({"bound": "ciwae", "elbo_weight": 0.2}, bounds.ciwae(log_weights, 0.2)),
        ({"bound": "piwae", "num_groups": 3}, bounds.iwae(log_weights)),
    ]:
        assert variational.build_bound(Settings(**changed))(log_weights) == expected


def test_what_is_reported_is_a_lower_bound():
    """IWAE, where what is trained is none."""
    for changed, name in [
        ({}, "elbo"),
        ({"bound": "renyi"}, "renyi"),
        ({"bound": "renyi", "alpha": -0.5}, "iwae"),
        ({"bound": "vr_max"}, "iwae"),
        ({"bound": "jackknife"}, "iwae"),
        ({"bound": "piwae"}, "iwae"),
        ({"bound": "tvo"}, "tvo"),
    ]:
        assert variational.reported_bound(Settings(**changed))[0] == name


@pytest.mark.parametrize("estimator", ["dreg", "nvil", "wake_sleep"])
def test_estimators_with_and_without_a_state_train(estimator):
    algorithm = tiny(estimator)
    state = algorithm.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 100)
    batch = jnp.tile(jnp.float32([1, 0, 1, 1, 0, 0]), (5, 1))
    train = jax.jit(lambda: jax.lax.scan(lambda s, k: algorithm.step(s, k, batch), state, keys))
    losses = train()[1]["loss"]
    assert losses[-10:].mean() < losses[:10].mean() - 0.1


@pytest.mark.parametrize("estimator", typing.get_args(typing.get_type_hints(Settings)["estimator"]))
def test_every_estimator_that_is_offered_is_made(estimator):
    assert callable(tiny(estimator).step)


def tiny(estimator: str) -> Algorithm:
    """For six binary dimensions, with a bound that the estimator is for."""
    bound = "elbo" if estimator in ("sticking_the_landing", "wake_sleep") else "iwae"
    settings = Settings(
        bound=bound, estimator=estimator, num_samples=4, latent_dim=2, hidden=(4,), chunk_size=2
    )
    data = {"num_dims": 6, "example_shape": (2, 3), "num_levels": None}
    model = vae.build_model(settings, data)
    return variational.build_algorithm(settings, model, steps_per_epoch=5)


@pytest.mark.parametrize(
    "likelihood", typing.get_args(typing.get_type_hints(Settings)["likelihood"])
)
@pytest.mark.parametrize("network", ["mlp", "convolutional"])
def test_every_network_serves_every_likelihood(network, likelihood):
    settings = Settings(network=network, likelihood=likelihood, latent_dim=3, hidden=(4,))
    data = {"num_dims": 64, "example_shape": (8, 8), "num_levels": 17}
    model = vae.build_model(settings, data)

    def log_prob(key: jax.Array, x: jax.Array) -> jax.Array:
        init_key, seed = jax.random.split(key)
        params = model.init(init_key)
        z = model.posterior(params, x).sample(seed=seed)
        return model.likelihood(params, z).log_prob(x)

    x = jax.ShapeDtypeStruct((64,), jnp.float32)
    assert jax.eval_shape(log_prob, jax.random.key(0), x).shape == ()

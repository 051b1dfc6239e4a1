"""Regularised objectives, the bottleneck, rate and distortion, the inference gap: end to end."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from experiments import bottleneck, harness, inference_gap, rate_distortion, regularized
from experiments.harness import latent_measures
from experiments.harness.mesh import make_mesh
from genjax_models.distributions import Chain, DiagonalGaussian, Reversed
from genjax_models.interfaces import LatentVariableModel

NAMES = ("train", "validation", "test")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """Two kinds of binary images, which the label tells apart."""
    noise = np.random.default_rng(0)
    labels = noise.integers(0, 2, 90)
    templates = np.array([[0.9] * 6 + [0.1] * 6, [0.1] * 6 + [0.9] * 6])
    x = (noise.random((90, 12)) < templates[labels]).astype(np.uint8).reshape(-1, 3, 4)
    arrays = {}
    for name, part in zip(NAMES, np.split(np.arange(90), [60, 75]), strict=True):
        arrays |= {name: x[part], f"{name}_labels": labels[part].astype(np.int32)}
    path = tmp_path_factory.mktemp("data") / "two.npz"
    np.savez(path, **arrays)
    return str(path)


@pytest.fixture(scope="module")
def common(data) -> dict[str, Any]:
    return {"data": data, "hidden": (8,), "latent_dim": 2, "batch_size": 20}


def metrics_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def trained(common, tmp_path_factory) -> Path:
    settings = regularized.Settings(
        **common,
        objective="beta_tcvae",
        num_epochs=20,
        evaluation_samples=5,
        out=str(tmp_path_factory.mktemp("trained")),
    )
    return regularized.run(settings)


def test_a_regularised_run_measures_as_any_other(trained) -> None:
    assert {"test_bound", "test_log_likelihood", "test_active_units"} <= set(metrics_of(trained))
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    expected = {"total_correlation", "mutual_information", "validation_mutual_information"}
    assert expected <= set(records[-1])
    _, _, loaded = harness.load_run(trained)
    assert loaded.objective == "beta_tcvae"


@pytest.mark.parametrize("name", ["free_bits", "capacity", "info_vae", "beta_tcvae"])
def test_every_objective_is_built_with_its_schedules(common, name: str) -> None:
    warm_up = {"warm_up_epochs": 2} if name == "beta_tcvae" else {}
    settings = regularized.Settings(**common, objective=name, capacity_epochs=4, **warm_up)
    model = regularized.build_model(settings, {"num_dims": 12, "num_levels": 2})
    objective = regularized.build_objective(settings, model, 1000)
    schedules = regularized.build_schedules(settings, 3)
    scheduled = {name: schedule(jnp.int32(6)) for name, schedule in schedules.items()}
    expected = {"capacity": {"capacity": settings.capacity / 2}, "beta_tcvae": {"beta": 1.0}}
    assert {n: float(v) for n, v in scheduled.items()} == expected.get(name, {})

    def mean(params, keys, xs):
        one = lambda key, x: objective(params, key, x, **scheduled)[0]  # noqa: E731
        return jnp.mean(jax.vmap(one, axis_name="batch")(keys, xs))

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 5))
    params = jax.eval_shape(model.init, jax.random.key(0))
    xs = jax.ShapeDtypeStruct((5, 12), jnp.float32)
    assert jax.eval_shape(jax.grad(mean), params, keys, xs).keys() == params.keys()


@pytest.fixture(scope="module")
def codes(common, tmp_path_factory) -> Path:
    settings = bottleneck.Settings(
        **common,
        betas=(0.0, 0.1, 20.0),
        num_epochs=100,
        learning_rate=1e-2,
        evaluation_samples=20,
        out=str(tmp_path_factory.mktemp("bottleneck")),
    )
    return bottleneck.run(settings)


def test_the_bottleneck_closes_as_beta_rises(codes) -> None:
    metrics = metrics_of(codes)
    accuracies, rates = (
        [metrics[f"test_{name}, beta {beta}"]["value"] for beta in ("0", "0.1", "20")]
        for name in ("accuracy", "rate")
    )
    assert min(accuracies[:2]) >= 0.9 > accuracies[2]
    assert rates[0] > rates[1] > 0.3 > 0.05 > rates[2]
    # All that there is to know of two labels is log 2, which bounds what a good code needs.
    assert metrics["test_log_likelihood, beta 0.1"]["value"] > -np.log(2)
    assert image.imread(codes / "curves.png")[..., :3].std() > 0.02


def test_the_bottleneck_is_given_back(codes) -> None:
    sweep, params, settings = harness.load_run(codes)
    assert len(jax.tree.leaves(params)[0]) == len(settings.betas) == sweep.num_betas


def test_a_confident_mistake_costs_what_it_costs(common) -> None:
    """A probability of e^-500 is zero in float32, its logarithm is not minus infinity."""
    settings = bottleneck.Settings(**common, betas=(1.0,), evaluation_samples=3)
    sweep = bottleneck.build_model(settings, {"num_dims": 22})
    params = jax.tree.map(jnp.zeros_like, sweep.init(jax.random.key(0)))
    logits = {(1, 10): lambda bias: bias.at[:, 0].set(500.0)}
    params["likelihood"] = jax.tree.map(
        lambda leaf: logits.get(leaf.shape, lambda leaf: leaf)(leaf), params["likelihood"]
    )
    evaluator = bottleneck.Evaluator(
        sweep, dataset=None, mesh=make_mesh(), key=jax.random.key(1), settings=settings
    )
    rows = np.zeros((8, 22), np.float32)
    rows[:, 13] = 1
    found = evaluator.measure(params, rows)
    np.testing.assert_allclose(found["log_likelihood"], -500, rtol=1e-5)
    np.testing.assert_array_equal(found["accuracy"], 0)


def test_the_bottleneck_needs_labels(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.ones((40, 5), np.uint8))
    settings = bottleneck.Settings(data=str(tmp_path / "x.npy"), batch_size=5)
    with pytest.raises(ValueError, match="needs labels"):
        bottleneck.run(settings)


def test_rate_falls_and_distortion_rises_with_beta(common, tmp_path) -> None:
    settings = rate_distortion.Settings(
        **common, betas=(0.1, 1.0, 5.0), num_epochs=100, learning_rate=1e-2, out=str(tmp_path)
    )
    metrics = metrics_of(rate_distortion.run(settings))
    for family in ("gaussian", "mixture_prior"):
        rates, distortions = (
            [metrics[f"test_{name}, {family}, beta {beta}"]["value"] for beta in ("0.1", "1", "5")]
            for name in ("rate", "distortion")
        )
        assert rates == sorted(rates, reverse=True) and rates[0] > rates[2] + 0.5
        assert distortions[0] < distortions[2] - 0.5
    assert image.imread(tmp_path / "rate_distortion.png")[..., :3].std() > 0.02


def test_the_gap_of_a_trained_model(common, trained, tmp_path) -> None:
    settings = inference_gap.Settings(
        **common,
        family="full_covariance",
        trained=str(trained),
        evaluation_samples=200,
        num_refined=5,
        refine_steps=100,
        out=str(tmp_path),
    )
    metrics = metrics_of(inference_gap.run(settings))
    value = {name: entry["value"] for name, entry in metrics.items()}
    gaps = value["test_approximation_gap"] + value["test_amortization_gap"]
    assert gaps == pytest.approx(value["test_log_likelihood"] - value["test_bound"], abs=1e-3)
    error = metrics["test_amortization_gap"]["monte_carlo_error"]
    assert value["test_amortization_gap"] > -5 * error
    directions = [
        metrics[f"test_{name}_gap"]["bound"] for name in ("approximation", "amortization")
    ]
    assert directions == [None, "lower"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (functools.partial(regularized.Settings, bound="iwae"), "bound must be 'elbo' here"),
        (functools.partial(regularized.Settings, beta=-1.0), "beta must be finite"),
        (functools.partial(regularized.Settings, capacity=-1.0), "capacity must be finite"),
        (functools.partial(bottleneck.Settings, betas=(-1.0,)), "betas must be finite"),
        (functools.partial(bottleneck.Settings, betas=()), "betas must be finite"),
        (functools.partial(bottleneck.Settings, betas=(0.5, 0.5)), "betas must differ"),
        (functools.partial(rate_distortion.Settings, betas=(1.0, 1.0000001)), "betas must differ"),
        (functools.partial(rate_distortion.Settings, betas=(-0.1,)), "betas must be finite"),
        (
            functools.partial(rate_distortion.Settings, families=("gaussian", "gaussian")),
            "families must be different",
        ),
        (functools.partial(inference_gap.Settings, num_refined=1), "num_refined must be at least"),
    ],
)
def test_settings_without_meaning_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("objective", ["free_bits", "capacity", "info_vae", "beta_tcvae"])
def test_settings_that_an_objective_ignores_are_refused(objective: str) -> None:
    unused = {"microbatch_size": 4, "chunk_size": 1, "kl": "analytic", "alpha": 0.2}
    if objective != "beta_tcvae":
        unused |= {"beta": 4.0, "warm_up_epochs": 3}
    if objective in ("info_vae", "beta_tcvae"):
        unused |= {"num_samples": 2}
    used = {"beta": 4.0, "warm_up_epochs": 3, "num_samples": 2}
    for name, value in unused.items():
        with pytest.raises(ValueError, match=f"{name} must be .*, got {value!r}"):
            regularized.Settings(objective=objective, **{name: value})
    kept = {name: value for name, value in used.items() if name not in unused}
    assert regularized.Settings(objective=objective, **kept).objective == objective


class Sampler:
    """A posterior that has neither a mean nor a `log_prob`."""

    reparameterized = True

    def __init__(self, gaussian: DiagonalGaussian) -> None:
        self.sample = gaussian.sample
        self.sample_and_log_prob = gaussian.sample_and_log_prob


def two_layers(posterior) -> LatentVariableModel:
    def given_first(above):
        return DiagonalGaussian(jnp.tile(above[-1], 2), jnp.zeros(2))

    def prior(params):
        return Chain(DiagonalGaussian(jnp.zeros(1), jnp.zeros(1)), (given_first,))

    return LatentVariableModel(
        None, prior, lambda params, z: DiagonalGaussian(z[1], 0.0), posterior
    )


def upwards(params, x):
    def given_first(below):
        return DiagonalGaussian(below[-1][:1] * 0.5, jnp.zeros(1))

    return Reversed(Chain(DiagonalGaussian(x[:2], jnp.zeros(2)), (given_first,)))


def test_what_cannot_be_measured_is_left_out_with_a_reason() -> None:
    gaussian = lambda params, x: DiagonalGaussian(x[:2], jnp.full(2, -1.0))  # noqa: E731
    plain = LatentVariableModel(
        None,
        lambda params: DiagonalGaussian(jnp.zeros(2), jnp.zeros(2)),
        lambda params, z: DiagonalGaussian(z, jnp.zeros(2)),
        gaussian,
    )
    sampled = plain._replace(posterior=lambda params, x: Sampler(gaussian(params, x)))
    xs = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    names = {"test_active_units", "test_kl_divergence"}
    both = {"test_mutual_information", "test_marginal_kl"}
    for model, expected, num_layers, num_units in [
        (plain, names | both, 1, 2),
        (sampled, names, 1, 2),
        (two_layers(upwards), names | both, 2, 3),
    ]:
        measure = latent_measures.measure_latents(
            model, make_mesh(), max_examples=40, num_samples=8
        )
        measures = measure({}, jax.random.key(0), xs)
        entries = latent_measures.entries(measures)
        assert set(entries) == expected
        assert len(entries["test_kl_divergence"]["per_layer"]) == num_layers
        assert len(entries["test_active_units"]["variances"]) == num_units
        assert ("left_out" in entries["test_kl_divergence"]) == (expected == names)
        record = latent_measures.monitored(measures)
        assert ("validation_kl_z_2" in record) == (num_layers == 2)
        json.dumps(entries, allow_nan=False)
    reason = "the posterior, a Sampler, has no log_prob"
    entry = latent_measures.entries(
        latent_measures.measure_latents(sampled, make_mesh(), max_examples=5, num_samples=4)(
            {}, jax.random.key(1), xs
        )
    )["test_kl_divergence"]
    assert entry["left_out"] == {"mutual_information": reason}

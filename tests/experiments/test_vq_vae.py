"""The VQ-VAE as an experiment: a short run, what it gives back, and what is refused."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from experiments import harness, vq_vae
from experiments.vq_vae import Settings
from genjax_models.models import latent

SMALL = {"num_codes": 2, "codebook_size": 6, "code_dim": 2, "hidden": (16,), "num_epochs": 10}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on the digits."""
    return vq_vae.run(Settings(out=str(tmp_path_factory.mktemp("vq")), **SMALL))


@pytest.fixture(scope="module")
def metrics(digits: Path) -> dict[str, Any]:
    return json.loads((digits / "result.json").read_text())["metrics"]


def test_the_result_has_bounds_and_the_use_of_the_codebook(digits: Path, metrics: Any) -> None:
    assert (
        json.loads((digits / "result.json").read_text())["model"] == "vq-vae, autoregressive prior"
    )
    assert set(metrics) == {
        *("train_bound", "test_bound", "test_reconstruction", "test_rate"),
        *("test_perplexity", "test_codes_in_use"),
    }
    bound = metrics["test_bound"]
    assert (bound["bound"], bound["unit"], bound["num_samples"]) == ("lower", "nats", 1)
    assert -44 < bound["value"] < -24 and 0.1 < bound["standard_error"] < 1
    assert bound["monte_carlo_error"] < 1e-5
    parts = metrics["test_reconstruction"]["value"] - metrics["test_rate"]["value"]
    assert bound["value"] == pytest.approx(parts, rel=1e-5)
    perplexity = metrics["test_perplexity"]
    assert 1.2 < perplexity["value"] <= metrics["test_codes_in_use"]["value"] <= 6
    assert 0 < perplexity["standard_error"] < 0.5


def test_a_run_gives_back_the_model_that_was_measured(digits: Path, metrics: Any) -> None:
    """With the codebook of the moving averages, and the prior."""
    model, params, settings = harness.load_run(digits)
    assert settings == Settings(out=str(digits), **SMALL)
    xs = harness.load("digits", likelihood="bernoulli").test.x.astype(np.float32)

    @jax.jit
    @jax.vmap
    def one(x: jax.Array) -> Any:
        indices = latent.quantize(params["codebook"], model.encode(params, x))
        log_prior = model.prior(params).log_prob(jax.nn.one_hot(indices, 6))
        return indices, model.decode(params, params["codebook"][indices]).log_prob(x) + log_prior

    indices, bounds = one(xs)
    assert metrics["test_bound"]["value"] == pytest.approx(float(bounds.mean()), rel=1e-5)
    counts = np.bincount(np.ravel(indices), minlength=6)
    frequencies = counts[counts > 0] / counts.sum()
    perplexity = np.exp(-frequencies @ np.log(frequencies))
    assert metrics["test_perplexity"]["value"] == pytest.approx(perplexity, rel=1e-4)


def test_the_folder_has_records_and_pictures(digits: Path) -> None:
    for name in ("samples.png", "reconstructions.png", "curves.png"):
        pixels = image.imread(digits / name)
        assert min(pixels.shape[:2]) >= 100 and pixels[..., :3].std() > 0.02, name
    records = [json.loads(line) for line in (digits / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["validation_bound"] > records[0]["validation_bound"]
    assert 1 <= records[-1]["validation_perplexity"] <= 6
    assert {"perplexity", "dead_codes", "commitment", "bound"} <= records[-1].keys()


def test_the_error_of_the_perplexity_is_that_of_other_test_sets() -> None:
    """The jackknife against the spread over many sets of 200 examples with two codes each."""
    noise = np.random.default_rng(0)
    draws = noise.choice(4, (400, 200, 2), p=[0.5, 0.3, 0.15, 0.05])
    counts = np.eye(4, dtype=np.float32)[draws].sum(axis=2)
    found = [vq_vae.perplexity_and_error(sample) for sample in counts[:20]]
    values = jax.vmap(latent.code_perplexity)(jnp.asarray(counts.sum(axis=1)))
    np.testing.assert_allclose(np.mean([error for _, error in found]), np.std(values), rtol=0.15)
    np.testing.assert_allclose([value for value, _ in found], values[:20], rtol=1e-5)


@pytest.mark.parametrize(
    "changed", [{"codebook": "gradient", "start": "random"}, {"prior": "uniform"}]
)
def test_the_other_settings_train(changed: dict[str, Any]) -> None:
    settings = Settings(**SMALL | {"learning_rate": 0.02} | changed)
    model = vq_vae.build_model(settings, {"num_dims": 4, "num_levels": 2})
    algorithm = vq_vae.build_algorithm(settings, model, num_steps=60)
    batch = jnp.array([[1.0, 0, 1, 1], [0, 1, 0, 0], [1, 1, 1, 0]])
    state = algorithm.init(jax.random.key(0))
    before = state.params["codebook"].copy()
    keys = jax.random.split(jax.random.key(1), 60)
    train = jax.jit(
        lambda state: jax.lax.scan(lambda s, k: algorithm.step(s, k, batch), state, keys)
    )
    state, records = train(state)
    assert records["loss"][-1] < records["loss"][0] - 0.5
    assert np.abs(state.params["codebook"] - before).max() > 1e-3


def test_bad_settings_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_epochs must be above zero"):
        Settings(num_epochs=0)
    for changed, message in [
        ({"decay": 1.0}, "decay must be at least 0 and below 1"),
        ({"commitment": -1.0}, "commitment must be finite and not negative"),
        ({"codebook_size": 10_000}, "at least as many encodings"),
        ({"codebook": "gradient", "smoothing": 7.0}, "decay and smoothing have no effect"),
    ]:
        out = tmp_path / "run"
        with pytest.raises(ValueError, match=message):
            vq_vae.run(Settings(out=str(out), **SMALL | changed))
        assert not out.exists()

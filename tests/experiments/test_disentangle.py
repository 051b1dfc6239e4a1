"""The sweep over beta from end to end, on small sprites."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from experiments import disentangle, harness
from experiments.disentangle import Settings
from tests.sprites import write_sprites

SMALL = {
    "betas": (1.0, 4.0),
    "num_seeds": 2,
    "num_epochs": 3,
    "batch_size": 16,
    "latent_dim": 3,
    "hidden": (8,),
    "pixel_stride": 1,
    "learning_rate": 1e-2,
    "num_draws": 100,
    "forest_examples": 50,
}


@pytest.fixture(scope="module")
def sprites(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sprites")
    write_sprites(folder)
    return folder


@pytest.fixture(scope="module")
def folder(sprites) -> Path:
    return disentangle.run(Settings(data_dir=str(sprites), out=str(sprites / "run"), **SMALL))


def records_of(folder: Path) -> list:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_result_holds_every_score_of_every_beta(folder):
    result = json.loads((folder / "result.json").read_text())
    records = records_of(folder)
    assert [(record["beta"], record["seed"]) for record in records] == [
        *[(1.0, 0), (1.0, 1), (4.0, 0), (4.0, 1)]
    ]
    for beta in (1, 4):
        for name in disentangle.SCORES:
            entry = result["metrics"][f"{name}_beta_{beta}"]
            values = [record[name] for record in records if record["beta"] == beta]
            assert entry["values"] == values
            assert all(0 <= value <= 1 for value in values)
            assert entry["value"] == pytest.approx(np.mean(values))
            assert entry["spread"] == pytest.approx(np.std(values, ddof=1))
            assert entry["monte_carlo_error"] == pytest.approx(entry["spread"] / 2**0.5)
    assert result["steps"] == 4 * 3 * (80 // 16)
    # Seeds make different models, and so does beta.
    assert len({record["test_bound"] for record in records}) == 4
    assert result["command"].startswith("python -m experiments.disentangle --batch-size 16")


def test_the_pictures_are_there(folder):
    for name in ("scores.png", "traversals-beta-1.png", "traversals-beta-4.png"):
        assert image.imread(folder / name)[..., :3].std() > 0.01, name


def test_a_killed_run_goes_on_with_the_models_that_are_missing(folder, sprites):
    whole = records_of(folder)
    (folder / "result.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:3]))
    settings = Settings(data_dir=str(sprites), out=str(folder), resume=True, **SMALL)
    disentangle.run(settings)
    assert records_of(folder) == whole
    assert (folder / "result.json").exists()


def test_the_last_model_is_given_back(folder, sprites):
    model, params, settings = harness.load_run(folder)
    assert settings.betas == (1.0, 4.0)
    dataset, _ = disentangle.read(settings)
    code = disentangle.means(model, params, jnp.asarray(dataset.test.x[0], jnp.float32))
    assert code.shape == (3,)


def test_every_how_many_pixels_are_seen(sprites):
    thin, _ = disentangle.read(Settings(data_dir=str(sprites), pixel_stride=3))
    whole, _ = disentangle.read(Settings(data_dir=str(sprites), pixel_stride=1))
    assert thin.example_shape == (3, 3)
    expected = whole.test.x.reshape(-1, 8, 8)[:, [0, 3, 6]][:, :, [0, 3, 6]]
    np.testing.assert_array_equal(thin.test.x.reshape(-1, 3, 3), expected)


@pytest.mark.parametrize("objective", ["beta_vae", "beta_tcvae"])
def test_beta_reaches_the_objective(objective):
    settings = Settings(objective=objective, latent_dim=2, hidden=(4,))
    model = disentangle.build_model(settings, {"num_dims": 6})
    params = model.init(jax.random.key(0))
    # Parameters for which the parts are far from zero.
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)
    batch = jnp.eye(6)

    @functools.partial(jax.jit, static_argnums=0)
    def loss(beta: float) -> jax.Array:
        algorithm = disentangle.build_algorithm(settings, model, beta, num_examples=6)
        state = algorithm.init(jax.random.key(1))._replace(params=params)
        return algorithm.step(state, jax.random.key(2), batch)[1]

    one, three = loss(1.0), loss(3.0)
    part = "kl_divergence" if objective == "beta_vae" else "total_correlation"
    assert one[part] != 0
    np.testing.assert_allclose(three["loss"] - one["loss"], 2 * one[part], rtol=1e-3, atol=1e-4)


def test_forests_find_the_code_of_each_factor():
    rng = np.random.default_rng(0)
    factors = rng.integers(0, 4, (400, 2))
    codes = np.stack([factors[:, 1], rng.normal(size=400), -factors[:, 0]], axis=1)
    codes = codes + 0.01 * rng.normal(size=codes.shape)
    found = disentangle.fit_forests(codes[:200], factors[:200], codes[200:], factors[200:])
    assert found["dci_informativeness"] > 0.95
    assert found["dci_disentanglement"] > 0.8 < found["dci_completeness"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": "digits"}, "data must be dsprites"),
        ({"betas": (1.0, -2.0)}, "betas must be finite and above zero"),
        ({"betas": ()}, "betas must be finite and above zero"),
        ({"betas": (0.5, 0.5, 1.0)}, "betas must differ in their first six digits"),
        ({"latent_dim": 1}, "latent_dim must be at least 2"),
        ({"num_seeds": 0}, "num_seeds must be above zero, got 0"),
        ({"batch_size": None}, "batch_size must be a number"),
    ],
)
def test_bad_settings_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changed)


def test_a_stride_beyond_the_image_is_refused(sprites):
    with pytest.raises(ValueError, match="pixel_stride must be at most 8, got 9"):
        disentangle.read(Settings(data_dir=str(sprites), pixel_stride=9))

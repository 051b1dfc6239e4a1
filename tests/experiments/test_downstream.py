"""Imputation, denoising and representation by a trained model, from end to end and in parts."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from experiments import denoise, harness, impute, inference_gap, represent, vae
from experiments.harness import downstream
from experiments.harness.run import LoadedRun
from genjax_models.distributions import Bernoulli, Chain, DiagonalGaussian, Pushforward, Reversed
from genjax_models.interfaces import AutoEncoder, ImplicitModel, LatentVariableModel
from genjax_models.models import latent

TRAINING = {
    "num_epochs": 60,
    "hidden": (64,),
    "latent_dim": 8,
    "learning_rate": 1e-2,
    "evaluation_samples": 5,
}


@pytest.fixture(scope="module")
def imputed(tmp_path_factory) -> Path:
    """An imputation that trains its own model."""
    out = tmp_path_factory.mktemp("impute")
    return impute.run(
        impute.Settings(
            out=str(out),
            num_steps=20,
            num_importance_samples=100,
            num_images=80,
            num_neighbour_images=300,
            **TRAINING,
        )
    )


@pytest.fixture(scope="module")
def trained(imputed) -> Path:
    """The folder of the model that it trained."""
    return imputed / "model"


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())["metrics"]


def test_imputation_is_better_than_the_mean(imputed):
    metrics = metrics_of(imputed)
    ways = {name.split(", ", 2)[2] for name in metrics}
    assert ways == {
        *("mean", "nearest neighbours", "nearest neighbours, grey"),
        *("pseudo-Gibbs", "Metropolis within Gibbs", "importance resampling"),
    }
    assert len(metrics) == 6 * 3 * 2
    for way in ways - {"mean"}:
        for kind in ("random", "half", "patch"):
            entry, mean = (metrics[f"{kind}, squared error, {w}"] for w in (way, "mean"))
            assert 0 < entry["standard_error"] < 0.02
            # Little was learned of half an image: the chains, not weighed by the data, are off.
            if kind != "half" or "Gibbs" not in way:
                assert entry["value"] < mean["value"] - mean["standard_error"]
    neighbours = metrics["half, nats, nearest neighbours"]
    assert neighbours["minus_nearest_neighbours"] == {"value": 0, "standard_error": 0}


def test_the_error_of_the_mean_is_what_numpy_says(imputed):
    data = harness.load("digits", likelihood="bernoulli")
    x, mean = data.test.x[:80].astype(float), data.train.x.mean(axis=0) / 16
    expected = ((x - mean) ** 2)[:, 32:].mean()
    assert metrics_of(imputed)["half, squared error, mean"]["value"] == pytest.approx(expected)


def test_a_finished_run_is_only_printed_again(imputed, capsys):
    settings = impute.Settings(
        out=str(imputed),
        resume=True,
        num_steps=20,
        num_importance_samples=100,
        num_images=80,
        num_neighbour_images=300,
        **TRAINING,
    )
    before = (imputed / "result.json").stat().st_mtime_ns
    assert impute.run(settings) == imputed
    assert (imputed / "result.json").stat().st_mtime_ns == before
    assert "Missing pixels of digits by vae" in capsys.readouterr().out


def test_noise_is_removed(trained, tmp_path):
    folder = denoise.run(
        denoise.Settings(
            trained=str(trained),
            out=str(tmp_path / "run"),
            num_steps=20,
            num_importance_samples=100,
            num_images=80,
            num_neighbour_images=300,
        )
    )
    metrics = metrics_of(folder)
    assert len(metrics) == 2 * 7
    for kind in ("salt and pepper", "Gaussian"):
        nothing = metrics[f"{kind}, squared error, nothing"]["value"]
        for way in ("importance resampling", "Metropolis within Gibbs", "nearest neighbours"):
            assert metrics[f"{kind}, squared error, {way}"]["value"] < 0.8 * nothing
    assert json.loads((folder / "config.json").read_text())["trained"]["experiment"] == "vae"
    for name in ("denoised-salt-and-pepper.png", "denoised-gaussian.png"):
        assert image.imread(folder / name)[..., :3].std() > 0.05


def test_codes_are_classified(trained, tmp_path):
    folder = represent.run(represent.Settings(trained=str(trained), out=str(tmp_path / "run")))
    metrics = metrics_of(folder)
    assert set(metrics) == {
        f"{features}, {classifier}"
        for features in ("posterior means, 8", "principal components, 8", "pixels, 64")
        for classifier in ("linear probe", "nearest neighbours")
    }
    for name, entry in metrics.items():
        assert 0.5 < entry["value"] < 1, name
        error = (entry["value"] * (1 - entry["value"]) / 179) ** 0.5
        assert entry["standard_error"] == pytest.approx(error)
    # The probe of the pixels, by hand.
    data = harness.load("digits", likelihood="bernoulli")
    scaler = StandardScaler().fit(downstream.prepared(data))
    probe = LogisticRegression(
        C=metrics["pixels, 64, linear probe"]["chosen_on_validation"], max_iter=2000, tol=1e-3
    ).fit(scaler.transform(downstream.prepared(data)), data.train.labels)
    score = probe.score(scaler.transform(data.test.x), data.test.labels)
    assert metrics["pixels, 64, linear probe"]["value"] == pytest.approx(score)
    for name in ("embedding-2d.png", "embedding-3d.png"):
        assert image.imread(folder / name)[..., :3].std() > 0.05


# ---- parts


@pytest.mark.parametrize("shape", [(8, 8), (4, 6, 3), (7,)])
def test_masks(shape):
    num_dims = int(np.prod(shape))
    for kind in ("random", "half", "patch"):
        mask = impute.make_masks(kind, shape, 200, 0.3, seed=0)
        assert mask.shape == (200, num_dims) and mask.dtype == bool
        assert (~mask).any(axis=1).all() and mask.any(axis=1).all()
        if len(shape) == 3:
            by_pixel = mask.reshape(200, -1, 3)
            assert (by_pixel == by_pixel[..., :1]).all()
    if shape == (8, 8):
        assert abs((~impute.make_masks("random", shape, 2000, 0.3, seed=0)).mean() - 0.3) < 0.02
        half = ~impute.make_masks("half", shape, 3, 0.3, seed=0)[0].reshape(8, 8)
        assert half[4:].all() and not half[:4].any()
        patch = ~impute.make_masks("patch", shape, 500, 0.3, seed=0).reshape(500, 8, 8)
        assert (patch.sum(axis=(1, 2)) == 16).all()
        assert ((patch.any(axis=1)).sum(axis=1) == 4).all()
        assert patch.any(axis=0).all()


def test_errors_are_of_the_missing_pixels():
    x, mask = np.array([[1.0, 0.0, 1.0]]), np.array([[True, False, False]])
    predictions = np.array([[0.0, 0.5, 0.9]])
    assert impute.squared_errors(predictions, x, mask)[0] == pytest.approx((0.25 + 0.01) / 2)
    expected = -(np.log(0.5) + np.log(0.9)) / 2
    assert impute.cross_entropies(predictions, x, mask)[0] == pytest.approx(expected)
    certain = impute.cross_entropies(np.array([[0.0, 0.0, 0.0]]), x, mask)[0]
    assert certain == pytest.approx(-(np.log(0.99) + np.log(0.01)) / 2)


@pytest.mark.parametrize("kind", ["salt and pepper", "Gaussian"])
def test_the_channel_is_that_of_the_noise(kind):
    """Bayes' rule with it gives back how often a noisy pixel comes from a one."""
    settings = denoise.Settings(salt_and_pepper=0.4, gaussian=0.6)
    x = np.repeat([[0.0], [1.0]], 100_000, axis=1)
    noisy = denoise.add_noise(settings, kind, x, seed=0)
    channel = jax.vmap(lambda n: denoise.log_channel(settings, kind, n))(jnp.asarray(noisy))
    if kind == "salt and pepper":
        changed = (noisy != x).mean()
        assert abs(changed - 0.2) < 0.005
        np.testing.assert_allclose(jnp.exp(channel[1, 1]).min(), 0.2, rtol=1e-5)
        np.testing.assert_allclose(jnp.exp(channel).sum(axis=1), 1, rtol=1e-5)
    is_one = jax.nn.sigmoid(channel[:, 1] - channel[:, 0]).ravel()
    # Calibrated in every bin, with both pixels equally often.
    for low in np.arange(0, 1, 0.25):
        chosen = np.asarray((is_one >= low) & (is_one <= low + 0.25))
        if chosen.sum() > 1000:
            error = x.ravel()[chosen].mean() - np.asarray(is_one)[chosen].mean()
            assert abs(error) < 5 * 0.5 / chosen.sum() ** 0.5


def test_codes_of_layers_of_flows_and_of_auto_encoders():
    x, key = jnp.float32([0.3, -1.0]), jax.random.key(0)

    def model(posterior) -> LatentVariableModel:
        return LatentVariableModel(
            lambda key: {}, lambda p: None, lambda p, z: None, lambda p, x: posterior(x)
        )

    plain = downstream.code(model(lambda x: DiagonalGaussian(x, 0 * x)), {}, key, x)
    np.testing.assert_array_equal(plain, x)
    below = lambda z: DiagonalGaussian(10 * z[0], jnp.full(2, -9.0))  # noqa: E731
    layers = Reversed(Chain(DiagonalGaussian(x, jnp.full(2, -9.0)), (below,)))
    found = downstream.code(model(lambda x: layers), {}, jax.random.clone(key), x)
    np.testing.assert_allclose(found, [3, -10, 0.3, -1], atol=1e-2)
    flow = Pushforward(DiagonalGaussian(x, 0 * x), lambda z: (z + 5, 0.0))
    found = downstream.code(model(lambda x: flow), {}, jax.random.clone(key), x, num_samples=10_000)
    np.testing.assert_allclose(found, x + 5, atol=0.05)
    auto_encoder = AutoEncoder(lambda key: {}, lambda p, x: 2 * x, lambda p, c: Bernoulli(c))
    found = downstream.code(auto_encoder, {}, jax.random.clone(key), x)
    np.testing.assert_array_equal(found, 2 * x)


def test_a_run_on_other_data_is_refused(trained, tmp_path):
    """The file of the data has changed since."""
    np.save(tmp_path / "other.npy", np.random.default_rng(0).integers(0, 2, (50, 9)))
    config = json.loads((trained / "config.json").read_text())
    config["settings"]["data"] = str(tmp_path / "other.npy")
    config["settings"]["protocol"] = "static"
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(config))
    (other / "checkpoints").symlink_to(trained / "checkpoints")
    with pytest.raises(ValueError, match=r"trained on 64 dimensions, but .*other.npy has 9"):
        downstream.read_trained(other, None)


AUTO_ENCODER = AutoEncoder(lambda key: {}, lambda p, x: 2 * x, lambda p, c: Bernoulli(c))


@pytest.mark.parametrize("experiment", [impute, denoise, inference_gap, represent])
def test_a_model_of_another_kind_is_refused_before_the_folder_is_made(
    experiment, trained, tmp_path, monkeypatch
):
    sampler = ImplicitModel(lambda key: {}, lambda params, key: jnp.zeros(64))
    for model in (sampler, AUTO_ENCODER)[: 1 if experiment is represent else 2]:
        loaded = LoadedRun(model, {}, None)
        monkeypatch.setattr(downstream, "load_run", lambda folder, loaded=loaded: loaded)
        out = tmp_path / "run"
        wanted = (
            f"trained must be the run of a latent-variable model.* with a {type(model).__name__}"
        )
        with pytest.raises(ValueError, match=wanted):
            experiment.run(experiment.Settings(trained=str(trained), out=str(out)))
        assert not out.exists()


def test_pixels_that_depend_on_each_other_are_refused(trained, tmp_path):
    """Of a lossy VAE, the missing pixels depend on the observed ones also given z."""
    model = latent.lossy_vae(image_shape=(8, 8), radius=1, latent_dim=2, hidden=(4,))
    found = downstream.read_trained(trained, None)
    found = found._replace(model=model, params=model.init(jax.random.key(0)))
    with pytest.raises(TypeError, match="AutoregressiveBernoulli are not known to be independent"):
        impute.evaluate(impute.Settings(num_images=3), found, tmp_path)
    with pytest.raises(ValueError, match="is a Bernoulli, got a AutoregressiveBernoulli"):
        denoise.evaluate(denoise.Settings(num_images=3), found, tmp_path)


def test_the_codes_of_an_auto_encoder_are_taken(trained, monkeypatch):
    loaded = harness.load_run(trained)._replace(model=AUTO_ENCODER)
    monkeypatch.setattr(downstream, "load_run", lambda folder: loaded)
    found = downstream.read_trained(trained, None, auto_encoders=True)
    assert found.model is AUTO_ENCODER


def test_the_folder_around_a_trained_model_is_not_that_of_the_model(imputed, tmp_path):
    settings = represent.Settings(trained=str(imputed), out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"is a run of impute on the model of .*model: give that"):
        represent.run(settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: impute.Settings(missing_fraction=1.0), r"missing_fraction must be in \(0, 1\)"),
        (lambda: impute.Settings(num_steps=1), "num_steps must be at least 2, got 1"),
        (lambda: impute.Settings(num_images=1), "num_images must be at least 2, got 1"),
        (lambda: denoise.Settings(salt_and_pepper=0.0), r"salt_and_pepper must be in \(0, 1\)"),
        (lambda: denoise.Settings(gaussian=-1.0), "gaussian must be above zero, got -1.0"),
        (lambda: represent.Settings(num_train=0), "num_train must be above zero, got 0"),
        (
            lambda: impute.run(impute.Settings(trained="/nowhere")),
            "/nowhere is not the folder of a run",
        ),
    ],
)
def test_bad_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_model_of_every_experiment_is_a_vae():
    assert impute.build_model is denoise.build_model is represent.build_model is vae.build_model
    assert callable(latent.vae)

"""The experiment from end to end on a small survey: its numbers anew, what it refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from scipy.special import expit, log_expit, logsumexp
from scipy.stats import norm

from experiments import binary_factor_analysis, harness
from experiments.binary_factor_analysis import Settings
from experiments.harness import nltcs
from genjax_models.interfaces import LatentVariableModel

SMALL = {"data": "nltcs", "num_points": 16}


@pytest.fixture(scope="module")
def survey(tmp_path_factory) -> Iterator[Path]:
    """People with one trait, who answer 16 questions the more often by one the more they have."""
    folder, rng = tmp_path_factory.mktemp("survey"), np.random.default_rng(0)
    (folder / "nltcs").mkdir()
    sizes = {"train": 400, "valid": 60, "test": 80}
    for name, size in sizes.items():
        trait = rng.normal(size=(size, 1))
        x = rng.uniform(size=(size, 16)) < expit(np.linspace(-2, 1, 16) + 1.5 * trait)
        lines = [",".join("1" if answer else "0" for answer in row) + "\n" for row in x]
        (folder / "nltcs" / f"nltcs.{name}.data").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltcs, "SIZES", sizes)
        yield folder


@pytest.fixture(scope="module")
def fitted(survey, tmp_path_factory) -> Path:
    """The folder of a run of EM."""
    out = str(tmp_path_factory.mktemp("em"))
    settings = Settings(data_dir=str(survey), num_epochs=30, out=out, **SMALL)
    return binary_factor_analysis.run(settings)


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())["metrics"]


def test_the_result_is_the_integral_of_the_loaded_model(fitted, survey):
    model, params, _ = harness.load_run(fitted)
    assert isinstance(model, LatentVariableModel)
    axis = np.linspace(-7, 7, 113)
    z = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    logits = z @ np.float64(params["loading"]).T + np.float64(params["bias"])
    log_prior = norm.logpdf(z).sum(axis=1) + 2 * np.log(axis[1] - axis[0])
    dataset = harness.load("nltcs", likelihood="bernoulli", data_dir=survey)
    metrics = metrics_of(fitted)
    for split in ("train", "validation", "test"):
        xs = np.float64(getattr(dataset, split).x)
        log_joint = xs @ log_expit(logits).T + (1 - xs) @ log_expit(-logits).T + log_prior
        log_probs = logsumexp(log_joint, axis=1)
        metric = metrics[f"{split}_log_likelihood"]
        assert metric["value"] == pytest.approx(log_probs.mean(), abs=2e-4)
        error = log_probs.std(ddof=1) / np.sqrt(len(xs))
        assert metric["standard_error"] == pytest.approx(error, rel=1e-3)
        assert metric["estimator"] == "quadrature, 16 nodes a factor"
    test = metrics["test_log_likelihood"]["value"]
    assert test - 0.5 < metrics["test_bound"]["value"] < test
    on = (dataset.train.x.sum(axis=0) + 1) / (len(dataset.train.x) + 2)
    independent = np.where(dataset.test.x == 1, np.log(on), np.log1p(-on)).sum(axis=1).mean()
    name = "independent_test_log_likelihood"
    assert metrics[name]["value"] == pytest.approx(independent, rel=1e-5)
    assert test > independent + 0.5


def test_people_are_drawn_in_the_plane(fitted):
    for name in ("embedding.png", "curves.png", "samples.png", "manifold.png"):
        assert image.imread(fitted / name)[..., :3].std() > 0.01, name


def test_by_gradient_the_likelihood_is_higher(fitted, survey, tmp_path):
    """What is maximised is the likelihood itself; the prior is left out of EM here."""
    settings = {"data_dir": str(survey), "latent_dim": 1, **SMALL}
    em = binary_factor_analysis.run(
        Settings(num_epochs=60, weight_prior=0.0, out=str(tmp_path / "em"), **settings)
    )
    settings |= {"algorithm": "gradient", "learning_rate": 0.1, "num_epochs": 150}
    gradient = binary_factor_analysis.run(Settings(out=str(tmp_path / "gradient"), **settings))
    values = [metrics_of(folder)["train_log_likelihood"]["value"] for folder in (em, gradient)]
    print(values)
    assert 0 < values[1] - values[0] < 0.1
    assert not (em / "embedding.png").exists()


def test_the_principal_rotation_keeps_distances():
    loading = np.random.default_rng(0).normal(size=(7, 2))
    rotation = binary_factor_analysis.principal_rotation(loading)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(2), atol=1e-12)
    turned = loading @ rotation
    gram = turned.T @ turned
    assert abs(gram[0, 1]) < 1e-12 and gram[0, 0] > gram[1, 1]
    assert (turned.sum(axis=0) > 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 3}, "latent_dim must be 1 or 2, got 3"),
        ({"num_epochs": 0}, "num_epochs must be above zero, got 0"),
        ({"num_points": 500}, "num_points must be in 1..200, got 500"),
        ({"weight_prior": -1.0}, "weight_prior must be finite and not negative, got -1.0"),
        ({"batch_size": 10}, "em takes the whole training set: use gradient .* got 10"),
        ({"protocol": "dynamic"}, "em wants data that do not change"),
        ({"learning_rate": 9.0}, "learning_rate has no effect with algorithm em, got 9.0"),
        (
            {"algorithm": "gradient", "weight_prior": 0.0},
            "weight_prior has no effect with algorithm gradient, got 0.0",
        ),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=re.compile(message)):
        Settings(**settings)

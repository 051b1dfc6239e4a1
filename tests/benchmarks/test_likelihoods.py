"""The likelihood table: what stands in it, and what may not stand beside what."""

import json
from typing import Any

import pytest
from matplotlib import image

from benchmarks import likelihoods
from benchmarks.likelihoods import Column
from experiments import vae

STATIC = Column("binarized_mnist", "static", "nats")


def result(model: str, value: float, **changed: Any) -> dict[str, Any]:
    """A finished run of a NADE on static MNIST."""
    metric = {
        "value": value,
        "standard_error": 0.25,
        "monte_carlo_error": 0.0,
        "estimator": "exact",
        "num_samples": None,
        "bound": "exact",
        "unit": "nats",
    }
    return {
        "experiment": "nade",
        "model": model,
        "command": "python -m experiments.nade",
        "settings": {"hidden_dim": 500},
        "data": {
            "name": "binarized_mnist",
            "protocol": "static",
            "num_examples": {"train": 50000, "validation": 10000, "test": 10000},
        },
        "metrics": {"test_log_likelihood": metric, "train_log_likelihood": metric},
        "seconds": {"train": 100.0, "evaluate": 20.5},
        "device": "cpu (2 cores)",
    } | changed


def test_rows_are_sorted_and_stand_beside_what_was_published() -> None:
    worse = result("small", -95.0) | {"settings": {"hidden_dim": 10}}
    first, second = likelihoods.table([worse, result("NADE", -90.5)], STATIC)
    assert (first.model, first.value, first.bound) == ("NADE", 90.5, "exact")
    assert first.published.value == 88.33
    assert first.gap == pytest.approx(2.17)
    assert first.seconds == 120.5
    assert (second.model, second.published, second.gap) == ("small", None, None)


def test_a_lower_bound_of_the_likelihood_is_an_upper_bound_of_its_negative() -> None:
    bounded = result("VAE", -90.0)
    bounded["metrics"]["test_log_likelihood"] |= {"bound": "lower", "num_samples": 50}
    (row,) = likelihoods.table([bounded], STATIC)
    assert (row.bound, row.estimator) == ("upper", "exact, K=50")
    assert "| VAE | ≤ 90.00 | 0.25 | 0 | exact, K=50 |" in likelihoods.markdown({STATIC: [row]})


def test_two_estimators_of_one_model_are_two_rows() -> None:
    both = result("RBM", -88.0, experiment="rbm")
    metric = both["metrics"]["test_log_likelihood"]
    both["metrics"]["test_log_likelihood_reverse"] = metric | {"value": -89.0}
    assert [row.value for row in likelihoods.table([both], STATIC)] == [88.0, 89.0]


@pytest.mark.parametrize(
    "data",
    [
        {"name": "mnist", "protocol": "dynamic"},
        {"name": "binarized_mnist", "protocol": "threshold"},
    ],
)
def test_another_protocol_is_refused(data: dict[str, str]) -> None:
    other = result("other", -80.0)
    other["data"] |= data
    with pytest.raises(ValueError, match="other cannot stand under 'MNIST, static binarisation"):
        likelihoods.table([result("NADE", -90.5), other], STATIC)


def test_another_unit_or_another_test_set_is_refused() -> None:
    bits = result("bits", 1.0)
    bits["metrics"]["test_log_likelihood"]["unit"] = "bits per dimension"
    with pytest.raises(ValueError, match=r"measured on MNIST, static.*bits per dimension"):
        likelihoods.table([bits], STATIC)
    fewer = result("fewer", -80.0)
    fewer["data"]["num_examples"] = {"test": 400}
    with pytest.raises(ValueError, match=r"test sets of different sizes, \[400, 10000\]"):
        likelihoods.table([result("NADE", -90.5), fewer], STATIC)


def test_protocols_get_tables_of_their_own(tmp_path) -> None:
    other = result("VAE", -80.0)
    other["data"] |= {"name": "mnist", "protocol": "dynamic"}
    found = likelihoods.tables([other, result("NADE", -90.5)])
    assert [column.protocol for column in found] == ["static", "dynamic"]
    likelihoods.draw(found, tmp_path / "table.png")
    assert image.imread(tmp_path / "table.png").std() > 0


def test_a_real_run_and_what_is_none(tmp_path) -> None:
    """Of a folder of runs, only what is a result is read; what claims to be one must be."""
    settings = vae.Settings(
        num_epochs=1, hidden=(4,), latent_dim=2, evaluation_samples=10, out=str(tmp_path / "run")
    )
    vae.run(settings)
    (found,) = likelihoods.read([tmp_path])
    ((column, (row,)),) = likelihoods.rows(found).items()
    assert column == Column("digits", "dynamic", "nats")
    assert row.value == -found["metrics"]["test_log_likelihood"]["value"]
    assert row.command.startswith("python -m experiments.vae --num-epochs 1 ")
    (tmp_path / "result.json").write_text(json.dumps({"model": "vae"}))
    with pytest.raises(ValueError, match=r"is not a result: it has no data, experiment"):
        likelihoods.read([tmp_path])
    with pytest.raises(ValueError, match=r"no result\.json in"):
        likelihoods.read([tmp_path / "run" / "tensorboard"])

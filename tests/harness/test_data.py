"""Data sets and protocols, held against exact frequencies, counts and golden checksums."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.harness import data


def sha256(x: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(x).data).hexdigest()[:16]


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", likelihood="bernoulli")


@pytest.fixture
def all_levels(tmp_path):
    """A file whose every example holds each of the 256 grey levels once."""
    np.save(tmp_path / "levels.npy", np.tile(np.arange(256, dtype=np.uint8), (10, 1)))
    return str(tmp_path / "levels.npy")


# ---- digits


def test_digits_are_all_there_once_with_their_labels(digits):
    truth = load_digits()
    assert (digits.example_shape, digits.num_levels) == ((8, 8), 17)
    rows = {(x.tobytes(), int(y)) for x, y in zip(digits.train.x, digits.train.labels, strict=True)}
    known = {
        (x.astype(np.uint8).tobytes(), int(y))
        for x, y in zip(truth.data, truth.target, strict=True)
    }
    assert len(rows) == len(digits.train.x) == 1437
    assert rows < known
    labels = np.concatenate(
        [split.labels for split in (digits.train, digits.validation, digits.test)]
    )
    assert labels.dtype == np.int32
    assert (np.bincount(labels) == np.bincount(truth.target)).all()


def test_digits_are_stratified(digits):
    counts = np.bincount(load_digits().target)
    for split in (digits.validation, digits.test):
        assert len(split.x) == 180
        assert (np.abs(np.bincount(split.labels) - counts / 10) < 1).all()


def test_digits_never_change(digits):
    assert sha256(digits.train.x) == "c37d81919aebcc18"
    assert sha256(digits.validation.x) == "9ee4e5702d7bfa26"
    assert sha256(digits.test.x) == "4672124a8802a53d"
    assert sha256(digits.test.labels.astype("<i4")) == "de45ba66134120ec"


@pytest.mark.parametrize(
    "settings",
    [
        lambda: jax.threefry_partitionable(False),
        lambda: jax.enable_x64(True),
        lambda: jax.default_prng_impl("rbg"),
    ],
)
def test_the_test_set_does_not_depend_on_the_configuration(digits, settings):
    with settings():
        again = data.load("digits", likelihood="bernoulli")
    np.testing.assert_array_equal(again.test.x, digits.test.x)
    np.testing.assert_array_equal(again.validation.x, digits.validation.x)


def test_the_fixed_binarisation_has_the_right_frequencies(digits):
    grey = data.load("digits", likelihood="discretized_logistic")
    for drawn, p in ((digits.validation.x, grey.validation.x), (digits.test.x, grey.test.x)):
        assert drawn.dtype == np.uint8
        assert set(np.unique(drawn)) == {0, 1}
        assert (drawn[p == 0] == 0).all()
        assert (drawn[p == 1] == 1).all()
        for level in range(1, 16):
            at = p == np.float32(level / 16)
            error = np.sqrt(level / 16 * (1 - level / 16) / at.sum())
            assert abs(drawn[at].mean() - level / 16) < 5 * error


# ---- protocols


def test_dynamic_draws_each_level_with_its_probability(all_levels):
    dataset = data.load(all_levels, likelihood="bernoulli", protocol="dynamic")
    n = 10_000
    draw = jax.jit(jax.vmap(dataset.prepare, (0, None)))
    x = draw(jax.random.split(jax.random.key(1), n), jnp.asarray(dataset.train.x[0]))
    assert x.dtype == jnp.float32
    assert set(np.unique(x)) == {0.0, 1.0}
    mean, p = np.asarray(x, np.float64).mean(0), np.arange(256) / 255
    assert (mean[0], mean[255]) == (0, 1)
    assert (np.abs(mean - p) < 5 * np.sqrt(p * (1 - p) / n))[1:255].all()
    # All levels together are sharp enough to tell level / 255 from level / 256.
    error = np.sqrt((p * (1 - p)).sum() / n) / 256
    assert 5 * error < (p - np.arange(256) / 256).mean()
    assert abs((mean - p).mean()) < 5 * error


def test_dynamic_is_drawn_anew_from_each_key_and_is_the_same_under_jit(digits):
    x = jnp.asarray(digits.train.x[:1])[0]
    a, b = jax.random.split(jax.random.key(0))
    first = digits.prepare(a, x)
    np.testing.assert_array_equal(jax.jit(digits.prepare)(jax.random.clone(a), x), first)
    assert (digits.prepare(b, x) != first).any()


def test_grey_training_examples_equal_grey_test_examples(all_levels):
    dataset = data.load(all_levels, likelihood="discretized_logistic")
    assert (dataset.protocol, dataset.num_levels, dataset.train.x.dtype) == ("grey", 256, np.uint8)
    prepared = jax.jit(dataset.prepare)(jax.random.key(0), jnp.asarray(dataset.train.x[0]))
    assert dataset.test.x.dtype == np.float32
    for x in (prepared, dataset.test.x[0]):  # XLA multiplies by 1 / 255
        np.testing.assert_allclose(x, np.arange(256) / 255, rtol=2e-7)
        assert (x[0], x[255]) == (0, 1)


def test_threshold_is_above_one_half(all_levels):
    dataset = data.load(all_levels, likelihood="bernoulli", protocol="threshold")
    assert dataset.num_levels == 2
    for split in (dataset.train, dataset.validation, dataset.test):
        np.testing.assert_array_equal(split.x, np.tile(np.arange(256) >= 128, (len(split.x), 1)))
    sixteen = data.load("digits", likelihood="bernoulli", protocol="threshold")
    raw = data.load("digits", likelihood="bernoulli").train.x
    np.testing.assert_array_equal(sixteen.train.x, raw >= 9)


def test_static_is_drawn_once(digits):
    static = data.load("digits", likelihood="bernoulli", protocol="static")
    assert (static.num_levels, static.train.x.dtype) == (2, np.uint8)
    again = data.load("digits", likelihood="bernoulli", protocol="static")
    np.testing.assert_array_equal(static.train.x, again.train.x)
    np.testing.assert_array_equal(static.test.x, digits.test.x)
    p = digits.train.x / 16
    error = np.sqrt((p * (1 - p)).sum())
    assert abs(static.train.x.sum() - p.sum()) < 5 * error
    x = static.prepare(jax.random.key(0), static.train.x[0])
    np.testing.assert_array_equal(x, static.train.x[0].astype(np.float32))


def test_real_values_are_left_alone(tmp_path):
    values = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    np.savez(tmp_path / "real.npz", train=values, validation=values[:2], test=values[2:5])
    dataset = data.load(str(tmp_path / "real.npz"), likelihood="gaussian")
    assert (dataset.name, dataset.protocol, dataset.num_levels) == ("real.npz", "real", None)
    np.testing.assert_array_equal(dataset.test.x, values[2:5])
    np.testing.assert_array_equal(dataset.prepare(jax.random.key(0), values[0]), values[0])


def test_describe_goes_into_json(digits):
    assert json.loads(json.dumps(digits.describe())) == {
        "name": "digits",
        "protocol": "dynamic",
        "split": "stratified 80/10/10, seed 0",
        "num_examples": {"train": 1437, "validation": 180, "test": 180},
    }


# ---- points of the plane


def test_half_moons_are_half_circles():
    """Each point is about 0.1 from the circle of its label, and on its side of it."""
    dataset = data.load("half_moons", likelihood="gaussian")
    assert (dataset.protocol, dataset.example_shape, dataset.num_levels) == ("real", (2,), None)
    centres = np.array([[0, 0], [1, 0.5]])[dataset.train.labels]
    distance = np.linalg.norm(dataset.train.x - centres, axis=-1) - 1
    # A noise of 0.1 around a circle of radius 1 pushes outwards by 0.1^2 / 2.
    assert abs(distance.mean() - 0.005) < 5 * 0.1 / np.sqrt(len(distance))
    assert distance.std() == pytest.approx(0.1, rel=0.05)


def test_the_ring_has_eight_modes_of_the_published_width():
    dataset = data.load("ring", likelihood="none")
    angles = 2 * np.pi * dataset.train.labels / 8
    noise = dataset.train.x - np.stack([np.cos(angles), np.sin(angles)], -1)
    assert noise.std() == pytest.approx(0.01, rel=0.02)
    assert abs(noise.mean()) < 5 * 0.01 / np.sqrt(noise.size)
    assert (np.bincount(dataset.test.labels) == len(dataset.test.x) / 8).all()


@pytest.mark.parametrize(("name", "protocol"), [("digits", "grey"), ("ring", "real")])
def test_a_model_without_likelihood_takes_values_as_they_are(name, protocol):
    assert data.load(name, likelihood="none").protocol == protocol


# ---- refusals


@pytest.mark.parametrize(
    ("name", "near"),
    [("mnst", "mnist"), ("fashion-mnist", "fashion_mnist"), ("digit", "digits"), ("x.csv", "npz")],
)
def test_an_unknown_data_set_is_refused_with_near_matches(name, near):
    with pytest.raises(ValueError, match=rf"unknown data set '{name}'.*\b{near}\b"):
        data.load(name, likelihood="bernoulli")


def test_an_unknown_likelihood_is_refused():
    with pytest.raises(ValueError, match=r"unknown likelihood 'bernouli': did you mean bernoulli"):
        data.load("digits", likelihood="bernouli")


@pytest.mark.parametrize(
    ("name", "likelihood", "protocol", "message"),
    [
        ("digits", "bernoulli", "grey", "use dynamic or static or threshold"),
        ("digits", "bernoulli", "dynamc", "use dynamic or static or threshold"),
        ("digits", "gaussian", "dynamic", "use grey"),
        ("mnist", "bernoulli", "static", "use dynamic or threshold, or --data binarized_mnist"),
        ("binarized_mnist", "bernoulli", "dynamic", "use static, or --data mnist"),
        ("binarized_mnist", "gaussian", None, "use bernoulli"),
        ("binarized_mnist", "discretized_logistic", None, "use bernoulli"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_read(
    tmp_path, name, likelihood, protocol, message
):
    with pytest.raises(ValueError, match=f"does not fit.*{message}"):
        data.load(name, likelihood=likelihood, protocol=protocol, data_dir=tmp_path)


def test_a_bernoulli_on_the_users_grey_levels_needs_a_named_protocol(all_levels):
    with pytest.raises(ValueError, match=r"not a likelihood of the grey levels.*dynamic, static"):
        data.load(all_levels, likelihood="bernoulli")


@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_real_values_have_only_a_gaussian_likelihood(tmp_path, likelihood):
    np.save(tmp_path / "real.npy", np.random.default_rng(0).random((20, 3)))
    with pytest.raises(ValueError, match=r"real values of real\.npy: use gaussian"):
        data.load(str(tmp_path / "real.npy"), likelihood=likelihood)

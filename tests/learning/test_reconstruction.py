"""Objectives of auto-encoders: principal components, closed forms, limits that are plain."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA

from genjax_models.interfaces import Network
from genjax_models.learning import reconstruction
from genjax_models.learning.reconstruction import (
    contractive,
    denoising,
    gaussian_noise,
    masking,
    plain,
    salt_and_pepper,
    sparse,
)
from genjax_models.models.latent import auto_encoder
from genjax_models.training import gradient_descent
from tests.statistics import assert_mean, jit_once

DIMS = 3
XS = np.array([[0.9, 0.1, 0.4], [0.2, 0.8, 0.3], [0.5, 0.6, 0.9], [0.1, 0.3, 0.2], [0.7, 0.0, 0.8]])


def batch_loss(objective, params: Any, key: jax.Array, xs: Any) -> jax.Array:
    """As `training.gradient_descent` computes it."""
    keys = jax.random.split(key, len(xs))
    losses, _ = jax.vmap(objective, (None, 0, 0), axis_name="batch")(params, keys, xs)
    return jnp.mean(losses)


@functools.cache
def small(code: str = "sigmoid", code_dim: int = 2) -> tuple[Any, Any]:
    """One layer each way, and parameters of which none is zero."""
    model = auto_encoder(num_dims=DIMS, code_dim=code_dim, hidden=(), code=code)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + 0.5 * rng.normal(size=leaf.shape), jnp.float32),
        jit_once(model.init)(jax.random.key(0)),
    )
    return model, params


def weights(params: Any) -> tuple[np.ndarray, np.ndarray]:
    layer = params["encoder"]["params"]["Dense_0"]
    return np.float64(layer["kernel"]), np.float64(layer["bias"])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# --- linear: principal components


@functools.cache
def trained_linear() -> tuple[np.ndarray, Any, dict]:
    """Data of unequal variances in turned directions, and the parameters at the end of training."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    xs = rng.normal(size=(200, 6)) * [2.0, 1.5, 0.8, 0.6, 0.5, 0.4] @ turn.T + rng.normal(size=6)
    model = auto_encoder(num_dims=6, code_dim=2, hidden=())
    schedule = optax.cosine_decay_schedule(0.02, 3000)
    algorithm = gradient_descent(plain(model), optax.adam(schedule), model.init)
    batch = jnp.asarray(xs, jnp.float32)

    @jax.jit
    def train(key):
        init_key, key = jax.random.split(key)

        def step(state, index):
            return algorithm.step(state, jax.random.fold_in(key, index), batch)

        state, metrics = jax.lax.scan(step, algorithm.init(init_key), jnp.arange(3000))
        return state.params, jax.tree.map(lambda values: values[-1], metrics)

    params, metrics = train(jax.random.key(0))
    return xs, jax.tree.map(np.float64, params), metrics


def test_the_linear_auto_encoder_finds_the_principal_subspace() -> None:
    xs, params, _ = trained_linear()
    components = PCA(2).fit(xs).components_
    encoder = params["encoder"]["params"]["Dense_0"]["kernel"]
    decoder = params["decoder"]["network"]["params"]["Dense_0"]["kernel"].T
    for found in (encoder, decoder):
        assert subspace_angles(found, components.T).max() < 1e-4
    # The third direction in place of the second is far away.
    others = PCA(3).fit(xs).components_[[0, 2]]
    assert subspace_angles(decoder, others.T).max() > 1


def test_its_loss_is_that_of_the_discarded_variance() -> None:
    """||x - E[x' | c]||^2 is the sum of the other eigenvalues, and the scale is its root mean."""
    xs, params, metrics = trained_linear()
    discarded = np.linalg.eigvalsh(np.cov(xs.T, bias=True))[:4].sum()
    assert metrics["squared_error"] == pytest.approx(discarded, rel=1e-5)
    variance = np.exp(2 * params["decoder"]["observation"]["log_scale"])
    assert variance == pytest.approx(discarded / 6, rel=1e-4)
    assert metrics["loss"] == pytest.approx(3 * np.log(2 * np.pi * discarded / 6) + 3, rel=1e-5)
    projected = PCA(2).fit(xs)
    error = np.square(xs - projected.inverse_transform(projected.transform(xs))).sum(axis=1).mean()
    assert error == pytest.approx(discarded)


# --- denoising


def corrupted_moments(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and covariance of x~, and the covariance of x with x~, x uniform over `XS`."""
    mean, covariance = XS.mean(axis=0), np.cov(XS.T, bias=True)
    if name == "gaussian":
        return mean, covariance + 0.3**2 * np.eye(DIMS), covariance
    # What replaces an entry, with probability 0.25: its mean and mean square.
    first, second = {"masking": (0.0, 0.0), "salt and pepper": (0.7, 0.74)}[name]
    noisy_mean = 0.75 * mean + 0.25 * first
    noisy = 0.75**2 * covariance
    square = 0.75 * np.square(XS).mean(axis=0) + 0.25 * second
    np.fill_diagonal(noisy, square - noisy_mean**2)
    return noisy_mean, noisy, 0.75 * covariance


CORRUPTIONS = {
    "masking": masking(0.25),
    "salt and pepper": salt_and_pepper(0.25, low=0.2, high=1.2),
    "gaussian": gaussian_noise(0.3),
}


def best_affine(name: str, code_dim: int) -> tuple[Any, float]:
    """Parameters of the reduced-rank regression of x on x~, and its mean squared error."""
    mean, covariance, cross = corrupted_moments(name)
    regression = cross @ np.linalg.inv(covariance)
    _, directions = np.linalg.eigh(regression @ covariance @ regression.T)
    decoder = directions[:, -code_dim:]
    encoder = decoder.T @ regression
    offset = XS.mean(axis=0) - decoder @ encoder @ mean
    fitted = decoder @ encoder
    error = np.trace(
        np.cov(XS.T, bias=True) - 2 * fitted @ cross.T + fitted @ covariance @ fitted.T
    )
    return affine(encoder, decoder, offset, error), error


def affine(encoder, decoder, offset, error: float) -> Any:
    def dense(matrix, bias) -> Any:
        layer = {"kernel": jnp.float32(matrix.T), "bias": jnp.float32(bias)}
        return {"params": {"Dense_0": layer}}

    return {
        "encoder": dense(encoder, np.zeros(len(encoder))),
        "decoder": {
            "network": dense(decoder, offset),
            "observation": {"log_scale": jnp.float32(0.5 * np.log(error / DIMS))},
        },
    }


@functools.cache
def draws_of_denoising(name: str, code_dim: int) -> Any:
    model = auto_encoder(num_dims=DIMS, code_dim=code_dim, hidden=())
    objective = denoising(model, CORRUPTIONS[name])

    @jit_once
    def run(params, key):
        def one(key):
            x_key, key = jax.random.split(key)
            x = jnp.asarray(XS, jnp.float32)[jax.random.randint(x_key, (), 0, len(XS))]
            (loss, metrics), gradient = jax.value_and_grad(objective, has_aux=True)(params, key, x)
            return loss, metrics["squared_error"], gradient

        return jax.vmap(one)(jax.random.split(key, 40_000))

    return run


@pytest.mark.parametrize("code_dim", [2, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_best_linear_denoiser_is_the_regression_of_x_on_what_is_seen(name, code_dim) -> None:
    params, error = best_affine(name, code_dim)
    losses, errors, gradients = draws_of_denoising(name, code_dim)(params, jax.random.key(0))
    assert_mean(errors, error)
    # Some losses are negative and some positive: held against one nat.
    exact = 0.5 * DIMS * (np.log(2 * np.pi * error / DIMS) + 1)
    assert_mean(losses, exact, scale=1.0)
    zeros = jax.tree.map(np.zeros_like, jax.tree.map(lambda leaf: leaf[0], gradients))
    assert_mean(gradients, zeros, scale=1.0, resolution=0.05)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_best_plain_auto_encoder_is_not_the_best_denoiser(name: str) -> None:
    """The identity loses nothing of x itself; the test above sees that noise is another matter."""
    identity = affine(np.eye(DIMS), np.eye(DIMS), np.zeros(DIMS), best_affine(name, 3)[1])
    gradients = draws_of_denoising(name, 3)(identity, jax.random.key(0))[2]
    zeros = jax.tree.map(np.zeros_like, jax.tree.map(lambda leaf: leaf[0], gradients))
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(gradients, zeros, scale=1.0, resolution=0.5)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_have_their_moments(name: str) -> None:
    """Of one example: mean, mean square, and no correlation between entries."""
    x = jnp.asarray(XS[0], jnp.float32)
    keys = jax.random.split(jax.random.key(3), 40_000)
    drawn = np.asarray(jit_once(jax.vmap(CORRUPTIONS[name], (0, None)))(keys, x), np.float64)
    first, second = {
        "masking": (0.75 * XS[0], 0.75 * XS[0] ** 2),
        "salt and pepper": (0.75 * XS[0] + 0.25 * 0.7, 0.75 * XS[0] ** 2 + 0.25 * 0.74),
        "gaussian": (XS[0], XS[0] ** 2 + 0.09),
    }[name]
    assert_mean(drawn, first)
    assert_mean(drawn**2, second)
    pairs = (drawn - first)[:, [0, 1, 2]] * (drawn - first)[:, [1, 2, 0]]
    assert_mean(pairs, np.zeros(3), scale=0.1)


# --- the limits that are plain


LIMITS = {
    "masking": lambda model: denoising(model, masking(0.0)),
    "salt and pepper": lambda model: denoising(model, salt_and_pepper(0.0)),
    "gaussian": lambda model: denoising(model, gaussian_noise(0.0)),
    "kl": lambda model: sparse(model, weight=0.0),
    "l1": lambda model: sparse(model, weight=0.0, penalty="l1"),
    "contractive": lambda model: contractive(model, weight=0.0),
}


@pytest.mark.parametrize("name", LIMITS)
def test_without_corruption_or_penalty_it_is_plain(name: str) -> None:
    model, params = small()
    xs = jnp.asarray(XS, jnp.float32)

    def run(objective):
        return jit_once(jax.value_and_grad(functools.partial(batch_loss, objective)))(
            params, jax.random.key(0), xs
        )

    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, run(LIMITS[name](model)), run(plain(model)))


# --- penalties


@pytest.mark.parametrize("code_dim", [2, 5])
def test_the_contractive_penalty_of_a_sigmoid_layer(code_dim: int) -> None:
    """sum_j (h_j (1 - h_j))^2 ||w_j||^2: fewer codes than inputs, and more."""
    model, params = small("sigmoid", code_dim)
    kernel, bias = weights(params)
    objectives = {weight: contractive(model, weight=weight) for weight in (0.0, 0.7)}
    key, x = jax.random.key(0), jnp.asarray(XS[0], jnp.float32)
    found = {
        weight: jit_once(objective)(params, jax.random.clone(key), x)
        for weight, objective in objectives.items()
    }
    hidden = sigmoid(XS[0] @ kernel + bias)
    exact = np.sum((hidden * (1 - hidden)) ** 2 * np.square(kernel).sum(axis=0))
    assert found[0.7][1]["penalty"] == pytest.approx(exact, rel=1e-5)
    assert found[0.7][0] - found[0.0][0] == pytest.approx(0.7 * exact, rel=1e-3)


@pytest.mark.parametrize("code_dim", [2, 5])
def test_the_contractive_penalty_of_a_linear_layer_is_its_squared_norm(code_dim: int) -> None:
    """And its gradient twice the weights."""
    model, params = small("linear", code_dim)
    kernel, _ = weights(params)

    @jit_once
    @functools.partial(jax.value_and_grad)
    def penalty(params):
        x = jnp.asarray(XS[0], jnp.float32)
        return contractive(model, weight=1.0)(params, jax.random.key(0), x)[1]["penalty"]

    value, gradient = penalty(params)
    assert value == pytest.approx(np.square(kernel).sum(), rel=1e-5)
    np.testing.assert_allclose(weights(gradient)[0], 2 * kernel, rtol=1e-5)


def test_the_mode_of_the_jacobian_is_the_cheaper_one() -> None:
    """Products of the tangents with the matrix: as many as there are rows or columns, if fewer."""
    for shape in ((2, 7), (7, 2)):
        matrix = jnp.ones(shape)

        def norm(x, matrix=matrix):
            return reconstruction.squared_jacobian_norm(lambda x: jnp.sin(matrix @ x), x)

        text = str(jax.make_jaxpr(norm)(jnp.ones(shape[1])))
        assert "2,7" in text and "7,7" not in text


def sparse_by_hand(params: Any, target: float) -> tuple[float, np.ndarray]:
    kernel, bias = weights(params)
    mean = sigmoid(XS @ kernel + bias).mean(axis=0)
    terms = target * np.log(target / mean) + (1 - target) * np.log((1 - target) / (1 - mean))
    return terms.sum(), mean


@pytest.mark.parametrize("target", [0.1, 0.6])
def test_the_sparse_penalty_is_the_divergence_of_the_mean_over_the_batch(target: float) -> None:
    """Value, and gradient by central differences of the formula in numpy."""
    model, params = small()
    xs = jnp.asarray(XS, jnp.float32)

    def run(objective):
        return jit_once(jax.value_and_grad(functools.partial(batch_loss, objective)))(
            params, jax.random.key(0), xs
        )

    (with_it, gradient), (without, plain_gradient) = (
        run(sparse(model, weight=0.8, target=target)),
        run(plain(model)),
    )
    exact, _ = sparse_by_hand(params, target)
    assert with_it - without == pytest.approx(0.8 * exact, rel=1e-4)
    moved = np.zeros((DIMS, 2))
    for index in np.ndindex(DIMS, 2):
        nudged = []
        for step in (1e-5, -1e-5):
            kernel, bias = weights(params)
            kernel[index] += step
            layers = {"params": {"Dense_0": {"kernel": kernel, "bias": bias}}}
            nudged.append(sparse_by_hand({"encoder": layers}, target)[0])
        moved[index] = 0.8 * (nudged[0] - nudged[1]) / 2e-5
    found = weights(gradient)[0] - weights(plain_gradient)[0]
    np.testing.assert_allclose(found, moved, rtol=1e-3, atol=1e-5)
    assert np.abs(moved).max() > 1e-2


def test_the_sparse_penalty_vanishes_at_its_target() -> None:
    model, params = small()
    _, mean = sparse_by_hand(params, 0.5)
    kernel, bias = weights(params)
    one_unit = {"Dense_0": {"kernel": jnp.float32(kernel[:, :1]), "bias": jnp.float32(bias[:1])}}
    decoder = jax.tree.map(jnp.asarray, params["decoder"])
    decoder["network"] = {
        "params": {"Dense_0": {"kernel": jnp.zeros((1, DIMS)), "bias": jnp.zeros(DIMS)}}
    }
    model = auto_encoder(num_dims=DIMS, code_dim=1, hidden=(), code="sigmoid")
    objective = sparse(model, weight=1.0, target=float(mean[0]))
    keys = jax.random.split(jax.random.key(0), len(XS))
    _, metrics = jit_once(jax.vmap(objective, (None, 0, 0), axis_name="batch"))(
        {"encoder": {"params": one_unit}, "decoder": decoder}, keys, jnp.asarray(XS, jnp.float32)
    )
    np.testing.assert_allclose(metrics["penalty"], 0, atol=1e-6)
    np.testing.assert_allclose(np.mean(metrics["activation"]), mean[0], rtol=1e-5)


def test_l1_is_the_sum_of_absolute_codes() -> None:
    model, params = small("linear")
    kernel, bias = weights(params)
    objective = sparse(model, weight=0.3, penalty="l1")
    x = jnp.asarray(XS[1], jnp.float32)
    key = jax.random.key(0)
    loss, metrics = jit_once(objective)(params, key, x)
    exact = np.abs(XS[1] @ kernel + bias).sum()
    assert metrics["penalty"] == pytest.approx(exact, rel=1e-5)
    without, _ = jit_once(plain(model))(params, jax.random.clone(key), x)
    assert loss - without == pytest.approx(0.3 * exact, rel=1e-3)


def test_the_sparse_penalty_is_finite_where_every_code_saturates() -> None:
    """With a gradient that is finite, too."""
    identity = Network(lambda key: {"bias": jnp.zeros(2)}, lambda params, x: x + params["bias"])
    model = auto_encoder(num_dims=2, code_dim=2, code="sigmoid", encoder=identity)
    params = jit_once(model.init)(jax.random.key(0))
    xs = jnp.array([[1e4, -1e4], [1e4, -1e4]])
    objective = sparse(model, weight=1.0)
    run = jit_once(jax.value_and_grad(functools.partial(batch_loss, objective)))
    for leaf in jax.tree.leaves(run(params, jax.random.key(0), xs)):
        assert np.isfinite(leaf).all()


def test_the_sparse_penalty_says_that_it_needs_a_batch() -> None:
    model, params = small()
    with pytest.raises(ValueError, match=r"sparse\(.*\) is of a whole batch.*axis_name"):
        jax.eval_shape(sparse(model, weight=1.0), params, jax.random.key(0), XS[0])
    plain_penalty = sparse(model, weight=1.0, penalty="l1")
    jax.eval_shape(plain_penalty, params, jax.random.key(0), XS[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: masking(1.0), r"probability must be in \[0, 1\), got 1.0"),
        (lambda model: masking(-0.1), r"probability must be in \[0, 1\), got -0.1"),
        (lambda model: salt_and_pepper(1.5), r"probability must be in \[0, 1\), got 1.5"),
        (lambda model: salt_and_pepper(0.1, low=1.0), "low must be below high, got 1.0 and 1.0"),
        (lambda model: gaussian_noise(-1.0), "scale must be finite and not negative, got -1.0"),
        (lambda model: gaussian_noise(float("nan")), "scale must be finite"),
        (lambda model: sparse(model, weight=-1.0), "weight must be finite and not negative"),
        (lambda model: sparse(model, weight=1.0, penalty="l2"), "penalty must be one of"),
        (lambda model: sparse(model, weight=1.0, target=0.0), r"target must be in \(0, 1\)"),
        (lambda model: contractive(model, weight=-0.5), "weight must be finite.*got -0.5"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(small.__wrapped__)

"""The variational auto-encoder: its parts, its exact special case, its networks, its errors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.interfaces import LatentVariableModel, Network
from genjax_models.learning import log_weights, variational
from genjax_models.models.latent import vae
from genjax_models.networks import convolutional_decoder, convolutional_encoder, mlp
from genjax_models.training import gradient_descent
from tests.statistics import assert_mean, jit_once, standard_error


def affine(matrix: np.ndarray, offset: np.ndarray) -> Network:
    """A user's own network, with parameters of its own kind."""
    return Network(
        lambda key: (jnp.asarray(matrix, jnp.float32), jnp.asarray(offset, jnp.float32)),
        lambda params, inputs: params[0] @ inputs + params[1],
    )


def convolutional(shape: tuple[int, ...], likelihood: str, **options) -> LatentVariableModel:
    per_dim = 2 if likelihood == "discretized_logistic" else 1
    return vae(
        num_dims=int(np.prod(shape)),
        latent_dim=2,
        likelihood=likelihood,
        encoder=convolutional_encoder(shape, 4, features=(3, 4)),
        decoder=convolutional_decoder(2, shape, num_outputs_per_dim=per_dim, features=(4, 3)),
        **options,
    )


def test_default_is_the_network_of_the_literature() -> None:
    params = jax.eval_shape(vae().init, jax.random.key(0))
    shapes = {
        part: [layer["kernel"].shape for layer in network["params"].values()]
        for part, network in {
            "encoder": params["posterior"],
            "decoder": params["likelihood"]["network"],
        }.items()
    }
    assert shapes == {
        "encoder": [(784, 200), (200, 200), (200, 100)],
        "decoder": [(50, 200), (200, 200), (200, 784)],
    }


def test_the_decoder_has_the_hidden_layers_in_reverse() -> None:
    params = jax.eval_shape(vae(num_dims=6, latent_dim=2, hidden=(5, 4, 3)).init, jax.random.key(0))
    kernels = [
        layer["kernel"].shape for layer in params["likelihood"]["network"]["params"].values()
    ]
    assert kernels == [(2, 3), (3, 4), (4, 5), (5, 6)]


def test_the_parts_are_those_of_the_networks() -> None:
    rng = np.random.default_rng(0)
    encoder, decoder = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))
    offsets = rng.normal(size=4), rng.normal(size=3)
    model = vae(
        num_dims=3,
        latent_dim=2,
        encoder=affine(encoder, offsets[0]),
        decoder=affine(decoder, offsets[1]),
    )
    params = model.init(jax.random.key(0))
    assert set(params) == {"prior", "likelihood", "posterior"}
    x, z = np.array([1.0, 0.0, 1.0]), np.array([0.3, -0.8])
    np.testing.assert_array_equal(model.prior(params), np.zeros((2, 2)))
    outputs = encoder @ x + offsets[0]
    posterior = model.posterior(params, jnp.array(x))
    np.testing.assert_allclose(posterior.loc, outputs[:2], rtol=1e-5)
    np.testing.assert_allclose(posterior.log_scale, outputs[2:], rtol=1e-5)
    logits = model.likelihood(params, jnp.array(z)).logits
    np.testing.assert_allclose(logits, decoder @ z + offsets[1], rtol=1e-5)


def test_with_affine_networks_it_is_factor_analysis() -> None:
    """log p(x) = log N(x; b, W W' + s^2 I)."""
    rng = np.random.default_rng(1)
    loading, bias = rng.normal(size=(3, 2)), np.array([0.2, -0.4, 0.7])
    encoder = affine(rng.normal(size=(4, 3)) * 0.1, np.array([0.1, -0.1, 0.3, 0.2]))
    model = vae(
        num_dims=3,
        latent_dim=2,
        likelihood="gaussian",
        encoder=encoder,
        decoder=affine(loading, bias),
    )
    params = model.init(jax.random.key(0))
    params["likelihood"]["observation"]["log_scale"] = jnp.array(0.3)
    x = jnp.array([0.5, -0.2, 1.0])
    draw = jax.jit(log_weights, static_argnums=(0, 4))
    weights = np.exp(draw(model, params, jax.random.key(0), x, 100_000))
    covariance = loading @ loading.T + np.exp(0.6) * np.eye(3)
    exact = jax.scipy.stats.multivariate_normal.pdf(x, jnp.array(bias), jnp.array(covariance))
    assert_mean(weights, exact)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (7, 5, 3)])
@pytest.mark.parametrize("likelihood", ["bernoulli", "discretized_logistic"])
def test_convolutional_pair_on_images_of_any_shape(shape, likelihood: str) -> None:
    levels = {"num_levels": 17} if likelihood == "discretized_logistic" else {}
    model = convolutional(shape, likelihood, **levels)
    size = int(np.prod(shape))

    def run(key):
        params = model.init(key)
        x = jnp.ones(size)
        z = model.posterior(params, x).sample(seed=jax.random.clone(key))
        return z, model.likelihood(params, z).sample(seed=jax.random.clone(key))

    z, x = jax.eval_shape(run, jax.random.key(0))
    assert (z.shape, x.shape) == ((2,), (size,))


def binary(key):
    """Two patterns of eight pixels, each pixel turned over with probability 0.1."""
    pattern_key, noise_key = jax.random.split(key)
    patterns = jnp.array([[1, 1, 1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1, 0, 1]])
    pattern = patterns[jax.random.bernoulli(pattern_key, 0.3, (200,)).astype(int)]
    return jnp.logical_xor(pattern, jax.random.bernoulli(noise_key, 0.1, pattern.shape))


def grey(key):
    return jnp.round(jnp.clip(0.8 * binary(key) + 0.1, 0, 1) * 16) / 16


DATA: dict[str, Callable] = {
    "bernoulli": lambda key: binary(key).astype(jnp.float32),
    "gaussian": lambda key: grey(key) - 0.4,
    "discretized_logistic": grey,
}


@pytest.mark.parametrize(
    ("likelihood", "network"),
    [*((likelihood, "mlp") for likelihood in DATA), ("discretized_logistic", "convolutional")],
)
def test_training_raises_the_bound(likelihood: str, network: str) -> None:
    """By far more than its standard error, and beyond what independent pixels can reach."""
    options = {"num_levels": 17} if likelihood == "discretized_logistic" else {}
    if network == "convolutional":
        model = convolutional((4, 2), likelihood, **options)
    else:
        model = vae(num_dims=8, latent_dim=2, hidden=(16,), likelihood=likelihood, **options)
    xs = DATA[likelihood](jax.random.key(1))
    objective = variational(model)
    algorithm = gradient_descent(objective, optax.adam(0.02), model.init)

    @jit_once
    def train(key):
        init_key, steps_key, *bound_keys = jax.random.split(key, 4)

        def bounds(params, key):
            keys = jax.random.split(key, len(xs))
            return jax.vmap(lambda key, x: -objective(params, key, x)[0])(keys, xs)

        def step(state, key):
            return algorithm.step(state, key, xs)[0], None

        start = algorithm.init(init_key)
        state, _ = jax.lax.scan(step, start, jax.random.split(steps_key, 200))
        return bounds(start.params, bound_keys[0]), bounds(state.params, bound_keys[1])

    before, after = train(jax.random.key(2))
    rise = after - before
    assert rise.mean() > 10 * standard_error(rise)
    if likelihood == "bernoulli":
        frequency = xs.mean(axis=0)
        independent = xs * jnp.log(frequency) + (1 - xs) * jnp.log1p(-frequency)
        assert after.mean() > independent.sum(axis=1).mean() + 5 * standard_error(after)


def test_integers_are_as_good_as_floats() -> None:
    model = vae(num_dims=6, latent_dim=2, hidden=(5,))
    params = model.init(jax.random.key(0))
    loss = jax.jit(variational(model))
    x = np.array([1, 0, 0, 1, 1, 0])
    values = [
        loss(params, jax.random.key(1), x.astype(dtype))[0]
        for dtype in (np.uint8, bool, np.float32)
    ]
    np.testing.assert_allclose(values, values[-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "options"),
    [("bernoulli", {}), ("gaussian", {}), ("discretized_logistic", {"num_levels": 17})],
)
def test_bfloat16_parameters(likelihood: str, options: dict) -> None:
    """Losses are in float32, gradients in bfloat16, and both those of float32 to its rounding."""
    model = vae(num_dims=64, latent_dim=2, hidden=(8,), likelihood=likelihood, **options)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.init(jax.random.key(0)))
    x = (jnp.arange(64) % 3 == 0).astype(jnp.float32)
    estimate = jit_once(jax.value_and_grad(variational(model, num_samples=50), has_aux=True))
    (exact, _), exact_gradient = estimate(
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rounded), jax.random.key(1), x
    )
    (loss, _), gradient = estimate(rounded, jax.random.key(1), x.astype(jnp.bfloat16))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, exact, rtol=0.01)
    leaves = zip(jax.tree.leaves(gradient), jax.tree.leaves(exact_gradient), strict=True)
    for ours, float32 in leaves:
        assert ours.dtype == jnp.bfloat16
        distance = np.linalg.norm(np.asarray(ours, np.float32) - float32)
        assert distance < 0.05 * np.linalg.norm(float32) + 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": mlp(6, (5,), 5)}, r"encoder must map \[6\] to \[4\].*\(5,\)"),
        ({"decoder": mlp(2, (5,), 12)}, r"decoder must map \[2\] to \[6\].*\(12,\)"),
        (
            {"likelihood": "discretized_logistic", "num_levels": 5, "decoder": mlp(2, (5,), 6)},
            r"decoder must map \[2\] to \[12\].*\(6,\)",
        ),
        ({"decoder": (lambda key: None, lambda params, z: jnp.zeros((6, 1)))}, r"\(6, 1\)"),
        ({"decoder": (lambda key: None, lambda params, z: (z, z))}, "decoder must map"),
    ],
)
def test_networks_of_the_wrong_shape_are_refused(options: dict, message: str) -> None:
    model = vae(num_dims=6, latent_dim=2, **options)
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0))


@pytest.mark.parametrize(
    "options",
    [
        {"num_dims": 0},
        {"latent_dim": 0},
        {"latent_dim": -1},
        {"hidden": (5, 0)},
        {"likelihood": "poisson"},
        {"likelihood": "discretized_logistic"},
        {"num_levels": 17},
    ],
)
def test_settings_that_are_refused(options: dict) -> None:
    name = "num_levels" if "discretized_logistic" in options.values() else next(iter(options))
    with pytest.raises(ValueError, match=name):
        vae(**options)

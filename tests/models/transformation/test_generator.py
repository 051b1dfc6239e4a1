"""The generator and the critic: parts, a case with a known law, networks, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.interfaces import Network
from genjax_models.models.transformation import critic, generator
from genjax_models.networks import convolutional_decoder, convolutional_encoder, mlp
from tests.statistics import assert_mean, jit_once

LOADING = np.array([[2.0, 0.3], [-1.0, 0.8], [0.5, -1.2]])
OFFSET = np.array([0.4, -0.2, 1.0])


def affine(matrix: np.ndarray, offset: np.ndarray) -> Network:
    return Network(
        lambda key: (jnp.asarray(matrix, jnp.float32), jnp.asarray(offset, jnp.float32)),
        lambda params, inputs: params[0] @ inputs + params[1],
    )


def draw(model, params, num_samples: int):
    keys = jax.random.split(jax.random.key(1), num_samples)
    return jit_once(jax.vmap(lambda key: model.sample(params, key)))(keys)


def test_an_affine_network_makes_a_gaussian() -> None:
    """x = W z + b has mean b and covariance W W'; both moments and a fourth one."""
    model = generator(num_dims=3, noise_dim=2, network=affine(LOADING, OFFSET))
    x = np.asarray(draw(model, model.init(jax.random.key(0)), 200_000), np.float64)
    assert_mean(x, OFFSET)
    centred = x - OFFSET
    covariance = LOADING @ LOADING.T
    assert_mean(centred[:, :, None] * centred[:, None], covariance)
    assert_mean(centred**4, 3 * np.diag(covariance) ** 2, resolution=0.05)


@pytest.mark.parametrize(
    ("output", "function"),
    [
        ("linear", lambda a: a),
        ("sigmoid", lambda a: 1 / (1 + np.exp(-a))),
        ("tanh", np.tanh),
    ],
)
def test_the_output_follows_the_network(output: str, function) -> None:
    network = affine(LOADING, OFFSET)
    linear, model = (
        generator(num_dims=3, noise_dim=2, output=name, network=network)
        for name in ("linear", output)
    )
    params = model.init(jax.random.key(0))
    values = draw(linear, params, 5)
    np.testing.assert_allclose(draw(model, params, 5), function(values), rtol=1e-5)


def test_the_layers_are_those_of_the_settings() -> None:
    params = jax.eval_shape(
        generator(num_dims=6, noise_dim=2, hidden=(5, 4)).init, jax.random.key(0)
    )
    kernels = [layer["kernel"].shape for layer in params["params"].values()]
    assert kernels == [(2, 5), (5, 4), (4, 6)]
    params = jax.eval_shape(critic(num_dims=6, hidden=(5, 4)).init, jax.random.key(0))
    kernels = [layer["kernel"].shape for layer in params["params"].values()]
    assert kernels == [(6, 5), (5, 4), (4, 1)]


def test_the_critic_is_its_network_with_leaky_units() -> None:
    network = critic(num_dims=3, hidden=(4,))
    params = network.init(jax.random.key(0))
    x = np.array([0.3, -1.2, 0.8], np.float32)
    first, last = params["params"].values()
    hidden = x @ np.asarray(first["kernel"]) + np.asarray(first["bias"])
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    logit = network.apply(params, x)
    assert logit.shape == ()
    np.testing.assert_allclose(logit, hidden @ np.asarray(last["kernel"])[:, 0], rtol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (7, 5, 3)])
def test_convolutional_players_on_images_of_any_shape(shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape))
    model = generator(
        num_dims=size,
        noise_dim=3,
        output="sigmoid",
        network=convolutional_decoder(3, shape, features=(4, 3)),
    )
    judge = critic(num_dims=size, network=convolutional_encoder(shape, 1, features=(3, 4)))

    def run(key):
        keys = jax.random.split(key, 3)
        x = model.sample(model.init(keys[0]), keys[1])
        return x, judge.apply(judge.init(keys[2]), x)

    x, logit = jax.eval_shape(run, jax.random.key(0))
    assert (x.shape, logit.shape) == ((size,), ())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generator(num_dims=6, noise_dim=2, network=mlp(2, (5,), 7)), r"\[2\] to \[6\]"),
        (lambda: critic(num_dims=6, network=mlp(6, (5,), 2)), r"\[6\] to \[1\].*\(2,\)"),
        (
            lambda: critic(num_dims=6, network=(lambda key: None, lambda params, x: x[0])),
            r"critic must map \[6\] to \[1\].*\(\)",
        ),
    ],
)
def test_networks_of_the_wrong_shape_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make().init(jax.random.key(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: generator(num_dims=0), "num_dims must be at least 1"),
        (lambda: generator(noise_dim=0), "noise_dim must be at least 1"),
        (lambda: generator(hidden=(3, 0)), "hidden must be at least 1"),
        (lambda: generator(output="relu"), "output must be one of .*got 'relu'"),
        (lambda: critic(num_dims=-1), "num_dims must be at least 1"),
        (lambda: critic(hidden=(0,)), "hidden must be at least 1"),
    ],
)
def test_settings_that_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()

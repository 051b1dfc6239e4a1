"""Difference target propagation: linear nets in closed form, what learns from what, errors."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.interfaces import Network
from genjax_models.learning import difference_target_propagation, layered_network
from genjax_models.networks import mlp
from tests.statistics import assert_mean, jit_once


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


X, Y = normal(0, 4), normal(1, 3)


def linear(matrix: np.ndarray, function=lambda h: h) -> Network:
    """h -> function(W h), W its only parameter."""
    return Network(
        lambda key: jnp.asarray(matrix, jnp.float32), lambda params, h: function(params @ h)
    )


def squared_error(outputs: jax.Array, x: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum((outputs - jnp.asarray(Y, outputs.dtype)) ** 2)


def orthogonal(seed: int) -> np.ndarray:
    return np.linalg.qr(normal(seed, 4, 4))[0]


def gradients(matrices, inverses, function=None, **settings) -> tuple[Any, Any]:
    """Backprop's and target propagation's, of the layers' matrices."""
    function = function or (lambda h: h)
    layers = [linear(matrix, function) for matrix in matrices[:-1]] + [linear(matrices[-1])]
    network = layered_network(layers, [linear(matrix) for matrix in inverses])
    objective = difference_target_propagation(network, squared_error, **settings)

    @jit_once
    def run(key):
        init_key, key = jax.random.split(key)
        params = network.init(init_key)
        x = jnp.asarray(X, jnp.float32)
        backprop = jax.grad(lambda params: squared_error(network.apply(params, x), x))(params)
        (value, _), ours = jax.value_and_grad(objective, has_aux=True)(params, key, x)
        return value, squared_error(network.apply(params, x), x), backprop, ours

    value, loss, backprop, ours = run(jax.random.key(0))
    assert value == pytest.approx(float(loss), rel=1e-6)
    return backprop["layers"], ours["layers"]


def square_net() -> list[np.ndarray]:
    """Three layers of 4 x 4 that are no rotations, and 3 outputs."""
    return [*(normal(seed, 4, 4) + 2 * np.eye(4) for seed in (2, 3, 4)), normal(5, 3, 4)]


@pytest.mark.parametrize("step_size", [0.01, 0.5])
def test_with_orthogonal_layers_the_gradient_is_that_of_backprop(step_size: float) -> None:
    matrices = [orthogonal(22), orthogonal(23), orthogonal(24), normal(11, 3, 4)]
    inverses = [matrix.T for matrix in matrices[1:3]]
    backprop, ours = gradients(matrices, inverses, step_size=step_size)
    for exact, found in zip(backprop, ours, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-4)
        assert np.abs(exact).max() > 0.1


def test_with_exact_inverses_a_layer_takes_a_step_of_gauss_and_newton() -> None:
    """(J'J)^-1 times the gradient of backprop, J the product of the layers above but the last."""
    matrices = square_net()
    backprop, ours = gradients(matrices, [np.linalg.inv(matrix) for matrix in matrices[1:3]])
    jacobians = [matrices[2] @ matrices[1], matrices[2], np.eye(4)]
    for exact, found, jacobian in zip(backprop[:3], ours[:3], jacobians, strict=True):
        expected = np.linalg.solve(jacobian.T @ jacobian, np.asarray(exact, np.float64))
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)
    np.testing.assert_allclose(ours[3], backprop[3], rtol=1e-4)
    # Which is not the gradient itself, but goes down.
    cosines = [
        np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(backprop, ours, strict=True)
    ]
    assert all(cosine > 0 for cosine in cosines) and min(cosines) < 0.9


def test_with_a_pseudo_inverse_it_is_the_least_change_that_reaches_the_target() -> None:
    """A layer from 4 to 2: t_1 - h_1 = W^+ (t_2 - h_2), the shortest one with W d = t_2 - h_2."""
    wide, first, last = normal(12, 2, 4), normal(13, 4, 4), normal(14, 3, 2)
    backprop, ours = gradients([first, wide, last], [np.linalg.pinv(wide)])
    outer = np.asarray(backprop[1], np.float64)  # (dL/dh_2) h_1'
    h_1 = first @ X
    delta_2 = outer @ h_1 / (h_1 @ h_1)
    np.testing.assert_allclose(ours[0], np.outer(np.linalg.pinv(wide) @ delta_2, X), rtol=1e-3)
    np.testing.assert_allclose(ours[1], backprop[1], rtol=1e-4)


def test_a_small_step_in_a_nonlinear_net_is_the_chain_of_the_inverses_derivatives() -> None:
    """Inverses that are exact: the layers tanh(W h), g(h) = W^-1 artanh(h)."""
    matrices = [0.4 * orthogonal(25), 0.5 * square_net()[0] / 3, normal(15, 3, 4)]
    layers = [linear(matrices[0], jnp.tanh), linear(matrices[1], jnp.tanh), linear(matrices[2])]
    inverse = Network(
        lambda key: jnp.asarray(np.linalg.inv(matrices[1]), jnp.float32),
        lambda params, h: params @ jnp.arctanh(h),
    )
    network = layered_network(layers, [inverse])
    objective = difference_target_propagation(network, squared_error, step_size=1e-2)

    @jit_once
    def run(key):
        init_key, key = jax.random.split(key)
        params = network.init(init_key)
        return jax.grad(objective, has_aux=True)(params, key, jnp.asarray(X, jnp.float32))[0]

    found = run(jax.random.key(0))["layers"][0]
    h_1 = np.tanh(matrices[0] @ X)
    h_2 = np.tanh(matrices[1] @ h_1)
    delta_2 = matrices[2].T @ (matrices[2] @ h_2 - Y)
    delta_1 = np.linalg.solve(matrices[1], delta_2 / (1 - h_2**2))
    exact = np.outer(delta_1 * (1 - h_1**2), X)
    np.testing.assert_allclose(found, exact, rtol=0.05, atol=0.05 * np.abs(exact).max())


def test_without_the_difference_a_poor_inverse_moves_what_has_nothing_to_learn() -> None:
    """At zero loss the targets are the states; plain target propagation pulls towards g(h)."""
    matrices = [orthogonal(26), orthogonal(27), normal(16, 3, 4)]
    reached = matrices[2] @ matrices[1] @ matrices[0] @ X

    def of_layers(difference: bool) -> Any:
        def zero_loss(outputs: jax.Array, x: jax.Array) -> jax.Array:
            return 0.5 * jnp.sum((outputs - jnp.asarray(reached, outputs.dtype)) ** 2)

        network = layered_network(
            [linear(matrix) for matrix in matrices], [linear(0.9 * matrices[1].T)]
        )
        objective = difference_target_propagation(network, zero_loss, difference=difference)

        @jit_once
        def run(key):
            init_key, key = jax.random.split(key)
            x = jnp.asarray(X, jnp.float32)
            return jax.grad(objective, has_aux=True)(network.init(init_key), key, x)[0]["layers"]

        return run(jax.random.key(0))

    for leaf in of_layers(True):
        np.testing.assert_allclose(leaf, 0, atol=1e-4)
    # t_1 - h_1 = -0.1 h_1, over the step size of 0.1.
    plain = of_layers(False)
    np.testing.assert_allclose(plain[0], np.outer(matrices[0] @ X, X), rtol=1e-3, atol=1e-4)


def test_without_the_difference_the_oracle_of_orthogonal_layers_fails() -> None:
    matrices = [orthogonal(28), orthogonal(29), normal(17, 3, 4)]
    poor = [matrices[1].T + 0.05 * normal(18, 4, 4)]
    backprop, ours = gradients(matrices, poor, step_size=0.01)
    _, plain = gradients(matrices, poor, step_size=0.01, difference=False)
    scale = np.abs(backprop[0]).max()
    assert np.abs(ours[0] - backprop[0]).max() < 0.3 * scale
    assert np.abs(plain[0] - backprop[0]).max() > scale


def tanh_layer(num_inputs: int, num_outputs: int) -> Network:
    network = mlp(num_inputs, (), num_outputs)
    return Network(network.init, lambda params, h: jnp.tanh(network.apply(params, h)))


def test_each_network_learns_from_its_own_loss_alone() -> None:
    """The gradient, by hand: local losses with everything else held fixed."""
    layers = [tanh_layer(4, 5), tanh_layer(5, 6), tanh_layer(6, 5), mlp(5, (), 3)]
    inverses = [tanh_layer(6, 5), tanh_layer(5, 6)]
    network = layered_network(layers, inverses)
    objective = difference_target_propagation(
        network, squared_error, step_size=0.2, noise_scale=0.0
    )
    f = [layer.apply for layer in layers]
    g = [inverse.apply for inverse in inverses]

    def half(a, b):
        return 0.5 * jnp.sum((a - b) ** 2)

    @jit_once
    def run(key):
        init_key, key = jax.random.split(key)
        params = network.init(init_key)
        x = jnp.asarray(X, jnp.float32)
        (_, metrics), found = jax.value_and_grad(objective, has_aux=True)(params, key, x)
        w, v = params["layers"], params["inverses"]
        h_1 = f[0](w[0], x)
        h_2 = f[1](w[1], h_1)
        h_3 = f[2](w[2], h_2)
        t_3 = h_3 - 0.2 * jax.grad(lambda h: squared_error(f[3](w[3], h), x))(h_3)
        t_2 = g[1](v[1], t_3) - g[1](v[1], h_3) + h_2
        t_1 = g[0](v[0], t_2) - g[0](v[0], h_2) + h_1
        grad = jax.grad
        by_hand = {
            "layers": [
                grad(lambda p: half(f[0](p, x), t_1) / 0.2)(w[0]),
                grad(lambda p: half(f[1](p, h_1), t_2) / 0.2)(w[1]),
                grad(lambda p: half(f[2](p, h_2), t_3) / 0.2)(w[2]),
                grad(lambda p: squared_error(f[3](p, h_3), x))(w[3]),
            ],
            "inverses": [
                grad(lambda p: half(g[0](p, h_2), h_1))(v[0]),
                grad(lambda p: half(g[1](p, h_3), h_2))(v[1]),
            ],
        }
        losses = {
            "layer_loss": half(h_1, t_1) + half(h_2, t_2) + half(h_3, t_3),
            "inverse_loss": half(g[0](v[0], h_2), h_1) + half(g[1](v[1], h_3), h_2),
        }
        return (found, metrics), (by_hand, losses)

    found, by_hand = run(jax.random.key(0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, by_hand
    )
    for path, leaf in jax.tree.leaves_with_path(found[0]):
        assert np.abs(leaf).max() > 1e-4, path


def test_the_inverses_learn_at_the_noise() -> None:
    """E ||V W (h + e) - (h + e)||^2 / 2 = (||A h||^2 + s^2 ||A||_F^2) / 2, A = V W - 1."""
    matrices, back = square_net()[1:], normal(19, 4, 4)
    network = layered_network([linear(matrix) for matrix in matrices], [linear(back)])
    objective = difference_target_propagation(network, squared_error, noise_scale=0.3)
    params = jit_once(network.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 20_000)
    draws = jit_once(
        jax.vmap(lambda key: objective(params, key, jnp.asarray(X, jnp.float32))[1]["inverse_loss"])
    )(keys)
    residual = back @ matrices[1] - np.eye(4)
    exact = np.square(residual @ matrices[0] @ X).sum() + 0.09 * np.square(residual).sum()
    assert_mean(draws, 0.5 * exact)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layered_network([mlp(2, (), 2)], []), "layers must be at least 2, got 1"),
        (
            lambda: layered_network([mlp(2, (), 2)] * 3, []),
            "inverses must be of all layers but the first and the last, 1 of them, got 0",
        ),
        (lambda: objective_of(step_size=0.0), "step_size must be finite and above zero, got 0.0"),
        (lambda: objective_of(noise_scale=-0.1), "noise_scale must be finite and not negative"),
    ],
)
def test_bad_input_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def objective_of(**settings: float) -> Any:
    network = layered_network([mlp(2, (), 2)] * 2, [])
    return difference_target_propagation(network, squared_error, **settings)


def test_an_inverse_of_another_shape_is_refused() -> None:
    network = layered_network([mlp(4, (), 5), mlp(5, (), 6), mlp(6, (), 3)], [mlp(6, (), 4)])
    objective = difference_target_propagation(network, squared_error)

    def run(key):
        init_key, key = jax.random.split(key)
        return objective(network.init(init_key), key, jnp.zeros(4))

    with pytest.raises(ValueError, match=r"inverses\[0\] must map \(6,\) to \(5,\)"):
        jax.eval_shape(run, jax.random.key(0))


def test_two_layers_need_no_inverses_and_are_backprop() -> None:
    matrices = [normal(20, 4, 4), normal(21, 3, 4)]
    backprop, ours = gradients(matrices, [], function=jnp.tanh)
    for exact, found in zip(backprop, ours, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-3, atol=1e-5)

"""The leapfrog integrator: exact solutions, volume, reversal, order of the error, pytrees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.kernels import leapfrog
from tests.statistics import assert_mean, jit_once

MASS = jnp.array([0.5, 2.0])
POSITION, MOMENTUM = jnp.array([0.7, -0.4]), jnp.array([-0.3, 1.1])


def log_density(z: jax.Array) -> jax.Array:
    """Not Gaussian, and not symmetric."""
    return -jnp.log(jnp.cosh(z[0] - 0.3)) - 0.25 * (z[1] - z[0] ** 2) ** 2 - 0.1 * jnp.sum(z**4)


def energy(z: jax.Array, v: jax.Array) -> jax.Array:
    return 0.5 * jnp.sum(v**2 / MASS) - log_density(z)


@functools.partial(jax.jit, static_argnames="num_steps")
def move(z, v, step_size=0.2, num_steps=5):
    return leapfrog(log_density, z, v, step_size=step_size, mass=MASS, num_steps=num_steps)


def test_one_step_by_hand() -> None:
    z, v = move(POSITION, MOMENTUM, 0.2, num_steps=1)
    half = MOMENTUM + 0.1 * jax.grad(log_density)(POSITION)
    expected = POSITION + 0.2 * half / MASS
    np.testing.assert_allclose(z, expected, rtol=1e-6)
    np.testing.assert_allclose(v, half + 0.1 * jax.grad(log_density)(expected), rtol=1e-5)


def test_steps_follow_each_other() -> None:
    state = POSITION, MOMENTUM
    for _ in range(5):
        state = move(*state, num_steps=1)
    for ours, exact in zip(move(POSITION, MOMENTUM), state, strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-5)


def test_volume_is_preserved() -> None:
    def both(joint):
        return jnp.concatenate(move(joint[:2], joint[2:]))

    points = jax.random.normal(jax.random.key(0), (20, 4))
    jacobians = jit_once(jax.vmap(jax.jacfwd(both)))(points)
    np.testing.assert_allclose(np.linalg.det(jacobians), 1, rtol=1e-4)
    assert np.std(jacobians, axis=0).max() > 0.1


def test_it_goes_back_where_it_came_from() -> None:
    z, v = move(POSITION, MOMENTUM)
    assert np.abs(z - POSITION).max() > 0.3
    back, momentum = move(z, -v)
    np.testing.assert_allclose(back, POSITION, atol=1e-5)
    np.testing.assert_allclose(momentum, -MOMENTUM, atol=1e-5)


def test_the_error_of_the_energy_is_of_second_order() -> None:
    """Over one unit of time, from twenty points; a quarter of it for half the step."""
    points = jax.random.normal(jax.random.key(1), (20, 2, 2))

    def error(num_steps, point):
        moved = move(*point, 1 / num_steps, num_steps=num_steps)
        return jnp.abs(energy(*moved) - energy(*point))

    coarse, fine = (
        np.mean(jit_once(jax.vmap(functools.partial(error, n)))(points)) for n in (10, 20)
    )
    assert coarse > 1e-3
    np.testing.assert_allclose(coarse / fine, 4, rtol=0.1)


def test_a_circle_is_followed_exactly_in_the_limit() -> None:
    """Harmonic oscillator of frequency w = 1 / (s sqrt(m)): z(t) = z cos wt + v sin wt / (m w)."""
    scale, mass, time = 0.7, 2.5, 1.3
    z, v = leapfrog(
        lambda z: -0.5 * jnp.sum(z / scale * (z / scale)),
        jnp.array([0.4]),
        jnp.array([-0.9]),
        step_size=time / 1000,
        mass=mass,
        num_steps=1000,
    )
    w = 1 / (scale * mass**0.5)
    np.testing.assert_allclose(
        z, [0.4 * np.cos(w * time) - 0.9 * np.sin(w * time) / (mass * w)], rtol=1e-4
    )
    np.testing.assert_allclose(
        v, [-0.9 * np.cos(w * time) - 0.4 * mass * w * np.sin(w * time)], rtol=1e-4
    )


def test_exact_dynamics_leave_the_target_invariant() -> None:
    """z ~ N(m, s^2) and v ~ N(0, M) stay so under many small steps."""
    loc, scale, mass = jnp.array([0.5, -1.0]), jnp.array([0.6, 1.5]), jnp.array([2.0, 0.4])

    def draw(key):
        z_key, v_key = jax.random.split(key)
        z = loc + scale * jax.random.normal(z_key, (2,))
        v = jnp.sqrt(mass) * jax.random.normal(v_key, (2,))
        moved, momentum = leapfrog(
            lambda z: -0.5 * jnp.sum(((z - loc) / scale) ** 2),
            z,
            v,
            step_size=0.05,
            mass=mass,
            num_steps=30,
        )
        change = jnp.abs(moved - z)
        return jnp.stack([moved, moved**2, momentum, momentum**2, moved * momentum]), change

    found, change = jit_once(jax.vmap(draw))(jax.random.split(jax.random.key(0), 40_000))
    zeros = jnp.zeros(2)
    exact = jnp.stack([loc, loc**2 + scale**2, zeros, mass, zeros])
    # Left over: the error of the integrator, of order (step / period)^2.
    assert_mean(found, exact, floor=2e-3)
    assert change.mean(axis=0).min() > 0.3


def test_pytrees_are_moved_leaf_by_leaf() -> None:
    def of_tree(tree):
        return log_density(jnp.stack([tree["a"][0], tree["b"]]))

    position = {"a": POSITION[:1], "b": POSITION[1]}
    momentum = {"a": MOMENTUM[:1], "b": MOMENTUM[1]}
    mass = {"a": MASS[:1], "b": MASS[1]}
    z, v = leapfrog(of_tree, position, momentum, step_size=0.2, mass=mass, num_steps=5)
    exact = move(POSITION, MOMENTUM)
    for tree, vector in zip((z, v), exact, strict=True):
        np.testing.assert_allclose(jnp.append(tree["a"], tree["b"]), vector, rtol=1e-5)


@pytest.mark.parametrize("num_steps", [0, -3, 2.5])
def test_less_than_one_step_is_refused(num_steps) -> None:
    with pytest.raises(ValueError, match="num_steps must be an integer >= 1"):
        leapfrog(log_density, POSITION, MOMENTUM, step_size=0.1, num_steps=num_steps)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="momentum"):
        leapfrog(log_density, POSITION, jnp.zeros(3), step_size=0.1)
    with pytest.raises(ValueError, match="mass"):
        leapfrog(log_density, POSITION, MOMENTUM, step_size=0.1, mass={"a": MASS})

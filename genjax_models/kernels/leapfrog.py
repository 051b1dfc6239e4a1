"""The leapfrog integrator of Hamiltonian dynamics."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, PyTree


def leapfrog(
    log_density: Callable[[PyTree], Array],
    position: PyTree,
    momentum: PyTree,
    *,
    step_size: float | Array,
    mass: PyTree = 1.0,
    num_steps: int = 1,
) -> tuple[PyTree, PyTree]:
    """Follow dz/dt = M^-1 v, dv/dt = grad log p(z) for `num_steps` steps of size e.

        v <- v + (e / 2) grad log p(z),   z <- z + e M^-1 v,   v <- v + (e / 2) grad log p(z)

    The map (z, v) -> (z', v') preserves volume and is its own inverse once v is negated; it
    changes the energy -log p(z) + v' M^-1 v / 2 by O(e^2). Differentiable in everything but the
    number of steps.

    Args:
        log_density: `log_density(z) -> []`, up to a constant.
        position: z, a pytree of floating-point arrays.
        momentum: v, of the same structure and shapes.
        step_size: e, a scalar.
        mass: the diagonal of M, a pytree of the same structure, or one number for all.
        num_steps: steps, at least one; num_steps + 1 gradients are computed.

    Returns:
        Position and momentum after the last step.

    Raises:
        ValueError: less than one step, or position, momentum and mass of different structure or
            shapes.

    Source: Neal 2011 (MCMC using Hamiltonian dynamics), section 2.3.
    """
    if not hasattr(num_steps, "__index__") or num_steps < 1:
        raise ValueError(f"num_steps must be an integer >= 1, got {num_steps!r}")
    masses = mass
    if jax.tree_util.all_leaves([mass]) and jnp.shape(mass) == ():
        masses = jax.tree.map(lambda leaf: jnp.broadcast_to(mass, jnp.shape(leaf)), position)
    _check_alike(position, momentum=momentum, mass=masses)
    gradient = jax.grad(log_density)

    def kick(v: PyTree, force: PyTree) -> PyTree:
        return jax.tree.map(lambda v, f: (v + 0.5 * step_size * f).astype(v.dtype), v, force)

    def drift(z: PyTree, v: PyTree) -> PyTree:
        move = lambda z, v, m: (z + step_size * v / m).astype(z.dtype)  # noqa: E731
        return jax.tree.map(move, z, v, masses)

    def step(state: tuple, _: None) -> tuple[tuple, None]:
        z, v, force = state
        v = kick(v, force)
        z = drift(z, v)
        force = gradient(z)
        return (z, kick(v, force), force), None

    position, momentum = jax.tree.map(jnp.asarray, (position, momentum))
    start = position, momentum, gradient(position)
    (position, momentum, _), _ = jax.lax.scan(step, start, length=num_steps)
    return position, momentum


def _check_alike(position: PyTree, **others: PyTree) -> None:
    """Raise a `ValueError` that names the first that differs in structure or shapes."""
    describe = lambda tree: jax.tree.map(jnp.shape, tree)  # noqa: E731
    for name, other in others.items():
        if describe(other) != describe(position):
            raise ValueError(
                f"{name} must have the structure and shapes of position, {describe(position)}, got"
                f" {describe(other)}"
            )

"""Certificates of many estimators at once (one compilation), and exact gradients to hold them to.

Expectations are written down anew: Gauss-Hermite quadrature, enumeration or a fine grid; their
gradients are those of `jax.grad`.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.evaluation import GradientCertificate, certify_gradient
from genjax_models.learning.gradients import (
    GradientEstimator,
    per_sample_gradients,
    surrogate_loss,
)
from tests.statistics import jit_once

Array = jax.Array
Replicate = Callable[[Array], Any]
LOGITS = np.array([0.4, -0.9, 1.3])
COEFFICIENTS = (1.0, -0.6, 0.8)
WEIGHTS = np.array(COEFFICIENTS)


def form(b: Array, weights: Any = COEFFICIENTS) -> Array:
    """Of three binary variables, with interactions: not symmetric in its arguments."""
    product = weights[0] * b[0] + weights[1] * b[1] + weights[2] * b[2]
    return jnp.square(product - 0.3) + b[0] * b[2] + jnp.sin(b[1])


def estimate(
    estimator: GradientEstimator, params: Any, num_samples: int = 2, state: Any = ()
) -> Replicate:
    """One replicate of an estimator: the mean of its per-sample gradients."""

    def replicate(key: Array) -> Any:
        found = per_sample_gradients(estimator, params, key, num_samples, state=state)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), found)

    return replicate


def closed(
    make: Callable[..., GradientEstimator],
    distribution: Callable[[Any], Any],
    cost: Callable[[Any, Any], Array],
    params: Any,
    num_samples: int = 2,
    state: Any = None,
) -> Replicate:
    """One replicate, as a training loop has it: the gradient of a loss whose f holds parameters."""

    def loss(params: Any, key: Array) -> Array:
        estimator = make(distribution, lambda x: cost(params, x))
        start = initial(estimator, params) if state is None else state
        return surrogate_loss(estimator, params, key, num_samples, state=start)

    return lambda key: jax.grad(loss)(params, key)


def initial(estimator: GradientEstimator, params: Any) -> Any:
    """The state that an estimator starts with."""
    return estimator.init(params, jax.random.key(7))


def gradients(
    estimator: GradientEstimator, params: Any, num_samples: int, state: Any = (), seed: int = 0
) -> Any:
    """Per-sample gradients of one draw, compiled as a whole."""

    @jit_once
    def found(params: Any, key: Array) -> Any:
        return per_sample_gradients(estimator, params, key, num_samples, state=state)

    return found(params, jax.random.key(seed))


def exact_gradient(expectation: Callable[[Any], Array], params: Any) -> Any:
    """The gradient of an expectation, compiled as a whole."""
    return jit_once(jax.grad(expectation))(params)


def certify(
    replicates: dict[str, Replicate],
    exact: Any,
    *,
    each: bool = False,
    resolution: float = 0.01,
    max_replicates: int = 400_000,
    seed: int = 0,
) -> GradientCertificate:
    """One certificate for all; they see the same random numbers.

    `exact` is the gradient that all of them estimate, or that of `each` by its name.
    """

    def combined(key: Array) -> dict[str, Any]:
        return {name: one(jax.random.clone(key)) for name, one in replicates.items()}

    return certify_gradient(
        combined,
        exact if each else dict.fromkeys(replicates, exact),
        jax.random.key(seed),
        resolution=resolution,
        batch_size=1000,
        chunk_size=10_000,
        max_replicates=max_replicates,
    )


def largest_z(found: GradientCertificate) -> dict[str, float]:
    """The largest |z| of each estimator."""
    return {
        name: max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
        for name, tree in found.z_score.items()
    }


def assert_unbiased(replicates: dict[str, Replicate], exact: Any, **settings: Any) -> Any:
    """Every estimator is certified unbiased; returns the certificate."""
    found = certify(replicates, exact, **settings)
    assert found.is_unbiased, (
        found.verdict,
        found.detectable_bias,
        found.threshold,
        largest_z(found),
    )
    return found


def assert_biased(replicates: dict[str, Replicate], exact: Any, **settings: Any) -> Any:
    """Every estimator by itself is rejected; returns the certificate."""
    found = certify(replicates, exact, **settings)
    scores = largest_z(found)
    assert min(scores.values()) > found.threshold, (found.threshold, scores)
    return found


def gaussian_expectation(function: Callable[[Array], Array], loc: Array, scale: Array) -> Array:
    """E f(x), x ~ N(loc, scale^2), by Gauss-Hermite quadrature with 80 nodes."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()
    return jnp.sum(weights * jax.vmap(function)(loc + scale * nodes))


def grid_expectation(
    function: Callable[[Array], Array], log_prob: Callable[[Array], Array], low: float, high: float
) -> Array:
    """E f(x) for a density on (low, high), by a fine Gauss-Legendre rule."""
    nodes, weights = _legendre(400)
    x = low + (high - low) * (nodes + 1) / 2
    density = jnp.exp(jax.vmap(log_prob)(x))
    return jnp.sum(weights * (high - low) / 2 * density * jax.vmap(function)(x))


@functools.cache
def _legendre(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(num_nodes)


def binary_expectation(function: Callable[[Array], Array], logits: Array) -> Array:
    """E f(b) for independent binary variables, by enumeration."""
    values = np.array(list(itertools.product([0.0, 1.0], repeat=logits.size)))
    masses = jnp.prod(jax.nn.sigmoid((2 * values - 1) * logits), axis=1)
    return jnp.sum(masses * jax.vmap(function)(jnp.asarray(values)))


def categorical_expectation(function: Callable[[Array], Array], logits: Array) -> Array:
    """E f(k) for independent indices with logits [D, K], by enumeration."""
    num_dims, num_values = logits.shape
    values = np.array(list(itertools.product(range(num_values), repeat=num_dims)))
    log_masses = jax.nn.log_softmax(logits)
    masses = jnp.exp(log_masses[np.arange(num_dims), values].sum(axis=1))
    return jnp.sum(masses * jax.vmap(function)(jnp.asarray(values)))

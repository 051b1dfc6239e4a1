"""What f closes over is differentiated too: the bound of a two-layer belief net, enumerated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import Bernoulli
from genjax_models.learning import gradients as library
from tests.learning.gradients.certify import (
    assert_unbiased,
    binary_expectation,
    exact_gradient,
)

X = jnp.array([1.0, 0.0])


@functools.cache
def params():
    rng = np.random.default_rng(3)
    shapes = {"q1": (2, 2), "q2": (2, 2), "top": (2,), "p1": (2, 2), "p0": (2, 2)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def first_posterior(params):
    return Bernoulli(params["q1"] @ X + 0.2)


def free_energy(params, b1, b2):
    """log p(b2) p(b1 | b2) p(x | b1) - log q(b1 | x) q(b2 | b1)."""
    model = Bernoulli(params["top"]).log_prob(b2)
    model += Bernoulli(params["p1"] @ b2 - 0.1).log_prob(b1)
    model += Bernoulli(params["p0"] @ b1 + 0.3).log_prob(X)
    posterior = first_posterior(params).log_prob(b1)
    return model - posterior - Bernoulli(params["q2"] @ b1).log_prob(b2)


def exact():
    def bound(params):
        def first(b1):
            return binary_expectation(lambda b2: free_energy(params, b1, b2), params["q2"] @ b1)

        return binary_expectation(first, params["q1"] @ X + 0.2)

    return exact_gradient(bound, params())


def test_an_estimator_for_each_layer() -> None:
    """The inner surrogate is the outer one's f; the other closures are in test_discrete."""

    def loss(params, key):
        inner_key, outer_key = jax.random.split(key)

        def given_first(b1):
            inner = library.arm(
                lambda params: Bernoulli(params["q2"] @ b1), lambda b2: free_energy(params, b1, b2)
            )
            # The same noise for every b1 that the outer estimator tries.
            return library.surrogate_loss(inner, params, jax.random.clone(inner_key), 2)

        outer = library.rloo(first_posterior, given_first)
        return library.surrogate_loss(outer, params, outer_key, 2)

    replicate = lambda key: jax.grad(loss)(params(), key)  # noqa: E731
    assert_unbiased({"arm in rloo": replicate}, exact(), resolution=0.02)

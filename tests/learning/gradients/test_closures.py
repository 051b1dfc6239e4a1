"""What f closes over is differentiated too: the bound of a two-layer belief net, enumerated."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import Bernoulli
from genjax_models.learning import gradients as library
from genjax_models.learning.gradients import control_variates, surrogate_loss
from tests.learning.gradients.certify import assert_unbiased, binary_expectation

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

    return jax.grad(bound)(params())


MAKERS = {
    "score": library.score_function,
    "rloo": library.rloo,
    "muprop": library.muprop,
    "arm": library.arm,
    "disarm": library.disarm,
    "rebar": library.rebar,
    "measure-valued": library.measure_valued,
    "enumeration": library.enumeration,
    "rao-blackwell": lambda distribution, f: library.rao_blackwell(distribution, f, [1]),
    "optimal": lambda distribution, f: library.score_function(
        distribution, f, control_variate=control_variates.optimal()
    ),
}


def test_a_bound_with_nested_estimators() -> None:
    """Each layer has an estimator of its own: the inner surrogate is the outer one's f."""

    def replicate(make):
        def loss(params, key):
            inner_key, outer_key = jax.random.split(key)

            def given_first(b1):
                inner = make(
                    lambda params: Bernoulli(params["q2"] @ b1),
                    lambda b2: free_energy(params, b1, b2),
                )
                # The same noise for every b1 that the outer estimator tries.
                state = inner.init(params, jax.random.key(0))
                return surrogate_loss(inner, params, jax.random.clone(inner_key), 2, state=state)

            outer = make(first_posterior, given_first)
            state = outer.init(params, jax.random.key(0))
            return surrogate_loss(outer, params, outer_key, 2, state=state)

        return lambda key: jax.grad(loss)(params(), key)

    replicates = {name: replicate(make) for name, make in MAKERS.items()}
    found = assert_unbiased(replicates, exact(), resolution=0.02)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(found.bias["enumeration"])) < 1e-9

"""Wake-sleep and its reweighted form: each phase against enumeration or quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import bounds, variational, wake_sleep
from tests.learning.exact import (
    Case,
    assert_certified,
    belief_net,
    certify,
    exact,
    expectation,
    gaussian,
    largest_z,
    part,
)
from tests.statistics import jit_once


def objective(case: Case, estimator: str, num_samples: int = 2, bound=bounds.iwae):
    return variational(case.model, bound=bound, estimator=estimator, num_samples=num_samples)


@functools.cache
def wake_phi(name: str, num_samples: int):
    """The gradient -E[sum_k w~_k grad log q(z_k | x)]: z and weights without derivative."""
    case = {"gaussian": gaussian, "belief_net": belief_net}[name]()

    def loss(params):
        fixed = case.params

        def value(rows):
            shares = jax.nn.softmax(rows.log_likelihood + rows.log_prior - rows.log_posterior)
            return jnp.sum(shares * rows.score)

        # log q(z; phi) at the z of the fixed parameters.
        table = case.table(fixed, case.x, 20)
        scores = log_posterior(name, params, case.x, 20)
        rows = WithScore(*table, scores)
        return -expectation(case._replace(table=lambda *_: rows), fixed, value, num_samples)

    return jit_once(jax.grad(loss))(case.params)


class WithScore(tuple):
    """A table with log q as a function of other parameters than those of its z."""

    log_likelihood = property(lambda self: self[0])
    log_prior = property(lambda self: self[1])
    log_posterior = property(lambda self: self[2])
    probability = property(lambda self: self[3])
    score = property(lambda self: self[4])

    def __new__(cls, *parts):
        return super().__new__(cls, parts)


jax.tree_util.register_pytree_node(
    WithScore, lambda rows: (tuple(rows), None), lambda _, leaves: WithScore(*leaves)
)


def log_posterior(name: str, params, x, num_nodes: int):
    """log q(z | x) of every z of the table at the case's own parameters, [S]."""
    if name == "belief_net":
        return belief_net().table(params, x, num_nodes).log_posterior
    fixed, phi = gaussian().params["phi"], params["phi"]
    noise = np.polynomial.hermite_e.hermegauss(num_nodes)[0]
    z = fixed["weight"] * x + fixed["bias"] + jnp.exp(fixed["log_scale"]) * noise
    distance = (z - phi["weight"] * x - phi["bias"]) * jnp.exp(-phi["log_scale"])
    return -0.5 * distance**2 - phi["log_scale"] - 0.5 * jnp.log(2 * jnp.pi)


@functools.cache
def sleep_phi():
    """The gradient of -E_{p(x, z)}[log q(z | x)] of the belief net: all 8 z and all 4 x."""
    case = belief_net()

    def loss(params):
        total = 0.0
        for x in jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]):
            table = case.table(case.params, x, 0)
            joint = jnp.exp(table.log_likelihood + table.log_prior)
            total -= jnp.sum(joint * case.table(params, x, 0).log_posterior)
        return total

    return jit_once(jax.grad(loss))(case.params)


def test_each_phase_against_enumeration() -> None:
    """theta learns in the wake phase alone; phi from weighted samples, or from dreams."""
    case = belief_net()
    made = {
        "wake_theta elbo": objective(case, "wake_theta", bound=bounds.elbo),
        "wake_theta iwae": objective(case, "wake_theta"),
        "wake_phi": objective(case, "wake_phi"),
        "sleep_phi": objective(case, "sleep_phi", bound=bounds.elbo),
        "wake_sleep": objective(case, "wake_sleep", bound=bounds.elbo),
        "reweighted": objective(case, "reweighted_wake_sleep"),
    }
    theta = {
        bound: part(exact(case, getattr(bounds, bound), 2), "theta") for bound in ("elbo", "iwae")
    }
    phi = wake_phi("belief_net", 2)
    answers = {
        "wake_theta elbo": theta["elbo"],
        "wake_theta iwae": theta["iwae"],
        "wake_phi": phi,
        "sleep_phi": sleep_phi(),
        "wake_sleep": jax.tree.map(jnp.add, theta["elbo"], sleep_phi()),
        "reweighted": jax.tree.map(jnp.add, theta["iwae"], phi),
    }
    assert_certified(certify(case, made, answers))


def test_wake_phi_and_its_doubly_reparameterised_form_against_quadrature() -> None:
    case = gaussian()
    made = {name: objective(case, name) for name in ("wake_phi", "wake_phi_dreg")}
    answers = dict.fromkeys(made, wake_phi("gaussian", 2))
    assert_certified(certify(case, made, answers))


def inclusive_kl():
    """The gradient of KL(p(z | x) || q(z | x)) in phi, by enumeration."""
    case = belief_net()
    table = case.table(case.params, case.x, 0)
    posterior = jax.nn.softmax(table.log_likelihood + table.log_prior)
    return jax.jit(
        jax.grad(lambda p: -jnp.sum(posterior * case.table(p, case.x, 0).log_posterior))
    )(case.params)


def test_wake_phi_is_biased_for_the_inclusive_kl_by_one_over_k() -> None:
    """The certificate measures the bias that enumeration gives; K times it settles down."""
    case, kl = belief_net(), inclusive_kl()
    bias = {k: jax.tree.map(jnp.subtract, wake_phi("belief_net", k), kl) for k in (1, 2, 4)}
    found = certify(case, {"wake_phi": objective(case, "wake_phi")}, {"wake_phi": kl})
    assert found.verdict == "biased", largest_z(found)
    flat = jax.flatten_util.ravel_pytree(bias[2])[0]
    error = found.standard_error["wake_phi"]
    assert (np.abs(found.bias["wake_phi"] - flat) <= 5 * error + 1e-9).all()
    sizes = [k * np.abs(bias[k]["phi"]["bias"]).max() for k in (1, 2, 4)]
    assert sizes[2] == pytest.approx(sizes[1], rel=0.25)
    assert np.abs(bias[4]["phi"]["bias"]).max() < 0.4 * np.abs(bias[1]["phi"]["bias"]).max()


def test_wake_phi_of_the_worst_samples_is_rejected(monkeypatch) -> None:
    """The weights of two samples in the wrong order, as softmax(-log w) has them."""
    right = wake_sleep._dot
    monkeypatch.setattr(wake_sleep, "_dot", lambda shares, values: right(shares[::-1], values))
    case = belief_net()
    found = certify(
        case, {"wake_phi": objective(case, "wake_phi")}, {"wake_phi": wake_phi("belief_net", 2)}
    )
    assert found.verdict == "biased"


@pytest.mark.parametrize("wrong", [lambda w: w, lambda w: w**2])
def test_wake_phi_dreg_with_other_weights_is_rejected(monkeypatch, wrong) -> None:
    """w~, or the w~^2 of IWAE, in the place of w~ (1 - w~)."""
    monkeypatch.setattr(wake_sleep, "_path_weights", wrong)
    case = gaussian()
    found = certify(
        case, {"phi": objective(case, "wake_phi_dreg")}, {"phi": wake_phi("gaussian", 2)}
    )
    assert found.verdict == "biased"


def test_values_are_the_bound_or_the_cross_entropy() -> None:
    """For every draw; and each objective has no gradient in the other's parameters."""
    case, key = gaussian(), jax.random.key(0)

    def of(estimator, bound=bounds.iwae):
        estimate = jax.value_and_grad(objective(case, estimator, 3, bound), has_aux=True)
        return jax.jit(estimate)(case.params, jax.random.clone(key), case.x)

    (bound, metrics), gradient = of("wake_theta")
    np.testing.assert_allclose(-bound, metrics["bound"])
    assert not any(map(np.any, gradient["phi"].values()))
    assert all(map(np.any, gradient["theta"].values()))
    (score, _), (path, _) = (of(name)[0] for name in ("wake_phi", "wake_phi_dreg"))
    np.testing.assert_allclose(score, path)
    for name in ("wake_phi", "wake_phi_dreg"):
        gradient = of(name)[1]
        assert not any(map(np.any, gradient["theta"].values()))
        assert all(map(np.any, gradient["phi"].values()))
    (reweighted, _), _ = of("reweighted_wake_sleep")
    np.testing.assert_allclose(reweighted, bound)
    (dream, metrics), gradient = of("sleep_phi", bounds.elbo)
    np.testing.assert_allclose(dream, -metrics["dream_log_posterior"])
    assert not any(map(np.any, gradient["theta"].values()))

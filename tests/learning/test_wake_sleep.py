"""Wake-sleep and its reweighted form: each phase against enumeration or quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import bounds, variational, wake_sleep
from tests.learning.exact import (
    CASES,
    Case,
    assert_certified,
    belief_net,
    certify,
    exact,
    exact_wake_phi,
    gaussian,
    largest_z,
    part,
)
from tests.statistics import jit_once


def objective(case: Case, estimator: str, num_samples: int = 2, bound=bounds.iwae):
    return variational(case.model, bound=bound, estimator=estimator, num_samples=num_samples)


@functools.cache
def wake_phi(name: str, num_samples: int):
    return exact_wake_phi(CASES[name](), num_samples)


@functools.cache
def sleep_phi(name: str):
    """The gradient of -E_{p(x, z)}[log q(z | x)]: enumeration, or quadrature over both noises."""
    case = CASES[name]()
    theta = case.params["theta"]
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    pairs = (weights[:, None] * weights / (2 * np.pi)).reshape(-1)
    first, second = (noise.reshape(-1) for noise in np.meshgrid(nodes, nodes, indexing="ij"))

    def belief_net_loss(params):
        total = 0.0
        for x in jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]):
            table = case.table(case.params, x, 0)
            joint = jnp.exp(table.log_likelihood + table.log_prior)
            total -= jnp.sum(joint * case.table(params, x, 0).log_posterior)
        return total

    def gaussian_loss(params):
        z = theta["loc"] + jnp.exp(theta["log_scale"]) * first
        x = theta["weight"] * z + theta["bias"] + jnp.exp(theta["log_noise"]) * second
        phi = params["phi"]
        error = (z - phi["weight"] * x - phi["bias"]) * jnp.exp(-phi["log_scale"])
        return jnp.sum(pairs * (0.5 * error**2 + phi["log_scale"]))

    def mixed_loss(params):
        total, chances = 0.0, jax.nn.softmax(theta["logits"])
        for label in range(2):
            x = theta["loc"][label] + theta["weight"] * first + second
            log_labels = jax.nn.log_softmax(params["phi"]["logits"] * x[:, None])
            error = (first - params["phi"]["weight"] * x) / 0.8
            total -= chances[label] * jnp.sum(pairs * (log_labels[:, label] - 0.5 * error**2))
        return total

    loss = {"belief_net": belief_net_loss, "gaussian": gaussian_loss, "mixed": mixed_loss}[name]
    return jit_once(jax.grad(loss))(case.params)


@pytest.mark.parametrize("name", ["belief_net", "gaussian", "mixed"])
def test_each_phase_against_enumeration_or_quadrature(name: str) -> None:
    """theta learns in the wake phase alone; phi from weighted samples, or from dreams."""
    case, add = CASES[name](), functools.partial(jax.tree.map, jnp.add)
    theta = {
        bound: part(exact(case, getattr(bounds, bound), 2), "theta") for bound in ("elbo", "iwae")
    }
    phi, dreams = wake_phi(name, 2), sleep_phi(name)
    answers = {
        "wake_theta": theta["iwae"],
        "wake_phi": phi,
        "sleep_phi": dreams,
        "wake_sleep": add(theta["elbo"], dreams),
        "reweighted_wake_sleep": add(theta["iwae"], phi),
    }
    if name == "gaussian":
        answers["wake_phi_dreg"] = phi
    of_elbo = ("sleep_phi", "wake_sleep")
    made = {
        estimator: objective(case, estimator, bound=bounds.elbo)
        if estimator in of_elbo
        else objective(case, estimator)
        for estimator in answers
    }
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

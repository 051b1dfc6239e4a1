"""The laboratory: its exact table, its measurements against it, and one command for all parts."""

import csv
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import estimator_variance
from benchmarks.estimator_variance import Settings, main
from benchmarks.laboratory import (
    belief_nets,
    compare,
    discrete,
    gaussian,
    logistic,
    many,
    measuring,
)
from genjax_models.evaluation import binary_states
from genjax_models.evaluation.moments import moments
from genjax_models.learning import gradients, layerwise
from tests.statistics import jit_once


@pytest.mark.parametrize(
    ("cost", "k", "parameter", "known"),
    [
        ("(x - k)^2", 0.0, 0, (30, 18, 14, 4, 1.093)),
        ("(x - k)^2", 0.0, 1, (136, 96, 64, 12, 8)),
        ("exp(-k x^2)", 1.0, 0, (0.17575, 0.08067, 0.07222, 0.21172, 0.01257)),
    ],
)
def test_the_known_variances(cost: str, k: float, parameter: int, known) -> None:
    found = gaussian.exact(cost, k).variances
    got = [found[name][parameter] for name in gaussian.ESTIMATORS]
    np.testing.assert_allclose(got, known, rtol=1e-3)


def test_measured_variances_are_the_exact_ones() -> None:
    """Every estimator of the library, in mean and scale, at an asymmetric case."""
    answers = gaussian.exact("exp(-k x^2)", 0.5)
    found = gaussian.measured("exp(-k x^2)", 0.5, answers, jax.random.key(0), 100_000)
    for (name, parameter), (variance, error) in found.items():
        exact = answers.variances[name][gaussian.PARAMETERS.index(parameter)]
        assert error < 0.05 * exact, (name, parameter)
        # Ten groups: Student's t with nine degrees of freedom.
        assert abs(variance - exact) < 8 * error, (name, parameter, variance, exact, error)


def test_curves_cross_where_the_crossings_say() -> None:
    rows = gaussian.crossings("exp(-k x^2)", np.linspace(0, 2, 41))
    row = next(
        row
        for row in rows
        if row["estimators"] == "score = pathwise" and row["derivative in"] == "mean"
    )
    found = gaussian.exact("exp(-k x^2)", row["k"]).variances
    assert abs(found["score"][0] / found["pathwise"][0] - 1) < 0.01


def test_the_spread_is_the_variance_with_its_error() -> None:
    def replicate(key, scale):
        return {"a": scale * jax.random.normal(key, (3,)), "b": jnp.zeros(())}

    found = measuring.spread(replicate, jax.random.key(0), 2.0, num_replicates=4000)
    assert found.num_replicates == 4000
    assert abs(found.variance - 12) < 6 * found.standard_error < 3
    assert found.by_leaf["['b']"] == (0.0, 0.0)


def test_the_cost_of_logistic_regression_is_scaled_once() -> None:
    """Of all batches of the whole data, the mean is the whole log-joint."""
    features, labels = logistic.data()
    weights = jnp.linspace(-0.3, 0.4, features.shape[1])
    batches = jnp.arange(544).reshape(17, 32)
    mean = np.mean([logistic.cost(batch, weights) for batch in batches])
    margins = labels[:544] * (features[:544] @ weights)
    whole = np.logaddexp(0, -np.asarray(margins, np.float64)).sum() * 569 / 544
    np.testing.assert_allclose(mean, whole + 0.5 * float(weights @ weights), rtol=1e-5)


@pytest.mark.parametrize("structure", belief_nets.STRUCTURES)
def test_the_belief_nets_are_normalised(structure: str) -> None:
    """Prior, posterior and likelihood sum to one over all states of three units."""
    net = belief_nets.belief_net(structure, 3, 3)
    params = net.model.init(jax.random.key(0))
    (xs,) = binary_states((3,))
    layers = binary_states((3,) * net.num_layers)
    for distribution in (net.model.prior(params), net.model.posterior(params, xs[5])):
        total = jnp.exp(jax.vmap(distribution.log_prob)(layers)).sum()
        np.testing.assert_allclose(total, 1, rtol=1e-5)
    likelihood = net.model.likelihood(params, tuple(layer[3] for layer in layers))
    np.testing.assert_allclose(jnp.exp(jax.vmap(likelihood.log_prob)(xs)).sum(), 1, rtol=1e-5)


@functools.cache
def enumerated_gradient(structure: str):
    """Of minus the bound, over all states."""
    net = belief_nets.belief_net(structure, 3, 2)
    params = net.model.init(jax.random.key(0))
    layers = binary_states((2,) * net.num_layers)
    x = jnp.array([1.0, 0.0, 1.0])

    def loss(params):
        log_q = jax.vmap(net.model.posterior(params, x).log_prob)(layers)
        log_p = jax.vmap(net.model.prior(params).log_prob)(layers)
        log_x = jax.vmap(lambda z: net.model.likelihood(params, z).log_prob(x))(layers)
        return -jnp.sum(jnp.exp(log_q) * (log_p + log_x - log_q))

    return net, params, x, jax.grad(loss)(params)


@pytest.mark.parametrize(
    ("structure", "names"),
    [
        ("linear", belief_nets.ESTIMATORS),
        ("two layers", ("NVIL", "DisARM", "RELAX", "straight-through (biased)")),
    ],
)
def test_every_learner_of_a_belief_net_is_unbiased_but_the_biased(structure: str, names) -> None:
    net, params, x, exact = enumerated_gradient(structure)

    def replicate(key):
        def gradient(name):
            objective = belief_nets.learner(name, net).objective
            state = objective.init_state(params, jax.random.key(1))
            loss = lambda p: objective(p, state, jax.random.clone(key), x[None])[0]  # noqa: E731
            return jax.grad(loss)(params)

        return {name: gradient(name) for name in names}

    found = gradients_of(replicate, 40_000)
    for name in names:
        errors = jax.tree.map(
            lambda m, e, v: np.abs(m - e) / np.maximum(v, 1e-6),
            found.mean[name],
            exact,
            found.standard_error[name],
        )
        largest = max(leaf.max() for leaf in jax.tree.leaves(errors))
        assert (largest > 6) == ("biased" in name), (name, largest)


def gradients_of(replicate, num_replicates: int):
    # Traced once: `moments` looks at the shapes first.
    traced = jax.jit(replicate)
    return jit_once(
        lambda key: moments(traced, key, num_replicates=num_replicates, batch_size=500)
    )(jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "one_layer", "two_layers"),
    [
        ("REINFORCE", 1, 1),
        ("NVIL", 1, 1),
        ("RLOO", 2, 2),
        ("Rao-Blackwell, 4 units", 32, None),
        ("measure-valued", 11, None),
        ("MuProp", 2, 4),
        ("ARM", 2, 4),
        ("DisARM", 2, 4),
        ("DisARM, 2 pairs", 4, 16),
        ("REBAR", 3, 9),
        ("RELAX", 3, 9),
        ("straight-through (biased)", 1, 1),
    ],
)
def test_evaluations_are_those_of_all_layers(name: str, one_layer: int, two_layers) -> None:
    one, two = (belief_nets.belief_net(structure, 3, 5) for structure in ("linear", "two layers"))
    assert belief_nets.learner(name, one).evaluations == one_layer
    if two_layers is not None:
        assert belief_nets.learner(name, two).evaluations == two_layers
        assert belief_nets.learner(name, two, 6).evaluations in (6 * two_layers, 3 * two_layers)


def test_the_variance_of_reinforce_is_that_of_enumeration() -> None:
    """Of one example: the sum over states of p(z) |gradient at z|^2, less |its mean|^2."""
    net, params, x, exact = enumerated_gradient("linear")

    def at(z):
        f = layerwise.log_weight(net.model, params, x, z)
        return jax.grad(lambda p: f * net.model.posterior(p, x).log_prob(z))(params)["posterior"]

    states = binary_states((2,))
    masses = jnp.exp(jax.vmap(net.model.posterior(params, x).log_prob)(states))
    squares = jax.tree.map(
        lambda g, e: masses @ (g**2).reshape(4, -1).sum(axis=1) - (e**2).sum(),
        jax.vmap(at)(states),
        exact["posterior"],
    )
    found = measuring.spread(
        discrete.replicate("REINFORCE", net),
        jax.random.key(0),
        params,
        (),
        x[None],
        num_replicates=20_000,
        batch_size=1000,
    )
    variance = float(sum(jax.tree.leaves(squares)))
    assert found.standard_error < 0.05 * variance
    assert abs(found.variance - variance) < 8 * found.standard_error


def separated_examples() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((200, 6)) < np.array([0.9, 0.1, 0.8, 0.2, 0.9, 0.1])).astype(np.float32)


def test_training_raises_the_bound() -> None:
    examples = separated_examples()
    net = belief_nets.belief_net("linear", 6, 5)
    trained = discrete.train(net, "DisARM", examples, 600)
    assert len(trained.params) == len(discrete.TRAJECTORY)
    objective = belief_nets.learner("REINFORCE", net, 20).objective

    def bound(params):
        return -objective(params, (), jax.random.key(1), examples)[0]

    assert bound(trained.params[-1]) > bound(trained.params[0]) + 0.5


def test_variances_fall_as_they_should_on_one_trajectory() -> None:
    """DisARM is ARM with the uniform noise averaged out; every row has its step and its cost."""
    rows = discrete.variances(
        "linear",
        ("ARM", "DisARM", "NVIL"),
        separated_examples(),
        num_steps=10,
        num_replicates=200,
        num_units=5,
        num_settling=100,
    )
    assert [row["step"] for row in rows[:3]] == [0, 1, 10]
    last = {row["estimator"]: row for row in rows if row["step"] == 10}
    assert last["DisARM"]["variance"] < last["ARM"]["variance"]
    assert last["DisARM"]["evaluations of f"] == 2
    assert all(row["ms"] > 0 and row["variance x ms"] > 0 for row in rows)


def test_the_cost_is_not_that_of_constants() -> None:
    """What is an argument cannot be computed in advance."""

    def products(key, matrix):
        return jax.lax.fori_loop(0, 20, lambda i, m: m @ matrix, matrix)

    matrix = jnp.eye(200)
    found = measuring.costs({"a": products}, jax.random.key(0), {"a": (matrix,)}, num_rounds=6)
    assert found["a"].milliseconds.median > 0.05
    assert found["a"].megabytes > 0.1


def user_objective(model, bound, num_samples):
    """A user's own estimator: exactly no gradient."""

    def objective(params, key, x):
        return 0.0 * sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)), {}

    return objective


def test_a_comparison_of_ones_own(tmp_path: Path) -> None:
    settings = Settings(
        parts=("compare",),
        out=tmp_path,
        models=("belief_net:linear",),
        estimators=("rloo", "nvil", "NVIL", f"{__name__}:user_objective"),
        num_samples=(2,),
        num_replicates=40,
        num_steps=10,
    )
    main(settings)
    found = json.loads((tmp_path / "compare.json").read_text())
    assert [row["estimator"] for row in found["rows"]] == list(settings.estimators)
    assert found["rows"][3]["variance"] == 0
    assert all(row["ms"] > 0 and row["standard error"] >= 0 for row in found["rows"])
    with (tmp_path / "compare.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    assert (tmp_path / "compare.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_replicates": 3}, "num_replicates"),
        ({"num_steps": 0}, "num_steps"),
        ({"structures": ("deep",)}, "structures"),
    ],
)
def test_settings_that_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare.case("gan"), "model must be one of"),
        (lambda: compare.case("no_such_module:f"), "no_such_module"),
        (lambda: compare.compare(["vae"], ["DisARM"], [2], num_steps=1), "belief_net"),
        (lambda: compare.compare(["vae"], ["pathwise"], [2], bound="x"), "bound must be one of"),
        (lambda: belief_nets.learner("x", belief_nets.belief_net("linear", 3, 2)), "estimator"),
        (
            lambda: belief_nets.learner(
                "measure-valued", belief_nets.belief_net("two layers", 3, 2)
            ),
            "estimator",
        ),
        (lambda: belief_nets.belief_net("deep", 3), "structure"),
    ],
)
def test_names_that_are_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_many_replicates_take_the_memory_of_a_batch() -> None:
    found = many.measure(jax.random.key(0), num_params=50, num_replicates=20_000, batch_size=20)
    assert found["largest z of the mean"] < 5 and found["largest z of the variance"] < 5
    assert found["megabytes"] < 0.1 < found["megabytes of all replicates"]


def test_every_part_has_its_function() -> None:
    assert set(Settings().parts) <= set(estimator_variance.Part.__args__)
    assert gradients.__all__

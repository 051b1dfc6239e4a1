"""An estimator for each layer: gradients on a two-layer belief net against sums over all states."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.distributions import Bernoulli, Chain
from genjax_models.evaluation import binary_states, joint_log_probs
from genjax_models.interfaces import LatentVariableModel
from genjax_models.learning import gradients, layerwise
from genjax_models.models.latent import sigmoid_belief_net, vae
from genjax_models.networks import mlp
from genjax_models.training import stateful_gradient_descent
from tests.statistics import assert_mean, jit_once

UNBIASED = {
    "score_function": "two",
    "disarm": "two",
    "rebar": "two",
    "muprop": "one",
    "arm": "one",
    "measure_valued": "one",
}
BIASED = tuple(name for name in layerwise.ESTIMATORS if name.startswith("biased"))
XS = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
LAYERS = {"one": (3,), "two": (2, 2)}
BETA = 0.7


@functools.cache
def net(layers: str) -> LatentVariableModel:
    return sigmoid_belief_net(num_dims=3, latent_dims=LAYERS[layers])


@functools.cache
def params(layers: str) -> Any:
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net(layers).init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.float32(rng.standard_normal(leaf.shape)), shapes)


def exact_bound(layers: str, beta: float, own: Any) -> jax.Array:
    """The mean over the examples, by enumeration."""
    states = binary_states(LAYERS[layers][::-1])

    def of_example(x):
        log_q = jax.vmap(net(layers).posterior(own, x).log_prob)(states)
        log_prior = jax.vmap(net(layers).prior(own).log_prob)(states)
        joint = joint_log_probs(net(layers), own, x, states)
        values = joint - log_prior + beta * (log_prior - log_q)
        return jnp.sum(jnp.exp(log_q) * values)

    return jnp.mean(jax.vmap(of_example)(XS))


@functools.cache
def exact(layers: str, beta: float) -> tuple[jax.Array, Any]:
    """Bound and gradient."""
    function = functools.partial(exact_bound, layers, beta)
    return jit_once(jax.value_and_grad(function))(params(layers))


@functools.cache
def estimates(name: str, layers: str, num_replicates: int = 6000, **options: Any) -> Any:
    """Minus the loss, its gradient and the metrics, of many keys."""
    objective = layerwise.layerwise(net(layers), name, **options)

    @jit_once
    def of_keys(keys):
        state = objective.init_state(params(layers), jax.random.key(3))

        def of_key(key):
            def bound(own):
                loss, (_, metrics) = objective(own, state, key, XS, beta=BETA)
                return -loss, metrics

            (value, metrics), gradient = jax.value_and_grad(bound, has_aux=True)(params(layers))
            return value, gradient, metrics

        return jax.lax.map(of_key, keys, batch_size=1000)

    return of_keys(jax.random.split(jax.random.key(0), num_replicates))


@pytest.mark.parametrize(("name", "layers"), UNBIASED.items())
def test_gradients_are_those_of_the_bound(name: str, layers: str) -> None:
    value, gradient = exact(layers, BETA)
    # The one without a baseline varies most.
    num_replicates = 20_000 if name == "score_function" else 6000
    found_value, found_gradient, metrics = estimates(name, layers, num_replicates)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    assert_mean(found_gradient, gradient, scale=scale, resolution=0.04)
    assert_mean(found_value, value)
    assert_mean(metrics["bound"], exact(layers, 1.0)[0])


@pytest.mark.parametrize("name", BIASED)
def test_values_are_the_discrete_bound_where_the_gradient_is_biased(name: str) -> None:
    value, gradient = exact("one", BETA)
    found_value, found_gradient, _ = estimates(name, "one", 2000)
    assert_mean(found_value, value)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(found_gradient["posterior"], gradient["posterior"], resolution=0.1)
    # The model's own gradient sees relaxed units, but points the same way.
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found_gradient)
    pairs = [
        (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]))
        for tree in (mean, gradient)
    ]
    cosine = pairs[0] @ pairs[1] / np.linalg.norm(pairs[0]) / np.linalg.norm(pairs[1])
    assert cosine > 0.9


def test_several_samples_are_a_mean_of_several_estimates() -> None:
    """A fourth of the variance, about the same mean."""
    _, gradient = exact("one", BETA)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    one, four = (estimates("arm", "one", num_samples=k) for k in (1, 4))
    assert_mean(four[1], gradient, scale=scale, resolution=0.04)
    variances = [
        sum(float(jnp.var(leaf, axis=0).sum()) for leaf in jax.tree.leaves(tree[1]))
        for tree in (one, four)
    ]
    assert variances[0] / variances[1] == pytest.approx(4, rel=0.15)


def test_a_chain_and_a_plain_distribution_are_taken_apart_alike() -> None:
    """The one-layer net with its event as a tuple (reversed), a chain, and the array itself."""
    model, own, key = net("one"), params("one"), jax.random.key(0)

    def as_chain(own, x):
        return model.posterior(own, x).chain

    def plain(own, x) -> Bernoulli:
        return model.posterior(own, x).chain.first

    others = [
        model._replace(posterior=as_chain),
        LatentVariableModel(
            model.init,
            lambda own: model.prior(own).first,
            lambda own, z: model.likelihood(own, (z,)),
            plain,
        ),
    ]

    def loss(model):
        objective = layerwise.layerwise(model, "disarm")
        state = objective.init_state(own, jax.random.key(1))
        return jax.grad(objective, has_aux=True)(own, state, jax.random.clone(key), XS)[0]

    expected = loss(model)
    for other in others:
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5), loss(other), expected
        )


def test_a_state_learns_for_every_layer() -> None:
    """The scale and temperature of both control variates of REBAR move, by their own gradients."""
    model = net("two")
    objective = layerwise.layerwise(model, "rebar")
    algorithm = stateful_gradient_descent(
        objective, optax.sgd(0.0), lambda key: params("two"), objective.init_state
    )
    state = algorithm.init(jax.random.key(0))
    step = jit_once(algorithm.step)
    start = jax.tree.leaves(state.objective_state)
    for key in jax.random.split(jax.random.key(1), 3):
        state, metrics = step(state, key, XS)
    assert len(state.objective_state) == 2
    assert all(
        np.any(np.asarray(a) != np.asarray(b))
        for a, b in zip(jax.tree.leaves(state.objective_state), start, strict=True)
    )
    assert set(metrics) == {"loss", "bound", "log_likelihood", "kl_divergence"}


@pytest.mark.parametrize(
    ("layers", "more"), [("one", ()), ("two", ("disarm",))], ids=["alone", "one of two"]
)
def test_an_estimator_of_the_users_own(layers: str, more: tuple[str, ...]) -> None:
    """RELAX, whose network sees one layer, below one with another estimator."""
    maker = functools.partial(gradients.relax, network=mlp(LAYERS[layers][0], (4,), 1))
    objective = layerwise.layerwise(net(layers), (maker, *more) if more else maker)
    state = objective.init_state(params(layers), jax.random.key(0))
    assert len(state) == len(LAYERS[layers]) and not jax.tree.leaves(state[1:])
    _, gradient = exact(layers, 1.0)

    @jit_once
    def found(keys):
        def of_key(key):
            return jax.grad(objective, has_aux=True)(params(layers), state, key, XS)[0]

        return jax.lax.map(of_key, keys, batch_size=1000)

    values = jax.tree.map(jnp.negative, found(jax.random.split(jax.random.key(5), 4000)))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient))
    assert_mean(values, gradient, scale=scale, resolution=0.04)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"estimator must be one of .*'arm'.*, got 'reinforce'"):
        layerwise.layerwise(net("one"), "reinforce")
    for estimator in (None, ("arm", None)):
        with pytest.raises(TypeError, match="estimator must be a name or a function, got None"):
            layerwise.layerwise(net("one"), estimator)
    twice = layerwise.layerwise(net("one"), ("arm", "arm"))
    with pytest.raises(ValueError, match="estimator must be one for each of 1 layers, got 2"):
        twice.init_state(params("one"), jax.random.key(0))
    with pytest.raises(ValueError, match="num_samples must be an integer >= 1"):
        layerwise.layerwise(net("one"), "arm", num_samples=0)
    objective = layerwise.layerwise(net("one"), "arm")
    with pytest.raises(ValueError, match="beta"):
        objective(params("one"), ((),), jax.random.key(0), XS, beta=-1.0)
    gaussian = vae(num_dims=3, latent_dim=2, hidden=(3,))
    own = jax.eval_shape(gaussian.init, jax.random.key(0))
    objective = layerwise.layerwise(gaussian, "arm")
    with pytest.raises(TypeError, match="arm"):
        jax.eval_shape(objective.objective, own, ((),), jax.random.key(0), XS)


def test_chains_that_are_not_reversed_keep_their_order() -> None:
    """A prior drawn downwards as posterior: layers of different sizes."""

    def prior(own):
        return Chain(
            Bernoulli(own["top"]),
            (lambda drawn: Bernoulli(jnp.stack([drawn[0][0], 1.0 - drawn[0][0]]) * own["weight"]),),
        )

    model = LatentVariableModel(
        lambda key: {"top": jnp.array([0.3]), "weight": jnp.array(1.5)},
        prior,
        lambda own, z: Bernoulli(jnp.concatenate([*z]) + own["weight"]),
        lambda own, x: prior(own),
    )
    own, states = model.init(None), binary_states((1, 2))

    def bound(own):
        log_q = jax.vmap(prior(own).log_prob)(states)
        values = [joint_log_probs(model, own, x, states) - log_q for x in XS]
        return jnp.mean(jnp.stack([jnp.sum(jnp.exp(log_q) * value) for value in values]))

    objective = layerwise.layerwise(model, "disarm")

    @jit_once
    @jax.vmap
    def found(key):
        loss = lambda own: -objective(own, ((), ()), key, XS)[0]  # noqa: E731
        return jax.grad(loss)(own)

    exact = jit_once(jax.grad(bound))(own)
    assert_mean(found(jax.random.split(jax.random.key(0), 4000)), exact, resolution=0.04)

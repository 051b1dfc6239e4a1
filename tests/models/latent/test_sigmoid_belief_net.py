"""Belief nets of binary units against their definition, unit by unit, and sums over all states."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import LinearAutoregressiveBernoulli, NeuralAutoregressiveBernoulli
from genjax_models.evaluation import (
    binary_states,
    enumerated_log_likelihood,
    joint_log_probs,
)
from genjax_models.learning import bounds, importance_samples, variational
from genjax_models.models.latent import darn, sigmoid_belief_net
from tests.models.latent import belief_net_by_hand as hand
from tests.models.latent.belief_net_by_hand import KINDS, LATENT_DIMS, NUM_DIMS, net, params
from tests.statistics import assert_mean, jit_once

X = jnp.array([1.0, 0.0, 1.0])
Z_STATES = binary_states(LATENT_DIMS[::-1])
X_STATES = binary_states((NUM_DIMS,))[0]


def test_the_exact_gradient_holds_few_states_at_a_time() -> None:
    """Four times the states take no four times the memory."""
    model = sigmoid_belief_net(num_dims=NUM_DIMS, latent_dims=(6, 4))
    own, states = model.init(jax.random.key(0)), binary_states((4, 6))

    def memory(num_states: int) -> int:
        part = jax.tree.map(lambda layer: layer[:num_states], states)

        def exact(own):
            return enumerated_log_likelihood(model, own, X, part, chunk_size=64)

        return jax.jit(jax.grad(exact)).lower(own).compile().memory_analysis().temp_size_in_bytes

    assert memory(1024) < 2 * memory(256)


@pytest.mark.parametrize("kind", KINDS)
def test_joint_and_posterior_are_those_of_the_definition(kind: str) -> None:
    """At every x and z."""
    model, own = net(kind), params(kind)

    @jit_once
    @functools.partial(jax.vmap, in_axes=(0, None))
    def ours(x, states):
        log_posterior = jax.vmap(model.posterior(own, x).log_prob)(states)
        return joint_log_probs(model, own, x, states), log_posterior

    @jit_once
    @functools.partial(jax.vmap, in_axes=(0, None))
    def exact(x, states):
        def both(z):
            return hand.log_joint(kind, own, x, z), hand.log_posterior(kind, own, x, z)

        return jax.vmap(both)(states)

    joint, posterior = ours(X_STATES, Z_STATES)
    for found, expected in zip((joint, posterior), exact(X_STATES, Z_STATES), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert np.exp(np.float64(joint)).sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.exp(np.float64(posterior)).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_likelihood_and_its_gradient_by_enumeration(kind: str) -> None:
    model = net(kind)

    def ours(own):
        return enumerated_log_likelihood(model, own, X, Z_STATES, chunk_size=5)

    def exact(own):
        joints = jax.vmap(lambda z: hand.log_joint(kind, own, X, z))(Z_STATES)
        return jax.scipy.special.logsumexp(joints)

    found, gradient = jit_once(jax.value_and_grad(ours))(params(kind))
    value, exact_gradient = jit_once(jax.value_and_grad(exact))(params(kind))
    np.testing.assert_allclose(found, value, rtol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5),
        gradient,
        exact_gradient,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_draws_have_the_frequencies_of_their_probabilities(kind: str) -> None:
    """Of x and z from the model, and of z given x: each of the 2^7 and 2^4 states."""
    model, own = net(kind), params(kind)
    num_draws = 20_000

    def index(layers):
        bits = jnp.concatenate(layers).astype(int)
        return jnp.sum(bits * 2 ** jnp.arange(len(bits)))

    @jit_once
    @jax.vmap
    def draw(key):
        z_key, x_key, q_key = jax.random.split(key, 3)
        z = model.prior(own).sample(seed=z_key)
        x = model.likelihood(own, z).sample(seed=x_key)
        return index((x,)), index(z), index(model.posterior(own, X).sample(seed=q_key))

    xs, zs, qs = draw(jax.random.split(jax.random.key(0), num_draws))
    joint = jnp.exp(jax.vmap(lambda x: joint_log_probs(model, own, x, Z_STATES))(X_STATES))
    posterior = jnp.exp(jax.vmap(model.posterior(own, X).log_prob)(Z_STATES))
    for drawn, exact in ((xs, joint.sum(1)), (zs, joint.sum(0)), (qs, posterior)):
        indicators = np.asarray(drawn)[:, None] == np.arange(len(exact))
        # Rare states may not come up at all.
        assert_mean(indicators, exact, resolution=0.05, floor=5e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_and_its_probability_go_together(kind: str) -> None:
    model, own = net(kind), params(kind)

    @jit_once
    @jax.vmap
    def draw(key):
        posterior = model.posterior(own, X)
        z, log_prob = posterior.sample_and_log_prob(seed=key)
        return log_prob, posterior.log_prob(z)

    together, apart = draw(jax.random.split(jax.random.key(0), 20))
    np.testing.assert_allclose(together, apart, rtol=1e-5)


def test_what_stands_on_or_above_the_diagonal_is_not_looked_at() -> None:
    weights = jnp.tril(jnp.arange(9.0).reshape(3, 3), k=-1)
    logits, x = jnp.array([0.3, -1.0, 0.7]), jnp.array([1.0, 1.0, 0.0])
    below = LinearAutoregressiveBernoulli(logits, weights)
    full = LinearAutoregressiveBernoulli(logits, weights + jnp.triu(jnp.full((3, 3), jnp.nan)))
    assert below.log_prob(x) == full.log_prob(x)
    for key in jax.random.split(jax.random.key(0), 5):
        np.testing.assert_array_equal(
            below.sample(seed=key), full.sample(seed=jax.random.clone(key))
        )
    np.testing.assert_array_equal(below.mean(), full.mean())


def test_mean_of_variables_that_do_not_see_each_other_is_exact() -> None:
    logits = jnp.array([0.3, -1.0, 0.7])
    linear = LinearAutoregressiveBernoulli(logits, jnp.zeros((3, 3)))
    neural = NeuralAutoregressiveBernoulli(
        jnp.zeros((3, 2)), jnp.ones((3, 2)), logits - 1, jnp.zeros(2)
    )
    for distribution in (linear, neural):
        np.testing.assert_allclose(distribution.mean(), jax.nn.sigmoid(logits), rtol=1e-6)


def test_the_first_mean_feeds_the_second() -> None:
    linear = LinearAutoregressiveBernoulli(
        jnp.array([0.4, -0.3]), jnp.array([[0.0, 0.0], [1.5, 0.0]])
    )
    first = jax.nn.sigmoid(0.4)
    np.testing.assert_allclose(
        linear.mean(), [first, jax.nn.sigmoid(-0.3 + 1.5 * first)], rtol=1e-6
    )


def test_bytes_are_numbers() -> None:
    """uint8 images, as they come from files: 2 * 0 - 1 is not 255."""
    model, own = net("sigmoid"), params("sigmoid")
    of_floats = model.posterior(own, X).chain.first.logits
    of_bytes = model.posterior(own, np.asarray(X, np.uint8)).chain.first.logits
    np.testing.assert_array_equal(of_bytes, of_floats)


@pytest.mark.parametrize("name", ["input_weights", "output_weights"])
def test_weights_of_nade_that_do_not_fit_are_refused(name: str) -> None:
    fitting = NeuralAutoregressiveBernoulli(
        jnp.ones((5, 3)), jnp.ones((5, 3)), jnp.zeros(5), jnp.zeros(3)
    )
    for shape in ((4, 3), (8, 3), (5, 1)):
        wrong = fitting._replace(**{name: jnp.ones(shape)})
        for use in (lambda d: d.log_prob(jnp.ones(5)), lambda d: d.mean()):
            with pytest.raises(ValueError, match=rf"{name} must have shape \(5, 3\)"):
                use(wrong)


def test_extreme_logits_stay_finite() -> None:
    x = jnp.array([1.0, 0.0, 1.0])
    for sign in (-1e4, 1e4):
        linear = LinearAutoregressiveBernoulli(jnp.full(3, sign), jnp.full((3, 3), -sign))
        neural = NeuralAutoregressiveBernoulli(
            jnp.full((3, 2), sign), jnp.full((3, 2), -sign), jnp.zeros(3), jnp.full(2, sign)
        )
        for distribution in (linear, neural):
            gradient = jax.grad(lambda d: d.log_prob(x))(distribution)
            assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
            assert jnp.isfinite(distribution.log_prob(x))


def with_exact_posterior(x) -> tuple:
    """A deep autoregressive network of two hidden units whose q(h | x) is p(h | x) at this x."""
    model = darn(num_dims=NUM_DIMS, latent_dims=(2,))
    rng = np.random.default_rng(3)
    own = jax.tree.map(
        lambda leaf: jnp.float32(rng.standard_normal(leaf.shape)),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    joint = joint_log_probs(model, own, x, binary_states((2,)))
    p = jnp.exp(joint - jax.scipy.special.logsumexp(joint)).reshape(2, 2)  # [second, first]
    first = p[:, 1].sum()
    given = p[1] / p.sum(axis=0)
    logits = jnp.log(given) - jnp.log1p(-given)
    (layer,) = own["posterior"]
    dense = {
        "kernel": jnp.zeros((NUM_DIMS, 2)),
        "bias": jnp.stack([jnp.log(first) - jnp.log1p(-first), logits[0]]),
    }
    weights = layer["observation"]["weights"].at[1, 0].set(logits[1] - logits[0])
    exact = {"network": {"params": {"Dense_0": dense}}, "observation": {"weights": weights}}
    return model, own | {"posterior": (exact,)}


def test_the_bound_of_darn_is_tight_at_the_exact_posterior() -> None:
    model, own = with_exact_posterior(X)
    samples = importance_samples(model, own, jax.random.key(0), X, 50)
    log_likelihood = enumerated_log_likelihood(model, own, X, binary_states((2,)))
    assert len(np.unique(samples.log_posterior)) == 4
    np.testing.assert_allclose(samples.log_weights, log_likelihood, rtol=1e-5)


def test_darn_with_independent_recognition() -> None:
    model = darn(num_dims=4, latent_dims=(3,), recognition="sigmoid")
    own = model.init(jax.random.key(0))
    assert own["posterior"][0]["observation"] == {}
    assert own["prior"]["top"]["weights"].shape == (3, 3)
    assert own["likelihood"]["observation"]["weights"].shape == (4, 4)


# The Helmholtz machine: wake and sleep phases.


def test_the_wake_step_is_the_gradient_of_the_bound_in_the_model() -> None:
    model, own = net("sigmoid"), params("sigmoid")
    objective = variational(model, estimator="wake_theta")

    def elbo(own):
        log_q = jax.vmap(lambda z: hand.log_posterior("sigmoid", own, X, z))(Z_STATES)
        joint = jax.vmap(lambda z: hand.log_joint("sigmoid", own, X, z))(Z_STATES)
        return jnp.sum(jnp.exp(log_q) * (joint - log_q))

    exact = jit_once(jax.grad(elbo))(own)
    found = jit_once(
        jax.vmap(jax.grad(lambda own, key: -objective(own, key, X)[0]), in_axes=(None, 0))
    )(own, jax.random.split(jax.random.key(0), 20_000))
    for part in ("prior", "likelihood"):
        assert_mean(found[part], exact[part])
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(found["posterior"]))


def test_the_sleep_step_is_the_gradient_of_the_divergence_from_p_to_q() -> None:
    """KL(p(x, z) || p(x) q(z | x)), summed over all x and z."""
    model, own = net("sigmoid"), params("sigmoid")
    objective = variational(model, estimator="sleep_phi")

    def divergence(posterior):
        changed = own | {"posterior": posterior}

        def of_states(x, z):
            log_joint = hand.log_joint("sigmoid", own, x, z)
            return jnp.exp(log_joint) * (log_joint - hand.log_posterior("sigmoid", changed, x, z))

        all_states = jax.vmap(lambda x: jax.vmap(lambda z: of_states(x, z))(Z_STATES))
        return jnp.sum(all_states(X_STATES))

    exact = jit_once(jax.grad(divergence))(own["posterior"])
    found = jit_once(jax.vmap(jax.grad(objective, has_aux=True), in_axes=(None, 0, None)))(
        own, jax.random.split(jax.random.key(0), 20_000), X
    )[0]
    assert_mean(found["posterior"], exact)
    for part in ("prior", "likelihood"):
        assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(found[part]))


def test_wake_sleep_rests_where_data_and_posterior_are_the_models_own() -> None:
    """One hidden unit: its exact posterior is a logistic regression on x, which q can be."""
    model = sigmoid_belief_net(num_dims=2, latent_dims=(1,))
    own = model.init(jax.random.key(0))
    kernel, bias = jnp.array([[0.8, -1.3]]), jnp.array([0.4, -0.2])
    dense = {"params": {"Dense_0": {"kernel": kernel, "bias": bias}}}
    own["likelihood"]["network"] = dense
    own["prior"]["top"]["logits"] = jnp.array([0.7])

    def posterior_logit(x):
        joint = joint_log_probs(model, own, x, binary_states((1,)))
        return joint[1] - joint[0]

    corners = [posterior_logit(jnp.array(x)) for x in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
    slopes = jnp.stack([corners[1] - corners[0], corners[2] - corners[0]]) / 2
    exact = {"kernel": slopes[:, None], "bias": (corners[0] + slopes.sum())[None]}
    own["posterior"] = ({"network": {"params": {"Dense_0": exact}}, "observation": {}},)

    @jit_once
    @functools.partial(jax.vmap, in_axes=(0, None))
    def gradient(key, shift):
        x_key, z_key, step_key = jax.random.split(key, 3)
        z = model.prior(own).sample(seed=z_key)
        x = model.likelihood(own, z).sample(seed=x_key)
        moved = jax.tree.map(lambda leaf: leaf + shift, own)
        objective = variational(model, estimator="wake_sleep")
        return jax.grad(objective, has_aux=True)(moved, step_key, x)[0]

    keys = jax.random.split(jax.random.key(1), 40_000)
    zeros = jax.tree.map(jnp.zeros_like, own)
    assert_mean(gradient(keys, 0.0), zeros, resolution=0.01, scale=1.0)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(gradient(jax.random.clone(keys), 0.1), zeros, resolution=0.01, scale=1.0)


def test_the_bias_of_reweighted_wake_sleep_falls_as_one_over_the_number_of_samples() -> None:
    """In theta it is maximum likelihood in the limit: K times the bias tends to a constant."""
    model = sigmoid_belief_net(num_dims=2, latent_dims=(2,))
    rng = np.random.default_rng(5)
    own = jax.tree.map(
        lambda leaf: jnp.float32(rng.standard_normal(leaf.shape)),
        jax.eval_shape(model.init, jax.random.key(0)),
    )
    x, states = jnp.array([1.0, 0.0]), binary_states((2,))
    exact = jax.grad(lambda own: enumerated_log_likelihood(model, own, x, states))(own)
    direction = exact["likelihood"]["network"]["params"]["Dense_0"]["bias"]
    biases, errors = [], []
    for num_samples in (4, 8, 16):
        objective = variational(
            model, bound=bounds.iwae, estimator="reweighted_wake_sleep", num_samples=num_samples
        )

        @jit_once
        @jax.vmap
        def gradient(key, objective=objective):
            found = jax.grad(objective, has_aux=True)(own, key, x)[0]
            return found["likelihood"]["network"]["params"]["Dense_0"]["bias"]

        keys = jax.random.split(jax.random.key(num_samples), 60_000)
        projected = (-gradient(keys) - direction) @ direction / (direction @ direction)
        biases.append(num_samples * float(projected.mean()))
        errors.append(num_samples * float(projected.std()) / np.sqrt(len(keys)))
    assert all(abs(bias) > 10 * error for bias, error in zip(biases, errors, strict=True))
    assert biases[2] == pytest.approx(biases[1], rel=0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dims": ()}, "latent_dims must have at least one layer"),
        ({"latent_dims": (3, 0)}, "latent_dims must be at least 1"),
        ({"num_dims": 0}, "num_dims must be at least 1"),
        ({"hidden": (0,)}, "hidden must be at least 1"),
        ({"generative": "gaussian"}, "generative must be one of"),
        ({"recognition": "rbm"}, "recognition must be one of"),
        ({"generative": "nade", "nade_dim": 0}, "hidden_dim must be at least 1"),
    ],
)
def test_settings_that_make_no_net(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sigmoid_belief_net(**settings)


@pytest.mark.parametrize("sizes", [(), (0,), (11, 10), (2.5,)])
def test_states_that_cannot_be_enumerated(sizes: tuple) -> None:
    with pytest.raises(ValueError, match="latent_dims"):
        binary_states(sizes)


def test_states_are_every_value_once() -> None:
    top, lower = binary_states((1, 2))
    values = {tuple(row) for row in np.concatenate([top, lower], axis=1).tolist()}
    assert len(values) == 8
    assert values <= {(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}

"""The score function with every control variate, against quadrature and enumeration."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.interfaces import Network
from genjax_models.learning.gradients import (
    control_variates,
    core,
    muprop,
    rloo,
    score_function,
    surrogate_loss,
    surrogate_loss_and_observation,
)
from tests.learning.gradients.certify import (
    LOGITS,
    WEIGHTS,
    assert_biased,
    assert_unbiased,
    binary_expectation,
    certify,
    estimate,
    exact_gradient,
    form,
    gaussian_expectation,
    gradients,
    largest_z,
)
from tests.statistics import jit_once

PARAMS = {"loc": np.array(0.6), "log_scale": np.array(-0.3)}


def normal(params):
    return distrax.Normal(params["loc"], jnp.exp(params["log_scale"]))


def bump(x):
    """Asymmetric, and no polynomial."""
    return jnp.exp(-jnp.square(x - 0.2)) + 0.4 * x + 0.5


def network() -> Network:
    """A baseline b(context) = w context + c."""
    return Network(
        lambda key: {"w": jnp.array(0.5), "c": jnp.array(0.1)},
        lambda params, context: params["w"] * context + params["c"],
    )


def exact_gaussian():
    def expectation(params):
        return gaussian_expectation(bump, params["loc"], jnp.exp(params["log_scale"]))

    return exact_gradient(expectation, PARAMS)


def test_muprop_of_a_linear_function_has_no_variance() -> None:
    """The series is f itself."""
    found = gradients(muprop(Bernoulli, lambda b: jnp.dot(WEIGHTS, b)), LOGITS, 5)
    exact = WEIGHTS * jax.nn.sigmoid(LOGITS) * jax.nn.sigmoid(-LOGITS)
    np.testing.assert_allclose(found, jnp.broadcast_to(exact, (5, 3)), rtol=1e-9)


def test_a_baseline_for_each_parameter_or_component() -> None:
    """As many samples as components, where a wrong broadcast goes unseen."""
    params = {"loc": jnp.array([0.6, -0.2, 0.1]), "log_scale": jnp.array([-0.3, 0.1, 0.2])}
    values = {"loc": 0.8, "log_scale": jnp.array([1.1, -0.4, 0.3])}

    def cost(x):
        return jnp.sum(jnp.square(x)) + x[0]

    def distribution(params):
        return DiagonalGaussian(params["loc"], params["log_scale"])

    estimator = score_function(
        distribution, cost, control_variate=control_variates.constant(values)
    )
    found = gradients(estimator, params, 3)
    draws = estimator.draw(params, (), jax.random.key(0), 3)
    noise = (draws.x - params["loc"]) / jnp.exp(params["log_scale"])
    scores = {"loc": noise / jnp.exp(params["log_scale"]), "log_scale": noise**2 - 1}
    for name, score in scores.items():
        expected = [(cost(x) - values[name]) * row for x, row in zip(draws.x, score, strict=True)]
        np.testing.assert_allclose(found[name], expected, rtol=1e-9)


def test_a_control_variate_of_the_other_samples_with_an_expectation() -> None:
    """h(x) = a_s x, the slope a_s from the other samples: E[h] = a_s E[x] is its sample's own."""

    def slopes(state, xs, costs):
        others = core.leave_one_out_sums({"xf": xs * costs, "xx": xs**2})
        return others["xf"] / (others["xx"] + 0.1)

    variate = control_variates.ControlVariate(
        lambda slope, x: slope * x,
        lambda slope, distribution: slope * distribution.mean(),
        leave_one_out=slopes,
    )
    replicates = {
        "slope": estimate(score_function(normal, bump, control_variate=variate), PARAMS, 4)
    }
    assert_unbiased(replicates, exact_gaussian(), resolution=0.02)


def test_the_delta_method_is_exact_for_a_quadratic() -> None:
    """Independent and correlated Gaussians: zero variance."""

    def quadratic(x):
        return x[0] ** 2 + 2 * x[0] * x[1] - 0.5 * x[1]

    def correlated(params):
        return distrax.MultivariateNormalTri(params["loc"], params["scale"])

    params = {"loc": jnp.array([0.3, -0.4]), "scale": jnp.array([[1.1, 0.0], [0.5, 0.7]])}
    estimator = score_function(
        correlated, quadratic, control_variate=control_variates.delta_method(quadratic)
    )
    found = gradients(estimator, params, 4)

    def expectation(params):
        (a, b), covariance = params["loc"], params["scale"] @ params["scale"].T
        return a**2 + covariance[0, 0] + 2 * (a * b + covariance[0, 1]) - 0.5 * b

    exact = exact_gradient(expectation, params)
    lower = {"loc": lambda leaf: leaf, "scale": jnp.tril}  # what lies above is not a parameter
    for name, part in lower.items():
        want = jnp.broadcast_to(part(exact[name]), found[name].shape)
        np.testing.assert_allclose(part(found[name]), want, atol=1e-9)


def mutant_own_baseline():
    """The mean cost of all samples, the sample's own included."""

    def everyone(state, xs, costs):
        return jnp.full_like(costs, costs.mean())

    return control_variates.leave_one_out()._replace(leave_one_out=everyone)


def test_a_baseline_of_its_own_sample_is_rejected() -> None:
    estimator = score_function(normal, bump, control_variate=mutant_own_baseline())
    replicates = {"own sample": estimate(estimator, PARAMS, 2)}
    found = assert_biased(replicates, exact_gaussian())
    # Of S samples it takes away one S-th of the gradient.
    bias = found.bias["own sample"]
    np.testing.assert_allclose(bias["loc"], -0.5 * exact_gaussian()["loc"], rtol=0.05)


def test_a_signal_without_stop_gradient_is_rejected() -> None:
    """d(f log p) = f dlog p + df log p: the second term is what the stop keeps out."""

    def free_energy(params, b):
        return form(b) + Bernoulli(params).log_prob(b)

    def right(key):
        params = jnp.asarray(LOGITS)

        def loss(params):
            estimator = score_function(Bernoulli, lambda b: free_energy(params, b))
            return surrogate_loss(estimator, params, key, 2)

        return jax.grad(loss)(params)

    def mutant(key):
        def loss(params):
            b = Bernoulli(jax.lax.stop_gradient(params)).sample(seed=key)
            f = free_energy(params, b)
            return f + f * Bernoulli(params).log_prob(b) - jax.lax.stop_gradient(f)

        return jax.grad(loss)(jnp.asarray(LOGITS))

    exact = exact_gradient(
        lambda p: binary_expectation(lambda b: free_energy(p, b), p), jnp.asarray(LOGITS)
    )
    assert_unbiased({"right": right}, exact)
    assert_biased({"no stop": mutant}, exact)


def test_a_scale_counted_twice_under_subsampling_is_rejected() -> None:
    """Minibatches of 2 out of 6 terms: f itself is scaled, and nothing else."""
    targets = jnp.array([0.3, -1.0, 0.8, -0.2, -0.4, -1.3])

    def cost(x, batch, scale):
        return scale * jnp.sum(jnp.exp(-jnp.square(x - batch))) + 0.1 * x**2

    def replicate(twice):
        def run(key):
            batch_key, sample_key = jax.random.split(key)
            batch = jax.random.choice(batch_key, targets, (2,), replace=False)
            scale = len(targets) / 2
            estimator = rloo(normal, lambda x: cost(x, batch, scale))
            gradient = estimate(estimator, PARAMS, 4)(sample_key)
            return jax.tree.map(lambda leaf: leaf * (scale if twice else 1.0), gradient)

        return run

    def expectation(params):
        return gaussian_expectation(
            lambda x: cost(x, targets, 1.0), params["loc"], jnp.exp(params["log_scale"])
        )

    exact = exact_gradient(expectation, PARAMS)
    found = certify({"once": replicate(False), "twice": replicate(True)}, exact, resolution=0.02)
    scores = largest_z(found)
    assert scores["once"] < found.threshold < scores["twice"]
    assert found.detectable_bias < 0.5  # against a factor of three


def test_a_learned_baseline_learns_the_expected_cost() -> None:
    variate = control_variates.learned_baseline(network(), optax.sgd(0.2), jnp.array(0.7))
    estimator = score_function(normal, bump, control_variate=variate)

    @jit_once
    def train(key):
        def step(state, index):
            key_of_step = jax.random.fold_in(key, index)
            _, observation = surrogate_loss_and_observation(
                estimator, PARAMS, state, key_of_step, 20
            )
            return estimator.update(state, observation), None

        init_key = jax.random.fold_in(key, 1000)
        return jax.lax.scan(step, estimator.init(PARAMS, init_key), jnp.arange(100))[0]

    state = train(jax.random.key(0))
    mean = gaussian_expectation(bump, PARAMS["loc"], jnp.exp(PARAMS["log_scale"]))
    assert abs(variate.value(state, ()) - mean) < 0.1
    # The centre alone is there at once, whatever the network starts from.
    first = variate.init(PARAMS, jax.random.key(1))
    costs = jnp.array([1000.0, 1002.0])
    moved = variate.update(first, variate.observe(first, None, costs))
    prediction = first.params["w"] * 0.7 + first.params["c"]
    assert abs(variate.value(moved._replace(params=first.params), ()) - 1001.0) < 1e-3
    # Gradient of the squared error, whose centre is still zero, by hand.
    slope = -2 * (1001.0 - prediction)
    np.testing.assert_allclose(moved.params["c"], first.params["c"] - 0.2 * slope, rtol=1e-5)
    np.testing.assert_allclose(moved.params["w"], first.params["w"] - 0.2 * slope * 0.7, rtol=1e-5)


@pytest.mark.parametrize("variate", ["leave_one_out", "optimal"])
def test_one_sample_cannot_leave_one_out(variate: str) -> None:
    chosen = getattr(control_variates, variate)()
    estimator = score_function(normal, bump, control_variate=chosen)
    with pytest.raises(ValueError, match=r"num_samples must be .*at least 2"):
        surrogate_loss(estimator, PARAMS, jax.random.key(0), 1)


def test_what_has_no_log_prob_is_refused() -> None:
    class Sampler:
        def sample(self, *, seed):
            return jax.random.normal(seed)

    estimator = score_function(lambda params: Sampler(), bump)
    with pytest.raises(TypeError, match="use pathwise"):
        surrogate_loss(estimator, PARAMS, jax.random.key(0))


def test_a_log_probability_of_more_than_one_number_is_refused() -> None:
    class Batch:
        def sample(self, *, seed):
            return jax.random.normal(seed, (3,))

        def log_prob(self, value):
            return -jnp.square(value)

    estimator = score_function(lambda params: Batch(), jnp.sum)
    with pytest.raises(ValueError, match="log_prob must give one number"):
        surrogate_loss(estimator, PARAMS, jax.random.key(0))


def test_a_control_variate_with_a_vector_of_means_is_refused() -> None:
    variate = control_variates.ControlVariate(lambda s, x: x, lambda s, d: jnp.zeros(2))
    estimator = score_function(normal, bump, control_variate=variate)
    with pytest.raises(ValueError, match="must be one number"):
        surrogate_loss(estimator, PARAMS, jax.random.key(0))

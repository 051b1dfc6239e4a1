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
    muprop,
    per_sample_gradients,
    rloo,
    score_function,
    surrogate_loss,
    surrogate_loss_and_observation,
)
from tests.learning.gradients.certify import (
    assert_biased,
    assert_unbiased,
    binary_expectation,
    categorical_expectation,
    estimate,
    gaussian_expectation,
)
from tests.statistics import jit_once

PARAMS = {"loc": np.array(0.6), "log_scale": np.array(-0.3)}
LOGITS = np.array([0.4, -0.9, 1.3])
WEIGHTS = np.array([1.0, -0.6, 0.8])
TABLE = jnp.array([[1.0, 3.0, 0.2], [0.5, 1.2, 2.0]])


def normal(params):
    return distrax.Normal(params["loc"], jnp.exp(params["log_scale"]))


def bump(x):
    """Asymmetric, and no polynomial."""
    return jnp.exp(-jnp.square(x - 0.2)) + 0.4 * x + 0.5


def quadratic_form(b):
    """Of binary variables, with interactions: not symmetric in its arguments."""
    return jnp.square(jnp.dot(WEIGHTS, b) - 0.3) + b[0] * b[2] + jnp.sin(b[1])


def bernoulli(logits):
    return Bernoulli(logits)


def network() -> Network:
    """A baseline b(context) = w context + c."""
    return Network(
        lambda key: {"w": jnp.array(0.5), "c": jnp.array(0.1)},
        lambda params, context: params["w"] * context + params["c"],
    )


def exact_gaussian():
    def expectation(params):
        return gaussian_expectation(bump, params["loc"], jnp.exp(params["log_scale"]))

    return jax.grad(expectation)(PARAMS)


def test_gaussian_with_every_control_variate() -> None:
    average = control_variates.AverageState(jnp.array(0.4), jnp.array(0.5))
    learned = control_variates.learned_baseline(network(), optax.sgd(0.1), jnp.array(0.7))
    states = {"moving average": average, "learned": learned.init(PARAMS, jax.random.key(0))}
    variates = {
        "none": None,
        "constant": control_variates.constant(0.9),
        "by parameter": control_variates.constant({"loc": 0.8, "log_scale": 1.1}),
        "moving average": control_variates.moving_average(),
        "leave one out": control_variates.leave_one_out(),
        "optimal": control_variates.optimal(),
        "delta": control_variates.delta_method(bump),
        "delta, first order": control_variates.delta_method(bump, order=1),
        "optimal delta": control_variates.optimal(control_variates.delta_method(bump)),
        "learned": learned,
    }
    replicates = {
        name: estimate(
            score_function(normal, bump, control_variate=variate), PARAMS, 6, states.get(name, ())
        )
        for name, variate in variates.items()
    }
    found = assert_unbiased(replicates, exact_gaussian(), resolution=0.02)
    variance = {name: float(found.variance[name]["loc"]) for name in variates}
    assert variance["constant"] < 0.5 * variance["none"]
    assert variance["leave one out"] < 0.7 * variance["none"]
    assert variance["delta"] < 0.9 * variance["none"]


def test_discrete_variables_and_pytrees() -> None:
    logits = jnp.array([[0.3, -0.5, 0.9], [-0.2, 0.6, 0.1]])

    def function(pair):
        index, b = pair["index"], pair["b"]
        return TABLE[jnp.arange(2), index].prod() * (1 + b)

    def distribution(params):
        index = distrax.Independent(distrax.Categorical(logits=params["index"]), 1)
        return distrax.Joint({"index": index, "b": distrax.Bernoulli(logits=params["b"])})

    params = {"index": logits, "b": jnp.array(0.7)}

    def expectation(params):
        mean = 1 + jax.nn.sigmoid(params["b"])
        table = TABLE
        return mean * categorical_expectation(
            lambda k: table[jnp.arange(2), k].prod(), params["index"]
        )

    replicates = {"rloo": estimate(rloo(distribution, function), params, 3)}
    assert_unbiased(replicates, jax.grad(expectation)(params), resolution=0.02)


def test_muprop_and_an_exact_first_order_series() -> None:
    exact = jax.grad(lambda logits: binary_expectation(quadratic_form, logits))(LOGITS)
    replicates = {"muprop": estimate(muprop(bernoulli, quadratic_form), LOGITS)}
    assert_unbiased(replicates, exact)
    # Of a linear f the series is f itself: no variance at all.
    linear = muprop(bernoulli, lambda b: jnp.dot(WEIGHTS, b))
    gradients = per_sample_gradients(linear, LOGITS, jax.random.key(0), 5)
    exact = WEIGHTS * jax.nn.sigmoid(LOGITS) * jax.nn.sigmoid(-LOGITS)
    np.testing.assert_allclose(gradients, jnp.broadcast_to(exact, (5, 3)), rtol=1e-9)


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
    gradients = per_sample_gradients(estimator, params, jax.random.key(0), 4)

    def expectation(params):
        (a, b), covariance = params["loc"], params["scale"] @ params["scale"].T
        return a**2 + covariance[0, 0] + 2 * (a * b + covariance[0, 1]) - 0.5 * b

    exact = jax.grad(expectation)(params)
    for name in params:
        want = jnp.broadcast_to(exact[name], gradients[name].shape)
        np.testing.assert_allclose(
            jnp.tril(gradients[name]) if name == "scale" else gradients[name],
            jnp.tril(want) if name == "scale" else want,
            atol=1e-9,
        )


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
        return quadratic_form(b) + Bernoulli(params).log_prob(b)

    def right(key):
        params = jnp.asarray(LOGITS)

        def loss(params):
            estimator = score_function(bernoulli, lambda b: free_energy(params, b))
            return surrogate_loss(estimator, params, key, 2)

        return jax.grad(loss)(params)

    def mutant(key):
        def loss(params):
            b = bernoulli(jax.lax.stop_gradient(params)).sample(seed=key)
            f = free_energy(params, b)
            return f + f * bernoulli(params).log_prob(b) - jax.lax.stop_gradient(f)

        return jax.grad(loss)(jnp.asarray(LOGITS))

    exact = jax.grad(lambda p: binary_expectation(lambda b: free_energy(p, b), p))(LOGITS)
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

    exact = jax.grad(expectation)(PARAMS)
    assert_unbiased({"once": replicate(False)}, exact, resolution=0.02)
    assert_biased({"twice": replicate(True)}, exact, resolution=0.02)


def test_the_surrogate_is_the_mean_of_the_samples() -> None:
    estimator, key = rloo(normal, bump), jax.random.key(3)
    gradients = per_sample_gradients(estimator, PARAMS, key, 5)
    value, gradient = jax.value_and_grad(
        lambda params: surrogate_loss(estimator, params, jax.random.clone(key), 5)
    )(PARAMS)
    for name in PARAMS:
        assert gradients[name].shape == (5,)
        np.testing.assert_allclose(gradients[name].mean(), gradient[name], rtol=1e-9)
    draws = estimator.draw(PARAMS, (), jax.random.clone(key), 5)
    np.testing.assert_allclose(value, bump(draws.x).mean(), rtol=1e-12)


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

    (params, _) = train(jax.random.key(0))
    mean = gaussian_expectation(bump, PARAMS["loc"], jnp.exp(PARAMS["log_scale"]))
    assert abs(params["w"] * 0.7 + params["c"] - mean) < 0.1


@pytest.mark.parametrize(
    ("distribution", "function", "error", "message"),
    [
        (lambda p: distrax.Normal(p, jnp.ones(3)), jnp.sum, ValueError, "Independent"),
        (lambda p: DiagonalGaussian(p, jnp.zeros(3)), lambda x: x, ValueError, "one number"),
    ],
)
def test_bad_input_is_refused(distribution, function, error, message) -> None:
    with pytest.raises(error, match=message):
        per_sample_gradients(
            score_function(distribution, function), jnp.zeros(3), jax.random.key(0), 2
        )


@pytest.mark.parametrize("variate", ["leave_one_out", "optimal"])
def test_one_sample_cannot_leave_one_out(variate: str) -> None:
    chosen = getattr(control_variates, variate)()
    estimator = score_function(normal, bump, control_variate=chosen)
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        per_sample_gradients(estimator, PARAMS, jax.random.key(0), 1)


def test_what_has_no_log_prob_is_refused() -> None:
    class Sampler:
        def sample(self, *, seed):
            return jax.random.normal(seed)

    estimator = score_function(lambda params: Sampler(), bump)
    with pytest.raises(TypeError, match="use pathwise"):
        per_sample_gradients(estimator, PARAMS, jax.random.key(0), 1)

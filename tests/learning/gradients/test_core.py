"""What all estimators share: their two forms, what they accept, what they refuse."""

import functools

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tensorflow_probability.substrates import jax as tfp

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.learning import bounds
from genjax_models.learning import gradients as library
from genjax_models.learning.gradients import control_variates, core
from tests.learning.gradients.certify import LOGITS, form, gradients, initial
from tests.learning.gradients.test_rebar import network
from tests.statistics import jit_once


def discrete(make_distribution=Bernoulli, function=form):
    """Every estimator for binary variables."""
    makers = {
        "score": library.score_function,
        "rloo": library.rloo,
        "muprop": library.muprop,
        "optimal": lambda d, f: library.score_function(
            d, f, control_variate=control_variates.optimal()
        ),
        "arm": library.arm,
        "disarm": library.disarm,
        "multi-pair": lambda d, f: library.multi_pair_disarm(
            d, f, combine=bounds.iwae, num_pairs=2
        ),
        "rebar": library.rebar,
        "relax": lambda d, f: library.relax(d, f, network()),
        "measure-valued": library.measure_valued,
        "enumeration": library.enumeration,
        "rao-blackwell": lambda d, f: library.rao_blackwell(d, f, [1]),
        "straight-through": library.biased_straight_through,
        "gumbel-softmax": library.biased_gumbel_softmax,
        "both": library.biased_straight_through_gumbel_softmax,
    }
    return {name: make(make_distribution, function) for name, make in makers.items()}


def continuous(make_distribution, function):
    """Every estimator for Gaussian variables."""
    makers = {
        "score": library.score_function,
        "delta": lambda d, f: library.score_function(
            d, f, control_variate=control_variates.delta_method(f)
        ),
        "pathwise": library.pathwise,
        "location-scale": lambda d, f: library.pathwise(d, f, route="location_scale"),
        "inverse": lambda d, f: library.pathwise(d, f, route="inverse_cdf"),
        "polar": lambda d, f: library.pathwise(d, f, route="polar"),
        "implicit": lambda d, f: library.pathwise(d, f, route="implicit"),
        "pathwise, optimal": lambda d, f: library.pathwise(
            d, f, control_variate=control_variates.optimal(control_variates.delta_method(f))
        ),
        "measure-valued": library.measure_valued,
    }
    return {name: make(make_distribution, function) for name, make in makers.items()}


def both_forms(estimators, params, num_samples=3):
    """Per-sample gradients, and the value and gradient of the surrogate loss, by name."""

    @jit_once
    def run(params, key):
        found = {}
        for name, one in estimators.items():
            first, second = jax.random.clone(key), jax.random.clone(key)
            settings = {"num_samples": num_samples, "state": initial(one, params)}
            loss = lambda params: library.surrogate_loss(one, params, first, **settings)  # noqa: B023, E731
            found[name] = (
                library.per_sample_gradients(one, params, second, **settings),
                *jax.value_and_grad(loss)(params),
            )
        return found

    return run(params, jax.random.key(3))


def losses(estimators, params):
    """Value and gradient of the surrogate loss of three samples, by name."""

    @jit_once
    def run(params, key):
        def found(one):
            def loss(params):
                copy, start = jax.random.clone(key), initial(one, params)
                return library.surrogate_loss(one, params, copy, 3, state=start)

            return jax.value_and_grad(loss)(params)

        return {name: found(one) for name, one in estimators.items()}

    return run(params, jax.random.key(3))


@functools.cache
def samples_of_all():
    """Per-sample gradients of every estimator for binary variables, compiled once a dtype."""
    estimators = discrete()

    @jit_once
    def run(logits):
        return {
            name: library.per_sample_gradients(
                one, logits, jax.random.key(3), 3, state=initial(one, logits)
            )
            for name, one in estimators.items()
        }

    return run


def square_sum(x):
    return jnp.sum(jnp.square(x - 0.2)) + jnp.prod(x)


def gaussian(params):
    return DiagonalGaussian(params["loc"], params["log_scale"])


GAUSSIAN = {"loc": np.array([0.6, -0.2]), "log_scale": np.array([-0.3, 0.1])}


@pytest.mark.parametrize("variables", ["discrete", "continuous"])
def test_the_gradient_of_the_surrogate_is_the_mean_of_the_samples(variables: str) -> None:
    if variables == "discrete":
        estimators, params = discrete(), LOGITS
    else:
        estimators, params = continuous(gaussian, square_sum), GAUSSIAN
    for name, (samples, value, gradient) in both_forms(estimators, params).items():
        for leaf, mean, param in zip(
            *map(jax.tree.leaves, (samples, gradient, params)), strict=True
        ):
            assert leaf.shape == (3, *param.shape), name
            np.testing.assert_allclose(leaf.mean(axis=0), mean, rtol=1e-9, err_msg=name)
        assert value.shape == () and np.isfinite(value), name


def test_the_value_is_the_mean_cost_of_the_samples() -> None:
    estimator, key = library.rloo(Bernoulli, form), jax.random.key(3)
    draws = estimator.draw(LOGITS, (), key, 5)
    value = library.surrogate_loss(estimator, LOGITS, jax.random.clone(key), 5)
    np.testing.assert_allclose(value, np.mean([form(x) for x in draws.x]), rtol=1e-12)


def test_gradients_have_the_dtype_of_the_parameters() -> None:
    with jax.enable_x64(False):
        logits = jnp.asarray(LOGITS, jnp.bfloat16)
        for name, samples in samples_of_all()(logits).items():
            assert samples.dtype == jnp.bfloat16 and np.isfinite(samples).all(), name


def test_extreme_logits_give_finite_gradients() -> None:
    with jax.enable_x64(False):
        logits = jnp.array([1e4, -1e4, 0.3], jnp.float32)
        for name, samples in samples_of_all()(logits).items():
            assert samples.dtype == jnp.float32 and np.isfinite(samples).all(), name


def test_distrax_and_tfp_serve_as_ours_do() -> None:
    """Estimators with noise of their own: the same numbers, whichever way logits are given."""
    estimators = ("arm", "disarm", "enumeration", "rebar", "both")
    makers = {
        "ours": Bernoulli,
        "distrax": lambda p: distrax.Independent(distrax.Bernoulli(logits=p), 1),
        "tfp": lambda p: tfp.distributions.Independent(tfp.distributions.Bernoulli(logits=p), 1),
        "probabilities": lambda p: tfp.distributions.Independent(
            tfp.distributions.Bernoulli(probs=jax.nn.sigmoid(p)), 1
        ),
    }
    found = {}
    for name, make in makers.items():
        # Samples of TFP and distrax are integers, whose sine would be in float32.
        of_floats = discrete(make, lambda b: form(1.0 * b))
        chosen = {one: of_floats[one] for one in estimators}
        found[name] = {one: gradient for one, (_, gradient) in losses(chosen, LOGITS).items()}
    for name in makers:
        for one in estimators:
            np.testing.assert_allclose(found[name][one], found["ours"][one], rtol=1e-7)


def test_parameters_that_tfp_keeps_elsewhere() -> None:
    """Probabilities in place of logits, a standard deviation inside an operator, a log rate."""
    pairs = [
        (
            lambda make: library.enumeration(make, lambda k: jnp.square(k + 0.3)),
            lambda p: tfp.distributions.Categorical(probs=jax.nn.softmax(p)),
            lambda p: distrax.Categorical(logits=p),
        ),
        (
            lambda make: library.pathwise(make, square_sum, route="polar"),
            lambda p: tfp.distributions.MultivariateNormalDiag(p, jnp.exp(p)),
            lambda p: DiagonalGaussian(p, p),
        ),
    ]
    for estimator, theirs, ours in pairs:
        found, known = (gradients(estimator(make), LOGITS, 3) for make in (theirs, ours))
        np.testing.assert_allclose(found, known, rtol=1e-6)
    rate = lambda p: tfp.distributions.Gamma(2.0, log_rate=p)  # noqa: E731
    found = gradients(library.measure_valued(rate, jnp.square), jnp.array(0.3), 3)
    assert found.shape == (3,) and (found < 0).all()


def test_a_category_that_cannot_occur_has_no_gradient() -> None:
    logits = jnp.array([0.4, -jnp.inf, 0.2])
    one_hot = lambda p: distrax.OneHotCategorical(logits=p)  # noqa: E731
    table = jnp.array([1.0, 5.0, -0.6])
    names = ("score", "rloo", "muprop", "rebar", "measure-valued", "enumeration", "both")
    estimators = discrete(one_hot, lambda x: jnp.sum(table * x) ** 2)
    for name, (value, gradient) in losses({n: estimators[n] for n in names}, logits).items():
        assert np.isfinite(gradient).all() and np.isfinite(value), name
        assert gradient[1] == 0, name


def test_what_gives_truth_values_counts_as_zero_and_one() -> None:
    for make in (library.arm, library.rloo, library.enumeration):
        truth, number = (
            gradients(make(Bernoulli, f), LOGITS, 4)
            for f in (lambda b: b[0] > 0.5, lambda b: 1.0 * (b[0] > 0.5))
        )
        np.testing.assert_array_equal(truth, number)


@pytest.mark.parametrize(
    "estimator",
    [
        library.pathwise(lambda p: DiagonalGaussian(p, p), lambda x: jnp.sum(x > 0)),
        library.biased_straight_through(Bernoulli, lambda x: x[0] > 0),
        library.rebar(Bernoulli, lambda x: x[0] > 0),
        library.muprop(Bernoulli, lambda x: x[0] > 0),
    ],
)
def test_a_function_of_integers_has_no_derivative(estimator) -> None:
    with pytest.raises(TypeError, match=r"differentiable.*score_function"):
        gradients(estimator, LOGITS, 2, initial(estimator, LOGITS))


@pytest.mark.parametrize(
    "estimator",
    [
        library.rebar(Bernoulli, form),
        library.score_function(Bernoulli, form, control_variate=control_variates.moving_average()),
        library.score_function(
            Bernoulli,
            form,
            control_variate=control_variates.learned_baseline(network(), optax.sgd(0.1), LOGITS),
        ),
    ],
)
def test_a_state_that_is_missing_is_asked_for(estimator) -> None:
    with pytest.raises(ValueError, match=r"estimator.init\(params, key\)"):
        library.surrogate_loss(estimator, LOGITS, jax.random.key(0), 2)


@pytest.mark.parametrize("num_samples", [0, -1, 2.5, 2.0])
def test_a_number_of_samples_that_is_none_is_refused(num_samples) -> None:
    with pytest.raises(ValueError, match="num_samples must be an integer, at least 1"):
        library.surrogate_loss(library.arm(Bernoulli, form), LOGITS, jax.random.key(0), num_samples)


@pytest.mark.parametrize(
    "make",
    [
        library.score_function,
        library.pathwise,
        library.measure_valued,
        lambda d, f: library.pathwise(d, f, route="implicit"),
    ],
)
def test_a_batch_of_distributions_is_refused(make) -> None:
    estimator = make(lambda p: distrax.Normal(p, 1.0), jnp.sum)
    with pytest.raises(ValueError, match="Independent"):
        library.surrogate_loss(estimator, jnp.zeros(3), jax.random.key(0))


@pytest.mark.parametrize("name", sorted(discrete()))
def test_a_batch_of_binary_distributions_is_refused(name: str) -> None:
    estimator = discrete(lambda p: distrax.Bernoulli(logits=p))[name]
    with pytest.raises(ValueError, match="Independent"):
        state = initial(estimator, LOGITS)
        library.surrogate_loss(estimator, LOGITS, jax.random.key(0), 2, state=state)


@pytest.mark.parametrize("name", sorted(discrete()))
def test_a_function_of_more_than_one_number_is_refused(name: str) -> None:
    estimator = discrete(function=lambda x: x)[name]
    with pytest.raises(ValueError, match="one number"):
        state = initial(estimator, LOGITS)
        library.surrogate_loss(estimator, LOGITS, jax.random.key(0), 2, state=state)


def test_leave_one_out_sums_neither_subtract_nor_see_themselves() -> None:
    values = jnp.array([1.0, 1e20, 3.0, 5.0])
    expected = [sum(values[r] for r in range(4) if r != s) for s in range(4)]
    found = core.leave_one_out_sums(values)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    jacobian = jax.jacobian(core.leave_one_out_sums)(values)
    np.testing.assert_array_equal(jacobian, 1 - np.eye(4))


def test_a_joint_distribution_of_tfp_is_one_event() -> None:
    """Its batch shape is a tree of shapes; a part that is a batch is still found."""

    def joint(params, shape=()):
        parts = {
            "c": tfp.distributions.Normal(jnp.full(shape, params), 1.0),
            "d": tfp.distributions.Bernoulli(logits=params),
        }
        return tfp.distributions.JointDistributionNamed(parts)

    estimator = library.rloo(joint, lambda x: x["c"] ** 2 + x["d"])
    found = library.per_sample_gradients(estimator, jnp.array(0.3), jax.random.key(0), 2)
    assert found.shape == (2,)
    batch = library.rloo(functools.partial(joint, shape=(3,)), lambda x: 0.0)
    with pytest.raises(ValueError, match="over one event"):
        library.per_sample_gradients(batch, jnp.array(0.3), jax.random.key(0), 2)

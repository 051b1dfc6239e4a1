"""Every unbiased estimator for discrete variables against enumeration."""

from functools import partial

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import Bernoulli
from genjax_models.learning import gradients as library
from genjax_models.learning.gradients import control_variates
from tests.learning.gradients.certify import (
    LOGITS,
    WEIGHTS,
    assert_unbiased,
    binary_expectation,
    categorical_expectation,
    closed,
    estimate,
    exact_gradient,
    form,
    initial,
)
from tests.learning.gradients.test_rebar import network

PAIR = np.array([[0.3, -0.5, 0.9], [-0.2, 0.6, 0.1]])
TABLE = np.array([[1.0, 3.0, 0.2], [0.5, 1.2, 2.0], [2.4, 0.1, 0.9]])


def table_of_indices(k):
    """Of two indices: no product of functions of one."""
    return jnp.asarray(TABLE)[k[0], k[1]]


def of_vectors(x):
    """The same of two one-hot vectors [2, 3]; not linear in each between the values."""
    return x[0] @ TABLE @ x[1] + jnp.sum(jnp.square(x)) - 2


def indices(logits):
    return distrax.Independent(distrax.Categorical(logits=logits), 1)


def vectors(logits):
    return distrax.Independent(distrax.OneHotCategorical(logits=logits), 1)


def coupled_variances(coupled: bool) -> np.ndarray:
    """Of p (1 - p) [f(1, x) - f(0, y)] for each variable: x and y are one sample, or two."""
    probabilities = 1 / (1 + np.exp(-LOGITS))
    found = []
    for d in range(3):
        others = [e for e in range(3) if e != d]
        rows = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        masses = np.prod(
            np.where(rows == 1, probabilities[others], 1 - probabilities[others]), axis=1
        )
        sides = []
        for value in (1.0, 0.0):
            b = np.zeros((4, 3))
            b[:, others], b[:, d] = rows, value
            sides.append(np.array([float(form(row)) for row in b]))
        spread = lambda values, masses=masses: masses @ (values - masses @ values) ** 2  # noqa: E731
        variance = sum(map(spread, [sides[0] - sides[1]] if coupled else sides))
        found.append((probabilities[d] * (1 - probabilities[d])) ** 2 * variance)
    return np.array(found)


def test_unbiased_estimators_of_binary_variables() -> None:
    """In the logits and in what f closes over."""
    makers = {
        "score": library.score_function,
        "rloo": library.rloo,
        "optimal": partial(library.score_function, control_variate=control_variates.optimal()),
        "arm": library.arm,
        "disarm": library.disarm,
        "multi-pair": partial(library.multi_pair_disarm, combine=jnp.mean, num_pairs=2),
        "muprop": library.muprop,
        "rebar": partial(library.rebar, scale=0.7, temperature=0.6),
        "relax": partial(library.relax, network=network(), scale=0.4),
        "relax, black box": partial(library.relax, network=network(), relaxed=False),
        "coupled": library.measure_valued,
        "uncoupled": partial(library.measure_valued, coupled=False),
        "rao-blackwell": partial(library.rao_blackwell, coordinates=[2, 0]),
        "rao-blackwell alone": partial(library.rao_blackwell, coordinates=[1], baseline=False),
        "enumeration": library.enumeration,
    }
    params = {"logits": jnp.asarray(LOGITS), "weights": jnp.asarray(WEIGHTS)}

    def cost(params, b):
        return form(b, params["weights"])

    def expectation(params):
        return binary_expectation(lambda b: cost(params, b), params["logits"])

    replicates = {
        name: closed(make, lambda p: Bernoulli(p["logits"]), cost, params)
        for name, make in makers.items()
    }
    found = assert_unbiased(replicates, exact_gradient(expectation, params))
    variance = {name: found.variance[name]["logits"] for name in makers}
    assert variance["disarm"].sum() < variance["arm"].sum()
    assert variance["rao-blackwell"].sum() < variance["rloo"].sum()
    assert variance["enumeration"].sum() < 1e-12
    # The mean of two samples has half the variance of one.
    for name, coupled in {"coupled": True, "uncoupled": False}.items():
        np.testing.assert_allclose(
            variance[name], coupled_variances(coupled) / 2, rtol=0.05, err_msg=name
        )


def test_unbiased_estimators_of_categories() -> None:
    """As indices and as one-hot vectors."""
    estimators = {
        "rloo": library.rloo(indices, table_of_indices),
        "coupled": library.measure_valued(indices, table_of_indices),
        "uncoupled": library.measure_valued(indices, table_of_indices, coupled=False),
        "rao-blackwell": library.rao_blackwell(indices, table_of_indices, [1]),
        "enumeration": library.enumeration(indices, table_of_indices),
        "one-hot rloo": library.rloo(vectors, of_vectors),
        "one-hot muprop": library.muprop(vectors, of_vectors),
        "one-hot rebar": library.rebar(vectors, of_vectors, scale=0.7, temperature=0.6),
        "one-hot relax": library.relax(vectors, of_vectors, _flat_network(), scale=0.4),
        "one-hot measure-valued": library.measure_valued(vectors, of_vectors),
        "one-hot rao-blackwell": library.rao_blackwell(vectors, of_vectors, [0]),
        "one-hot enumeration": library.enumeration(vectors, of_vectors),
    }
    replicates = {
        name: estimate(one, PAIR, 2, initial(one, PAIR)) for name, one in estimators.items()
    }
    exact = exact_gradient(
        lambda logits: categorical_expectation(table_of_indices, logits), jnp.asarray(PAIR)
    )
    found = assert_unbiased(replicates, exact, resolution=0.02)
    for name in ("enumeration", "one-hot enumeration"):
        assert found.variance[name].sum() < 1e-12
    for name in ("rao-blackwell", "one-hot rao-blackwell"):
        assert found.variance[name].sum() < found.variance["rloo"].sum()


def _flat_network():
    """r(z) = w . tanh(z) of the six coordinates of z."""
    return network()._replace(init=lambda key: jnp.linspace(-0.4, 0.6, 6))


def test_pytrees_of_discrete_variables() -> None:
    """The score function takes any event: an index and a bit."""

    table = jnp.asarray(TABLE)

    def function(pair):
        return table[0][pair["index"]] * (1 + pair["b"])

    def distribution(params):
        parts = {
            "index": distrax.Categorical(logits=params["index"]),
            "b": distrax.Bernoulli(logits=params["b"]),
        }
        return distrax.Joint(parts)

    params = {"index": jnp.asarray(PAIR[0]), "b": jnp.array(0.7)}

    def expectation(params):
        return jax.nn.softmax(params["index"]) @ table[0] * (1 + jax.nn.sigmoid(params["b"]))

    estimator = library.rloo(distribution, function)
    exact = exact_gradient(expectation, params)
    assert_unbiased({"rloo": estimate(estimator, params, 3)}, exact, resolution=0.02)

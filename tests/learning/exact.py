"""Small models whose multi-sample bounds are sums over all K-tuples of a few z, and certificates.

A case is a model with its parameters, an example, and `table(params, x)`: the parts of the log
weight of every z in a finite set and its probability under q, written down anew. The set is all z
where z is discrete, and the nodes of Gauss-Hermite quadrature, which move with the parameters as
reparameterised samples do, where it is continuous. Parameters are {"theta": ..., "phi": ...}.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from genjax_models.distributions import Bernoulli, DiagonalGaussian
from genjax_models.evaluation import GradientCertificate, certify_gradient
from genjax_models.interfaces import LatentVariableModel
from genjax_models.learning import bounds, variational
from tests.statistics import jit_once

Array = jax.Array
Params = dict[str, dict[str, Array]]
NUM_NODES = {1: 40, 2: 32, 3: 20, 4: 14}
"""Of quadrature, for K samples."""


def between(log_weights: Array) -> Array:
    """A bound of the user's own."""
    return 0.3 * bounds.elbo(log_weights) + 0.7 * bounds.iwae(log_weights)


BOUNDS: dict[str, Callable] = {
    "elbo": bounds.elbo,
    "iwae": bounds.iwae,
    "renyi": functools.partial(bounds.renyi, alpha=0.4),
    "negative": functools.partial(bounds.renyi, alpha=-0.7),
    "vr_max": bounds.vr_max,
    "tvo": functools.partial(bounds.tvo, betas=(0.0, 0.2, 1.0)),
    "trapezoid": functools.partial(bounds.tvo, betas=(0.0, 0.4, 1.0), rule="trapezoid"),
    "right": functools.partial(bounds.tvo, betas=(0.0, 0.2, 1.0), rule="right"),
    "cubo": functools.partial(bounds.cubo, order=1.5),
    "jackknife": bounds.jackknife,
    "ciwae": functools.partial(bounds.ciwae, weight=0.3),
    "miwae": functools.partial(bounds.miwae, num_groups=2),
    "piwae": bounds.piwae(2),
    "between": between,
}
"""Every bound, with settings of its own."""


def objective(case: "Case", name: str, estimator: str, num_samples: int, **options: Any) -> Any:
    """The objective of the bound of that name."""
    return variational(
        case.model, bound=BOUNDS[name], estimator=estimator, num_samples=num_samples, **options
    )


class Table(NamedTuple):
    """Parts of the log weight of each of S values of z and their probabilities, each [S]."""

    log_likelihood: Array
    log_prior: Array
    log_posterior: Array
    probability: Array


class Case(NamedTuple):
    """A model and its exact answers; `table` and `score` take (params, x, num_nodes)."""

    model: LatentVariableModel
    params: Params
    x: Array
    table: Callable[[Params, Array, int], Table]
    score: Callable[[Params, Array, int], Array]
    """log q(z | x) of the same z, held where the case's own parameters put them, [S]."""


@functools.cache
def gaussian() -> Case:
    """z ~ N(m, t^2), x | z ~ N(w z + b, s^2), q(z | x) = N(v x + c, r^2), all scalars."""
    names = {"theta": ("loc", "log_scale", "weight", "bias", "log_noise")}
    names["phi"] = ("weight", "bias", "log_scale")
    values = {"theta": (0.3, 0.1, 0.9, -0.2, -0.3), "phi": (0.4, 0.5, -0.2)}

    def prior(params: Params) -> DiagonalGaussian:
        return DiagonalGaussian(params["theta"]["loc"], params["theta"]["log_scale"])

    def likelihood(params: Params, z: Array) -> DiagonalGaussian:
        theta = params["theta"]
        return DiagonalGaussian(theta["weight"] * z + theta["bias"], theta["log_noise"])

    def posterior(params: Params, x: Array) -> DiagonalGaussian:
        phi = params["phi"]
        return DiagonalGaussian(phi["weight"] * x + phi["bias"], phi["log_scale"])

    def table(params: Params, x: Array, num_nodes: int) -> Table:
        theta, phi = params["theta"], params["phi"]
        noise, probability = _nodes(num_nodes)
        z = phi["weight"] * x + phi["bias"] + jnp.exp(phi["log_scale"]) * noise
        return Table(
            _log_normal(x, theta["weight"] * z + theta["bias"], theta["log_noise"]),
            _log_normal(z, theta["loc"], theta["log_scale"]),
            _log_normal(noise, 0.0, 0.0) - phi["log_scale"],
            probability,
        )

    def score(at: Params, x: Array, num_nodes: int) -> Array:
        fixed, phi = params["phi"], at["phi"]
        z = fixed["weight"] * x + fixed["bias"] + jnp.exp(fixed["log_scale"]) * _nodes(num_nodes)[0]
        return _log_normal(z, phi["weight"] * x + phi["bias"], phi["log_scale"])

    params = {
        part: {
            name: jnp.array(value) for name, value in zip(names[part], values[part], strict=True)
        }
        for part in names
    }
    model = LatentVariableModel(lambda key: params, prior, likelihood, posterior)
    return Case(model, params, jnp.array(1.4), table, score)


@functools.cache
def distant() -> Case:
    """The same with a posterior that is far off, where upper bounds have steep gradients."""
    case = gaussian()
    phi = {**case.params["phi"], "bias": jnp.array(-0.6)}
    return case._replace(params={**case.params, "phi": phi})


@functools.cache
def belief_net() -> Case:
    """A sigmoid belief net: z in {0, 1}^3, x in {0, 1}^2, q(z | x) independent given x."""
    params = {
        "theta": {
            "prior": jnp.array([0.4, -0.7, 0.2]),
            "weight": jnp.array([[1.1, -0.6, 0.5], [-0.9, 0.8, 1.3]]),
            "bias": jnp.array([-0.2, 0.3]),
        },
        "phi": {
            "weight": jnp.array([[0.6, -0.3], [-0.4, 0.5], [0.2, 0.7]]),
            "bias": jnp.array([0.1, -0.5, 0.3]),
        },
    }

    def prior(params: Params) -> Bernoulli:
        return Bernoulli(params["theta"]["prior"])

    def likelihood(params: Params, z: Array) -> Bernoulli:
        return Bernoulli(params["theta"]["weight"] @ z + params["theta"]["bias"])

    def posterior(params: Params, x: Array) -> Bernoulli:
        return Bernoulli(params["phi"]["weight"] @ x + params["phi"]["bias"])

    def table(params: Params, x: Array, num_nodes: int) -> Table:
        theta, phi = params["theta"], params["phi"]
        z = jnp.array(list(itertools.product([0.0, 1.0], repeat=3)))
        log_posterior = _log_bernoulli(z, phi["weight"] @ x + phi["bias"])
        return Table(
            _log_bernoulli(x, z @ theta["weight"].T + theta["bias"]),
            _log_bernoulli(z, theta["prior"]),
            log_posterior,
            jnp.exp(log_posterior),
        )

    model = LatentVariableModel(lambda key: params, prior, likelihood, posterior)

    def score(at: Params, x: Array, num_nodes: int) -> Array:
        return table(at, x, num_nodes).log_posterior

    return Case(model, params, jnp.array([1.0, 0.0]), table, score)


@functools.cache
def distant_net() -> Case:
    """The same with a posterior that is far off, as `distant` is."""
    case = belief_net()
    phi = {**case.params["phi"], "bias": jnp.array([-1.6, 1.3, -1.4])}
    return case._replace(params={**case.params, "phi": phi})


@functools.cache
def mixed() -> Case:
    """z = {"label": 0 or 1, "code": a real number}; x | z ~ N(u_label + w code, 1)."""
    params = {
        "theta": {"logits": jnp.array([0.3, -0.4]), "loc": jnp.array([0.5, -0.9])},
        "phi": {"logits": jnp.array([0.6, -0.2]), "weight": jnp.array(0.3)},
    }
    params["theta"]["weight"] = jnp.array(0.7)

    def prior(params: Params) -> distrax.Distribution:
        label = distrax.Categorical(params["theta"]["logits"])
        return distrax.Joint({"label": label, "code": distrax.Normal(0.0, 1.0)})

    def likelihood(params: Params, z: dict[str, Array]) -> distrax.Distribution:
        theta = params["theta"]
        return distrax.Normal(theta["loc"][z["label"]] + theta["weight"] * z["code"], 1.0)

    def posterior(params: Params, x: Array) -> distrax.Distribution:
        label = distrax.Categorical(params["phi"]["logits"] * x)
        return distrax.Joint(
            {"label": label, "code": distrax.Normal(params["phi"]["weight"] * x, 0.8)}
        )

    def table(params: Params, x: Array, num_nodes: int) -> Table:
        theta, phi = params["theta"], params["phi"]
        noise, probability = _nodes(num_nodes)
        code = phi["weight"] * x + 0.8 * noise
        log_label = jax.nn.log_softmax(phi["logits"] * x)[:, None]
        loc = theta["loc"][:, None] + theta["weight"] * code
        log_prior = jax.nn.log_softmax(theta["logits"])[:, None] + _log_normal(code, 0.0, 0.0)
        log_posterior = log_label + _log_normal(noise, 0.0, 0.0) - np.log(0.8)
        parts = (_log_normal(x, loc, 0.0), log_prior, log_posterior)
        return Table(*(part.reshape(-1) for part in (*parts, jnp.exp(log_label) * probability)))

    model = LatentVariableModel(lambda key: params, prior, likelihood, posterior)

    def score(at: Params, x: Array, num_nodes: int) -> Array:
        code = params["phi"]["weight"] * x + 0.8 * _nodes(num_nodes)[0]
        log_label = jax.nn.log_softmax(at["phi"]["logits"] * x)[:, None]
        log_code = _log_normal(code, at["phi"]["weight"] * x, np.log(0.8))
        return (log_label + log_code).reshape(-1)

    return Case(model, params, jnp.array(1.2), table, score)


CASES = {
    "gaussian": gaussian,
    "distant": distant,
    "belief_net": belief_net,
    "distant_net": distant_net,
    "mixed": mixed,
}


def _over_tuples(table: Table, num: int, function: Callable[..., Array], *more: Array) -> Array:
    """E[function(parts of K samples, ...)] over all S^K tuples; `more` are [S] too."""
    tuples = np.indices((len(table.probability),) * num).reshape(num, -1).T
    rows, more = jax.tree.map(lambda leaf: leaf[tuples], (table, more))
    return jnp.sum(jax.vmap(function)(rows, *more) * jnp.prod(rows.probability, axis=1))


def exact(
    case: Case,
    bound: Callable,
    num_samples: int,
    beta: float = 1.0,
) -> Params:
    """The gradient of -E[bound], as a pytree of parameters."""

    def loss(params: Params) -> Array:
        def value(parts: Table) -> Array:
            kl = parts.log_posterior - parts.log_prior
            return bound(parts.log_likelihood - beta * kl)

        table = case.table(params, case.x, NUM_NODES[num_samples])
        return -_over_tuples(table, num_samples, value)

    return jit_once(jax.grad(loss))(case.params)


def exact_largest(case: Case, num_samples: int) -> Params:
    """The gradient of -E[max_k log w_k] = -sum over t of t d F(t)^K, F the distribution of log w.

    Quadrature over tuples would see the kinks of the maximum; this sees none.
    """

    def loss(params: Params) -> Array:
        table = case.table(params, case.x, 4001)
        log_weights = table.log_likelihood + table.log_prior - table.log_posterior
        order = jnp.argsort(jax.lax.stop_gradient(log_weights))
        below = jnp.cumsum(jnp.asarray(table.probability)[order])
        chances = jnp.diff(below**num_samples, prepend=0.0)
        return -jnp.sum(chances * log_weights[order])

    return jit_once(jax.grad(loss))(case.params)


def exact_wake_phi(case: Case, num_samples: int) -> Params:
    """-E[sum_k w~_k grad log q(z_k | x)]: neither z nor weights are differentiated."""

    def loss(params: Params) -> Array:
        def value(rows: Table, scores: Array) -> Array:
            log_weights = rows.log_likelihood + rows.log_prior - rows.log_posterior
            return jnp.sum(jax.nn.softmax(log_weights) * scores)

        num_nodes = NUM_NODES[num_samples]
        table = case.table(case.params, case.x, num_nodes)
        scores = case.score(params, case.x, num_nodes)
        return -_over_tuples(table, num_samples, value, scores)

    return jit_once(jax.grad(loss))(case.params)


def part(gradient: Params, name: str) -> Params:
    """The gradient in "theta" or "phi" alone; the other is zero."""
    zeros = jax.tree.map(jnp.zeros_like, gradient)
    return {**zeros, name: gradient[name]}


def certify(
    case: Case,
    objectives: dict[str, Callable],
    exact: dict[str, Params],
    *,
    resolution: float = 0.02,
    **scheduled: float,
) -> GradientCertificate:
    """The certificate of each objective's gradient, a vector by its name; one compilation."""

    def estimate(key: Array) -> dict[str, Array]:
        def gradient(index: int, name: str) -> Array:
            subkey = jax.random.fold_in(key, index)
            loss = lambda params: objectives[name](params, subkey, case.x, **scheduled)  # noqa: E731
            return ravel_pytree(jax.grad(loss, has_aux=True)(case.params)[0])[0]

        return {name: gradient(index, name) for index, name in enumerate(objectives)}

    flat = {name: ravel_pytree(exact[name])[0] for name in objectives}
    return certify_gradient(
        estimate, flat, jax.random.key(1), resolution=resolution, batch_size=1000
    )


def assert_certified(found: GradientCertificate) -> None:
    """Fail with the names of the biased estimators."""
    assert found.is_unbiased, (found.verdict, found.detectable_bias, largest_z(found))
    assert found.detectable_bias < 0.25


def largest_z(found: GradientCertificate) -> dict[str, float]:
    """The largest |z| of each estimator."""
    return {name: float(np.abs(z).max()) for name, z in found.z_score.items()}


def _nodes(num_nodes: int) -> tuple[Any, Any]:
    """Standard normal nodes and weights: of Gauss and Hermite, or many of an even grid."""
    if num_nodes > 100:
        nodes = np.linspace(-6, 6, num_nodes)
        weights = np.exp(-0.5 * nodes**2)
        return nodes, weights / weights.sum()
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return nodes, weights / weights.sum()


def _log_normal(value: Any, loc: Any, log_scale: Any) -> Array:
    noise = (value - loc) * jnp.exp(-jnp.asarray(log_scale))
    return -0.5 * noise**2 - log_scale - 0.5 * jnp.log(2 * jnp.pi)


def _log_bernoulli(value: Array, logits: Array) -> Array:
    return jnp.sum(value * logits - jnp.log1p(jnp.exp(logits)), axis=-1)

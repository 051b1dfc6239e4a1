"""Part 1: x ~ N(1, 1), one sample; variances by quadrature beside the measured ones.

After Mohamed et al. 2020 (Monte Carlo gradient estimation in machine learning), section 3: the
costs (x - k)^2, exp(-k x^2) and cos(k x), derivatives in mean and scale.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.laboratory import measuring
from genjax_models.interfaces import Array, Key
from genjax_models.learning import gradients
from genjax_models.learning.gradients import control_variates

COSTS: dict[str, Callable[[Any, Any], Any]] = {
    "(x - k)^2": lambda x, k: (x - k) ** 2,
    "exp(-k x^2)": lambda x, k: jnp.exp(-k * x**2),
    "cos(k x)": lambda x, k: jnp.cos(k * x),
}
ESTIMATORS = ("score", "score, mean baseline", "score, optimal baseline", "pathwise", "measure")
LOC, SCALE = 1.0, 1.0
TABLE = (("(x - k)^2", 0.0), ("(x - k)^2", 3.0), ("exp(-k x^2)", 1.0), ("cos(k x)", 1.0))
PARAMETERS = ("mean", "scale")


class Exact(NamedTuple):
    """Answers by quadrature, each for (mean, scale).

    Attributes:
        gradient: of the expected cost, [2].
        variances: of one sample, by estimator, [2].
        mean_baseline: E[f].
        optimal_baselines: E[f s^2] / E[s^2], s the score, [2].
    """

    gradient: np.ndarray
    variances: dict[str, np.ndarray]
    mean_baseline: float
    optimal_baselines: np.ndarray


def exact(cost: str, k: float, loc: float = LOC, scale: float = SCALE) -> Exact:
    """Gradient and variances by quadrature in float64: written down without the library.

    Every random number is one of a standard normal e, a Rayleigh or a Maxwell variable, or one
    uniform; the integrands are smooth, and a fine Legendre rule gives ten digits.
    """
    f, slope = _cost_and_slope(cost, k)
    e, weights = _legendre(-12.0, 12.0, 600)
    weights = weights * np.exp(-0.5 * e**2) / np.sqrt(2 * np.pi)
    x = loc + scale * e
    scores = np.stack([e / scale, (e**2 - 1) / scale])
    gradient = (scores * f(x)) @ weights
    squares = scores**2 @ weights
    mean = float(f(x) @ weights)
    optimal = (scores**2 * f(x)) @ weights / squares

    def variance(estimates: np.ndarray) -> np.ndarray:
        return estimates**2 @ weights - gradient**2

    by_measure = _measure_second_moments(f, loc, scale) - gradient**2
    variances = {
        "score": variance(scores * f(x)),
        "score, mean baseline": variance(scores * (f(x) - mean)),
        "score, optimal baseline": variance(scores * (f(x) - optimal[:, None])),
        "pathwise": variance(slope(x) * np.stack([np.ones_like(e), e])),
        "measure": by_measure,
    }
    return Exact(gradient, variances, mean, optimal)


def _measure_second_moments(f: Callable, loc: float, scale: float) -> np.ndarray:
    """E g^2 of the coupled measure-valued estimators of mean and scale."""
    r, weights = _legendre(0.0, 12.0, 400)
    difference = f(loc + scale * r) - f(loc - scale * r)
    of_mean = (difference**2 / (2 * np.pi * scale**2)) @ (weights * r * np.exp(-0.5 * r**2))
    # Maxwell on both sides of zero, times a uniform: two dimensions.
    m, m_weights = _legendre(-12.0, 12.0, 400)
    m_weights = m_weights * m**2 * np.exp(-0.5 * m**2) / np.sqrt(2 * np.pi)
    u, u_weights = _legendre(0.0, 1.0, 100)
    difference = f(loc + scale * m[:, None]) - f(loc + scale * m[:, None] * u)
    of_scale = m_weights @ (difference / scale) ** 2 @ u_weights
    return np.array([of_mean, of_scale])


def _cost_and_slope(cost: str, k: float) -> tuple[Callable, Callable]:
    return {
        "(x - k)^2": (lambda x: (x - k) ** 2, lambda x: 2 * (x - k)),
        "exp(-k x^2)": (
            lambda x: np.exp(-k * x**2),
            lambda x: -2 * k * x * np.exp(-k * x**2),
        ),
        "cos(k x)": (lambda x: np.cos(k * x), lambda x: -k * np.sin(k * x)),
    }[cost]


@functools.cache
def _legendre(low: float, high: float, num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return low + (high - low) * (nodes + 1) / 2, weights * (high - low) / 2


@functools.cache
def replicates(cost: str) -> Callable[..., dict[str, Any]]:
    """`replicate(key, k, mean baseline, optimal baselines)`: one sample by every estimator."""

    def normal(params: dict[str, Array]) -> distrax.Normal:
        return distrax.Normal(params["mean"], params["scale"])

    def replicate(key: Key, k: Array, mean: Array, optimal: Array) -> dict[str, Any]:
        params = {"mean": jnp.asarray(LOC), "scale": jnp.asarray(SCALE)}

        def f(x: Array) -> Array:
            return COSTS[cost](x, k)

        by_parameter = dict(zip(PARAMETERS, optimal, strict=True))
        made = {
            "score": gradients.score_function(normal, f),
            "score, mean baseline": gradients.score_function(
                normal, f, control_variate=control_variates.constant(mean)
            ),
            "score, optimal baseline": gradients.score_function(
                normal, f, control_variate=control_variates.constant(by_parameter)
            ),
            "pathwise": gradients.pathwise(normal, f),
            "measure": gradients.measure_valued(normal, f),
        }

        def one(estimator: gradients.GradientEstimator) -> Any:
            found = gradients.per_sample_gradients(estimator, params, jax.random.clone(key))
            return jax.tree.map(lambda leaf: leaf[0], found)

        return {name: one(estimator) for name, estimator in made.items()}

    return replicate


def measured(cost: str, k: float, answers: Exact, key: Key, num_replicates: int) -> dict:
    """Variance and standard error by (estimator, parameter)."""
    found = measuring.spread(
        replicates(cost),
        key,
        jnp.asarray(k, float),
        jnp.asarray(answers.mean_baseline),
        jnp.asarray(answers.optimal_baselines),
        num_replicates=num_replicates,
        batch_size=1000,
    )
    return {
        (name, parameter): found.by_leaf[f"['{name}']['{parameter}']"]
        for name in ESTIMATORS
        for parameter in PARAMETERS
    }


def table(key: Key, num_replicates: int = 100_000) -> list[dict[str, Any]]:
    """Exact and measured variances of the cases of the table, one row a case and parameter."""
    rows = []
    for index, (cost, k) in enumerate(TABLE):
        answers = exact(cost, k)
        found = measured(cost, k, answers, jax.random.fold_in(key, index), num_replicates)
        for place, parameter in enumerate(PARAMETERS):
            for name in ESTIMATORS:
                variance, error = found[name, parameter]
                rows.append(
                    {
                        "cost": cost,
                        "k": k,
                        "derivative in": parameter,
                        "estimator": name,
                        "exact": float(answers.variances[name][place]),
                        "measured": variance,
                        "standard error": error,
                    }
                )
    return rows


def curves(cost: str, ks: np.ndarray) -> dict[str, np.ndarray]:
    """Exact variances against k, [len(ks), 2] for each estimator."""
    found = [exact(cost, float(k)).variances for k in ks]
    return {name: np.stack([one[name] for one in found]) for name in ESTIMATORS}


def crossings(cost: str, ks: np.ndarray) -> list[dict[str, Any]]:
    """Where two estimators' variances are equal, by linear interpolation on the grid of k."""
    found = curves(cost, ks)
    rows = []
    for i, first in enumerate(ESTIMATORS):
        for second in ESTIMATORS[i + 1 :]:
            for place, parameter in enumerate(PARAMETERS):
                gap = found[first][:, place] - found[second][:, place]
                for j in np.flatnonzero(np.sign(gap[:-1]) * np.sign(gap[1:]) < 0):
                    k = ks[j] - gap[j] * (ks[j + 1] - ks[j]) / (gap[j + 1] - gap[j])
                    rows.append(
                        {
                            "cost": cost,
                            "derivative in": parameter,
                            "estimators": f"{first} = {second}",
                            "k": float(k),
                        }
                    )
    return rows

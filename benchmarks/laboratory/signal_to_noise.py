"""Part 3: tighter is not always better (Rainforth et al. 2018).

A linear-Gaussian model, z ~ N(mu, I), x | z ~ N(z, I), with q(z | x) = N(A x + b, s^2 I) off the
exact posterior. The signal-to-noise ratio of the gradient g in the encoder's bias b,

    |E g| / sqrt(trace Cov g),

falls as K^(-1/2) for the pathwise gradient of IWAE and grows as K^(1/2) for DReG. Both have one
expectation; it is taken from DReG, whose noise is small, so that no signal drowns.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import DiagonalGaussian
from genjax_models.evaluation.moments import Moments, moments
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params
from genjax_models.learning import bounds, variational

NUM_SAMPLES = (1, 4, 16, 64, 256, 1024)
ESTIMATORS = ("pathwise", "dreg")
REFERENCE = "dreg"
"""The estimator whose mean is the signal."""
NUM_GROUPS = 10
"""Independent groups of replicates, which the error bars come from."""
FIT_FROM = 16
"""The smallest K of the fitted slopes: the powers of K are asymptotic."""


class Found(NamedTuple):
    """What was measured.

    Attributes:
        rows: one for each estimator and K, with the signal-to-noise ratio and its standard error.
        slopes: one for each estimator: of log SNR against log K, with its standard error.
    """

    rows: list[dict[str, Any]]
    slopes: list[dict[str, Any]]


def model() -> LatentVariableModel:
    """The linear-Gaussian model; its parameters are {"prior": mu, "A": [], "b", "log_scale"}."""
    return LatentVariableModel(
        lambda key: example()[0],
        lambda params: DiagonalGaussian(params["prior"], jnp.zeros(())),
        lambda params, z: DiagonalGaussian(z, jnp.zeros(())),
        lambda params, x: DiagonalGaussian(params["A"] * x + params["b"], params["log_scale"]),
    )


def example() -> tuple[Params, Array]:
    """Parameters with an encoder that is off by about a fifth of its scale, and one x."""
    prior = jnp.array([0.5, -0.4, 0.1, 0.8])
    params = {
        "prior": prior,
        "A": jnp.asarray(0.5),
        "b": 0.5 * prior + jnp.array([0.15, -0.2, 0.1, 0.18]),
        "log_scale": jnp.log(jnp.asarray(0.6)) / 2,
    }
    return params, jnp.array([1.2, -0.3, -1.0, 0.4])


def measure(
    key: Key,
    *,
    num_samples: Sequence[int] = NUM_SAMPLES,
    estimators: Sequence[str] = ESTIMATORS,
    num_replicates: int = 40_000,
) -> Found:
    """Signal-to-noise ratios for every K, and their fitted slopes.

    Error bars are those of the jackknife over ten independent groups of replicates.

    Args:
        key: PRNG key.
        num_samples: values of K.
        estimators: of `learning.variational`, with bound IWAE.
        num_replicates: gradients of each estimator and K.

    Returns:
        The rows and the slopes, from K >= 16 on.
    """
    names = list(dict.fromkeys((*estimators, REFERENCE)))
    # log SNR of the groups without one of them: [NUM_GROUPS, len(names), len(num_samples)].
    parts = []
    for index, num in enumerate(num_samples):
        subkey = jax.random.fold_in(key, index)
        found = _group_moments(tuple(names), int(num), max(2, num_replicates // NUM_GROUPS))(subkey)
        parts.append(
            [_log_ratios(found, names, left_out) for left_out in (None, *range(NUM_GROUPS))]
        )
    values = np.moveaxis(np.asarray(parts), 0, -1)
    rows, slopes = [], []
    for place, name in enumerate(names):
        if name not in estimators:
            continue
        ratios = np.exp(values[:, place])
        rows += [
            {
                "estimator": name,
                "K": int(num),
                "signal to noise": float(ratios[0, i]),
                "standard error": _jackknife_error(ratios[1:, i]),
            }
            for i, num in enumerate(num_samples)
        ]
        used = np.asarray(num_samples) >= FIT_FROM
        if used.sum() >= 2:
            lines = [np.polyfit(np.log(num_samples)[used], v[used], 1)[0] for v in values[:, place]]
            error = _jackknife_error(np.asarray(lines[1:]))
            slopes.append({"estimator": name, "slope": float(lines[0]), "standard error": error})
    return Found(rows, slopes)


@functools.cache
def _group_moments(names: tuple[str, ...], num_samples: int, in_group: int) -> Any:
    """Moments of the gradient in b of every estimator in every group, from common keys."""
    params, x = example()
    losses = {
        name: variational(model(), bound=bounds.iwae, estimator=name, num_samples=num_samples)
        for name in names
    }

    def replicate(key: Key) -> dict[str, Array]:
        def gradient(name: str) -> Array:
            def loss(b: Array) -> Array:
                return losses[name]({**params, "b": b}, jax.random.clone(key), x)[0]

            return jax.grad(loss)(params["b"])

        return {name: gradient(name) for name in names}

    def group(key: Key) -> Moments:
        batch_size = max(1, min(in_group, 20_000 // num_samples))
        return moments(replicate, key, num_replicates=in_group, batch_size=batch_size)

    return jax.jit(lambda key: jax.lax.map(group, jax.random.split(key, NUM_GROUPS)))


def _log_ratios(found: Moments, names: Sequence[str], left_out: int | None) -> list[float]:
    """log SNR of the estimators, in the order of their names, from all groups but one."""
    kept = np.arange(NUM_GROUPS) != left_out
    mean = {name: np.asarray(m, np.float64)[kept].mean(axis=0) for name, m in found.mean.items()}
    variance = {
        name: np.asarray(v, np.float64)[kept] / (np.asarray(found.num_replicates)[kept, None] - 1)
        for name, v in found.second.items()
    }
    trace = {name: float(v.mean(axis=0).sum()) for name, v in variance.items()}
    count = float(np.asarray(found.num_replicates)[kept].sum())
    # The square of a noisy mean is too large by its variance.
    signal = float(np.sum(mean[REFERENCE] ** 2)) - trace[REFERENCE] / count
    return [0.5 * float(np.log(signal / trace[name])) for name in names]


def _jackknife_error(values: np.ndarray) -> float:
    count = len(values)
    return float(np.sqrt((count - 1) / count * np.sum((values - values.mean()) ** 2)))

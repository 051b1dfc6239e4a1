"""Part 6: the variance of very many replicates of a large gradient, in the memory of one batch.

x ~ N(m, I) in 10^4 dimensions, f(x) = |x - 1|^2 / 2, pathwise: the gradient in m is x - 1, of mean
m - 1 and variance 1 in every component, so that what is found can be held against it.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import DiagonalGaussian
from genjax_models.evaluation.moments import moments
from genjax_models.interfaces import Array, Key
from genjax_models.learning import gradients


def measure(
    key: Key, *, num_params: int = 10_000, num_replicates: int = 1_000_000, batch_size: int = 20
) -> dict[str, Any]:
    """Time, temporary memory and largest errors, in standard errors, of mean and variance."""
    loc = jnp.linspace(-1, 1, num_params)

    def posterior(loc: Array) -> DiagonalGaussian:
        return DiagonalGaussian(loc, jnp.zeros(()))

    estimator = gradients.pathwise(posterior, lambda x: 0.5 * jnp.sum(jnp.square(x - 1)))

    def replicate(key: Key, loc: Array) -> Array:
        return gradients.per_sample_gradients(estimator, loc, key)[0]

    @jax.jit
    def run(key: Key, loc: Array) -> tuple[Array, Array]:
        found = moments(
            lambda key: replicate(key, loc),
            key,
            num_replicates=num_replicates,
            batch_size=batch_size,
        )
        return found.mean, found.variance

    compiled = run.lower(key, loc).compile()
    analysis = compiled.memory_analysis()
    start = time.perf_counter()
    mean, variance = map(np.asarray, jax.block_until_ready(compiled(key, loc)))
    seconds = time.perf_counter() - start
    return {
        "parameters": num_params,
        "replicates": num_replicates,
        "seconds": seconds,
        "megabytes": analysis.temp_size_in_bytes / 1e6 if analysis else float("nan"),
        "megabytes of all replicates": 4e-6 * num_params * num_replicates,
        "largest z of the mean": float(np.abs(mean - (loc - 1)).max() * np.sqrt(num_replicates)),
        # The variance of n Gaussian draws has the standard error sqrt(2 / n).
        "largest z of the variance": float(
            np.abs(variance - 1).max() * np.sqrt(num_replicates / 2)
        ),
    }

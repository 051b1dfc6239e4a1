"""Evaluation of a whole split: batch after batch on every device, one number an example."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.harness.mesh import place, replicated, sharded, to_host
from experiments.harness.report import progress_bar
from genjax_models.evaluation import mean_estimate
from genjax_models.interfaces import Key


def map_examples(
    function: Callable[[Any, Key, Any], Any], mesh: Mesh, *, batch_size: int
) -> Callable[..., Any]:
    """A function of one example as one of a whole split, sharded over the devices of a mesh.

    Args:
        function: `function(params, key, x)`, e.g. `evaluation.log_likelihood` of a model.
        mesh: the devices.
        batch_size: examples at a time; rounded up to a multiple of the number of devices.

    Returns:
        `mapped(params, key, examples, *, show=False)`, compiled once: examples [N, ...] are
        numbers and become float32, example i gets the key `fold_in(key, i)`, and the result is
        what `function` returns as numpy arrays with leading axis [N]; `show` shows a progress bar.
    """
    batch_size = math.ceil(batch_size / mesh.size) * mesh.size

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def evaluate_batch(params: Any, key: Key, indices: jax.Array, batch: jax.Array) -> Any:
        def one_example(index: jax.Array, x: jax.Array) -> Any:
            return function(params, jax.random.fold_in(key, index), x.astype(jnp.float32))

        return jax.vmap(one_example)(indices, batch)

    def mapped(params: Any, key: Key, examples: np.ndarray, *, show: bool = False) -> Any:
        num_examples, results = len(examples), []
        with progress_bar(num_examples, 0, unit="example", enabled=show) as show_progress:
            for start in range(0, num_examples, batch_size):
                # The last batch repeats the last example, so that one program serves all.
                indices = np.minimum(np.arange(start, start + batch_size), num_examples - 1)
                batch = place(examples[indices], sharded(mesh, axis=0))
                placed = place(indices.astype(np.int32), sharded(mesh, axis=0))
                results.append(to_host(evaluate_batch(params, key, placed, batch)))
                show_progress(min(start + batch_size, num_examples), {})
        return jax.tree.map(lambda *parts: np.concatenate(parts)[:num_examples], *results)

    return mapped


def metric(
    values: np.ndarray,
    monte_carlo_errors: np.ndarray,
    *,
    estimator: str,
    num_samples: int,
    bound: str,
) -> dict[str, Any]:
    """An entry of the `metrics` of result.json: the mean with its two errors, and what it is.

    Args:
        values: one number an example, [N].
        monte_carlo_errors: the estimator's error of each, [N].
        estimator: how it was measured, in words.
        num_samples: K.
        bound: "lower", "exact" or "upper".
    """
    estimate = mean_estimate(jnp.asarray(values), jnp.asarray(monte_carlo_errors))
    return {
        **{name: float(value) for name, value in estimate._asdict().items()},
        "estimator": estimator,
        "num_samples": num_samples,
        "bound": bound,
    }

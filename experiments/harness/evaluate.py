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
    monte_carlo_errors: np.ndarray | None = None,
    *,
    estimator: str,
    num_samples: int | None,
    bound: str | None,
) -> dict[str, Any]:
    """An entry of the `metrics` of result.json: the mean with its two errors, and what it is.

    Args:
        values: one number an example, [N].
        monte_carlo_errors: the estimator's error of each, [N]; None where the values are exact.
        estimator: how it was measured, in words.
        num_samples: K; None where nothing is drawn.
        bound: "lower", "exact" or "upper"; None of an estimate that errs in either direction.
    """
    errors = None if monte_carlo_errors is None else jnp.asarray(monte_carlo_errors)
    estimate = mean_estimate(jnp.asarray(values), errors)
    return measurement(
        value=float(estimate.value),
        standard_error=float(estimate.standard_error),
        monte_carlo_error=float(estimate.monte_carlo_error),
        estimator=estimator,
        num_samples=num_samples,
        bound=bound,
    )


def measurement(
    *,
    value: float | None,
    standard_error: float | None,
    monte_carlo_error: float | None,
    estimator: str,
    num_samples: int | None,
    bound: str | None = "exact",
    unit: str = "nats",
) -> dict[str, Any]:
    """An entry of the `metrics` of result.json.

    Args:
        value: the number; None where there is none.
        standard_error: how far another test set would move it; None where that is not known.
        monte_carlo_error: how far other draws would move it; None where that is not known.
        estimator: how it was measured, in words.
        num_samples: K; None where nothing is drawn.
        bound: "lower", "exact" or "upper"; None of an estimate that errs in either direction.
        unit: of the value.
    """
    return {
        "value": value,
        "standard_error": standard_error,
        "monte_carlo_error": monte_carlo_error,
        "estimator": estimator,
        "num_samples": num_samples,
        "bound": bound,
        "unit": unit,
    }


def bits_per_dim(log_likelihood: dict[str, Any], num_dims: int) -> dict[str, Any]:
    """A log-likelihood in nats, an entry of `metrics`, as -log2 p(x) / num_dims."""
    scale = 1 / (num_dims * math.log(2))
    turned = {"lower": "upper", "exact": "exact", "upper": "lower"}[log_likelihood["bound"]]
    return log_likelihood | {
        "value": -log_likelihood["value"] * scale,
        "standard_error": log_likelihood["standard_error"] * scale,
        "monte_carlo_error": log_likelihood["monte_carlo_error"] * scale,
        "bound": turned,
        "unit": "bits per dimension",
    }

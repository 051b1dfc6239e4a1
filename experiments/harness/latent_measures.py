"""What is seen of a run's latents: active units, the rate by layer and dimension, and its parts."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.harness.evaluate import measurement
from experiments.harness.mesh import place, replicated, to_host
from experiments.harness.pictures import draw_curves, pyplot
from genjax_models.evaluation import (
    RateEstimate,
    active_units,
    layer_rates,
    posterior_mean,
    rate_parts,
)
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params

_THRESHOLD = 0.01


class LatentMeasures(NamedTuple):
    """What was measured on N examples.

    Attributes:
        num_examples: N.
        variances: Cov_x(E_q[z_d | x]) of each dimension, all layers in one vector, [D].
        num_active: how many are above 0.01.
        layers: KL(q || p) of each example for each layer, the top one in front: [N, ...] by
            dimension, or [N].
        parts: of the rate; None where the posterior has no `log_prob`.
        left_out: why there are no parts.
    """

    num_examples: int
    variances: np.ndarray
    num_active: int
    layers: tuple[np.ndarray, ...]
    parts: RateEstimate | None
    left_out: str | None

    @property
    def rates(self) -> np.ndarray:
        """KL(q(z | x) || p(z)) of each example, [N]."""
        return np.sum([_per_example(layer) for layer in self.layers], axis=0)


def measure_latents(
    model: LatentVariableModel, mesh: Mesh, *, max_examples: int, num_samples: int
) -> Callable[[Params, Key, np.ndarray], LatentMeasures]:
    """The function that measures the latents of a model on the first examples of a split.

    Args:
        model: any latent-variable model.
        mesh: the devices; each does the same.
        max_examples: how many are used; the parts of the rate cost their square.
        num_samples: for the mean of a posterior that has none in closed form.

    Returns:
        `measured(params, key, examples) -> LatentMeasures`, compiled once.
    """

    def sums(params: Params, key: Key, xs: Array) -> tuple[Any, Any]:
        means_key, layers_key = (jax.random.split(k, len(xs)) for k in jax.random.split(key))
        of_mean = functools.partial(posterior_mean, model, params, num_samples=num_samples)
        units = active_units(jax.vmap(of_mean)(means_key, xs), threshold=_THRESHOLD)
        of_layers = functools.partial(layer_rates, model, params)
        return units, jax.vmap(of_layers)(layers_key, xs)

    compiled = jax.jit(sums, out_shardings=replicated(mesh))
    parts = jax.jit(functools.partial(rate_parts, model), out_shardings=replicated(mesh))

    reasons: list[str | None] = []

    def measured(params: Params, key: Key, examples: np.ndarray) -> LatentMeasures:
        examples = np.asarray(examples[:max_examples], np.float32)
        xs = place(examples, replicated(mesh))
        first_key, parts_key = jax.random.split(jax.random.clone(key))
        units, layers = to_host(compiled(params, first_key, xs))
        if not reasons:
            reasons.append(_no_parts(model, params, xs))
        found = None if reasons[0] else to_host(parts(params, parts_key, xs))
        return LatentMeasures(
            len(examples), units.variances, int(units.num_active), layers, found, reasons[0]
        )

    return measured


def monitored(measures: LatentMeasures) -> dict[str, float]:
    """What the learning curves show of them."""
    record = {
        "active_units": float(measures.num_active),
        "validation_kl": float(measures.rates.mean()),
    }
    if measures.parts is not None:
        record["validation_mutual_information"] = float(measures.parts.value.mutual_information)
    if len(measures.layers) > 1:
        for name, layer in zip(layer_names(measures.layers), measures.layers, strict=True):
            record[f"validation_kl_{name}"] = float(_per_example(layer).mean())
    return record


def entries(measures: LatentMeasures) -> dict[str, Any]:
    """Their entries of the `metrics` of result.json."""
    of_examples = f"{measures.num_examples} examples"
    found = {
        "test_active_units": measurement(
            value=measures.num_active,
            standard_error=None,
            monte_carlo_error=None,
            estimator=f"of {measures.variances.size}",
            num_samples=None,
            unit="units",
        )
        | {"threshold": _THRESHOLD, "variances": measures.variances.tolist()},
        "test_kl_divergence": _mean(measures.rates, of_examples)
        | {"per_layer": [float(_per_example(layer).mean()) for layer in measures.layers]}
        | {"per_dimension": _per_dimension(measures.layers)},
    }
    if measures.parts is None:
        found["test_kl_divergence"]["left_out"] = {"mutual_information": measures.left_out}
        return found
    value, error = measures.parts
    found["test_mutual_information"] = measurement(
        value=float(value.mutual_information),
        standard_error=float(error.mutual_information),
        monte_carlo_error=None,
        estimator=of_examples,
        num_samples=None,
        bound="lower",
    )
    found["test_mutual_information"] |= {
        "largest_possible": math.log(measures.num_examples),
        # None: posteriors without overlap, such as those of dequantised levels, have no bound.
        "upper_bound": _finite(value.mutual_information_upper),
    }
    found["test_marginal_kl"] = measurement(
        value=float(value.marginal_kl),
        standard_error=float(error.marginal_kl),
        monte_carlo_error=None,
        estimator=of_examples,
        num_samples=None,
        bound="upper",
    )
    if value.total_correlation is not None and value.dimension_wise_kl is not None:
        found["test_marginal_kl"] |= {
            "total_correlation": float(value.total_correlation),
            "per_dimension": np.ravel(value.dimension_wise_kl).tolist(),
        }
    return found


def save_latent_curves(
    path: Path,
    records: Sequence[Mapping[str, Any]],
    bounds: Mapping[str, str],
    layers: Sequence[np.ndarray],
) -> None:
    """Panels: the bounds, what the latents carry, and the rate of each dimension or layer.

    Args:
        path: the PNG file.
        records: of the run, each with "step".
        bounds: the metrics of the first panel, and what to call each.
        layers: KL of each layer at the end, by example and dimension, as of `LatentMeasures`.
    """
    plt = pyplot()
    num_values = sum(np.mean(layer, axis=0).size for layer in layers)
    # One number for all of z is the last point of the middle panel.
    num_panels = 3 if num_values > 1 else 2
    figure, (left, middle, *right) = plt.subplots(
        1, num_panels, figsize=(5 * num_panels, 4), layout="constrained"
    )
    draw_curves(left, records, bounds, ylabel="nats per example")
    names = {
        "validation_kl": "KL(q(z|x) || p(z))",
        "validation_mutual_information": "I(x; z), lower bound",
    }
    if len(layers) > 1:
        names |= {f"validation_kl_{name}": f"KL, {name}" for name in layer_names(layers)}
    draw_curves(middle, records, names, ylabel="nats per example")
    units = middle.twinx()
    points = [(r["step"], r["active_units"]) for r in records if "active_units" in r]
    if points:
        units.plot(*zip(*points, strict=True), color="black", linestyle=":", linewidth=1)
    units.set_ylabel("active units (dotted)")
    units.set_ylim(bottom=0)
    if right:
        _draw_layers(right[0], layers)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_layers(axes: Any, layers: Sequence[np.ndarray]) -> None:
    """A bar for each dimension, or for each layer whose dimensions have no divergence."""
    start = 0
    for name, layer in zip(layer_names(layers), layers, strict=True):
        # The largest first: which dimension is which means nothing.
        values = np.sort(np.ravel(np.mean(layer, axis=0)))[::-1]
        axes.bar(start + np.arange(values.size), values, width=1.0, label=name)
        start += values.size
    axes.set_xlabel("dimension of z" if start > len(layers) else "layer of z")
    if start == len(layers):
        axes.set_xticks(range(start), layer_names(layers))
    axes.set_ylabel("KL at the end, nats")
    if len(layers) > 1:
        axes.legend(frameon=False)


def layer_names(layers: Sequence[Any]) -> list[str]:
    """z_L, ..., z_1: the top layer is in front."""
    return [f"z_{index}" for index in range(len(layers), 0, -1)]


def _no_parts(model: LatentVariableModel, params: Params, xs: Array) -> str | None:
    """Why the rate of this model cannot be split, or None."""
    try:
        jax.eval_shape(functools.partial(rate_parts, model), params, jax.random.key(0), xs)
    except (TypeError, NotImplementedError) as error:
        return str(error)
    return None


def _finite(value: Array) -> float | None:
    return float(value) if jnp.isfinite(value) else None


def _per_example(layer: np.ndarray) -> np.ndarray:
    return np.sum(layer.reshape(len(layer), -1), axis=1)


def _per_dimension(layers: Sequence[np.ndarray]) -> list[list[float]] | None:
    """Of each layer that has a divergence for each dimension; None where none has."""
    if all(layer.ndim == 1 for layer in layers):
        return None
    return [np.ravel(np.mean(layer, axis=0)).tolist() for layer in layers]


def _mean(values: np.ndarray, estimator: str) -> dict[str, Any]:
    return measurement(
        value=float(jnp.mean(values)),
        standard_error=float(np.std(values, ddof=1) / len(values) ** 0.5),
        monte_carlo_error=None,
        estimator=estimator,
        num_samples=None,
    )

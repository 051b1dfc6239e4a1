"""What every experiment with a latent-variable model measures and draws."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.harness import latent_measures, pictures
from experiments.harness.data import Dataset
from experiments.harness.evaluate import map_examples, metric
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models.evaluation import (
    BoundEstimate,
    LogLikelihood,
    bound_estimate,
    layer_rates,
    log_likelihood,
)
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params
from genjax_models.learning import bounds
from genjax_models.models import latent

_BATCH_SIZE = 100
_MAX_BOUND_EXAMPLES = 10_000
_MAX_BOUND_SAMPLES = 10_000
_NUM_PICTURED = 100
_MAX_LATENT_EXAMPLES = 500
_MAX_MONITORED_EXAMPLES = 200


@dataclasses.dataclass(frozen=True)
class LatentEvaluator:
    """Measures and draws one model on one data set.

    Attributes:
        model: any latent-variable model of vectors x.
        dataset: its test split is measured.
        mesh: the devices.
        key: of every estimate.
        bound: what is maximised, from log weights [K] to a scalar.
        bound_name: its name, for the results.
        num_samples: K of the bound.
        evaluation_samples: K of the importance-sampled log p(x).
        iwae_samples: K of an importance-weighted bound that is measured too; None for none.
        picture_means: whether the pictures show E[x | z] rather than draws of x.
    """

    model: LatentVariableModel
    dataset: Dataset
    mesh: Mesh
    key: Key
    bound: Callable[[Array], Array]
    bound_name: str
    num_samples: int
    evaluation_samples: int
    iwae_samples: int | None = None
    picture_means: bool = True

    def monitor(self, state: Any) -> dict[str, Any]:
        """What the learning curves show beside the training loss."""
        bound = self.measure_bound(state.params, "validation")["value"]
        examples = self.dataset.validation.x
        measures = self._monitored_latents(state.params, self._latent_key(), examples)
        return {"validation_bound": bound} | latent_measures.monitored(measures)

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: bounds, log p(x), and what the latents carry."""
        measures = self._latents(state.params, self._latent_key(), self.dataset.test.x)
        return self.measure_bounds(state.params) | latent_measures.entries(measures)

    def measure_bounds(self, params: Params) -> dict[str, Any]:
        """Bounds and log p(x), as entries of `metrics`."""
        metrics = {
            "train_bound": self.measure_bound(params, "train"),
            "test_bound": self.measure_bound(params, "test"),
            "test_log_likelihood": self.measure_log_likelihood(params),
        }
        if self.iwae_samples is not None:
            iwae = dataclasses.replace(
                self, bound=bounds.iwae, bound_name="iwae", num_samples=self.iwae_samples
            )
            metrics["test_iwae_bound"] = iwae.measure_bound(params, "test")
        return metrics

    def measure_bound(self, params: Params, split: str) -> dict[str, Any]:
        """The bound on the first 10,000 examples of a split, as an entry of `metrics`."""
        examples = getattr(self.dataset, split).x[:_MAX_BOUND_EXAMPLES]
        mapped = self._train_bound if split == "train" else self._bound
        estimates = mapped(params, self.key, examples)
        return metric(
            estimates.value,
            estimates.monte_carlo_error,
            estimator=self.bound_name,
            num_samples=self.num_samples,
            bound="lower",
        )

    def measure_log_likelihood(self, params: Params) -> dict[str, Any]:
        """log p(x) of the test split by importance sampling, as an entry of `metrics`."""
        num_samples = self.evaluation_samples

        def one_example(params: Params, key: Key, x: Array) -> LogLikelihood:
            return log_likelihood(self.model, params, key, x, num_samples=num_samples)

        mapped = map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)
        estimates = mapped(params, self.key, self.dataset.test.x, show=True)
        return metric(
            estimates.value,
            estimates.monte_carlo_error,
            estimator="importance sampling",
            num_samples=num_samples,
            bound="lower",
        )

    def _latent_key(self) -> Key:
        # No example has this number.
        return jax.random.fold_in(self.key, 2**32 - 1)

    @functools.cached_property
    def _latents(self) -> Callable[..., latent_measures.LatentMeasures]:
        return latent_measures.measure_latents(
            self.model, self.mesh, max_examples=_MAX_LATENT_EXAMPLES, num_samples=64
        )

    @functools.cached_property
    def _monitored_latents(self) -> Callable[..., latent_measures.LatentMeasures]:
        return latent_measures.measure_latents(
            self.model, self.mesh, max_examples=_MAX_MONITORED_EXAMPLES, num_samples=64
        )

    @functools.cached_property
    def _bound(self) -> Callable[..., Any]:
        return map_examples(self._bound_of_one, self.mesh, batch_size=self._bound_batch_size)

    @property
    def _bound_batch_size(self) -> int:
        # All samples of a bound are held at once.
        return max(1, min(_BATCH_SIZE, _MAX_BOUND_SAMPLES // self.num_samples))

    @functools.cached_property
    def _train_bound(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> BoundEstimate:
            prepare_key, bound_key = jax.random.split(key)
            return self._bound_of_one(params, bound_key, self.dataset.prepare(prepare_key, x))

        return map_examples(one_example, self.mesh, batch_size=self._bound_batch_size)

    def _bound_of_one(self, params: Params, key: Key, x: Array) -> BoundEstimate:
        return bound_estimate(
            self.model, params, key, x, bound=self.bound, num_samples=self.num_samples
        )

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples, reconstructions and curves; for two latents, two more."""
        if not is_main_process():
            return
        params = to_host(state.params)  # One process draws, on a device of its own.
        shape = self.dataset.example_shape
        sample_key, reconstruct_key, layers_key = jax.random.split(self.key, 3)
        keys = jax.random.split(sample_key, _NUM_PICTURED)
        samples = jax.jit(
            jax.vmap(lambda key: latent.sample(self.model, params, key, mean=self.picture_means))
        )(keys)
        pictures.save_grid(run.path / "samples.png", samples, shape, num_columns=10)
        originals = self.dataset.test.x[: _NUM_PICTURED // 2].astype(np.float32)
        keys = jax.random.split(reconstruct_key, len(originals))
        reconstructions = jax.jit(
            jax.vmap(
                lambda key, x: latent.reconstruct(
                    self.model, params, key, x, mean=self.picture_means
                )
            )
        )(keys, originals)
        pictures.save_reconstructions(
            run.path / "reconstructions.png", originals, np.asarray(reconstructions), shape
        )
        names = {"bound": "training bound", "validation_bound": "validation bound"}
        layers = self._layer_rates(params, layers_key)
        latent_measures.save_latent_curves(run.path / "curves.png", run.records(), names, layers)
        self._draw_plane(params, run)

    def _layer_rates(self, params: Params, key: Key) -> tuple[np.ndarray, ...]:
        """KL of each layer for the first test examples, by dimension where there is such a form."""
        xs = self.dataset.test.x[:_MAX_LATENT_EXAMPLES].astype(np.float32)
        of_example = functools.partial(layer_rates, self.model, params)
        layers = jax.jit(jax.vmap(of_example))(jax.random.split(key, len(xs)), xs)
        return tuple(np.asarray(layer) for layer in layers)

    def _draw_plane(self, params: Params, run: Run) -> None:
        """The latent plane, where z has two dimensions."""
        test = self.dataset.test
        xs = test.x.astype(np.float32)
        posterior = self.model.posterior(params, xs[0])
        if not hasattr(posterior, "mean") or np.shape(_mean(posterior)) != (2,):
            return
        codes = jax.jit(jax.vmap(lambda x: _mean(self.model.posterior(params, x))))(xs)
        decode = jax.jit(jax.vmap(lambda z: _mean(self.model.likelihood(params, z))))
        pictures.save_manifold(run.path / "manifold.png", decode, self.dataset.example_shape)
        pictures.save_embedding(run.path / "embedding.png", np.asarray(codes), test.labels)


def _mean(distribution: Any) -> Array:
    return distribution.mean()

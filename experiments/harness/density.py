"""What every experiment with an exact density measures and draws."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.harness import pictures
from experiments.harness.data import Dataset
from experiments.harness.evaluate import map_examples, metric
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models.interfaces import Array, DensityModel, Key, Params

_NUM_SAMPLES = 100
_NUM_POINTS = 2000


@dataclasses.dataclass(frozen=True)
class DensityEvaluator:
    """Measures and draws one model with an exact `log_prob` on one data set.

    Attributes:
        model: any density of vectors x.
        dataset: its splits are measured.
        mesh: the devices.
        key: of the samples, and of the binarisation of training examples.
        batch_size: examples measured at a time.
    """

    model: DensityModel
    dataset: Dataset
    mesh: Mesh
    key: Key
    batch_size: int = 100

    def monitor(self, state: Any) -> dict[str, float]:
        """What the learning curves show beside the training loss."""
        return {"validation_log_likelihood": self.measure(state.params, "validation")["value"]}

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: exact log-likelihoods of every split."""
        return {
            f"{split}_log_likelihood": self.measure(state.params, split)
            for split in ("train", "validation", "test")
        }

    def measure(self, params: Params, split: str) -> dict[str, Any]:
        """log p(x) of the first 10,000 examples of a split, as an entry of `metrics`."""
        examples = getattr(self.dataset, split).x[:10_000]
        mapped = self._train_log_prob if split == "train" else self._log_prob
        values = mapped(params, self.key, examples)
        return metric(values, estimator="exact", num_samples=None, bound="exact")

    @functools.cached_property
    def _log_prob(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> Array:
            return self.model.log_prob(params, x)

        return map_examples(one_example, self.mesh, batch_size=self.batch_size)

    @functools.cached_property
    def _train_log_prob(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> Array:
            return self.model.log_prob(params, self.dataset.prepare(key, x))

        return map_examples(one_example, self.mesh, batch_size=self.batch_size)

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples and learning curves."""
        if not is_main_process():
            return
        draw_samples(self.model.sample, to_host(state.params), self.key, self.dataset, run)
        names = {
            "log_likelihood": "training log-likelihood",
            "validation_log_likelihood": "validation log-likelihood",
        }
        pictures.save_curves(run.path / "curves.png", run.records(), names)


def draw_samples(
    sample: Callable[[Params, Key], Array],
    params: Params,
    key: Key,
    dataset: Dataset,
    run: Run,
    *,
    name: str = "samples.png",
) -> np.ndarray:
    """A picture: a grid of images, or points of the plane beside the test set's; gives them back.

    Args:
        sample: `sample(params, key) -> x`.
        params: its parameters.
        key: PRNG key.
        dataset: says what an example is.
        run: the run's folder.
        name: of the picture.
    """
    is_plane = dataset.example_shape == (2,)
    keys = jax.random.split(key, _NUM_POINTS if is_plane else _NUM_SAMPLES)
    samples = np.asarray(jax.jit(jax.vmap(sample, in_axes=(None, 0)))(params, keys))
    path = run.path / name
    if is_plane:
        pictures.save_points(path, {"data": dataset.test.x[:_NUM_POINTS], "samples": samples})
    else:
        pictures.save_grid(path, samples, dataset.example_shape, num_columns=10)
    return samples

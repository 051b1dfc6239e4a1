"""What every experiment with a model that can only be sampled measures and draws."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.harness import pictures
from experiments.harness.data import Dataset
from experiments.harness.density import draw_samples
from experiments.harness.evaluate import map_examples, measurement
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models.evaluation import (
    SquaredMMD,
    TwoSampleTest,
    median_distance,
    mmd_test,
    squared_mmd,
)
from genjax_models.interfaces import Array, ImplicitModel, Key, Params

_BATCH_SIZE = 500
_NUM_MONITORED = 1000
_NUM_NEIGHBOURS = 50


@dataclasses.dataclass(frozen=True)
class ImplicitEvaluator:
    """Measures one model by two-sample tests on one data set, and draws it.

    The kernel is Gaussian, its bandwidth the median distance between validation examples: it hangs
    on neither of the sets that a test compares.

    Attributes:
        model: any sampler of vectors x.
        dataset: its test split is compared with samples.
        mesh: the devices.
        key: of the samples and permutations.
        evaluation_samples: compared at most: of samples, test and training examples each.
        num_permutations: of the tests.
        curves: the metrics that curves.png shows, and what to call each.
    """

    model: ImplicitModel
    dataset: Dataset
    mesh: Mesh
    key: Key
    evaluation_samples: int
    num_permutations: int
    curves: dict[str, str]

    def monitor(self, state: Any) -> dict[str, float]:
        """What the learning curves show beside the training loss."""
        real = self.dataset.validation.x[:_NUM_MONITORED].astype(np.float32)
        samples = self.draw_examples(state.params, len(real))
        estimate = squared_mmd(jnp.asarray(real), jnp.asarray(samples), bandwidth=self.bandwidth)
        return {"validation_squared_mmd": float(estimate.value)}

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: samples, then training examples, beside the test split.

        There are as many of either, so that the two tests have the same power.
        """
        real = self.dataset.test.x[: self.evaluation_samples].astype(np.float32)
        examples = self.training_examples(self.evaluation_samples)
        samples = self.draw_examples(state.params, len(examples))
        sample_key, example_key = jax.random.split(self._key("permutations"))
        return {
            **self._entries("test", self._test(sample_key, real, samples), len(samples)),
            **self._entries("real", self._test(example_key, real, examples), None),
        }

    def draw_examples(self, params: Params, num_samples: int) -> np.ndarray:
        """Samples [num_samples, num_dims], drawn on all devices."""
        return self._mapped(params, self._key("samples"), np.zeros(num_samples, np.float32))

    def training_examples(self, num_examples: int) -> np.ndarray:
        """Training examples, drawn at random without replacement, as the model sees them."""
        x = self.dataset.train.x
        chosen = np.random.default_rng(0).permutation(len(x))[:num_examples]
        keys = jax.random.split(self._key("training examples"), len(chosen))
        return np.asarray(jax.jit(jax.vmap(self.dataset.prepare))(keys, x[chosen]))

    @functools.cached_property
    def bandwidth(self) -> float:
        """The median distance between validation examples."""
        return float(median_distance(jnp.asarray(self.dataset.validation.x, jnp.float32)))

    @functools.cached_property
    def _mapped(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> Array:
            return self.model.sample(params, key)

        return map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)

    def _key(self, purpose: str) -> Key:
        purposes = ("samples", "permutations", "training examples", "pictures")
        return jax.random.fold_in(self.key, purposes.index(purpose))

    def _test(self, key: Key, real: np.ndarray, others: np.ndarray) -> TwoSampleTest:
        return mmd_test(
            key,
            jnp.asarray(real),
            jnp.asarray(others),
            bandwidth=self.bandwidth,
            num_permutations=self.num_permutations,
        )

    def _entries(self, name: str, test: TwoSampleTest, num_samples: int | None) -> dict[str, Any]:
        estimate: SquaredMMD = test.estimate
        return {
            f"{name}_squared_mmd": measurement(
                value=float(estimate.value),
                standard_error=float(estimate.x_error),
                monte_carlo_error=None if num_samples is None else float(estimate.y_error),
                estimator=f"unbiased, Gaussian kernel of bandwidth {self.bandwidth:.3g}",
                num_samples=num_samples,
                unit="squared MMD",
            ),
            f"{name}_p_value": measurement(
                value=float(test.p_value),
                standard_error=None,
                monte_carlo_error=_binomial_error(float(test.p_value), self.num_permutations),
                estimator="permutation test of squared MMD",
                num_samples=self.num_permutations,
                unit="probability",
            ),
        }

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples, their nearest training examples, and learning curves."""
        if not is_main_process():
            return
        params, key = to_host(state.params), self._key("pictures")
        samples = draw_samples(self.model.sample, params, key, self.dataset, run)
        if len(self.dataset.example_shape) > 1:
            self._draw_neighbours(samples[:_NUM_NEIGHBOURS], run)
        records = run.records()
        pictures.save_curves(run.path / "curves.png", records, self.curves, ylabel="loss")
        names = {"validation_squared_mmd": "samples and validation examples"}
        pictures.save_curves(run.path / "discrepancy.png", records, names, ylabel="squared MMD")

    def _draw_neighbours(self, samples: np.ndarray, run: Run) -> None:
        """neighbours.png: rows of samples, each above the nearest training examples."""
        train = self.training_examples(len(self.dataset.train.x))
        distances = (train**2).sum(axis=1) - 2 * samples @ train.T
        pictures.save_reconstructions(
            run.path / "neighbours.png",
            samples,
            train[distances.argmin(axis=1)],
            self.dataset.example_shape,
        )


def _binomial_error(share: float, num_draws: int) -> float:
    return float(np.sqrt(share * (1 - share) / num_draws))

"""What every experiment with an auto-encoder measures and draws."""

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
from experiments.harness.evaluate import map_examples, metric
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models.interfaces import Array, AutoEncoder, Key, Params
from genjax_models.learning.reconstruction import Corruption

_BATCH_SIZE = 500
_MAX_EXAMPLES = 10_000
_NUM_PICTURED = 50
_NUM_FILTERS = 100


@dataclasses.dataclass(frozen=True)
class AutoEncoderEvaluator:
    """Measures one auto-encoder beside principal components of the same number, and draws it.

    Attributes:
        model: any auto-encoder of vectors x.
        dataset: its splits are measured.
        mesh: the devices.
        key: of the corruption, and of the binarisation of training examples.
        code_dim: number of principal components.
        corruption: where there is one, what corrupted examples lose is measured, too.
    """

    model: AutoEncoder
    dataset: Dataset
    mesh: Mesh
    key: Key
    code_dim: int
    corruption: Corruption | None = None

    def monitor(self, state: Any) -> dict[str, float]:
        """What the learning curves show beside the training loss."""
        x = self.dataset.validation.x[:_MAX_EXAMPLES]
        return {"validation_squared_error": float(self._errors(state.params, x).mean())}

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: squared errors of the model and of principal components."""
        splits = {name: getattr(self.dataset, name).x for name in ("validation", "test")}
        examples = {"train": self.training_examples} | splits
        metrics = {}
        for name, x in examples.items():
            x = np.asarray(x[:_MAX_EXAMPLES], np.float32)
            metrics[f"{name}_squared_error"] = _entry(self._errors(state.params, x), "exact")
            projected = self._project(x)
            metrics[f"{name}_pca_squared_error"] = _entry(_distance(x, projected), self._pca_name)
        if self.corruption is not None:
            x = np.asarray(self.dataset.test.x[:_MAX_EXAMPLES], np.float32)
            corrupted = self._corrupted(x)
            denoised = self._reconstructed(state.params, self.key, corrupted)
            found = {"": denoised, "pca_": self._project(corrupted)}
            for prefix, guess in found.items():
                name = self._pca_name if prefix else "one corruption of each example"
                metrics[f"test_{prefix}denoising_error"] = _entry(_distance(x, guess), name)
        return metrics

    @functools.cached_property
    def training_examples(self) -> np.ndarray:
        """The training examples as the model sees them, at most 10,000."""
        x = self.dataset.train.x[:_MAX_EXAMPLES]
        keys = jax.random.split(jax.random.fold_in(self.key, 0), len(x))
        return np.asarray(jax.jit(jax.vmap(self.dataset.prepare))(keys, x))

    @functools.cached_property
    def _pca(self) -> Any:
        from sklearn.decomposition import PCA

        x = self.training_examples
        return PCA(min(self.code_dim, *x.shape)).fit(x)

    @property
    def _pca_name(self) -> str:
        return f"{self._pca.n_components_} principal components"

    def _project(self, x: np.ndarray) -> np.ndarray:
        return self._pca.inverse_transform(self._pca.transform(x))

    def _corrupted(self, x: np.ndarray) -> np.ndarray:
        corruption: Any = self.corruption
        keys = jax.random.split(jax.random.fold_in(self.key, 1), len(x))
        return np.asarray(jax.jit(jax.vmap(corruption))(keys, x))

    def _errors(self, params: Params, x: np.ndarray) -> np.ndarray:
        return _distance(x, self._reconstructed(params, self.key, x))

    @functools.cached_property
    def _reconstructed(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> Array:
            return self._mean(params, x)

        return map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: reconstructions, filters, curves, and codes where they are planar.

        Filters are the derivatives of the code at the mean example: of a linear encoder, and up to
        a factor of one layer, its weights.
        """
        if not is_main_process():
            return
        params, shape = to_host(state.params), self.dataset.example_shape
        x = np.asarray(self.dataset.test.x, np.float32)
        self._draw_pairs(run, "reconstructions.png", params, x, x)
        if self.corruption is not None:
            self._draw_pairs(run, "denoised.png", params, x, self._corrupted(x))
        mean = jnp.asarray(self.training_examples.mean(axis=0))
        filters = np.asarray(jax.jit(jax.jacrev(self.model.encode, 1))(params, mean))
        filters = filters[np.argsort(-np.linalg.norm(filters, axis=1))[:_NUM_FILTERS]]
        peaks = np.abs(filters).max(axis=1, keepdims=True)
        filters = filters / np.where(peaks == 0, 1, peaks)
        num_columns = min(10, len(filters))
        pictures.save_grid(run.path / "filters.png", filters, shape, num_columns=num_columns)
        names = {"squared_error": "training", "validation_squared_error": "validation"}
        path = run.path / "curves.png"
        pictures.save_curves(path, run.records(), names, ylabel="squared error")
        if filters.shape[0] == 2:
            codes = np.asarray(jax.jit(jax.vmap(self.model.encode, (None, 0)))(params, x))
            pictures.save_embedding(run.path / "embedding.png", codes, self.dataset.test.labels)

    def _draw_pairs(
        self, run: Run, name: str, params: Params, originals: np.ndarray, seen: np.ndarray
    ) -> None:
        """What the model sees of examples, above what it makes of them."""
        decode = jax.jit(jax.vmap(lambda x: self._mean(params, x)))
        if self.dataset.example_shape == (2,):
            sets = {"data": originals, "seen": seen, "reconstructed": np.asarray(decode(seen))}
            pictures.save_points(run.path / name, sets)
            return
        seen = seen[:_NUM_PICTURED]
        guesses = np.asarray(decode(seen))
        if self.dataset.num_levels is not None:
            # One mean a little below zero would turn the white of every picture grey.
            seen, guesses = np.clip(seen, 0, 1), np.clip(guesses, 0, 1)
        shape = self.dataset.example_shape
        pictures.save_reconstructions(run.path / name, seen, guesses, shape)

    def _mean(self, params: Params, x: Array) -> Array:
        distribution: Any = self.model.decode(params, self.model.encode(params, x))
        return distribution.mean()


def _distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances [N], summed over the dimensions."""
    return np.square(np.asarray(x, np.float64) - y).sum(axis=1)


def _entry(values: np.ndarray, estimator: str) -> dict[str, Any]:
    found = metric(values, estimator=estimator, num_samples=None, bound="exact")
    return found | {"unit": "squared distance"}

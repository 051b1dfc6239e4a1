"""What an experiment with a diffusion model measures and draws."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.harness import pictures
from experiments.harness.data import Dataset
from experiments.harness.density import draw_samples
from experiments.harness.evaluate import bits_per_dim, map_examples, metric
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models.interfaces import Array, Key, Params
from genjax_models.learning import diffusion_bound
from genjax_models.models.markov_chain import Diffusion, sample_chain, sample_ddim

_BATCH_SIZE = 100
_NUM_MONITORED_TERMS = 25
_MAX_MONITORED = 200
_NUM_SAMPLES = 100
_NUM_POINTS = 2000
_NUM_PICTURED = 10
_CHAINS_AT_A_TIME = 50
# Where along the chain pictures are taken: more of them where the picture comes about.
_FRACTIONS = (1.0, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)


class Parts(NamedTuple):
    """The bound of one example and its parts, in nats: arrays of jax's, or of numpy once mapped."""

    bound: Any
    prior_kl: Any
    step_kl: Any
    reconstruction: Any


@dataclasses.dataclass(frozen=True)
class DiffusionEvaluator:
    """Measures and draws one diffusion model on one data set.

    Attributes:
        model: a diffusion model of vectors x.
        dataset: its splits are measured.
        mesh: the devices.
        key: of every estimate.
        num_samples: draws of the bound for each example, at least 2.
        num_terms: steps in each draw; None for all.
        num_examples: of each split, the first ones; never more than there are test examples.
        ddim_steps: network evaluations of the deterministic samples.
    """

    model: Diffusion
    dataset: Dataset
    mesh: Mesh
    key: Key
    num_samples: int
    num_terms: int | None
    num_examples: int
    ddim_steps: int

    def monitor(self, state: Any) -> dict[str, float]:
        """What the learning curves show: an unbiased estimate from a few terms."""
        examples = self.dataset.validation.x[: min(self.num_examples, _MAX_MONITORED)]
        return {
            "validation_bound": float(np.mean(self._monitored(state.params, self.key, examples)))
        }

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: bounds, bits per dimension of grey levels, and parts."""
        train, train_errors = self.measure(state.params, "train")
        test, errors = self.measure(state.params, "test")
        entry = functools.partial(metric, estimator=self._estimator(), num_samples=self.num_samples)
        metrics = {
            "train_bound": entry(train.bound, train_errors.bound, bound="lower"),
            "test_bound": entry(test.bound, errors.bound, bound="lower"),
        }
        if self.model.observation.bounded:
            num_dims = int(np.prod(self.dataset.example_shape))
            metrics["test_bits_per_dim"] = bits_per_dim(metrics["test_bound"], num_dims)
        # Not bounds themselves, and exact but for their Monte Carlo errors.
        for name in Parts._fields[1:]:
            metrics[f"test_{name}"] = entry(
                getattr(test, name), getattr(errors, name), bound="exact"
            )
        return metrics

    def measure(self, params: Params, split: str) -> tuple[Parts, Parts]:
        """Means and errors over the draws, for the first examples of a split."""
        num_examples = min(self.num_examples, len(self.dataset.test.x))
        examples = getattr(self.dataset, split).x[:num_examples]
        if split == "train":
            examples = self._prepare(None, self.key, examples)
        return self._parts(params, self.key, examples, show=split == "test")

    @functools.cached_property
    def _parts(self) -> Callable[..., Any]:
        return map_examples(self._parts_of_one, self.mesh, batch_size=_BATCH_SIZE)

    @functools.cached_property
    def _prepare(self) -> Callable[..., Any]:
        def one_example(_: None, key: Key, x: Array) -> Array:
            return self.dataset.prepare(key, x)

        return map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)

    def _parts_of_one(self, params: Params, key: Key, x: Array) -> tuple[Parts, Parts]:
        def draw(index: Array) -> Parts:
            bound = diffusion_bound(
                self.model, params, jax.random.fold_in(key, index), x, num_terms=self.num_terms
            )
            step_kl = jnp.sum(bound.step_kls)
            return Parts(bound.value, bound.prior_kl, step_kl, bound.log_likelihood)

        draws = jax.lax.map(draw, jnp.arange(self.num_samples))
        errors = jax.tree.map(lambda d: jnp.std(d, ddof=1) / self.num_samples**0.5, draws)
        return jax.tree.map(jnp.mean, draws), errors

    @functools.cached_property
    def _monitored(self) -> Callable[..., Any]:
        num_terms = min(_NUM_MONITORED_TERMS, self.model.schedule.num_steps)

        def one_example(params: Params, key: Key, x: Array) -> Array:
            return diffusion_bound(self.model, params, key, x, num_terms=num_terms).value

        return map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)

    def _estimator(self) -> str:
        num_steps = self.model.schedule.num_steps
        if self.num_terms is None:
            return f"all {num_steps} terms of the bound"
        return f"{self.num_terms} of the {num_steps} terms of the bound, one a stretch"

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples, samples along the chain, DDIM's, and learning curves."""
        if not is_main_process():
            return
        params = to_host(state.params)  # One process draws, on a device of its own.
        chain_key, ddim_key = jax.random.split(self.key)
        self._draw_chains(params, chain_key, run.path)

        def ddim(params: Params, key: Key) -> Array:
            return sample_ddim(self.model, params, key, num_steps=self.ddim_steps)

        draw_samples(ddim, params, ddim_key, self.dataset, run, name="ddim.png")
        names = {"bound": "training bound", "validation_bound": "validation bound"}
        pictures.save_curves(run.path / "curves.png", run.records(), names)

    def _draw_chains(self, params: Params, key: Key, folder: Path) -> None:
        """samples.png, and chain.png: a few of them from noise on the left to data on the right."""
        shape, num_steps = self.dataset.example_shape, self.model.schedule.num_steps
        shown = np.rint(np.array(_FRACTIONS) * num_steps).astype(int)

        def states(key: Key) -> Array:
            return self.model.observation.unscale(sample_chain(self.model, params, key)[shown])

        @jax.jit
        def draw(keys: Array) -> Array:
            # A whole chain takes memory: only so many at a time.
            return jax.lax.map(states, keys, batch_size=_CHAINS_AT_A_TIME)

        is_plane = shape == (2,)
        chains = np.asarray(draw(jax.random.split(key, _NUM_POINTS if is_plane else _NUM_SAMPLES)))
        if is_plane:
            sets = {"data": self.dataset.test.x[:_NUM_POINTS], "samples": chains[:, -1]}
            pictures.save_points(folder / "samples.png", sets)
            columns = list(enumerate(shown))[1::2]
            along = {f"t = {t}": chains[:, i] for i, t in columns}
            pictures.save_points(folder / "chain.png", along)
            return
        pictures.save_grid(folder / "samples.png", chains[:, -1], shape, num_columns=10)
        # Noise beyond black and white is drawn as black and white.
        rows = np.clip(chains[:_NUM_PICTURED], 0, 1).reshape(-1, chains.shape[-1])
        pictures.save_grid(folder / "chain.png", rows, shape, num_columns=len(shown))

"""The Helmholtz machine and its wake-sleep algorithm, as one would watch them.

`python -m experiments.helmholtz` trains a small one (Dayan et al. 1995; Hinton et al. 1995) on
handwritten digits in about two minutes, small enough that its likelihood is a sum over all hidden
states. `dreams.png` shows what it dreams as it learns, `awake.png` what it makes of test images,
and `free_energy.png` the bound, the exact likelihood and what lies between.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness
from experiments.harness import pictures, pictures_latent
from experiments.harness.evaluate import map_examples, metric
from experiments.harness.mesh import is_main_process, to_host
from genjax_models.evaluation import binary_states, enumerated_log_likelihood
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params
from genjax_models.models import latent

_NUM_MONITORED = 100
_NUM_DREAMS = 16
_NUM_ROWS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.VariationalSettings):
    """Train a Helmholtz machine by wake-sleep, and watch it."""

    latent_dims: tuple[int, ...] = (10, 4)
    """Sizes of the layers, from the data upwards; at most 20 units in all."""
    hidden: tuple[int, ...] = ()
    """Units of the hidden tanh layers between any two layers; none makes a linear net."""
    estimator: Literal["wake_sleep", "reweighted_wake_sleep"] = "wake_sleep"
    """The second replaces the dreams by weighted samples, for `--bound iwae --num-samples 10`."""
    num_epochs: int = 500
    """Passes through the training set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood != "bernoulli":
            raise ValueError(f"likelihood must be bernoulli, got {self.likelihood}")
        binary_states(self.latent_dims)
        if self.estimator == "reweighted_wake_sleep" and self.bound != "iwae":
            raise ValueError("estimator reweighted_wake_sleep is for --bound iwae")


@dataclasses.dataclass(frozen=True)
class Watcher(harness.LatentEvaluator):
    """Measures the exact likelihood too, and keeps the dreams."""

    def monitor(self, state: Any) -> dict[str, Any]:
        """With bound and exact log p(x) of some validation images, and dreams of one noise."""
        examples = self.dataset.validation.x[:_NUM_MONITORED]
        exact = self._exact(state.params, self.key, examples)
        bounds = self._bound(state.params, self.key, examples).value
        dreams = self._dreams(to_host(state.params))
        return super().monitor(state) | {
            "monitored_bound": float(np.mean(bounds)),
            "monitored_log_likelihood": float(np.mean(exact)),
            "dreams": np.asarray(dreams).astype(int).tolist(),
        }

    def evaluate(self, state: Any) -> dict[str, Any]:
        """With the exact log p(x) of the test images."""
        values = self._exact(state.params, self.key, self.dataset.test.x)
        exact = metric(values, estimator="enumeration", num_samples=None, bound="exact")
        return super().evaluate(state) | {"test_exact_log_likelihood": exact}

    def draw(self, state: Any, run: harness.Run) -> None:
        """With dreams, recognition and free energy."""
        super().draw(state, run)
        if not is_main_process():
            return
        records = [record for record in run.records() if "dreams" in record]
        chosen = np.unique(np.linspace(0, len(records) - 1, _NUM_ROWS).round().astype(int))
        shape = self.dataset.example_shape
        pictures_latent.save_labelled_rows(
            run.path / "dreams.png",
            {f"step {records[i]['step']}": np.asarray(records[i]["dreams"]) for i in chosen},
            shape,
        )
        pictures_latent.save_labelled_rows(
            run.path / "awake.png", self._awake(to_host(state.params)), shape
        )
        names = {
            "monitored_log_likelihood": "log p(x), exact",
            "monitored_bound": "minus the free energy",
        }
        pictures.save_curves(run.path / "free_energy.png", records, names)

    @functools.cached_property
    def _exact(self) -> Callable[..., Any]:
        states = binary_states(self._layer_sizes)

        def one_example(params: Params, key: Key, x: Array) -> Array:
            return enumerated_log_likelihood(self.model, params, x, states)

        return map_examples(one_example, self.mesh, batch_size=10)

    @functools.cached_property
    def _layer_sizes(self) -> tuple[int, ...]:
        params = jax.eval_shape(self.model.init, jax.random.key(0))
        draw = lambda params: self.model.prior(params).sample(seed=jax.random.key(0))  # noqa: E731
        return tuple(layer.shape[0] for layer in jax.eval_shape(draw, params))

    @functools.cached_property
    def _dreams(self) -> Callable[[Params], Array]:
        def dream(params: Params, key: Key) -> Array:
            return latent.sample(self.model, params, key)

        keys = jax.random.split(jax.random.fold_in(self.key, 2**32 - 2), _NUM_DREAMS)
        return jax.jit(lambda params: jax.vmap(dream, (None, 0))(params, jax.random.clone(keys)))

    def _awake(self, params: Params) -> dict[str, np.ndarray]:
        """Test images, and of one recognition of each what it expects and a draw."""
        xs = jnp.asarray(self.dataset.test.x[:_NUM_DREAMS], jnp.float32)
        keys = jax.random.split(jax.random.fold_in(self.key, 2**32 - 3), _NUM_DREAMS)

        @jax.jit
        @jax.vmap
        def recognise(key: Key, x: Array) -> tuple[Array, Array]:
            z_key, x_key = jax.random.split(key)
            seen = self.model.likelihood(params, self.model.posterior(params, x).sample(seed=z_key))
            return seen.sample(seed=x_key), seen.mean()  # type: ignore[attr-defined]

        drawn, expected = recognise(keys, xs)
        return {
            "awake: the image": np.asarray(xs),
            "what z expects": np.asarray(expected),
            "drawn from it": np.asarray(drawn),
        }


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims`."""
    return latent.sigmoid_belief_net(
        num_dims=data["num_dims"], latent_dims=settings.latent_dims, hidden=settings.hidden
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    name = f"Helmholtz machine, {'-'.join(map(str, settings.latent_dims))}"
    return harness.run_variational("helmholtz", settings, build_model, name=name, evaluator=Watcher)


main = harness.command_line(run, Settings, "helmholtz")

if __name__ == "__main__":
    main()

"""A restricted Boltzmann machine (Hinton 2002; Salakhutdinov & Murray 2008).

`python -m experiments.rbm` takes about a minute on handwritten digits. `--data binarized_mnist
--num-hidden 500` trains the machine of the literature on static MNIST; `--help` lists the rest.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import harness
from experiments.harness import pictures
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models import inference
from genjax_models.interfaces import Algorithm, Array, EnergyModel, Key, Params
from genjax_models.kernels import Kernel, run_chain
from genjax_models.learning import contrastive_divergence, persistent_contrastive_divergence
from genjax_models.models.energy import rbm
from genjax_models.training import gradient_descent, stateful_gradient_descent

_BATCH_SIZE = 1000
_MAX_TRAIN_EXAMPLES = 10_000
_NUM_PICTURED = 100
_USES = (
    *("binarisation", "monitor", "forward", "chains", "reverse"),
    *("pictured chains", "pictured means"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a restricted Boltzmann machine, measure its test log-likelihood, and draw from it."""

    num_hidden: int = 100
    """Hidden units; up to 20 the normaliser is exact."""
    principle: Literal["cd", "pcd"] = "pcd"
    """Contrastive divergence: chains from the data, or persistent ones."""
    num_steps: int = 1
    """k, Gibbs steps of a chain for each training step."""
    last_num_steps: int | None = None
    """k at the end of training, to which it rises in equal stages (cd only); None: no rise."""
    num_chains: int = 100
    """Persistent chains."""
    num_replicas: int = 1
    """Temperatures of a persistent chain; more than one is parallel tempering."""
    num_epochs: int = 1000
    """Passes through the training set."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Plain stochastic gradient, or Adam."""
    learning_rate: float = 0.2
    """At the start."""
    learning_rate_schedule: Literal["linear", "cosine", "constant"] = "linear"
    """linear and cosine go down to 0."""
    ais_chains: int = 500
    """Chains of annealed importance sampling."""
    ais_temperatures: int = 10_000
    """Temperatures of annealed importance sampling."""
    chain_steps: int = 10_000
    """Gibbs steps from the data to where reverse annealed importance sampling starts."""
    monitor_temperatures: int = 1000
    """Temperatures of the estimates on the learning curve, from 100 chains."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_hidden", "num_steps", "num_chains", "num_replicas")
        harness.check_positive(self, "num_epochs", "learning_rate", "chain_steps")
        for name in ("ais_chains", "ais_temperatures", "monitor_temperatures"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if self.last_num_steps is not None and self.last_num_steps < self.num_steps:
            raise ValueError(
                f"last_num_steps must be at least num_steps, {self.num_steps},"
                f" got {self.last_num_steps}"
            )
        if self.principle == "cd" and self.num_replicas > 1:
            raise ValueError("num_replicas above 1 needs principle=pcd: its chains are persistent")
        if self.principle == "pcd" and self.last_num_steps is not None:
            raise ValueError("last_num_steps needs principle=cd")


def build_model(
    settings: Settings, data: dict[str, Any], visible_logits: Array | None = None
) -> EnergyModel:
    """The model for data of the given `num_dims`; the logits only matter to its start."""
    return rbm.rbm(
        num_dims=data["num_dims"], num_hidden=settings.num_hidden, visible_logits=visible_logits
    )


def build_algorithm(
    settings: Settings, model: EnergyModel, visible_logits: Array, num_steps: int
) -> Algorithm:
    """Gradient descent on (persistent) contrastive divergence."""
    make = {"sgd": optax.sgd, "adam": optax.adam}[settings.optimizer]
    optimizer = make(learning_rate(settings, num_steps))
    if settings.principle == "cd":
        objective = contrastive_divergence(model, rbm.gibbs_kernel, num_steps=settings.num_steps)
        schedules = {}
        if settings.last_num_steps is not None:
            schedules["num_steps"] = chain_steps(settings, num_steps)
        return gradient_descent(objective, optimizer, model.init, schedules=schedules)
    kernel: Kernel = rbm.gibbs_kernel
    num_replicas = settings.num_replicas
    if num_replicas > 1:
        kernel = inference.parallel_tempering(
            functools.partial(rbm.tempered_energy, reference=visible_logits),
            functools.partial(rbm.gibbs_kernel, reference=visible_logits),
            np.linspace(0, 1, num_replicas),
        )

    def init_chain(params: Params, key: Key) -> Array:
        shape = visible_logits.shape if num_replicas == 1 else (num_replicas, visible_logits.size)
        return jax.random.bernoulli(key, jax.nn.sigmoid(visible_logits), shape).astype(jnp.float32)

    persistent = persistent_contrastive_divergence(
        model,
        kernel,
        init_chain,
        num_steps=settings.num_steps,
        num_chains=settings.num_chains,
        example_of=inference.coldest if num_replicas > 1 else lambda state: state,
    )
    return stateful_gradient_descent(
        persistent.objective, optimizer, model.init, persistent.init_state
    )


def learning_rate(settings: Settings, num_steps: int) -> optax.Schedule:
    """The schedule that the settings name."""
    rate = settings.learning_rate
    return {
        "linear": optax.linear_schedule(rate, 0.0, num_steps),
        "cosine": optax.cosine_decay_schedule(rate, num_steps),
        "constant": optax.constant_schedule(rate),
    }[settings.learning_rate_schedule]


def chain_steps(settings: Settings, num_steps: int) -> optax.Schedule:
    """k in equal stages from the first to the last."""
    first, last = settings.num_steps, settings.last_num_steps or settings.num_steps
    return lambda step: first + jnp.minimum(step * (last + 1 - first) // num_steps, last - first)


def ladder(num_temperatures: int) -> np.ndarray:
    """Inverse temperatures that are denser towards 1, in the shares of Salakhutdinov & Murray.

    Of 14,500 they took 500 from 0 to 0.5, 4,000 to 0.9 and 10,000 to 1.
    """
    shares = np.array([0, 500, 4500, 14_500]) / 14_500
    return np.interp(np.linspace(0, 1, num_temperatures), shares, [0.0, 0.5, 0.9, 1.0])


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Measures and draws one machine on one data set.

    Attributes:
        settings: of the run.
        model: a restricted Boltzmann machine.
        dataset: its splits are measured.
        mesh: the devices.
        visible_logits: where annealing starts.
    """

    settings: Settings
    model: EnergyModel
    dataset: harness.Dataset
    mesh: Mesh
    visible_logits: Array

    @property
    def is_exact(self) -> bool:
        """Whether the smaller layer is small enough to be enumerated."""
        return min(self.settings.num_hidden, self.visible_logits.size) <= rbm.MAX_ENUMERATED

    def monitor(self, state: Any) -> dict[str, float]:
        """The validation log-likelihood, and how far training data are ahead.

        log Z is exact, or from short annealing.
        """
        params = to_host(state.params)
        validation = self._energies(state.params, "validation").mean()
        train = self._energies(state.params, "train").mean()
        log_partition = self._quick_log_partition(params, self._key("monitor"))
        return {
            "validation_log_likelihood": float(-validation - log_partition),
            "energy_gap": float(validation - train),
        }

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: log-likelihoods with log Z from above and from below."""
        energies = {split: self._energies(state.params, split) for split in ("test", "train")}
        params = to_host(state.params)
        if self.is_exact:
            log_partition = float(self._quick_log_partition(params, self._key("monitor")))
            return {
                f"{split}_log_likelihood": _metric(energies[split], log_partition, 0.0)
                for split in energies
            }
        settings, metrics = self.settings, {}
        annealing = self._forward(settings.ais_chains, settings.ais_temperatures)
        forward = annealing(params, self._key("forward"))
        starts = self._chains(params, self._key("chains"), settings.ais_chains)
        reverse = self._reverse(params, self._key("reverse"), starts)
        for split, energy in energies.items():
            for name, estimate, estimator, bound in [
                ("", forward, "AIS", "upper"),
                ("_reverse", reverse, "reverse AIS from long chains, approximate", "lower"),
            ]:
                metrics[f"{split}_log_likelihood{name}"] = _metric(
                    energy,
                    float(estimate.value),
                    float(estimate.monte_carlo_error),
                    estimator=f"{estimator}, {settings.ais_temperatures} temperatures",
                    num_samples=settings.ais_chains,
                    bound=bound,
                )
        return metrics

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples, learning curves, and filters.png.

        Samples are means at the end of long chains. Filters are the weights of the hidden units
        with the largest ones, each scaled to its own range.
        """
        if not is_main_process():
            return
        params, shape = to_host(state.params), self.dataset.example_shape
        states = self._chains(params, self._key("pictured chains"), _NUM_PICTURED)
        means = jax.jit(jax.vmap(rbm.visible_means, in_axes=(None, 0, 0)))(
            params, jax.random.split(self._key("pictured means"), _NUM_PICTURED), states
        )
        pictures.save_grid(run.path / "samples.png", means, shape, num_columns=10)
        filters = np.asarray(params["weights"]).T
        largest = np.argsort(-np.linalg.norm(filters, axis=1))[:_NUM_PICTURED]
        filters = filters[largest] / np.abs(filters[largest]).max(axis=1, keepdims=True)
        pictures.save_grid(run.path / "filters.png", filters, shape, num_columns=10)
        how = "exact" if self.is_exact else "short AIS"
        names = {"validation_log_likelihood": f"validation log-likelihood, {how}"}
        pictures.save_curves(run.path / "curves.png", run.records(), names)

    def _key(self, use: str) -> Key:
        """One of its own for each use; the estimates of a learning curve share theirs."""
        key = jax.random.fold_in(jax.random.key(self.settings.seed), 2)
        return jax.random.split(key, len(_USES))[_USES.index(use)]

    def _energies(self, params: Params, split: str) -> np.ndarray:
        examples = getattr(self.dataset, split).x[:_MAX_TRAIN_EXAMPLES]
        mapped = self._train_energy if split == "train" else self._energy
        return np.asarray(mapped(params, self._key("binarisation"), examples), np.float64)

    @functools.cached_property
    def _energy(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> Array:
            return self.model.energy(params, x)

        return harness.map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)

    @functools.cached_property
    def _train_energy(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> Array:
            return self.model.energy(params, self.dataset.prepare(key, x))

        return harness.map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)

    @functools.cached_property
    def _quick_log_partition(self) -> Callable[[Params, Key], Array]:
        if self.is_exact:
            return jax.jit(lambda params, key: rbm.exact_log_partition(params))
        annealing = self._forward(100, self.settings.monitor_temperatures)
        return lambda params, key: annealing(params, key).value

    def _forward(
        self, num_chains: int, num_temperatures: int
    ) -> Callable[..., inference.LogPartition]:
        betas = ladder(num_temperatures)

        def estimate(params: Params, key: Key) -> inference.LogPartition:
            path = rbm.annealing_path(params, self.visible_logits)
            return inference.annealed_importance_sampling(path, key, betas, num_chains=num_chains)

        return jax.jit(estimate)

    def _reverse(self, params: Params, key: Key, starts: Array) -> inference.LogPartition:
        betas = ladder(self.settings.ais_temperatures)

        @jax.jit
        def estimate(params: Params, key: Key, starts: Array) -> inference.LogPartition:
            path = rbm.annealing_path(params, self.visible_logits)
            return inference.reverse_annealed_importance_sampling(path, key, starts, betas)

        return estimate(params, key, starts)

    def _chains(self, params: Params, key: Key, num_chains: int) -> Array:
        """Where long Gibbs chains from training examples end."""
        pick_key, prepare_key, chain_key = jax.random.split(key, 3)
        examples = self.dataset.train.x
        picked = jax.random.choice(pick_key, len(examples), (num_chains,))
        keys = jax.random.split(prepare_key, num_chains)
        starts = jax.vmap(self.dataset.prepare)(keys, examples[np.asarray(picked)])

        @jax.jit
        def run(params: Params, key: Key, starts: Array) -> Array:
            def one_chain(key: Key, start: Array) -> Array:
                return run_chain(rbm.gibbs_kernel, params, key, start, self.settings.chain_steps)

            return jax.vmap(one_chain)(jax.random.split(key, num_chains), starts)

        return run(params, chain_key, starts)


def _metric(
    energies: np.ndarray,
    log_partition: float,
    monte_carlo_error: float,
    *,
    estimator: str = "exact",
    num_samples: int | None = None,
    bound: str = "exact",
) -> dict[str, Any]:
    """The mean of -energy(x) - log Z; the error of log Z is common to all examples."""
    spread = energies.std(ddof=1) / len(energies) ** 0.5
    return harness.measurement(
        value=-energies.mean() - log_partition,
        standard_error=float(np.hypot(spread, monte_carlo_error)),
        monte_carlo_error=monte_carlo_error,
        estimator=estimator,
        num_samples=num_samples,
        bound=bound,
    )


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood="bernoulli")
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    scale = (dataset.num_levels or 2) - 1
    visible_logits = rbm.mean_logits(dataset.train.x / np.float32(scale))
    model = build_model(settings, harness.data_shape(dataset), visible_logits)
    algorithm = build_algorithm(settings, model, visible_logits, num_steps)
    evaluator = Evaluator(settings, model, dataset, mesh, visible_logits)
    return harness.run_experiment(
        "rbm",
        settings,
        dataset,
        mesh,
        algorithm,
        model="restricted Boltzmann machine",
        num_steps=num_steps,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "rbm")

if __name__ == "__main__":
    main()

"""A vector-quantised variational auto-encoder (van den Oord et al. 2017).

`python -m experiments.vq_vae` takes about a minute on handwritten digits, and learns the prior over
codes along the way, from which it draws. `--codebook gradient` trains the codebook by gradient,
`--prior uniform` leaves it without a prior, as in the first stage of the paper; `--data mnist
--num-codes 16 --codebook-size 128` is a larger one; `--help` lists the rest.
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

from experiments import harness
from experiments.harness import pictures
from experiments.harness.mesh import is_main_process, to_host
from experiments.harness.run import Run
from genjax_models.interfaces import Algorithm, Array, Key, Params
from genjax_models.learning import VectorQuantization, bounds, vector_quantization
from genjax_models.models import latent, likelihoods
from genjax_models.training import stateful_gradient_descent

_BATCH_SIZE = 500
_MAX_EXAMPLES = 10_000
_NUM_PICTURED = 100
# No other key of a run has this number.
_KEY_OF_START = 2**31 + 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a VQ-VAE, measure its bound and its codebook, and draw from it."""

    likelihood: Literal[
        "bernoulli",
        "gaussian",
        "discretized_logistic",
        "discretized_logistic_mixture",
        "categorical",
    ] = "bernoulli"
    """p(x | z): of binary data, real data, or grey levels."""
    num_codes: int = 2
    """Positions of the code."""
    codebook_size: int = 64
    """Entries of the codebook, which all positions share."""
    code_dim: int = 8
    """Size of an entry."""
    hidden: tuple[int, ...] = (200, 200)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    codebook: Literal["moving_average", "gradient"] = "moving_average"
    """How the codebook learns."""
    start: Literal["encodings", "random"] = "encodings"
    """Where it starts: at encodings of training examples, or small at random."""
    commitment: float = 0.25
    """Weight of the distance of encodings from their codes."""
    decay: float = 0.99
    """Of the moving averages."""
    smoothing: float = 0.0
    """Of their counts."""
    prior: Literal["uniform", "independent", "autoregressive"] = "autoregressive"
    """p(z): without parameters, of independent positions, or each a regression on those before."""
    num_epochs: int = 300
    """Passes through the training set."""
    learning_rate: float = 2e-3
    """Of Adam, at the start; a cosine takes it to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_epochs", "learning_rate")


def build_model(settings: Settings, data: dict[str, Any]) -> latent.VectorQuantizedVAE:
    """The model for data of the given `num_dims` and `num_levels`."""
    grey = likelihoods.needs_num_levels(settings.likelihood)
    prior = getattr(latent.categorical, settings.prior)
    return latent.vq_vae(
        num_dims=data["num_dims"],
        num_codes=settings.num_codes,
        codebook_size=settings.codebook_size,
        code_dim=settings.code_dim,
        hidden=settings.hidden,
        likelihood=settings.likelihood,
        num_levels=data["num_levels"] if grey else None,
        prior=prior(settings.num_codes, settings.codebook_size),
    )


def build_objective(settings: Settings, model: latent.VectorQuantizedVAE) -> VectorQuantization:
    """What the settings name."""
    return vector_quantization(
        model,
        commitment=settings.commitment,
        codebook=settings.codebook,
        decay=settings.decay,
        smoothing=settings.smoothing,
    )


def build_algorithm(
    settings: Settings,
    model: latent.VectorQuantizedVAE,
    num_steps: int,
    begin: Callable[[Params], Params] = lambda params: params,
) -> Algorithm:
    """Adam on the objective, its rate a cosine down to 0, from what `begin` makes of the start."""
    objective = build_objective(settings, model)
    return stateful_gradient_descent(
        objective.objective,
        optax.adam(optax.cosine_decay_schedule(settings.learning_rate, num_steps)),
        lambda key: begin(model.init(key)),
        objective.init_state,
        write_back=objective.write_back,
    )


def start_at_encodings(
    settings: Settings, model: latent.VectorQuantizedVAE, dataset: harness.Dataset
) -> Callable[[Params], Params]:
    """Puts the codebook onto encodings of training examples."""
    examples = jnp.asarray(dataset.train.x[:_MAX_EXAMPLES])
    key = jax.random.fold_in(jax.random.key(settings.seed), _KEY_OF_START)
    prepare_key, start_key = jax.random.split(key)
    xs = jax.vmap(dataset.prepare)(jax.random.split(prepare_key, len(examples)), examples)
    return lambda params: latent.start_at_encodings(model, params, start_key, xs)


@dataclasses.dataclass(frozen=True)
class Evaluator(harness.LatentEvaluator):
    """Measures and draws the latent-variable model that the auto-encoder is.

    Attributes:
        codebook_size: entries of the codebook.
    """

    codebook_size: int = 0

    def monitor(self, state: Any) -> dict[str, float]:
        """What the learning curves show beside the training loss."""
        counts = self._counts(state.params, "validation").sum(axis=0)
        return {
            "validation_bound": self.measure_bound(state.params, "validation")["value"],
            "validation_perplexity": float(latent.code_perplexity(counts)),
        }

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json: bounds, their two parts, and the use of the codebook."""
        params = state.params
        examples = self.dataset.test.x[:_MAX_EXAMPLES]
        log_likelihood, rate = self._parts(params, self.key, examples)
        counts = self._counts(params, "test")
        value, error = perplexity_and_error(counts)
        exact = functools.partial(
            harness.measurement, monte_carlo_error=None, num_samples=None, bound="exact"
        )
        return {
            "train_bound": self.measure_bound(params, "train"),
            "test_bound": self.measure_bound(params, "test"),
            "test_reconstruction": harness.metric(
                log_likelihood, estimator="log p(x | z)", num_samples=None, bound=None
            ),
            "test_rate": harness.metric(
                rate, estimator="-log p(z)", num_samples=None, bound="exact"
            ),
            "test_perplexity": exact(
                value=value, standard_error=error, estimator="of all positions", unit="codes"
            ),
            "test_codes_in_use": exact(
                value=float((counts.sum(axis=0) > 0).sum()),
                standard_error=None,
                estimator=f"of {self.codebook_size}",
                unit="codes",
            ),
        }

    def draw(self, state: Any, run: Run) -> None:
        """The run's pictures: samples with the learned prior, reconstructions and curves."""
        if not is_main_process():
            return
        params, shape = to_host(state.params), self.dataset.example_shape
        sample_key, reconstruct_key = jax.random.split(jax.random.clone(self.key))

        @jax.jit
        @jax.vmap
        def samples(key: Key) -> Array:
            return latent.sample(self.model, params, key, mean=True)

        @jax.jit
        @jax.vmap
        def reconstructions(key: Key, x: Array) -> Array:
            return latent.reconstruct(self.model, params, key, x, mean=True)

        drawn = samples(jax.random.split(sample_key, _NUM_PICTURED))
        pictures.save_grid(run.path / "samples.png", drawn, shape, num_columns=10)
        originals = self.dataset.test.x[: _NUM_PICTURED // 2].astype(np.float32)
        found = reconstructions(jax.random.split(reconstruct_key, len(originals)), originals)
        path = run.path / "reconstructions.png"
        pictures.save_reconstructions(path, originals, np.asarray(found), shape)
        plt = pictures.pyplot()
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        names = {"bound": "training bound", "validation_bound": "validation bound"}
        pictures.draw_curves(left, run.records(), names, ylabel="nats per example")
        names = {"perplexity": "training batches", "validation_perplexity": "validation set"}
        pictures.draw_curves(right, run.records(), names, ylabel="perplexity of the codes")
        figure.savefig(run.path / "curves.png", dpi=150)
        plt.close(figure)

    def _counts(self, params: Params, split: str) -> np.ndarray:
        """How often each example of a split has chosen each entry, [N, codebook_size]."""
        examples = getattr(self.dataset, split).x[:_MAX_EXAMPLES]
        return np.asarray(self._counts_of(params, self.key, examples))

    @functools.cached_property
    def _counts_of(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> Array:
            z: Any = self.model.posterior(params, x)
            return jnp.sum(z.mean(), axis=0)

        return harness.map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)

    @functools.cached_property
    def _parts(self) -> Callable[..., Any]:
        def one_example(params: Params, key: Key, x: Array) -> tuple[Array, Array]:
            z = self.model.posterior(params, x).sample(seed=key)
            log_likelihood = self.model.likelihood(params, z).log_prob(x)
            return log_likelihood, -self.model.prior(params).log_prob(z)

        return harness.map_examples(one_example, self.mesh, batch_size=_BATCH_SIZE)


def perplexity_and_error(counts: np.ndarray) -> tuple[float, float]:
    """Perplexity of the sum of counts [N, codebook_size], and its jackknife error over the N."""
    total, num_examples = counts.sum(axis=0), len(counts)
    without = np.asarray(jax.vmap(latent.code_perplexity)(jnp.asarray(total - counts)))
    spread = np.sum(np.square(without - without.mean(), dtype=np.float64))
    error = np.sqrt(spread * (num_examples - 1) / num_examples)
    return float(latent.code_perplexity(jnp.asarray(total))), float(error)


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood=settings.likelihood)
    num_steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
    model = build_model(settings, harness.data_shape(dataset))
    options: dict[str, Any] = {}
    if settings.start == "encodings":
        options["begin"] = start_at_encodings(settings, model, dataset)
    evaluator = Evaluator(
        model=latent.as_latent_variable_model(model),
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        bound=bounds.elbo,
        bound_name="elbo of one code",
        num_samples=1,
        evaluation_samples=1,
        codebook_size=settings.codebook_size,
    )
    return harness.run_experiment(
        "vq_vae",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, model, num_steps, **options),
        model=f"vq-vae, {settings.prior} prior",
        num_steps=num_steps,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "vq_vae")

if __name__ == "__main__":
    main()

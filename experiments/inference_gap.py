"""What the ELBO of a trained model lacks: its family of posteriors, or its encoder.

`python -m experiments.inference_gap` trains a VAE on handwritten digits in about a minute and
refines the posteriors of test examples; `--trained FOLDER` takes the model of any run with a
latent-variable model instead (the settings of the VAE have no meaning then); `--help` lists the
rest.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import harness, vae
from experiments.harness import downstream
from experiments.harness.mesh import make_mesh
from genjax_models.distributions import DiagonalGaussian, FullCovarianceGaussian, has_log_prob
from genjax_models.evaluation import InferenceGap, inference_gap
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params
from genjax_models.learning import refine


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(vae.Settings):
    """Split the inference gap of a model into approximation gap and amortisation gap."""

    trained: str | None = None
    """Folder of a run whose model is taken; by default a VAE is trained now."""
    evaluation_samples: int = 1000
    """Importance samples for log p(x) of each example; of a VAE that is trained now likewise."""
    family: Literal["same", "full_covariance"] = "same"
    """What is refined: the posterior's own family, or a Gaussian with full covariance that starts
    as a diagonal Gaussian posterior."""
    num_refined: int = 100
    """Test examples whose posteriors are refined."""
    refine_steps: int = 500
    """Steps of Adam for each of them."""
    refine_samples: int = 16
    """Draws of z in each step."""
    refine_rate: float = 0.03
    """Learning rate at the start; a cosine takes it to 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_refined", "refine_steps", "refine_samples", "refine_rate")
        if self.num_refined < 2:
            raise ValueError(f"num_refined must be at least 2, got {self.num_refined}")


build_model = vae.build_model


def widen(model: LatentVariableModel) -> LatentVariableModel:
    """The same model, its diagonal Gaussian posterior as one with full covariance."""

    def posterior(params: Params, x: Array) -> FullCovarianceGaussian:
        diagonal = model.posterior(params, x)
        if not isinstance(diagonal, DiagonalGaussian):
            raise TypeError(
                "family full_covariance starts from a DiagonalGaussian posterior, got a"
                f" {type(diagonal).__name__}: use family same"
            )
        num_dims = diagonal.loc.size
        off_diagonal = jnp.zeros(num_dims * (num_dims - 1) // 2)
        return FullCovarianceGaussian(diagonal.loc, diagonal.log_scale, off_diagonal)

    return model._replace(posterior=posterior)


def evaluate(
    settings: Settings, trained: downstream.Trained, folder: Path
) -> dict[str, dict[str, Any]]:
    """The `metrics`: log p(x), both bounds and both gaps on the first test examples."""
    start = trained.model if settings.family == "same" else widen(trained.model)
    example = jnp.asarray(trained.dataset.test.x[0], jnp.float32)
    has_density = has_log_prob(start.posterior(trained.params, example))
    refined = refine(
        start,
        num_steps=settings.refine_steps,
        optimizer=optax.adam(
            optax.cosine_decay_schedule(settings.refine_rate, settings.refine_steps)
        ),
        num_samples=settings.refine_samples,
        # Less noise near the optimum, where the posterior allows it.
        estimator="sticking_the_landing" if has_density else "pathwise",
        seed=settings.seed,
    )

    def one_example(params: Params, key: Key, x: Array) -> InferenceGap:
        return inference_gap(
            trained.model,
            refined,
            params,
            key,
            x,
            num_samples=settings.evaluation_samples,
            importance_samples=settings.evaluation_samples,
        )

    measure = harness.map_examples(one_example, make_mesh(), batch_size=20)
    key = jax.random.fold_in(jax.random.key(settings.seed), 6)
    xs = trained.dataset.test.x[: settings.num_refined]
    found: InferenceGap = measure(trained.params, key, xs, show=True)
    entry = functools.partial(harness.metric, num_samples=settings.evaluation_samples)
    gaps = {
        # log p(x) is estimated too low, the refined bound is below the best of its family.
        "approximation": (found.approximation_error, None),
        "amortization": (found.amortization_error, "lower"),
    }
    bounds = {
        "test_log_likelihood": found.log_likelihood,
        "test_refined_bound": found.refined_bound,
    }
    metrics = {
        name: entry(np.asarray(values), estimator=f"{settings.family} family", bound="lower")
        | {"monte_carlo_error": None}
        for name, values in (bounds | {"test_bound": found.amortized_bound}).items()
    }
    for name, (errors, direction) in gaps.items():
        metrics[f"test_{name}_gap"] = entry(
            getattr(found, name),
            np.asarray(errors),
            estimator=f"{settings.family} family",
            bound=direction,
        )
    return metrics


def run(settings: Settings) -> Path:
    """Take or train the model and split its gap; returns the run's folder."""
    return downstream.run_downstream(
        "inference_gap",
        settings,
        vae.run,
        vae.Settings,
        evaluate,
        harness.print_result,
        num_steps=settings.refine_steps,
    )


main = harness.command_line(run, Settings, "inference_gap")

if __name__ == "__main__":
    main()

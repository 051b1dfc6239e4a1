"""A generative adversarial network (Goodfellow et al. 2014), with five losses and two penalties.

`python -m experiments.gan` takes about a minute on handwritten digits; `--data ring` learns eight
Gaussians and counts the modes; `--data mnist --network convolutional` the MNIST digits; `--help`
lists the rest.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import harness
from experiments.harness import points
from genjax_models import networks
from genjax_models.evaluation import mode_coverage
from genjax_models.interfaces import Algorithm, ImplicitModel, Network
from genjax_models.learning import adversarial, adversarial_game
from genjax_models.models import transformation
from genjax_models.training import alternating

_RING_SAMPLES = 2500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a GAN, test its samples against the test set, and draw them."""

    batch_size: int | None = 192
    """Examples a step, over all devices; each step of the critic sees a part of its own."""
    loss: Literal["minimax", "non_saturating", "hinge", "wasserstein", "least_squares"] = (
        "wasserstein"
    )
    """What the two players minimise."""
    penalty: Literal["none", "interpolated", "data"] = "interpolated"
    """On the critic's gradient: towards norm 1 between data and samples, or 0 at the data."""
    penalty_weight: float = 0.1
    """Weight of the penalty."""
    num_critic_steps: int = 3
    """Steps of the critic for one of the generator."""
    noise_dim: int = 32
    """Size of the generator's noise."""
    network: Literal["mlp", "convolutional"] = "mlp"
    """Kind of generator and critic."""
    hidden: tuple[int, ...] = (256, 256)
    """Units of the hidden layers of either MLP."""
    features: tuple[int, ...] = (64, 32)
    """Channels of the convolutional generator's layers; the critic has them in reverse."""
    num_steps: int = 6000
    """Steps of the generator."""
    learning_rate: float = 2e-3
    """Of Adam for both players, at the start; a cosine takes it down to 0."""
    adam_beta1: float = 0.5
    """Decay of Adam's first moment."""
    adam_beta2: float = 0.99
    """Decay of Adam's second moment."""
    evaluation_samples: int = 2000
    """Samples, test examples and training examples that are compared at most."""
    num_permutations: int = 1000
    """Permutations of the two-sample test."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_steps", "learning_rate", "num_permutations")
        harness.check_positive(self, "num_critic_steps")
        if self.evaluation_samples < 2:
            raise ValueError(
                f"evaluation_samples must be at least 2, got {self.evaluation_samples}"
            )
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def build_model(settings: Settings, data: dict[str, Any]) -> ImplicitModel:
    """The generator for data of the given `num_dims`, `example_shape` and `num_levels`."""
    network = None
    if settings.network == "convolutional":
        network = networks.convolutional_decoder(
            settings.noise_dim, data["example_shape"], features=settings.features
        )
    return transformation.generator(
        num_dims=data["num_dims"],
        noise_dim=settings.noise_dim,
        hidden=settings.hidden,
        output="linear" if data["num_levels"] is None else "sigmoid",
        network=network,
    )


def build_critic(settings: Settings, data: dict[str, Any]) -> Network:
    """The critic for the same data."""
    network = None
    if settings.network == "convolutional":
        network = networks.convolutional_encoder(
            data["example_shape"], 1, features=settings.features[::-1]
        )
    return transformation.critic(num_dims=data["num_dims"], hidden=settings.hidden, network=network)


def build_algorithm(settings: Settings, model: ImplicitModel, critic: Network) -> Algorithm:
    """Adam for each player, with a cosine over its own steps."""
    game = adversarial_game(
        model,
        critic,
        adversarial.by_name(settings.loss),
        penalty=settings.penalty,
        penalty_weight=settings.penalty_weight,
    )

    def optimizer(num_steps: int) -> optax.GradientTransformation:
        schedule = optax.cosine_decay_schedule(settings.learning_rate, num_steps)
        return optax.adam(schedule, b1=settings.adam_beta1, b2=settings.adam_beta2)

    return alternating(
        game.generator,
        game.critic,
        optimizer(settings.num_steps),
        optimizer(settings.num_steps * settings.num_critic_steps),
        model.init,
        critic.init,
        num_critic_steps=settings.num_critic_steps,
    )


class Evaluator(harness.ImplicitEvaluator):
    """Two-sample tests, and on the ring of Gaussians the modes that the samples cover."""

    def evaluate(self, state: Any) -> dict[str, Any]:
        """The `metrics` of result.json."""
        modes = self.measure_modes(state.params) if self.dataset.name == "ring" else {}
        return modes | super().evaluate(state)

    def measure_modes(self, params: Any) -> dict[str, Any]:
        """Modes covered, and samples of high quality (within three standard deviations of one)."""
        samples = jnp.asarray(self.draw_examples(params, _RING_SAMPLES))
        centres = jnp.asarray(points.ring_centres())
        found = mode_coverage(samples, centres, points.RING_STANDARD_DEVIATION)
        share = float(found.high_quality)

        def entry(value: float, error: float | None, unit: str) -> dict[str, Any]:
            return harness.measurement(
                value=value,
                standard_error=None,
                monte_carlo_error=error,
                estimator="samples within 3 standard deviations of the nearest mode",
                num_samples=_RING_SAMPLES,
                unit=unit,
            )

        return {
            "covered_modes": entry(float(found.num_modes), None, f"modes of {points.RING_MODES}"),
            "high_quality_samples": entry(
                share, float(np.sqrt(share * (1 - share) / _RING_SAMPLES)), "share"
            ),
            "mode_reverse_kl": entry(float(found.reverse_kl), None, "nats")
            | {"estimator": "samples counted for the nearest mode"},
        }


def run(settings: Settings) -> Path:
    """Train, evaluate and draw; returns the run's folder."""
    dataset, mesh = harness.prepare(settings, likelihood="none")
    data = harness.data_shape(dataset)
    model = build_model(settings, data)
    evaluator = Evaluator(
        model=model,
        dataset=dataset,
        mesh=mesh,
        key=jax.random.fold_in(jax.random.key(settings.seed), 2),
        evaluation_samples=settings.evaluation_samples,
        num_permutations=settings.num_permutations,
        curves={"loss": "generator", "critic_loss": "critic"},
    )
    return harness.run_experiment(
        "gan",
        settings,
        dataset,
        mesh,
        build_algorithm(settings, model, build_critic(settings, data)),
        model=f"gan, {settings.loss.replace('_', '-')}",
        num_steps=settings.num_steps,
        evaluator=evaluator,
    )


main = harness.command_line(run, Settings, "gan")

if __name__ == "__main__":
    main()

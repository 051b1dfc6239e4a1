"""Missing pixels filled in by a VAE (Rezende et al. 2014; Mattei & Frellsen 2018).

`python -m experiments.impute` trains a VAE on handwritten digits in about a minute and then fills
in half of the pixels of test images; `--trained FOLDER` takes the model of any run with a latent-
variable model instead (the settings of the VAE have no meaning then); `--help` lists the rest.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, vae
from experiments.harness import downstream, pictures_latent
from experiments.harness.mesh import is_main_process, make_mesh
from genjax_models import inference
from genjax_models.distributions import has_log_prob
from genjax_models.distributions.factorized import check_factorized
from genjax_models.interfaces import Array, Key, Params

_NEIGHBOURS = (1, 3, 5, 10, 20, 50)
_NUM_PICTURED = 12
# A prediction of exactly zero or one would have an infinite cross-entropy.
_MIN_PROBABILITY = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(vae.Settings):
    """Fill in missing pixels of test images, and measure the error against simpler ways."""

    trained: str | None = None
    """Folder of a run whose model is taken; by default a VAE is trained now."""
    evaluation_samples: int = 500
    """Samples for the test log-likelihood of each example, where a VAE is trained."""
    missing_fraction: float = 0.5
    """Probability that a pixel is missing, of the masks at random."""
    num_steps: int = 200
    """Steps of either Markov chain; the first half is left out of its averages."""
    num_importance_samples: int = 1000
    """Importance samples for each image."""
    num_images: int = 500
    """Test images, and validation images, at most."""
    num_neighbour_images: int = 5000
    """Training images that the nearest neighbours are looked for in, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_importance_samples", "num_neighbour_images")
        if self.num_steps < 2:
            raise ValueError(f"num_steps must be at least 2, got {self.num_steps}")
        if self.num_images < 2:
            raise ValueError(f"num_images must be at least 2, got {self.num_images}")
        if not 0 < self.missing_fraction < 1:
            raise ValueError(f"missing_fraction must be in (0, 1), got {self.missing_fraction}")


build_model = vae.build_model


def make_masks(
    name: str, example_shape: tuple[int, ...], num_images: int, missing_fraction: float, seed: int
) -> np.ndarray:
    """Which pixels are observed, [num_images, num_dims] bool, at least one missing in each image.

    Args:
        name: "random"; "half", the lower half of the rows missing; or "patch", a square of half
            the smaller side anywhere.
        example_shape: (height, width), (height, width, channels) or (num_dims,), taken as a row.
        num_images: how many.
        missing_fraction: of the random ones.
        seed: of the draw.
    """
    rng = np.random.default_rng((seed, sorted(("half", "patch", "random")).index(name)))
    is_image = len(example_shape) > 1
    height, width = example_shape[:2] if is_image else (1, example_shape[0])
    if name == "random":
        missing = rng.random((num_images, height, width)) < missing_fraction
        missing.reshape(num_images, -1)[
            np.arange(num_images), rng.integers(0, height * width, num_images)
        ] = True
    elif name == "half":
        missing = np.zeros((num_images, height, width), bool)
        missing[:, height // 2 :] = height > 1
        missing[:, :, width // 2 :] |= height == 1
    else:
        side = max(min(height, width) // 2, 1)
        length = side if is_image else max(width // 4, 1)
        top = rng.integers(0, height - side + 1, num_images)[:, None, None]
        left = rng.integers(0, width - length + 1, num_images)[:, None, None]
        rows, columns = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
        missing = (top <= rows) & (rows < top + side) & (left <= columns)
        missing &= columns < left + length
    channels = example_shape[2] if len(example_shape) == 3 else 1
    return ~np.repeat(missing.reshape(num_images, -1), channels, axis=1)


def build_samplers(
    settings: Settings, trained: downstream.Trained
) -> dict[str, Callable[..., Any]]:
    """By name: `sampler(x [N, num_dims], mask [N, num_dims]) -> (means, draws)`.

    Raises:
        TypeError: pixels that depend on each other given z, as those of a lossy VAE do.
    """
    check_factorized(downstream.example_likelihood(trained))
    start = jnp.asarray(downstream.intensities(trained.dataset).mean(axis=0))
    model, num_steps = trained.model, settings.num_steps
    key = jax.random.fold_in(jax.random.key(settings.seed), 3)
    options: dict[str, Any] = {"num_steps": num_steps, "num_burn_in": num_steps // 2}

    def observe(pair: Array) -> tuple[inference.Observation, Array]:
        x, mask = pair[0], pair[1] > 0.5
        return inference.missing(x, mask), jnp.where(mask, x, start)

    def pseudo_gibbs(params: Params, key: Key, pair: Array) -> tuple[Array, Array]:
        found = inference.pseudo_gibbs(model, params, key, *observe(pair), **options)
        return found.mean, found.x

    def metropolis(params: Params, key: Key, pair: Array) -> tuple[Array, Array]:
        warm_key, chain_key = jax.random.split(key)
        observation, x = observe(pair)
        warm = inference.pseudo_gibbs(model, params, warm_key, observation, x, num_steps // 2)
        found = inference.metropolis_within_gibbs(
            model, params, chain_key, observation, warm.x, **options
        )
        return found.mean, found.x

    def importance(params: Params, key: Key, pair: Array) -> tuple[Array, Array]:
        found = inference.importance_resampling(
            model, params, key, *observe(pair), settings.num_importance_samples
        )
        return found.mean, found.x

    samplers = {"pseudo-Gibbs": pseudo_gibbs, "importance resampling": importance}
    if has_density(trained):
        samplers["Metropolis within Gibbs"] = metropolis
    mesh = make_mesh()

    def over_images(sampler: Callable[..., Any]) -> Callable[..., Any]:
        mapped = harness.map_examples(sampler, mesh, batch_size=100)
        return lambda x, mask: mapped(
            trained.params, key, np.stack([x, mask], axis=1).astype(np.float32)
        )

    return {name: over_images(sampler) for name, sampler in samplers.items()}


def has_density(trained: downstream.Trained) -> bool:
    """Whether the posterior can give the density of any z, as a Metropolis step wants it."""
    posterior = trained.model.posterior(
        trained.params, jnp.asarray(trained.dataset.test.x[0], jnp.float32)
    )
    return has_log_prob(posterior)


def fit_neighbours(
    settings: Settings, dataset: harness.Dataset, mask_name: str, train: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """scikit-learn's KNNImputer on training images, k chosen on the validation images."""
    from sklearn.impute import KNNImputer

    validation = dataset.validation.x[: settings.num_images].astype(np.float32)
    mask = make_masks(
        mask_name,
        dataset.example_shape,
        len(validation),
        settings.missing_fraction,
        settings.seed + 1,
    )

    def impute(k: int, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        imputer = KNNImputer(n_neighbors=k, weights="uniform").fit(train)
        return imputer.transform(np.where(mask, x, np.nan))

    fitting = [k for k in _NEIGHBOURS if k <= len(train)]
    errors = [squared_errors(impute(k, validation, mask), validation, mask).mean() for k in fitting]
    return functools.partial(impute, fitting[int(np.argmin(errors))])


def squared_errors(predictions: np.ndarray, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over the missing pixels of (prediction - x)^2, the Brier score, of each image."""
    return np.sum((predictions - x) ** 2 * ~mask, axis=1) / np.sum(~mask, axis=1)


def cross_entropies(predictions: np.ndarray, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The mean over the missing pixels of -log P(x), in nats, of each image of binary pixels."""
    on = np.clip(predictions, _MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
    losses = -np.where(x > 0.5, np.log(on), np.log1p(-on))
    return np.sum(losses * ~mask, axis=1) / np.sum(~mask, axis=1)


def evaluate(
    settings: Settings, trained: downstream.Trained, folder: Path
) -> dict[str, dict[str, Any]]:
    """The errors of every way for every kind of mask, and a picture of each kind."""
    dataset = trained.dataset
    x = dataset.test.x[: settings.num_images].astype(np.float32)
    is_binary = dataset.test.x.dtype == np.uint8
    samplers = build_samplers(settings, trained)
    mean = downstream.intensities(dataset).mean(axis=0)
    neighbours = {"nearest neighbours": downstream.prepared(dataset, settings.num_neighbour_images)}
    if dataset.protocol == "dynamic":
        # Averages of grey levels know more than those of one draw of their binarisation.
        grey = downstream.intensities(dataset, settings.num_neighbour_images)
        neighbours["nearest neighbours, grey"] = grey
    metrics = {}
    for kind in ("random", "half", "patch"):
        mask = make_masks(
            kind, dataset.example_shape, len(x), settings.missing_fraction, settings.seed
        )
        predictions = {"mean": np.where(mask, x, mean)}
        for name, train in neighbours.items():
            predictions[name] = fit_neighbours(settings, dataset, kind, train)(x, mask)
        draws = {}
        for name, sampler in samplers.items():
            predictions[name], draws[name] = sampler(x, mask)
        for loss, unit, used in (
            (squared_errors, "squared error", True),
            (cross_entropies, "nats", is_binary),
        ):
            if not used:
                continue
            values = {name: loss(found, x, mask) for name, found in predictions.items()}
            for name, value in values.items():
                metrics[f"{kind}, {unit}, {name}"] = downstream.error_metric(
                    value, values["nearest neighbours"], "nearest_neighbours", unit
                )
        last = list(draws)[-1]
        rows = {"original": x, "observed": np.where(mask, x, 0.5), **predictions}
        rows["a draw"] = draws[last]
        if is_main_process():
            pictures_latent.save_labelled_rows(
                folder / f"imputations-{kind}.png",
                {name: row[:_NUM_PICTURED] for name, row in rows.items()},
                dataset.example_shape,
            )
    return metrics


def print_metrics(metrics: dict[str, dict[str, Any]], title: str, notes: list[str]) -> None:
    """The table: one row for each way, one column for each kind and loss."""
    split = [name.split(", ", 2) for name in metrics]
    columns = list(dict.fromkeys((kind, unit) for kind, unit, _ in split))
    rows = {
        way: downstream.cells([metrics[f"{kind}, {unit}, {way}"] for kind, unit in columns])
        for way in dict.fromkeys(way for *_, way in split)
    }
    downstream.print_table(title, [f"{kind}\n{unit}" for kind, unit in columns], rows, notes)


def report(result: dict[str, Any], folder: Path) -> None:
    """Print the table of a result."""
    title = f"Missing pixels of {result['data']['name']} by {result['model']}, mean ± s.e."
    print_metrics(result["metrics"], title, [f"run folder: {folder}"])


def run(settings: Settings) -> Path:
    """Take or train the model, fill in, measure and draw; returns the run's folder."""
    return downstream.run_downstream("impute", settings, vae.run, vae.Settings, evaluate, report)


main = harness.command_line(run, Settings, "impute")

if __name__ == "__main__":
    main()

"""Noise taken out of binary images by a VAE.

`python -m experiments.denoise` trains a VAE on handwritten digits in about a minute and then
removes salt-and-pepper and Gaussian noise from test images; `--trained FOLDER` takes the model of
any run with a latent-variable model of binary pixels instead (the settings of the VAE have no
meaning then); `--help` lists the rest.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import harness, vae
from experiments.harness import downstream, pictures_latent
from experiments.harness.mesh import is_main_process, make_mesh
from experiments.impute import has_density, print_metrics
from genjax_models import inference
from genjax_models.distributions import Bernoulli
from genjax_models.interfaces import Array, Key, Params

_NEIGHBOURS = (1, 3, 5, 10, 20, 50)
_NUM_PICTURED = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(vae.Settings):
    """Remove noise from test images, and measure the error against simpler ways."""

    trained: str | None = None
    """Folder of a run whose model is taken; by default a VAE is trained now."""
    evaluation_samples: int = 500
    """Samples for the test log-likelihood of each example, where a VAE is trained."""
    salt_and_pepper: float = 0.3
    """Share of the pixels that become black or white by chance: half of them change."""
    gaussian: float = 0.7
    """Standard deviation of the Gaussian noise, of pixels that are 0 or 1."""
    num_steps: int = 200
    """Steps of the Markov chain; the first half is left out of its average."""
    num_importance_samples: int = 1000
    """Importance samples for each image."""
    num_images: int = 500
    """Test images, and validation images, at most."""
    num_neighbour_images: int = 5000
    """Training images that neighbours and components are from, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_importance_samples", "num_neighbour_images", "gaussian")
        if not 0 < self.salt_and_pepper < 1:
            raise ValueError(f"salt_and_pepper must be in (0, 1), got {self.salt_and_pepper}")
        if self.num_steps < 2:
            raise ValueError(f"num_steps must be at least 2, got {self.num_steps}")
        if self.num_images < 2:
            raise ValueError(f"num_images must be at least 2, got {self.num_images}")


build_model = vae.build_model


def add_noise(settings: Settings, kind: str, x: np.ndarray, seed: int) -> np.ndarray:
    """The images with noise of one kind, "salt and pepper" or "Gaussian"."""
    rng = np.random.default_rng((seed, kind == "Gaussian"))
    if kind == "Gaussian":
        return (x + settings.gaussian * rng.standard_normal(x.shape)).astype(np.float32)
    replaced = rng.random(x.shape) < settings.salt_and_pepper
    return np.where(replaced, rng.random(x.shape) < 0.5, x).astype(np.float32)


def log_channel(settings: Settings, kind: str, noisy: Array) -> Array:
    """log p(noisy pixel | pixel) for the pixels 0 and 1, [2, num_dims], up to a constant."""
    pixels = jnp.array([[0.0], [1.0]])
    if kind == "Gaussian":
        return -((noisy[None] - pixels) ** 2) / (2 * settings.gaussian**2)
    flipped = settings.salt_and_pepper / 2
    return jnp.where(noisy[None] == pixels, jnp.log1p(-flipped), jnp.log(flipped))


def build_denoisers(
    settings: Settings, trained: downstream.Trained, kind: str
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Ways through the model, by name: from noisy images [N, num_dims] to their estimates."""
    model, num_steps = trained.model, settings.num_steps
    on = downstream.intensities(trained.dataset).mean(axis=0)
    log_odds = jnp.asarray(np.log(np.clip(on, 0.01, 0.99)) - np.log1p(-np.clip(on, 0.01, 0.99)))

    def observe(noisy: Array) -> tuple[inference.Observation, Array]:
        observation = inference.binary_channel(log_channel(settings, kind, noisy))
        # What each pixel is on its own, without its neighbours, is what q(z | x) is asked with.
        return observation, observation.mean(Bernoulli(log_odds))

    def reconstruction(params: Params, key: Key, noisy: Array) -> Array:
        posterior = model.posterior(params, observe(noisy)[1])

        def one(key: Key) -> Array:
            return model.likelihood(params, posterior.sample(seed=key)).mean()

        return jnp.mean(jax.vmap(one)(jax.random.split(key, num_steps)), axis=0)

    def importance(params: Params, key: Key, noisy: Array) -> Array:
        return inference.importance_resampling(
            model, params, key, *observe(noisy), settings.num_importance_samples
        ).mean

    def metropolis(params: Params, key: Key, noisy: Array) -> Array:
        warm_key, chain_key = jax.random.split(key)
        observation, x = observe(noisy)
        warm = inference.pseudo_gibbs(model, params, warm_key, observation, x, num_steps // 2)
        return inference.metropolis_within_gibbs(
            model,
            params,
            chain_key,
            observation,
            warm.x,
            num_steps,
            num_burn_in=num_steps // 2,
        ).mean

    ways = {"reconstruction": reconstruction, "importance resampling": importance}
    if has_density(trained):
        ways["Metropolis within Gibbs"] = metropolis
    key, mesh = jax.random.fold_in(jax.random.key(settings.seed), 4), make_mesh()

    def over_images(way: Callable[..., Any]) -> Callable[[np.ndarray], np.ndarray]:
        mapped = harness.map_examples(way, mesh, batch_size=100)
        return lambda noisy: mapped(trained.params, key, noisy)

    return {name: over_images(way) for name, way in ways.items()}


def fit_baselines(
    settings: Settings, dataset: harness.Dataset, kind: str
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Median filter, nearest neighbours and principal components, chosen on validation images."""
    from scipy.ndimage import median_filter  # type: ignore[import-untyped]
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    train = downstream.intensities(dataset, settings.num_neighbour_images)
    clean = dataset.validation.x[: settings.num_images].astype(np.float32)
    noisy = add_noise(settings, kind, clean, settings.seed + 1)
    is_image = len(dataset.example_shape) > 1
    channels = dataset.example_shape[2:] if is_image else ()
    shape = dataset.example_shape if is_image else (1, *dataset.example_shape)
    search = NearestNeighbors().fit(train)
    components = PCA().fit(train)

    def median(size: int) -> Callable[[np.ndarray], np.ndarray]:
        window = (1, size if is_image else 1, size, *(1 for _ in channels))
        return lambda x: median_filter(x.reshape(-1, *shape), window).reshape(x.shape).clip(0, 1)

    def neighbours(k: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: train[search.kneighbors(x, k, return_distance=False)].mean(axis=1)

    def principal(count: int) -> Callable[[np.ndarray], np.ndarray]:
        rows = components.components_[:count]
        return lambda x: (((x - components.mean_) @ rows.T) @ rows + components.mean_).clip(0, 1)

    def best(ways: Sequence[Callable[[np.ndarray], np.ndarray]]) -> Any:
        errors = [squared_errors(way(noisy), clean).mean() for way in ways]
        return ways[int(np.argmin(errors))]

    counts = [count for count in (1, 2, 5, 10, 20, 50, 100) if count <= len(components.components_)]
    return {
        "nothing": lambda x: x.clip(0, 1),
        "median filter": best([median(size) for size in (3, 5, 7)]),
        "nearest neighbours": best([neighbours(k) for k in _NEIGHBOURS if k <= len(train)]),
        "principal components": best([principal(count) for count in counts]),
    }


def squared_errors(estimates: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The mean over the pixels of (estimate - x)^2 of each image."""
    return np.mean((estimates - x) ** 2, axis=1)


def evaluate(
    settings: Settings, trained: downstream.Trained, folder: Path
) -> dict[str, dict[str, Any]]:
    """The errors of every way for both kinds of noise, and a picture of each kind."""
    dataset = trained.dataset
    if dataset.test.x.dtype != np.uint8:
        raise ValueError(
            f"denoise is for binary pixels, but {dataset.name} is under the protocol"
            f" {dataset.protocol}: train with --likelihood bernoulli"
        )
    likelihood = downstream.example_likelihood(trained)
    if not isinstance(likelihood, Bernoulli):
        raise ValueError(
            "denoise is for a model whose p(x | z) is a Bernoulli, got a"
            f" {type(likelihood).__name__}"
        )
    x = dataset.test.x[: settings.num_images].astype(np.float32)
    metrics = {}
    for kind in ("salt and pepper", "Gaussian"):
        noisy = add_noise(settings, kind, x, settings.seed)
        ways = fit_baselines(settings, dataset, kind) | build_denoisers(settings, trained, kind)
        estimates = {name: way(noisy) for name, way in ways.items()}
        errors = {name: squared_errors(found, x) for name, found in estimates.items()}
        for name, values in errors.items():
            metrics[f"{kind}, squared error, {name}"] = downstream.error_metric(
                values, errors["nearest neighbours"], "nearest_neighbours", "squared error"
            )
        if is_main_process():
            rows = {"original": x, "noisy": noisy, **estimates}
            rows.pop("nothing")
            pictures_latent.save_labelled_rows(
                folder / f"denoised-{kind.replace(' ', '-').lower()}.png",
                {name: row[:_NUM_PICTURED] for name, row in rows.items()},
                dataset.example_shape,
            )
    return metrics


def report(result: dict[str, Any], folder: Path) -> None:
    """Print the table of a result."""
    title = f"Noise removed from {result['data']['name']} by {result['model']}, mean ± s.e."
    print_metrics(result["metrics"], title, [f"run folder: {folder}"])


def run(settings: Settings) -> Path:
    """Take or train the model, add noise and remove it, measure and draw; gives back the folder."""
    return downstream.run_downstream("denoise", settings, vae.run, vae.Settings, evaluate, report)


main = harness.command_line(run, Settings, "denoise")

if __name__ == "__main__":
    main()

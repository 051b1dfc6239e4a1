"""What the codes of a trained model are worth to a classifier.

`python -m experiments.represent` trains a VAE on handwritten digits in about a minute; then a
logistic regression and nearest neighbours read the digit from its posterior means, from as many
principal components, and from the pixels. `--trained FOLDER` takes the model of any run with a
latent-variable model or an auto-encoder instead (the settings of the VAE have no meaning then);
`--help` lists the rest.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import harness, vae
from experiments.harness import downstream, pictures_latent
from experiments.harness.mesh import is_main_process, make_mesh
from genjax_models.interfaces import Array, Key, Params

_INVERSE_PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
_NEIGHBOURS = (1, 3, 5, 10, 20)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(vae.Settings):
    """Classify by the codes of a model, by principal components and by pixels."""

    trained: str | None = None
    """Folder of a run whose model is taken; by default a VAE is trained now."""
    evaluation_samples: int = 500
    """Samples for the test log-likelihood of each example, where a VAE is trained."""
    num_train: int = 10_000
    """Training examples that the classifiers learn from, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_train")


build_model = vae.build_model
Features = dict[str, np.ndarray]
"""By split: [N, num_features]."""


def make_features(settings: Settings, trained: downstream.Trained) -> dict[str, Features]:
    """By name: the codes, as many principal components, and the pixels of every split."""
    from sklearn.decomposition import PCA

    dataset = trained.dataset
    pixels = {
        "train": downstream.prepared(dataset, settings.num_train),
        "validation": dataset.validation.x.astype(np.float32),
        "test": dataset.test.x.astype(np.float32),
    }

    def one_code(params: Params, key: Key, x: Array) -> Array:
        return downstream.code(trained.model, params, key, x)

    encode = harness.map_examples(one_code, make_mesh(), batch_size=100)
    key = jax.random.fold_in(jax.random.key(settings.seed), 5)
    codes = {split: encode(trained.params, key, x) for split, x in pixels.items()}
    num_codes = codes["train"].shape[1]
    count = min(num_codes, *pixels["train"].shape)
    components = PCA(count, random_state=0).fit(pixels["train"])
    return {
        f"posterior means, {num_codes}": codes,
        f"principal components, {count}": {
            split: components.transform(x) for split, x in pixels.items()
        },
        f"pixels, {pixels['train'].shape[1]}": pixels,
    }


def classify(
    features: Features, labels: dict[str, np.ndarray]
) -> dict[str, tuple[np.ndarray, float | int]]:
    """By classifier: which test labels it got right, and its setting, chosen on validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def probe(inverse_penalty: float) -> Any:
        # More steps change no prediction; without them scikit-learn warns.
        regression = LogisticRegression(C=inverse_penalty, max_iter=2000, tol=1e-3)
        return make_pipeline(StandardScaler(), regression)

    def choose(make: Callable[[Any], Any], settings: Any) -> tuple[np.ndarray, Any]:
        fitted = [make(setting).fit(features["train"], labels["train"]) for setting in settings]
        scores = [f.score(features["validation"], labels["validation"]) for f in fitted]
        best = int(np.argmax(scores))
        return fitted[best].predict(features["test"]) == labels["test"], settings[best]

    fitting = [k for k in _NEIGHBOURS if k <= len(features["train"])]
    return {
        "linear probe": choose(probe, _INVERSE_PENALTIES),
        "nearest neighbours": choose(KNeighborsClassifier, fitting),
    }


def evaluate(
    settings: Settings, trained: downstream.Trained, folder: Path
) -> dict[str, dict[str, Any]]:
    """Test accuracies with their errors, also against those of the pixels, and the pictures."""
    dataset = trained.dataset
    labels = {
        "train": dataset.train.labels,
        "validation": dataset.validation.labels,
        "test": dataset.test.labels,
    }
    if any(found is None for found in labels.values()):
        raise ValueError(f"represent needs labels, which {dataset.name} has not")
    known = {split: np.asarray(found) for split, found in labels.items()}
    known["train"] = known["train"][: settings.num_train]
    features = make_features(settings, trained)
    found = {name: classify(parts, known) for name, parts in features.items()}
    pixels = list(found)[-1]
    metrics = {}
    for name, classifiers in found.items():
        for classifier, (is_right, setting) in classifiers.items():
            right = is_right.astype(np.float64)
            baseline = found[pixels][classifier][0].astype(np.float64)
            entry = downstream.error_metric(right, baseline, "pixels", "accuracy")
            metrics[f"{name}, {classifier}"] = entry | {"chosen_on_validation": setting}
    if is_main_process():
        draw(features, known["test"], folder)
    return metrics


def draw(features: dict[str, Features], labels: np.ndarray, folder: Path) -> None:
    """The test set in two and three dimensions, by its codes and by its pixels."""
    from sklearn.decomposition import PCA

    names = list(features)
    sets = {"posterior means": features[names[0]], "pixels": features[names[-1]]}
    for num_dims in (2, 3):
        embeddings = {}
        for name, parts in sets.items():
            size = parts["train"].shape[1]
            if size < num_dims:
                continue
            if size == num_dims:
                embeddings[name] = parts["test"]
            else:
                components = PCA(num_dims, random_state=0).fit(parts["train"])
                title = f"{name}, {num_dims} principal components"
                embeddings[title] = components.transform(parts["test"])
        if embeddings:
            pictures_latent.save_embeddings(
                folder / f"embedding-{num_dims}d.png", embeddings, labels
            )


def print_metrics(result: dict[str, Any], folder: Path) -> None:
    """The table of accuracies."""
    metrics = result["metrics"]
    names = list(dict.fromkeys(name.rsplit(", ", 1)[0] for name in metrics))
    columns = list(dict.fromkeys(name.rsplit(", ", 1)[1] for name in metrics))
    rows = {
        name: downstream.cells([metrics[f"{name}, {column}"] for column in columns])
        for name in names
    }
    title = f"Test accuracy on {result['data']['name']}, codes of {result['model']}, ± s.e."
    downstream.print_table(title, columns, rows, [f"run folder: {folder}"])


def run(settings: Settings) -> Path:
    """Take or train the model, classify and draw; returns the run's folder."""
    return downstream.run_downstream(
        "represent",
        settings,
        vae.run,
        vae.Settings,
        evaluate,
        print_metrics,
        auto_encoders=True,
    )


main = harness.command_line(run, Settings, "represent")

if __name__ == "__main__":
    main()

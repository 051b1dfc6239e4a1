"""Whether the codes of a beta-VAE follow the factors behind the images (Higgins et al. 2017).

`python -m experiments.disentangle --data-dir FOLDER`, where FOLDER has the folder dsprites, trains
five models for each beta in some minutes and gives four scores of disentanglement; `--objective
beta_tcvae` for the beta-TCVAE, `--num-epochs 100` or `--pixel-stride 1` for more; `--help` lists
the rest.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import harness
from experiments.harness import arrays, checkpoints, downstream, dsprites, pictures_latent
from experiments.harness.mesh import is_main_process
from experiments.harness.report import progress_bar
from genjax_models import evaluation
from genjax_models.interfaces import Algorithm, Array, Key, LatentVariableModel, Params
from genjax_models.learning import beta_tcvae, bounds, log_weights, variational
from genjax_models.models import latent
from genjax_models.training import gradient_descent

SCORES = {
    "mutual_information_gap": "MIG",
    "dci_disentanglement": "DCI disentanglement",
    "dci_completeness": "DCI completeness",
    "dci_informativeness": "DCI informativeness",
    "beta_vae_score": "beta-VAE score",
    "factor_vae_score": "FactorVAE score",
}
_TRAVERSED = np.linspace(-2, 2, 9, dtype=np.float32)
_NUM_TRAVERSED_CODES = 10
# Of the mean of a code over the examples; that of a draw from the prior is 1.
_MIN_VARIANCE = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(harness.Settings):
    """Train a VAE for each beta and seed, and score how its codes follow the factors."""

    data: str = "dsprites"
    """dsprites, the data set here with known factors."""
    batch_size: int | None = 128
    """Examples a step."""
    objective: Literal["beta_vae", "beta_tcvae"] = "beta_vae"
    """What is minimised: beta weighs the KL term, or of its parts the total correlation alone."""
    betas: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    """The weights."""
    num_seeds: int = 5
    """Models for each beta."""
    pixel_stride: int = 2
    """Every how many pixels of the images, either way, the models see; 1 for all of them."""
    latent_dim: int = 10
    """Size of z."""
    hidden: tuple[int, ...] = (256, 128)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    num_epochs: int = 10
    """Passes through the training set."""
    learning_rate: float = 1e-3
    """Of Adam."""
    num_draws: int = 5000
    """Inputs of the beta-VAE score, and votes of the FactorVAE score, to learn from and to test."""
    forest_examples: int = 5000
    """Training examples that the random forests of DCI learn from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        harness.check_positive(self, "num_seeds", "pixel_stride", "num_epochs", "learning_rate")
        harness.check_positive(self, "num_draws", "forest_examples")
        if self.data != "dsprites":
            raise ValueError(f"data must be dsprites, whose factors are known, got {self.data!r}")
        if self.latent_dim < 2:
            raise ValueError(f"latent_dim must be at least 2, got {self.latent_dim}")
        if self.batch_size is None:
            raise ValueError("batch_size must be a number")
        if not self.betas or not all(0 < beta < float("inf") for beta in self.betas):
            raise ValueError(f"betas must be finite and above zero, got {self.betas}")
        harness.check_distinct(self, "betas")


class State(NamedTuple):
    """What a checkpoint holds: one for each model, in the order of the records."""

    params: Params


def build_model(settings: Settings, data: dict[str, Any]) -> LatentVariableModel:
    """The model for data of the given `num_dims`."""
    return latent.vae(
        num_dims=data["num_dims"], latent_dim=settings.latent_dim, hidden=settings.hidden
    )


def build_algorithm(
    settings: Settings, model: LatentVariableModel, beta: float | Array, num_examples: int
) -> Algorithm:
    """Adam on the objective that the settings name.

    Args:
        settings: of the run.
        model: what is trained.
        beta: a number or a tracer, so that one program serves all.
        num_examples: in the training set.
    """
    if settings.objective == "beta_tcvae":
        objective = beta_tcvae(model, num_examples=num_examples)
    else:
        objective = variational(model, kl="analytic")
    return gradient_descent(
        objective,
        optax.adam(settings.learning_rate),
        model.init,
        schedules={"beta": lambda step: jnp.asarray(beta)},
    )


def read(settings: Settings) -> tuple[harness.Dataset, dsprites.Factors]:
    """The images at the chosen pixels, and their factors."""
    source, factors = dsprites.read(settings.data_dir)
    height, width = source.example_shape
    stride = settings.pixel_stride
    if stride > min(height, width):
        raise ValueError(f"pixel_stride must be at most {min(height, width)}, got {stride}")

    def thin(split: arrays.Split) -> arrays.Split:
        images = split.x.reshape(-1, height, width)[:, ::stride, ::stride]
        return split._replace(x=images.reshape(len(images), -1))

    dataset = harness.Dataset(
        name="dsprites",
        protocol="static",
        example_shape=(-(-height // stride), -(-width // stride)),
        num_levels=2,
        train=thin(source.train),
        validation=thin(source.validation),
        test=thin(source.test),
        split=source.split if stride == 1 else f"{source.split}; every {stride} pixels",
    )
    return dataset, factors


def build_training(
    settings: Settings, model: LatentVariableModel, examples: np.ndarray
) -> Callable[[Key, float], Params]:
    """`train(key, beta) -> params`; one program serves every beta and seed."""
    batch_size = settings.batch_size or len(examples)
    num_batches = len(examples) // batch_size
    data = jnp.asarray(examples)

    @jax.jit
    def init(key: Key) -> Any:
        return build_algorithm(settings, model, 1.0, len(examples)).init(key)

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state: Any, key: Key, beta: Array, data: Array) -> tuple[Any, Array]:
        step = build_algorithm(settings, model, beta, len(examples)).step
        order_key, step_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(data))[: num_batches * batch_size]

        def one_step(state: Any, index_and_batch: tuple[Array, Array]) -> tuple[Any, Array]:
            index, batch = index_and_batch
            x = data[batch].astype(jnp.float32)
            state, metrics = step(state, jax.random.fold_in(step_key, index), x)
            return state, metrics["loss"]

        batches = (jnp.arange(num_batches), order.reshape(num_batches, batch_size))
        state, losses = jax.lax.scan(one_step, state, batches)
        return state, losses[-1]

    def train(key: Key, beta: float) -> Params:
        init_key, epochs_key = jax.random.split(key)
        state = init(init_key)
        for number in range(settings.num_epochs):
            key = jax.random.fold_in(epochs_key, number)
            state, loss = epoch(state, key, jnp.float32(beta), data)
            if not np.isfinite(loss):
                raise ValueError(f"the loss is {loss} after epoch {number + 1} of beta {beta}")
        return state.params

    return train


def build_scoring(
    settings: Settings,
    model: LatentVariableModel,
    dataset: harness.Dataset,
    factors: dsprites.Factors,
) -> Callable[[Params, Key], dict[str, float]]:
    """`score(params, key)`: the scores of test codes, the bound, and how many codes are in use."""
    encode = jax.jit(lambda params, xs: jax.vmap(lambda x: means(model, params, x))(xs))
    # The mean of a code that is not in use still says a little of x, however small its scale is:
    # too little to be seen in a draw from q(z | x), but bins and forests do not know of scales.
    bound = jax.jit(
        lambda params, keys, xs: jax.vmap(
            lambda key, x: bounds.elbo(log_weights(model, params, key, x, 1))
        )(keys, xs)
    )
    test, truth = jnp.asarray(dataset.test.x, jnp.float32), jnp.asarray(factors.test)
    rng = np.random.default_rng(settings.seed)
    rows = rng.permutation(len(factors.train))[: settings.forest_examples]
    seen = jnp.asarray(dataset.train.x[rows], jnp.float32)

    def score(params: Params, key: Key) -> dict[str, float]:
        beta_key, factor_key, bound_key = jax.random.split(key, 3)
        codes = encode(params, test)
        in_use = jnp.var(codes, axis=0) > _MIN_VARIANCE
        codes = jnp.where(in_use[None], codes, 0)
        number = settings.num_draws
        options = {"num_train": number, "num_test": number}
        found = {
            "mutual_information_gap": evaluation.mutual_information_gap(codes, truth),
            "beta_vae_score": evaluation.beta_vae_score(beta_key, codes, truth, **options),
            "factor_vae_score": evaluation.factor_vae_score(factor_key, codes, truth, **options),
            "test_bound": jnp.mean(bound(params, jax.random.split(bound_key, len(test)), test)),
            "codes_in_use": jnp.sum(in_use),
        }
        codes_seen = np.asarray(jnp.where(in_use[None], encode(params, seen), 0))
        found |= fit_forests(codes_seen, factors.train[rows], np.asarray(codes), factors.test)
        return {name: float(value) for name, value in found.items()}

    return score


def means(model: LatentVariableModel, params: Params, x: Array) -> Array:
    """The mean of q(z | x)."""
    posterior: Any = model.posterior(params, x)
    return posterior.mean()


def fit_forests(
    train_codes: np.ndarray, train: np.ndarray, test_codes: np.ndarray, test: np.ndarray
) -> dict[str, Array]:
    """The three numbers of DCI, with a random forest that classifies each factor."""
    from sklearn.ensemble import RandomForestClassifier

    # Every split may choose among all codes: a forest that is shown a part of them at a time has to
    # split by codes that say nothing.
    forests = [
        RandomForestClassifier(
            n_estimators=20, max_features=None, min_samples_leaf=5, random_state=0
        ).fit(train_codes, factor)
        for factor in train.T
    ]
    importance = np.stack([forest.feature_importances_ for forest in forests], axis=1)
    predictions = np.stack([forest.predict(test_codes) for forest in forests], axis=1)
    found = evaluation.dci(jnp.asarray(importance))
    return {
        "dci_disentanglement": found.disentanglement,
        "dci_completeness": found.completeness,
        "dci_informativeness": jnp.mean(
            evaluation.informativeness(jnp.asarray(predictions), jnp.asarray(test))
        ),
    }


def draw(
    settings: Settings, model: LatentVariableModel, dataset: harness.Dataset, run: harness.Run
) -> None:
    """Scores over beta, and the traversals of the first model of each beta."""
    records = run.records()
    values = {
        title: np.array([record[name] for record in records]).reshape(len(settings.betas), -1)
        for name, title in SCORES.items()
    }
    pictures_latent.save_scores(run.path / "scores.png", settings.betas, values, xlabel="beta")
    like = State(jax.eval_shape(model.init, jax.random.key(0)))
    examples = jnp.asarray(dataset.test.x, jnp.float32)
    rows = jax.jit(lambda params: traverse(model, params, examples))
    for number, beta in enumerate(settings.betas):
        step = number * settings.num_seeds + 1
        params = checkpoints.restore(run.checkpoints, step, like).params
        path = run.path / f"traversals-beta-{beta:g}.png"
        pictures_latent.save_rows(path, np.asarray(rows(params)), dataset.example_shape)


def traverse(model: LatentVariableModel, params: Params, examples: Array) -> Array:
    """E[x | z] as one dimension of the code of one example goes from -2 to 2.

    Returns:
        [num_codes, 9, num_dims], the code of the largest variance over the examples first.
    """
    codes = jax.vmap(lambda x: means(model, params, x))(examples)
    chosen = jnp.argsort(-jnp.var(codes, axis=0))[:_NUM_TRAVERSED_CODES]
    start = codes[len(codes) // 2]

    def decode(code: Array, value: Array) -> Array:
        likelihood: Any = model.likelihood(params, start.at[code].set(value))
        return likelihood.mean()

    return jax.vmap(lambda code: jax.vmap(lambda v: decode(code, v))(jnp.asarray(_TRAVERSED)))(
        chosen
    )


def summarize(settings: Settings, records: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each score over the seeds, with its error and all of its values."""
    found = {}
    for beta in settings.betas:
        of_beta = [record for record in records if record["beta"] == beta]
        for name in (*SCORES, "codes_in_use", "test_bound"):
            values = [record[name] for record in of_beta]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
            entry = harness.measurement(
                value=float(np.mean(values)),
                standard_error=None,
                monte_carlo_error=None if spread is None else spread / len(values) ** 0.5,
                estimator=f"mean of {len(values)} models",
                num_samples=None,
                bound="lower" if name == "test_bound" else "exact",
                unit="nats" if name == "test_bound" else "",
            )
            found[f"{name}_beta_{beta:g}"] = entry | {"spread": spread, "values": values}
    return found


def print_scores(settings: Settings, result: dict[str, Any], folder: Path) -> None:
    """The scores of each beta: the mean over the seeds and their standard deviation."""
    titles = {**SCORES, "codes_in_use": "codes in use", "test_bound": "test bound, nats"}
    rows = {}
    for name, title in titles.items():
        digits = 2 if name in SCORES else 1
        entries = [result["metrics"][f"{name}_beta_{beta:g}"] for beta in settings.betas]
        rows[title] = [
            f"{entry['value']:.{digits}f}"
            + ("" if entry["spread"] is None else f" ± {entry['spread']:.{digits}f}")
            for entry in entries
        ]
    downstream.print_table(
        f"{result['model']} on dsprites, {settings.num_seeds} models for each beta",
        [f"beta {beta:g}" for beta in settings.betas],
        rows,
        [
            "± is the standard deviation over models; chance is 0.2 for the last two scores",
            f"{sum(result['seconds'].values()):.0f} s; {result['device']}",
            f"run folder: {folder}",
        ],
    )


def train_and_score(
    settings: Settings,
    model: LatentVariableModel,
    dataset: harness.Dataset,
    factors: dsprites.Factors,
    run: harness.Run,
) -> float:
    """One model after the other, each with a checkpoint and a record; gives back the seconds.

    A resumed run trains the models that have no checkpoint and scores those that have no record.
    """
    pairs = list(itertools.product(settings.betas, range(settings.num_seeds)))
    train = build_training(settings, model, dataset.train.x)
    score = build_scoring(settings, model, dataset, factors)
    like = State(jax.eval_shape(model.init, jax.random.key(0)))
    saved = checkpoints.latest_step(run.checkpoints) or 0
    done = min(saved, len(run.records()))
    started = time.perf_counter()
    with progress_bar(len(pairs), done, unit="model") as show:
        for number, (beta, seed) in enumerate(pairs[done:], start=done + 1):
            root = jax.random.fold_in(jax.random.key(settings.seed), seed)
            train_key, score_key = jax.random.split(root)
            if number > saved:
                params = train(train_key, beta)
                checkpoints.save(run.checkpoints, number, State(params), keep=len(pairs))
            else:
                params = checkpoints.restore(run.checkpoints, number, like).params
            scores = score(params, score_key)
            run.log(number, {"beta": beta, "seed": seed, **scores})
            show(number, {"loss": -scores["test_bound"]})
    return time.perf_counter() - started


def run(settings: Settings) -> Path:
    """Train, score and draw; returns the run's folder."""
    dataset, factors = read(settings)
    model = build_model(settings, harness.data_shape(dataset))
    num_examples = len(dataset.train.x)
    algorithm = build_algorithm(settings, model, settings.betas[0], num_examples)
    with harness.open_run("disentangle", settings, dataset, algorithm) as run:
        result = run.result()
        if result is None:
            seconds = train_and_score(settings, model, dataset, factors, run)
            if is_main_process():
                draw(settings, model, dataset, run)
            steps = settings.num_epochs * harness.steps_per_epoch(settings, dataset)
            result = harness.finish_run(
                run,
                settings,
                dataset,
                model=settings.objective.replace("_", "-"),
                metrics=summarize(settings, run.records()),
                num_steps=len(settings.betas) * settings.num_seeds * steps,
                seconds={"train and score": seconds},
            )
        print_scores(settings, result, run.path)
    return run.path


main = harness.command_line(run, Settings, "disentangle")

if __name__ == "__main__":
    main()

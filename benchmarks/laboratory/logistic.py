"""Part 2: Bayesian logistic regression on scikit-learn's breast-cancer data.

q(w) = N(m, diag s^2) over 31 weights (30 standardised features and a bias), prior N(0, I). The cost
is minus the log-joint of a batch of 32, scaled to the whole data set; the entropy of q is known and
has no variance. All estimators take 50 samples at the same points of one trajectory, with the same
batch and the same keys.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.laboratory import measuring
from genjax_models.distributions import DiagonalGaussian
from genjax_models.interfaces import Array, Key
from genjax_models.learning import gradients
from genjax_models.learning.gradients import control_variates

BATCH_SIZE, NUM_SAMPLES = 32, 50
CHECKPOINTS = (0, 30, 100, 300, 1000)
Params = dict[str, Array]
Maker = Callable[[gradients.core.Function], gradients.GradientEstimator]


def posterior(params: Params) -> DiagonalGaussian:
    """q(w)."""
    return DiagonalGaussian(params["loc"], params["log_scale"])


def _score(variate: Callable[..., Any] | None = None) -> Maker:
    def make(f: gradients.core.Function) -> gradients.GradientEstimator:
        made = variate(f) if variate else None
        return gradients.score_function(posterior, f, control_variate=made)

    return make


def _path(variate: Callable[..., Any] | None = None) -> Maker:
    def make(f: gradients.core.Function) -> gradients.GradientEstimator:
        made = variate(f) if variate else None
        return gradients.pathwise(posterior, f, control_variate=made)

    return make


def _optimal_delta(f: gradients.core.Function) -> gradients.ControlVariate:
    return control_variates.optimal(control_variates.delta_method(f))


MAKERS: dict[str, Maker] = {
    "score": _score(),
    "score, moving average": _score(lambda f: control_variates.moving_average(0.9)),
    "score, leave one out": _score(lambda f: control_variates.leave_one_out()),
    "score, optimal": _score(lambda f: control_variates.optimal()),
    "score, delta": _score(control_variates.delta_method),
    "score, optimal delta": _score(_optimal_delta),
    "pathwise": _path(),
    "pathwise, delta": _path(control_variates.delta_method),
    "pathwise, optimal delta": _path(_optimal_delta),
    "measure, coupled": lambda f: gradients.measure_valued(posterior, f),
    "measure, uncoupled": lambda f: gradients.measure_valued(posterior, f, coupled=False),
}


@functools.cache
def data() -> tuple[np.ndarray, np.ndarray]:
    """Features [569, 31], standardised and with a column of ones, and labels -1 or 1."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    x = (found.data - found.data.mean(axis=0)) / found.data.std(axis=0)
    features = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    return features.astype(np.float32), (2.0 * found.target - 1).astype(np.float32)


def cost(batch: Array, weights: Array) -> Array:
    """Minus the log-joint, the likelihood scaled from the batch to the whole data set, [].

    The scale stands here once: no estimator multiplies by it again.
    """
    features, labels = map(jnp.asarray, data())
    margins = labels[batch] * (features[batch] @ weights)
    log_likelihood = -jnp.sum(jax.nn.softplus(-margins)) * (len(labels) / batch.shape[0])
    return -log_likelihood + 0.5 * jnp.sum(jnp.square(weights))


def trajectory(key: Key, checkpoints: tuple[int, ...] = CHECKPOINTS) -> list[Params]:
    """Parameters after so many steps of Adam with pathwise gradients."""
    num_weights = data()[0].shape[1]
    params = {"loc": jnp.zeros(num_weights), "log_scale": jnp.zeros(num_weights)}
    optimizer = optax.adam(0.03)

    def step(carry: Any, index: Array) -> tuple[Any, Params]:
        params, state = carry
        batch_key, sample_key = jax.random.split(jax.random.fold_in(key, index))
        batch = draw_batch(batch_key)

        def loss(params: Params) -> Array:
            estimator = gradients.pathwise(posterior, functools.partial(cost, batch))
            entropy = jnp.sum(params["log_scale"])
            return gradients.surrogate_loss(estimator, params, sample_key, 10) - entropy

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), params

    carry = (params, optimizer.init(params))
    num_steps = max(checkpoints) + 1
    _, visited = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(num_steps)))(carry)
    return [jax.tree.map(lambda leaf, at=at: leaf[at], visited) for at in checkpoints]


def draw_batch(key: Key) -> Array:
    """Indices of the examples of one batch."""
    return jax.random.choice(key, data()[0].shape[0], (BATCH_SIZE,), replace=False)


@functools.cache
def replicate(name: str) -> Callable[..., Params]:
    """`replicate(key, params, batch, state)`: the mean of 50 per-sample gradients."""

    def run(key: Key, params: Params, batch: Array, state: Any) -> Params:
        estimator = MAKERS[name](functools.partial(cost, batch))
        found = gradients.per_sample_gradients(estimator, params, key, NUM_SAMPLES, state=state)
        return jax.tree.map(lambda leaf: leaf.mean(axis=0), found)

    return run


def warmed_state(name: str, params: Params, batch: Array, key: Key) -> Any:
    """The state of the control variate after 20 updates at these parameters."""
    estimator = MAKERS[name](functools.partial(cost, batch))

    @jax.jit
    def run(key: Key) -> Any:
        def step(state: Any, index: Array) -> tuple[Any, None]:
            draws = estimator.draw(params, state, jax.random.fold_in(key, index), NUM_SAMPLES)
            return estimator.update(state, estimator.observe(params, state, draws)), None

        start = estimator.init(params, jax.random.key(0))
        return jax.lax.scan(step, start, jnp.arange(20))[0]

    return run(key) if jax.tree.leaves(estimator.init(params, jax.random.key(0))) else ()


def table(
    key: Key, *, num_replicates: int = 200, checkpoints: tuple[int, ...] = CHECKPOINTS
) -> list[dict[str, Any]]:
    """One row an estimator and a point of the trajectory."""
    path_key, batch_key, sample_key, warm_key = jax.random.split(key, 4)
    rows = []
    for index, params in enumerate(trajectory(path_key, checkpoints)):
        batch = draw_batch(jax.random.fold_in(batch_key, index))
        at_key, from_key = (jax.random.fold_in(k, index) for k in (sample_key, warm_key))
        for name in MAKERS:
            state = warmed_state(name, params, batch, jax.random.clone(from_key))
            found = measuring.spread(
                replicate(name),
                jax.random.clone(at_key),
                params,
                batch,
                state,
                num_replicates=num_replicates,
            )
            rows.append(
                {
                    "step": checkpoints[index],
                    "estimator": name,
                    "variance": found.variance,
                    "standard error": found.standard_error,
                    "of the means": found.by_leaf["['loc']"][0],
                    "of the log scales": found.by_leaf["['log_scale']"][0],
                    "evaluations of f": evaluations(name),
                }
            )
    return rows


def evaluations(name: str) -> int:
    """Of f for one gradient of 50 samples; derivatives of f not counted."""
    if name.startswith("measure"):
        # Two sides for each mean and each scale, and one evaluation for the value.
        return NUM_SAMPLES * (4 * data()[0].shape[1] + 1)
    return NUM_SAMPLES + ("delta" in name)

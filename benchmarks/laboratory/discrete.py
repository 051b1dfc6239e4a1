"""Part 4: sigmoid belief nets: variance on one common trajectory, and bounds after equal training.

The variances are those of the recognition network's gradient of the bound, of one batch, at the
same parameters, batch and keys for every estimator. What learns (NVIL's baseline, REBAR's and
RELAX's control variates) learns at those parameters before it is measured.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.laboratory import measuring
from benchmarks.laboratory.belief_nets import BeliefNet, belief_net, learner
from experiments.harness import data
from genjax_models.interfaces import Algorithm, Array, Key, Params, PyTree
from genjax_models.learning import bounds, importance_samples
from genjax_models.learning.stateful import StatefulVariational
from genjax_models.models.latent.parts import start_at_mean
from genjax_models.training import stateful_gradient_descent

LEARNING_RATE, BATCH_SIZE = 1e-3, 50
TRAJECTORY = (0, 0.1, 1)
"""Where on the common trajectory variances are measured, in parts of its length."""
COMMON = "DisARM"
"""The estimator that the common trajectory is trained with."""


class Trained(NamedTuple):
    """What training gave.

    Attributes:
        params: of the model at each point of the trajectory, the last after all steps.
        seconds: that the steps took, compilation not counted.
    """

    params: list[Params]
    seconds: float


def load(name: str, data_dir: str | None) -> tuple[data.Dataset, np.ndarray]:
    """A data set with binary examples, and its training examples as float32."""
    protocol = None if name == "binarized_mnist" else "static"
    found = data.load(name, likelihood="bernoulli", protocol=protocol, data_dir=data_dir)
    return found, np.asarray(found.train.x, np.float32)


def train(
    net: BeliefNet, name: str, examples: np.ndarray, num_steps: int, *, seed: int = 0
) -> Trained:
    """Adam on one estimator from an initialisation that all share, on the same batches."""
    objective = learner(name, net).objective
    xs = jnp.asarray(examples)
    mean = jnp.mean(xs, axis=0)
    algorithm = stateful_gradient_descent(
        objective,
        optax.adam(LEARNING_RATE),
        lambda key: start_at_mean(net.model.init(key), mean),
        objective.init_state,
    )
    init_key, key = jax.random.split(jax.random.key(seed))
    carry = algorithm.init(init_key)
    step = stepping(algorithm, xs, key)
    stops = [round(num_steps * part) for part in TRAJECTORY]
    length = math.gcd(*stops)
    run = jax.jit(lambda carry, start: jax.lax.scan(step, carry, start + jnp.arange(length))[0])
    compiled = run.lower(carry, jnp.asarray(0)).compile()
    visited, seconds = [], 0.0
    for done in range(0, num_steps + 1, length):
        visited += [carry.params] * stops.count(done)
        if done < num_steps:
            started = time.perf_counter()
            carry = jax.block_until_ready(compiled(carry, jnp.asarray(done)))
            seconds += time.perf_counter() - started
    return Trained(visited, seconds)


def stepping(algorithm: Algorithm, xs: Array, key: Key) -> Callable[[Any, Array], tuple[Any, None]]:
    """A step of training on a batch at random, to be scanned over the steps' numbers."""

    def step(state: Any, index: Array) -> tuple[Any, None]:
        batch_key, step_key = jax.random.split(jax.random.fold_in(key, index))
        return algorithm.step(state, step_key, _batch(batch_key, xs))[0], None

    return step


def _batch(key: Key, xs: Array) -> Array:
    return xs[jax.random.randint(key, (BATCH_SIZE,), 0, len(xs))]


@functools.cache
def replicate(name: str, net: BeliefNet) -> Callable[..., Params]:
    """`replicate(key, params, state, xs)`: the gradient of the recognition network."""
    objective = learner(name, net).objective

    def run(key: Key, params: Params, state: PyTree, xs: Array) -> Params:
        gradient, _ = jax.grad(objective, has_aux=True)(params, state, key, xs)
        return gradient["posterior"]

    return run


def settling(
    objective: StatefulVariational, num_steps: int, batch_of: Callable[[Key], PyTree]
) -> Callable[[Params, PyTree, Key], PyTree]:
    """`settle(params, state, key)`: the estimator's state after updates at the same parameters.

    `batch_of(key)` is the batch of an update.
    """

    @jax.jit
    def settle(params: Params, state: PyTree, key: Key) -> PyTree:
        def step(state: PyTree, index: Array) -> tuple[PyTree, None]:
            batch_key, draw_key = jax.random.split(jax.random.fold_in(key, index))
            return objective(params, state, draw_key, batch_of(batch_key))[1][0], None

        return jax.lax.scan(step, state, jnp.arange(num_steps))[0]

    return settle


def variances(
    structure: str,
    estimators: Sequence[str],
    examples: np.ndarray,
    *,
    num_steps: int,
    num_replicates: int = 200,
    num_units: int = 200,
    num_settling: int = 200,
) -> list[dict[str, Any]]:
    """One row an estimator and a point of the common trajectory; one draw of each estimator.

    The time and the memory are those of one gradient of a batch at the end of the trajectory.
    """
    net = belief_net(structure, examples.shape[1], num_units)
    trajectory = train(net, COMMON, examples, num_steps).params
    xs = jnp.asarray(examples)
    batch = xs[:BATCH_SIZE]
    rows: list[dict[str, Any]] = []
    runs, inputs = {}, {}
    for name in estimators:
        made, run = learner(name, net), replicate(name, net)
        settle = settling(made.objective, num_settling, functools.partial(_batch, xs=xs))
        for part, params in zip(TRAJECTORY, trajectory, strict=True):
            state = made.objective.init_state(params, jax.random.key(1))
            if jax.tree.leaves(state):
                state = settle(params, state, jax.random.key(3))
            found = measuring.spread(
                run, jax.random.key(4), params, state, batch, num_replicates=num_replicates
            )
            rows.append(
                {
                    "structure": structure,
                    "step": round(part * num_steps),
                    "estimator": name,
                    "variance": found.variance,
                    "standard error": found.standard_error,
                    "evaluations of f": made.evaluations,
                    "variance x evaluations": found.variance * made.evaluations,
                }
            )
        runs[name], inputs[name] = run, (params, state, batch)
    spent = measuring.costs(runs, jax.random.key(5), inputs)
    for row in rows:
        cost = spent[row["estimator"]]
        row["ms"] = cost.milliseconds.median
        row["variance x ms"] = row["variance"] * cost.milliseconds.median
        row["megabytes"] = cost.megabytes
    return rows


def bounds_after_training(
    structure: str,
    estimators: Sequence[str],
    dataset: data.Dataset,
    examples: np.ndarray,
    *,
    num_steps: int,
    num_test: int = 2000,
    num_samples: int = 100,
    num_units: int = 200,
) -> list[dict[str, Any]]:
    """One row an estimator: the test bound and log-likelihood after the same number of steps.

    The standard errors are over the test examples, which all estimators share.
    """
    net = belief_net(structure, examples.shape[1], num_units)
    test = jnp.asarray(np.asarray(dataset.test.x[:num_test], np.float32))

    @jax.jit
    def evaluate(params: Params) -> tuple[Array, Array]:
        def one(key: Key, x: Array) -> tuple[Array, Array]:
            found = importance_samples(net.model, params, key, x, num_samples).log_weights
            return bounds.elbo(found), bounds.iwae(found)

        keys = jax.random.split(jax.random.key(6), len(test))
        return jax.lax.map(lambda pair: one(*pair), (keys, test))

    rows = []
    for name in estimators:
        trained = train(net, name, examples, num_steps)
        bound, likelihood = (np.asarray(v, np.float64) for v in evaluate(trained.params[-1]))
        rows.append(
            {
                "structure": structure,
                "estimator": name,
                "steps": num_steps,
                "test ELBO": float(bound.mean()),
                "standard error": _standard_error(bound),
                f"test IWAE-{num_samples}": float(likelihood.mean()),
                f"standard error of IWAE-{num_samples}": _standard_error(likelihood),
                "test examples": len(test),
                "training seconds": trained.seconds,
            }
        )
    return rows


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))

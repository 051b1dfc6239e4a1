"""Part 4: sigmoid belief nets: variance on one common trajectory, and bounds after equal training.

The variances are those of the recognition network's gradient of the bound, of one batch, at the
same parameters, batch and keys for every estimator. What learns (NVIL's baseline, REBAR's and
RELAX's control variates) learns at those parameters before it is measured.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.laboratory import measuring
from benchmarks.laboratory.belief_nets import BeliefNet, Learner, belief_net, learner
from experiments.harness import data
from genjax_models.evaluation import log_likelihood
from genjax_models.interfaces import Array, Key, Params, PyTree

LEARNING_RATE, BATCH_SIZE = 1e-3, 50
COMMON = "disarm"
"""The estimator that the common trajectory is trained with."""


class Trained(NamedTuple):
    """What training gave.

    Attributes:
        params: of the model.
        state: of the estimator.
        seconds: that the steps took, compilation not counted.
    """

    params: Params
    state: PyTree
    seconds: float


def load(name: str, data_dir: str | None) -> tuple[data.Dataset, np.ndarray]:
    """A data set with binary examples, and its training examples as float32."""
    protocol = None if name == "binarized_mnist" else "static"
    found = data.load(name, likelihood="bernoulli", protocol=protocol, data_dir=data_dir)
    return found, np.asarray(found.train.x, np.float32)


def batch_gradient(made: Learner, params: Params, state: PyTree, key: Key, xs: Array) -> Any:
    """The gradient of the mean loss of a batch, with the mean observation."""

    def mean_loss(params: Params) -> tuple[Array, PyTree]:
        keys = jax.random.split(key, xs.shape[0])
        losses, seen = jax.vmap(made.loss, (None, None, 0, 0))(params, state, keys, xs)
        return jnp.mean(losses), jax.tree.map(lambda leaf: leaf.mean(axis=0), seen)

    return jax.grad(mean_loss, has_aux=True)(params)


def train(
    net: BeliefNet,
    name: str,
    key: Key,
    examples: np.ndarray,
    num_steps: int,
    *,
    checkpoints: Sequence[int] = (),
) -> tuple[Trained, list[Params]]:
    """Adam on one estimator from an initialisation that all share; parameters on the way."""
    made = learner(name, net)
    params = net.model.init(jax.random.key(0))
    optimizer = optax.adam(LEARNING_RATE)
    carry = (params, made.init(params, jax.random.key(1)), optimizer.init(params))
    xs = jnp.asarray(examples)

    def step(carry: Any, index: Array) -> tuple[Any, None]:
        params, state, optimizer_state = carry
        batch_key, draw_key = jax.random.split(jax.random.fold_in(key, index))
        batch = xs[jax.random.randint(batch_key, (BATCH_SIZE,), 0, len(xs))]
        gradient, seen = batch_gradient(made, params, state, draw_key, batch)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        params = optax.apply_updates(params, updates)
        return (params, made.update(state, seen), optimizer_state), None

    @functools.partial(jax.jit, static_argnums=2)
    def run(carry: Any, start: Array, length: int) -> Any:
        return jax.lax.scan(step, carry, start + jnp.arange(length))[0]

    stops = sorted({*checkpoints, num_steps})
    begin, visited, seconds = 0, [], 0.0
    for stop in stops:
        if stop > begin:
            compiled = run.lower(carry, jnp.asarray(begin), stop - begin).compile()
            started = time.perf_counter()
            carry = jax.block_until_ready(compiled(carry, jnp.asarray(begin)))
            seconds += time.perf_counter() - started
        begin = stop
        visited.append(carry[0])
    return Trained(carry[0], carry[1], seconds), visited[: len(checkpoints)]


@functools.cache
def replicate(name: str, net: BeliefNet, num_samples: int) -> Callable[..., Params]:
    """`replicate(key, params, state, xs)`: the gradient of the recognition network."""
    made = learner(name, net, num_samples)

    def run(key: Key, params: Params, state: PyTree, xs: Array) -> Params:
        gradient, _ = batch_gradient(made, params, state, key, xs)
        return {part: leaf for part, leaf in gradient.items() if "encoder" in part}

    return run


def settled_state(made: Learner, params: Params, key: Key, xs: Array, num_steps: int) -> PyTree:
    """The estimator's state after so many updates at the same parameters."""
    start = made.init(params, jax.random.key(1))
    if not jax.tree.leaves(start):
        return start

    def step(state: PyTree, index: Array) -> tuple[PyTree, None]:
        batch_key, draw_key = jax.random.split(jax.random.fold_in(key, index))
        batch = xs[jax.random.randint(batch_key, (BATCH_SIZE,), 0, len(xs))]
        _, seen = batch_gradient(made, params, state, draw_key, batch)
        return made.update(state, seen), None

    return jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(num_steps))[0])(start)


def variances(
    structure: str,
    estimators: Sequence[str],
    examples: np.ndarray,
    *,
    checkpoints: Sequence[int],
    num_replicates: int = 200,
    num_units: int = 200,
    settle: int = 200,
) -> list[dict[str, Any]]:
    """One row an estimator and a point of the common trajectory; one draw of each estimator."""
    net = belief_net(structure, examples.shape[1], num_units)
    _, visited = train(
        net, COMMON, jax.random.key(2), examples, max(checkpoints), checkpoints=checkpoints
    )
    xs = jnp.asarray(examples)
    rows = []
    for step, params in zip(checkpoints, visited, strict=True):
        batch = xs[:BATCH_SIZE]
        runs = {}
        for name in estimators:
            made = learner(name, net)
            state = settled_state(made, params, jax.random.key(3), xs, settle)
            run = replicate(name, net, 1)
            runs[name] = functools.partial(run, params=params, state=state, xs=batch)
            found = measuring.spread(
                run, jax.random.key(4), params, state, batch, num_replicates=num_replicates
            )
            rows.append(
                {
                    "structure": structure,
                    "step": step,
                    "estimator": name,
                    "variance": found.variance,
                    "standard error": found.standard_error,
                    "evaluations of f": made.evaluations,
                    "variance x evaluations": found.variance * made.evaluations,
                }
            )
        spent = measuring.costs(runs, jax.random.key(5))
        for row in rows[-len(estimators) :]:
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
    num_test: int = 500,
    num_samples: int = 100,
    num_units: int = 200,
) -> list[dict[str, Any]]:
    """One row an estimator: the test bound and log-likelihood after the same number of steps."""
    net = belief_net(structure, examples.shape[1], num_units)
    test = jnp.asarray(np.asarray(dataset.test.x[:num_test], np.float32))

    @jax.jit
    def evaluate(params: Params) -> tuple[Array, Array]:
        def one(key: Key, x: Array) -> tuple[Array, Array]:
            bound_key, likelihood_key = jax.random.split(key)
            found = log_likelihood(net.model, params, likelihood_key, x, num_samples=num_samples)
            made = learner("reinforce", net, num_samples)
            bound = -made.loss(params, (), bound_key, x)[0]
            return bound, found[0]

        keys = jax.random.split(jax.random.key(6), len(test))
        return jax.lax.map(lambda pair: one(*pair), (keys, test))

    rows = []
    for name in estimators:
        trained, _ = train(net, name, jax.random.key(2), examples, num_steps)
        bound, likelihood = (np.asarray(values, np.float64) for values in evaluate(trained.params))
        rows.append(
            {
                "structure": structure,
                "estimator": name,
                "steps": num_steps,
                "test bound": float(bound.mean()),
                "test log p": float(likelihood.mean()),
                "standard error": float(likelihood.std(ddof=1) / np.sqrt(len(likelihood))),
                "importance samples": num_samples,
                "test examples": len(test),
                "training seconds": trained.seconds,
            }
        )
    return rows

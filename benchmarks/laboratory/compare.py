"""Part 5: any estimator x model x K, chosen by name or brought by the user."""

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from benchmarks.laboratory import discrete, measuring
from benchmarks.laboratory.belief_nets import ESTIMATORS as DISCRETE
from benchmarks.laboratory.belief_nets import STRUCTURES, belief_net, learner
from genjax_models.interfaces import Array, Key, LatentVariableModel, Objective, Params
from genjax_models.learning import bounds, variational
from genjax_models.learning.objectives import ESTIMATORS
from genjax_models.learning.stateful import StatefulVariational
from genjax_models.models import latent
from genjax_models.training import gradient_descent


class Case(NamedTuple):
    """A model with parameters and an example, at which estimators are compared.

    Attributes:
        model: any latent-variable model.
        params: where it is measured.
        x: one example.
    """

    model: LatentVariableModel
    params: Params
    x: Any


Estimate = Callable[[Key, Params, Any], Params]
"""`estimate(key, params, x) -> gradient`."""

MODELS = ("vae", *(f"belief_net:{name.replace(' ', '_')}" for name in STRUCTURES))
BOUNDS: dict[str, bounds.Bound] = {
    "elbo": bounds.elbo,
    "iwae": bounds.iwae,
    "renyi": functools.partial(bounds.renyi, alpha=0.5),
    "vr_max": bounds.vr_max,
    "cubo": bounds.cubo,
    "tvo": functools.partial(bounds.tvo, betas=(0.0, 0.1, 0.3, 1.0)),
    "jackknife": bounds.jackknife,
    "ciwae": functools.partial(bounds.ciwae, weight=0.5),
}


def case(name: str, *, num_steps: int = 1000, num_units: int = 50) -> Case:
    """A model of ours after training, by its name, or a user's own.

    Args:
        name: one of `MODELS`, trained on the digits (pathwise ELBO for the VAE, DisARM for the
            belief nets) and measured at a test example; or "package.module:function", called
            without arguments and returning (model, params, x).
        num_steps: of training, for a model of ours.
        num_units: of each hidden layer, for a model of ours.

    Returns:
        The case.

    Raises:
        ValueError: an unknown name, or no such function.
    """
    if name not in MODELS:
        if ":" in name and not name.startswith("belief_net:"):
            return Case(*_function(name, "model")())
        raise ValueError(f'model must be one of {list(MODELS)} or "module:function", got {name!r}')
    dataset, examples = discrete.load("digits", None)
    x = jnp.asarray(dataset.test.x[0], jnp.float32)
    if name != "vae":
        net = belief_net(_structure(name), examples.shape[1], num_units)
        return Case(net.model, discrete.train(net, "DisARM", examples, num_steps).params[-1], x)
    model = latent.vae(num_dims=examples.shape[1], latent_dim=10, hidden=(num_units,))
    algorithm = gradient_descent(variational(model), optax.adam(1e-3), model.init)
    step = discrete.stepping(algorithm, jnp.asarray(examples), jax.random.key(1))
    start = algorithm.init(jax.random.key(0))
    state = jax.jit(lambda start: jax.lax.scan(step, start, jnp.arange(num_steps))[0])(start)
    return Case(model, state.params, x)


def _structure(model: str) -> str:
    return model.removeprefix("belief_net:").replace("_", " ")


def estimate(
    estimator: str, model: str, found: Case, bound: str, num_samples: int
) -> tuple[Estimate, str]:
    """An estimator by its name, with the bound that it is for.

    A name of `learning.variational`, a name of the discrete estimators (for the belief nets and
    the ELBO), or a user's own as "package.module:function", called as
    `function(model, bound, num_samples)` and returning an objective.

    Raises:
        ValueError: an unknown name, or one that makes no sense for the model.
    """
    if ":" in estimator:
        make = _function(estimator, "estimator")
        return _gradient(make(found.model, BOUNDS[bound], num_samples)), bound
    if estimator in DISCRETE and model.startswith("belief_net:"):
        return _discrete(estimator, model, found, num_samples), "elbo"
    if estimator in DISCRETE and estimator not in ESTIMATORS:
        raise ValueError(f"estimator {estimator!r} is for the models {list(MODELS[1:])}")
    objective: Any = variational(
        found.model, bound=BOUNDS[bound], estimator=estimator, num_samples=num_samples
    )
    if not hasattr(objective, "init_state"):
        return _gradient(objective), bound
    return _settled(objective, found, 1), bound


def _settled(objective: StatefulVariational, found: Case, batch_size: int) -> Estimate:
    """The gradient of an objective with a state, after 100 updates of it at these parameters.

    Each of them sees the example `batch_size` times.
    """
    state = objective.init_state(found.params, jax.random.key(2))
    if jax.tree.leaves(state):
        batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * batch_size), found.x)
        settle = discrete.settling(objective, 100, lambda key: batch)
        state = settle(found.params, state, jax.random.key(5))

    def run(key: Key, params: Params, x: Array) -> Params:
        batch = jax.tree.map(lambda leaf: leaf[None], x)
        return jax.grad(lambda p: objective(p, state, key, batch)[0])(params)

    return run


def _discrete(estimator: str, model: str, found: Case, num_samples: int) -> Estimate:
    num_units = found.params["prior"]["top"]["logits"].size
    net = belief_net(_structure(model), found.x.size, num_units)
    return _settled(learner(estimator, net, num_samples).objective, found, discrete.BATCH_SIZE)


def _gradient(objective: Objective) -> Estimate:
    return lambda key, params, x: jax.grad(lambda p: objective(p, key, x)[0])(params)


def _function(name: str, what: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f'{what} {name!r} is no "module:function": {error}') from None


def compare(
    models: Sequence[str],
    estimators: Sequence[str],
    num_samples: Sequence[int],
    *,
    bound: str = "elbo",
    num_replicates: int = 1000,
    num_steps: int = 1000,
) -> list[dict[str, Any]]:
    """One row for each triple; all estimators of a model see the same random numbers."""
    if bound not in BOUNDS:
        raise ValueError(f"bound must be one of {list(BOUNDS)}, got {bound!r}")
    rows: list[dict[str, Any]] = []
    for model in models:
        found = case(model, num_steps=num_steps)
        for count in num_samples:
            runs: dict[str, Estimate] = {}
            inputs = (found.params, found.x)
            for name in estimators:
                runs[name], of_bound = estimate(name, model, found, bound, count)
                spread = measuring.spread(
                    runs[name],
                    jax.random.key(3),
                    *inputs,
                    num_replicates=num_replicates,
                    batch_size=20,
                )
                rows.append(
                    {
                        "model": model,
                        "estimator": name,
                        "K": count,
                        "bound": of_bound,
                        "variance": spread.variance,
                        "standard error": spread.standard_error,
                        "replicates": spread.num_replicates,
                    }
                )
            spent = measuring.costs(runs, jax.random.key(4), dict.fromkeys(runs, inputs))
            for row in rows[-len(estimators) :]:
                interval, megabytes = spent[row["estimator"]]
                row |= {
                    "ms": interval.median,
                    "ms low": interval.low,
                    "ms high": interval.high,
                    "megabytes": megabytes if math.isfinite(megabytes) else "",
                }
    return rows

"""Part 5: any estimator x model x K, chosen by name or brought by the user."""

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.laboratory import measuring
from benchmarks.laboratory.belief_nets import ESTIMATORS as DISCRETE
from benchmarks.laboratory.belief_nets import STRUCTURES, belief_net, learner
from genjax_models.interfaces import Array, Key, LatentVariableModel, Objective, Params
from genjax_models.learning import bounds, variational
from genjax_models.learning.objectives import ESTIMATORS
from genjax_models.models import latent


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


Estimate = Callable[[Params, Key, Any], Params]
"""`estimate(params, key, x) -> gradient`."""

MODELS = ("vae", *(f"belief_net:{name.replace(' ', '_')}" for name in STRUCTURES))
BOUNDS = {
    "elbo": bounds.elbo,
    "iwae": bounds.iwae,
    "renyi": functools.partial(bounds.renyi, alpha=0.5),
}


def case(name: str, num_dims: int = 64, num_units: int = 50) -> Case:
    """A model of ours by its name, or a user's as "package.module:function" -> (model, params, x).

    Raises:
        ValueError: an unknown name, or no such function.
    """
    if name == "vae":
        model = latent.vae(num_dims=num_dims, latent_dim=10, hidden=(num_units,))
    elif name in MODELS:
        structure = name.removeprefix("belief_net:").replace("_", " ")
        model = belief_net(structure, num_dims, num_units).model
    elif ":" in name:
        return Case(*_function(name, "model")())
    else:
        raise ValueError(f'model must be one of {list(MODELS)} or "module:function", got {name!r}')
    params = model.init(jax.random.key(0))
    x = jax.random.bernoulli(jax.random.key(1), 0.3, (num_dims,)).astype(jnp.float32)
    return Case(model, params, x)


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
    objective = variational(
        found.model, bound=BOUNDS[bound], estimator=estimator, num_samples=num_samples
    )
    if not hasattr(objective, "init_state"):
        return _gradient(objective), bound
    state = objective.init_state(found.params, jax.random.key(2))

    def stateful(params: Params, key: Key, x: Array) -> Params:
        batch = jax.tree.map(lambda leaf: leaf[None], x)
        return jax.grad(lambda p: objective(p, state, key, batch)[0])(params)

    return stateful, bound


def _discrete(estimator: str, model: str, found: Case, num_samples: int) -> Estimate:
    structure = model.removeprefix("belief_net:").replace("_", " ")
    num_units = found.params["prior"].shape[0]
    made = learner(estimator, belief_net(structure, found.x.shape[0], num_units), num_samples)
    state = made.init(found.params, jax.random.key(2))

    def run(params: Params, key: Key, x: Array) -> Params:
        return jax.grad(lambda p: made.loss(p, state, key, x)[0])(params)

    return run


def _gradient(objective: Objective) -> Estimate:
    return lambda params, key, x: jax.grad(lambda p: objective(p, key, x)[0])(params)


def _at(made: Estimate, found: Case, key: Key) -> Params:
    return made(found.params, key, found.x)


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
) -> list[dict[str, Any]]:
    """One row for each triple; all estimators of a model see the same random numbers."""
    if bound not in BOUNDS:
        raise ValueError(f"bound must be one of {list(BOUNDS)}, got {bound!r}")
    rows = []
    for model in models:
        found = case(model)
        for count in num_samples:
            runs: dict[str, Callable[[Key], Params]] = {}
            for name in estimators:
                made, of_bound = estimate(name, model, found, bound, count)

                run = functools.partial(_at, made, found)
                spread = measuring.spread(
                    run, jax.random.key(3), num_replicates=num_replicates, batch_size=20
                )
                runs[name] = run
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
            spent = measuring.costs(runs, jax.random.key(4))
            for row in rows[-len(estimators) :]:
                interval, megabytes = spent[row["estimator"]]
                row |= {
                    "ms": interval.median,
                    "ms low": interval.low,
                    "ms high": interval.high,
                    "megabytes": megabytes if math.isfinite(megabytes) else "",
                }
    return rows

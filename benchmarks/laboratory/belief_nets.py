"""Sigmoid belief nets and their estimators, for the discrete parts of the laboratory.

Three structures with 200 binary units a layer, as Tucker et al. 2017 have them: "linear" (one
layer, affine maps), "nonlinear" (one layer, two hidden tanh layers of 200 both ways), and "two
layers" (affine maps). Where there are two layers each has an estimator of its own
(`learning.layerwise`); the score-function ones take both layers as one sample.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax_models.interfaces import Array, Key, LatentVariableModel, Params, PyTree
from genjax_models.learning import gradients, layerwise
from genjax_models.learning.gradients import control_variates
from genjax_models.learning.stateful import StatefulVariational
from genjax_models.models import latent
from genjax_models.networks import mlp

STRUCTURES = ("linear", "nonlinear", "two layers")
ESTIMATORS = (
    "REINFORCE",
    "NVIL",
    "RLOO",
    "Rao-Blackwell, 4 units",
    "measure-valued",
    "MuProp",
    "ARM",
    "DisARM",
    "DisARM, 2 pairs",
    "REBAR",
    "RELAX",
    "straight-through (biased)",
    "Gumbel-softmax (biased)",
    "straight-through Gumbel-softmax (biased)",
)
SUMMING = ("Rao-Blackwell, 4 units", "measure-valued")
"""What evaluates f at many values of the units: measured, but too slow to train with."""
_LEAVE_ONE_OUT = ("RLOO", "Rao-Blackwell, 4 units")
"""What needs two samples."""


class BeliefNet(NamedTuple):
    """A belief net with its recognition network, and its sizes.

    Attributes:
        model: z is the tuple of layers, the top one in front.
        num_dims: of x.
        num_units: of each layer.
        num_layers: one or two.
    """

    model: LatentVariableModel
    num_dims: int
    num_units: int
    num_layers: int


@functools.cache
def belief_net(structure: str, num_dims: int, num_units: int = 200) -> BeliefNet:
    """One of the three structures.

    Raises:
        ValueError: an unknown structure.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {list(STRUCTURES)}, got {structure!r}")
    num_layers = 2 if structure == "two layers" else 1
    model = latent.sigmoid_belief_net(
        num_dims=num_dims,
        latent_dims=(num_units,) * num_layers,
        hidden=(num_units, num_units) if structure == "nonlinear" else (),
    )
    return BeliefNet(model, num_dims, num_units, num_layers)


class Learner(NamedTuple):
    """An estimator of the gradient of the bound.

    Attributes:
        objective: minus the bound, with the estimator's state; only its gradient is measured.
        evaluations: of f for one gradient.
    """

    objective: StatefulVariational
    evaluations: int


def applicable(structure: str) -> tuple[str, ...]:
    """The estimators of a structure: those that sum over the units are for one layer."""
    two_layers = structure == "two layers"
    return tuple(name for name in ESTIMATORS if not (two_layers and name in SUMMING))


def learner(name: str, net: BeliefNet, num_samples: int = 1) -> Learner:
    """An estimator by its name; `num_samples` draws, of two evaluations each where in pairs.

    Raises:
        ValueError: an unknown name, or one that is not for two layers.
    """
    names = applicable("two layers" if net.num_layers == 2 else "linear")
    if name not in names:
        raise ValueError(f"estimator must be one of {list(names)} here, got {name!r}")
    joint = _joint_makers(net)
    if name in joint:
        maker, per_draw = joint[name]
        if name in _LEAVE_ONE_OUT:
            num_samples = max(num_samples, 2)
        return Learner(_joint(net, maker, num_samples), num_samples * per_draw)
    estimator, per_draw = _layer_estimators(net)[name]
    objective = layerwise.layerwise(net.model, estimator, num_samples=num_samples)
    return Learner(objective, num_samples * per_draw**net.num_layers)


JointMaker = Callable[[Any, Any, Array], gradients.GradientEstimator]
"""`maker(posterior, f, x)`: the estimator, which may look at the example x."""


def _joint(net: BeliefNet, maker: JointMaker, num_samples: int) -> StatefulVariational:
    """All layers as one sample."""

    def estimator(params: Params, x: Array) -> gradients.GradientEstimator:
        f = functools.partial(layerwise.log_weight, net.model, params, x)
        return maker(lambda own: net.model.posterior(own, x), f, x)

    def of_example(params: Params, state: PyTree, key: Key, x: Array) -> tuple[Array, PyTree]:
        return gradients.surrogate_loss_and_observation(
            estimator(params, x), params, state, key, num_samples
        )

    def objective(
        params: Params, state: PyTree, key: Key, batch: Array
    ) -> tuple[Array, tuple[PyTree, dict]]:
        keys = jax.random.split(key, len(batch))
        bounds, seen = jax.vmap(of_example, (None, None, 0, 0))(params, state, keys, batch)
        mean_seen = jax.tree.map(lambda leaf: leaf.mean(axis=0), seen)
        return -jnp.mean(bounds), (estimator(params, batch[0]).update(state, mean_seen), {})

    def init_state(params: Params, key: Key) -> PyTree:
        return estimator(params, jnp.zeros(net.num_dims)).init(params, key)

    return StatefulVariational(init_state, objective)


def _joint_makers(net: BeliefNet) -> dict[str, tuple[JointMaker, int]]:
    """Those that take all layers as one sample: the maker and its evaluations of f a draw."""
    g = gradients
    baseline = mlp(net.num_dims, (100,), 1)
    learned = functools.partial(control_variates.learned_baseline, baseline, optax.adam(1e-3))
    units = range(min(4, net.num_units))

    def rao_blackwell(posterior: Any, f: Any, x: Array) -> g.GradientEstimator:
        # Of the one layer as an array.
        return g.rao_blackwell(lambda own: posterior(own).chain.first, lambda b: f((b,)), units)

    return {
        "REINFORCE": (lambda q, f, x: g.score_function(q, f), 1),
        "NVIL": (lambda q, f, x: g.score_function(q, f, control_variate=learned(x)), 1),
        "RLOO": (lambda q, f, x: g.rloo(q, f), 1),
        "Rao-Blackwell, 4 units": (rao_blackwell, 2 ** len(units)),
    }


def _layer_estimators(net: BeliefNet) -> dict[str, tuple[str | layerwise.Maker, int]]:
    """Those of one layer after the other: what `layerwise` takes, and evaluations of f a draw."""
    pairs = functools.partial(gradients.multi_pair_disarm, combine=jnp.mean, num_pairs=2)
    control = mlp(net.num_units, (100,), 1)
    relax = functools.partial(gradients.relax, network=control, optimizer=optax.adam(1e-3))
    return {
        "measure-valued": ("measure_valued", 1 + 2 * net.num_units),
        "MuProp": ("muprop", 2),
        "ARM": ("arm", 2),
        "DisARM": ("disarm", 2),
        "DisARM, 2 pairs": (pairs, 4),
        "REBAR": ("rebar", 3),
        "RELAX": (relax, 3),
        "straight-through (biased)": ("biased_straight_through", 1),
        "Gumbel-softmax (biased)": ("biased_gumbel_softmax", 1),
        "straight-through Gumbel-softmax (biased)": ("biased_straight_through_gumbel_softmax", 1),
    }

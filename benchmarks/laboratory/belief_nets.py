"""Sigmoid belief nets and their estimators, for the discrete parts of the laboratory.

Three structures with 200 binary units a layer, as Tucker et al. 2017 have them: "linear" (one
layer, affine maps), "nonlinear" (one layer, two hidden tanh layers of 200 both ways), and "two
layers" (affine maps). Where there are two layers each has an estimator of its own, the inner one's
surrogate being the f of the outer one; the score-function ones take both layers as one sample.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genjax_models.distributions import Bernoulli
from genjax_models.interfaces import Array, Key, LatentVariableModel, Network, Params, PyTree
from genjax_models.learning import gradients
from genjax_models.learning.gradients import control_variates
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
_JOINT = ("REINFORCE", "NVIL", "RLOO")
"""What takes two layers as one sample."""
_LEAVE_ONE_OUT = ("RLOO", "Rao-Blackwell, 4 units")
"""What needs two samples."""


class Layers(NamedTuple):
    """An ancestral distribution over a tuple of layers of binary units, listed from x upwards.

    Attributes:
        first: distribution of the layer that is drawn first.
        next: from a sample of it to the distribution of the other; None for one layer.
        downwards: whether the first is the top, as in a prior.
    """

    first: Bernoulli
    next: Callable[[Array], Bernoulli] | None
    downwards: bool = False

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete."""
        return False

    def sample(self, *, seed: Key) -> tuple[Array, ...]:
        """One sample of every layer."""
        first_key, next_key = jax.random.split(seed)
        first = self.first.sample(seed=first_key)
        if self.next is None:
            return (first,)
        drawn = first, self.next(first).sample(seed=next_key)
        return drawn[::-1] if self.downwards else drawn

    def log_prob(self, value: tuple[Array, ...]) -> Array:
        """Log-probability of all layers, []."""
        drawn = value[::-1] if self.downwards else value
        log_prob = self.first.log_prob(drawn[0])
        return log_prob if self.next is None else log_prob + self.next(drawn[0]).log_prob(drawn[1])

    def sample_and_log_prob(self, *, seed: Key) -> tuple[tuple[Array, ...], Array]:
        """A sample and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)


class BeliefNet(NamedTuple):
    """A belief net and its recognition network.

    Attributes:
        model: as a latent-variable model; z is the tuple of layers from x upwards.
        posterior: the model's, with its layers in sight.
        num_dims: of x.
        num_units: of each layer.
        two_layers: whether there are two.
    """

    model: LatentVariableModel
    posterior: Callable[[Params, Array], Layers]
    num_dims: int
    num_units: int
    two_layers: bool


@functools.cache
def belief_net(structure: str, num_dims: int, num_units: int = 200) -> BeliefNet:
    """One of the three structures.

    Raises:
        ValueError: an unknown structure.
    """
    if structure not in STRUCTURES:
        raise ValueError(f"structure must be one of {list(STRUCTURES)}, got {structure!r}")
    two = structure == "two layers"
    hidden = (num_units, num_units) if structure == "nonlinear" else ()
    networks: dict[str, Network] = {
        "encoder": mlp(num_dims, hidden, num_units),
        "decoder": mlp(num_units, hidden, num_dims),
    }
    if two:
        networks["upper encoder"] = mlp(num_units, (), num_units)
        networks["upper decoder"] = mlp(num_units, (), num_units)

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(networks))
        pairs = zip(networks.items(), keys, strict=True)
        return {name: network.init(key) for (name, network), key in pairs} | {
            "prior": jnp.zeros(num_units),
            "visible": jnp.zeros(num_dims),
        }

    def apply(params: Params, name: str, inputs: Array) -> Bernoulli:
        return Bernoulli(networks[name].apply(params[name], inputs))

    def posterior(params: Params, x: Array) -> Layers:
        second = functools.partial(apply, params, "upper encoder") if two else None
        return Layers(apply(params, "encoder", 2 * x - 1), second)

    def prior(params: Params) -> Layers:
        lower = functools.partial(apply, params, "upper decoder") if two else None
        return Layers(Bernoulli(params["prior"]), lower, downwards=True)

    def likelihood(params: Params, z: tuple[Array, ...]) -> Bernoulli:
        decoded = apply(params, "decoder", 2 * z[0] - 1)
        return Bernoulli(decoded.logits + params["visible"])

    model = LatentVariableModel(init, prior, likelihood, posterior)
    return BeliefNet(model, posterior, num_dims, num_units, two)


def with_visible_biases(params: Params, examples: Array) -> Params:
    """Parameters whose likelihood starts at the mean of the examples, as the field starts it.

    Otherwise the first thing that is learned is the mean, at the cost of large signals that can
    drive the units of a nonlinear net into saturation for good.
    """
    mean = jnp.clip(jnp.mean(examples, axis=0), 1e-3, 1 - 1e-3)
    return {**params, "visible": jnp.log(mean) - jnp.log1p(-mean)}


def elbo_terms(net: BeliefNet, params: Params, x: Array, z: tuple[Array, ...]) -> Array:
    """log p(x, z) - log q(z given x), [].

    No gradient flows into the parameters of q from here: that of -log q has expectation zero.
    """
    model = net.model
    joint = model.likelihood(params, z).log_prob(x) + model.prior(params).log_prob(z)
    return joint - net.posterior(jax.lax.stop_gradient(params), x).log_prob(z)


class Learner(NamedTuple):
    """An estimator of the gradient of the bound of one example.

    Attributes:
        init: `init(params, key) -> state`.
        loss: `loss(params, state, key, x) -> (surrogate of minus the bound, observation)`.
        update: `update(state, mean observation) -> state`.
        evaluations: of f for one gradient.
    """

    init: Callable[[Params, Key], PyTree]
    loss: Callable[[Params, PyTree, Key, Array], tuple[Array, PyTree]]
    update: Callable[[PyTree, PyTree], PyTree]
    evaluations: int


Maker = Callable[[Any, Any, Array], gradients.GradientEstimator]
"""`maker(distribution, f, x)`: the estimator, which may look at the example x."""


def applicable(structure: str) -> tuple[str, ...]:
    """The estimators of a structure: those that sum over the units are for one layer."""
    two_layers = structure == "two layers"
    return tuple(name for name in ESTIMATORS if not (two_layers and name in SUMMING))


def learner(name: str, net: BeliefNet, num_samples: int = 1) -> Learner:
    """An estimator by its name; `num_samples` draws, of two evaluations each where in pairs.

    Raises:
        ValueError: an unknown name, or one that is not for two layers.
    """
    names = applicable("two layers" if net.two_layers else "linear")
    if name not in names:
        raise ValueError(f"estimator must be one of {list(names)} here, got {name!r}")
    maker, per_draw = _makers(net)[name]
    if net.two_layers and name not in _JOINT:
        return _nested(net, maker, num_samples, per_draw**2)
    if name in _LEAVE_ONE_OUT:
        num_samples = max(num_samples, 2)
    return _joint(net, maker, num_samples, per_draw)


def _joint(net: BeliefNet, maker: Maker, num_samples: int, per_draw: int) -> Learner:
    """All layers as one sample; of one layer the array itself, for those that want an array."""

    def build(params: Params, x: Array) -> gradients.GradientEstimator:
        if net.two_layers:
            return maker(lambda p: net.posterior(p, x), lambda z: elbo_terms(net, params, x, z), x)
        return maker(
            lambda p: net.posterior(p, x).first, lambda b: elbo_terms(net, params, x, (b,)), x
        )

    nothing = jnp.zeros(net.num_dims)

    def loss(params: Params, state: PyTree, key: Key, x: Array) -> tuple[Array, PyTree]:
        found, seen = gradients.surrogate_loss_and_observation(
            build(params, x), params, state, key, num_samples
        )
        return -found, seen

    return Learner(
        lambda params, key: build(params, nothing).init(params, key),
        loss,
        build({}, nothing).update,
        num_samples * per_draw,
    )


def _nested(net: BeliefNet, maker: Maker, num_samples: int, per_draw: int) -> Learner:
    """The estimator of the second layer inside that of the first.

    The state is that of both. The inner one observes at a first layer of its own, since nothing but
    a number comes out of f.
    """

    def inner(params: Params, x: Array, first: Array) -> gradients.GradientEstimator:
        def second(p: Params) -> Bernoulli:
            return net.posterior(p, x).next(first)  # type: ignore[misc]

        return maker(second, lambda b: elbo_terms(net, params, x, (first, b)), x)

    def outer(params: Params, x: Array, inner_state: PyTree, key: Key) -> Any:
        def given_first(first: Array) -> Array:
            # The same noise above every first layer that the outer estimator tries.
            return gradients.surrogate_loss(
                inner(params, x, first), params, jax.random.clone(key), state=inner_state
            )

        return maker(lambda p: net.posterior(p, x).first, given_first, x)

    def loss(params: Params, state: PyTree, key: Key, x: Array) -> tuple[Array, PyTree]:
        def one(key: Key) -> tuple[Array, PyTree]:
            inner_key, outer_key, first_key, seen_key = jax.random.split(key, 4)
            found, outer_seen = gradients.surrogate_loss_and_observation(
                outer(params, x, state[1], inner_key), params, state[0], outer_key
            )
            constants = jax.lax.stop_gradient(params)
            first = net.posterior(constants, x).first.sample(seed=first_key)
            _, inner_seen = gradients.surrogate_loss_and_observation(
                inner(constants, x, first), constants, state[1], seen_key
            )
            return found, (outer_seen, inner_seen)

        found, seen = jax.vmap(one)(jax.random.split(key, num_samples))
        return -jnp.mean(found), jax.tree.map(lambda leaf: leaf.mean(axis=0), seen)

    nothing, no_units, no_key = jnp.zeros(net.num_dims), jnp.zeros(net.num_units), jax.random.key(0)

    def init(params: Params, key: Key) -> PyTree:
        outer_key, inner_key = jax.random.split(key)
        inner_state = inner(params, nothing, no_units).init(params, inner_key)
        return outer(params, nothing, inner_state, no_key).init(params, outer_key), inner_state

    def update(state: PyTree, observation: PyTree) -> PyTree:
        return (
            outer({}, nothing, state[1], no_key).update(state[0], observation[0]),
            inner({}, nothing, no_units).update(state[1], observation[1]),
        )

    return Learner(init, loss, update, num_samples * per_draw)


def _makers(net: BeliefNet) -> dict[str, tuple[Maker, int]]:
    """By name: the maker and its evaluations of f for each draw."""
    g = gradients
    baseline = mlp(net.num_dims, (100,), 1)
    learned = functools.partial(control_variates.learned_baseline, baseline, optax.adam(1e-3))
    control = mlp(net.num_units, (100,), 1)
    units = range(min(4, net.num_units))

    def nvil(distribution: Any, f: Any, x: Array) -> g.GradientEstimator:
        return g.score_function(distribution, f, control_variate=learned(x))

    return {
        "REINFORCE": (lambda d, f, x: g.score_function(d, f), 1),
        "NVIL": (nvil, 1),
        "RLOO": (lambda d, f, x: g.rloo(d, f), 1),
        "Rao-Blackwell, 4 units": (lambda d, f, x: g.rao_blackwell(d, f, units), 2 ** len(units)),
        "measure-valued": (lambda d, f, x: g.measure_valued(d, f), 1 + 2 * net.num_units),
        "MuProp": (lambda d, f, x: g.muprop(d, f), 2),
        "ARM": (lambda d, f, x: g.arm(d, f), 2),
        "DisARM": (lambda d, f, x: g.disarm(d, f), 2),
        "DisARM, 2 pairs": (
            lambda d, f, x: g.multi_pair_disarm(d, f, combine=jnp.mean, num_pairs=2),
            4,
        ),
        "REBAR": (lambda d, f, x: g.rebar(d, f, optimizer=optax.adam(1e-3)), 3),
        "RELAX": (lambda d, f, x: g.relax(d, f, control, optimizer=optax.adam(1e-3)), 3),
        "straight-through (biased)": (lambda d, f, x: g.biased_straight_through(d, f), 1),
        "Gumbel-softmax (biased)": (lambda d, f, x: g.biased_gumbel_softmax(d, f), 1),
        "straight-through Gumbel-softmax (biased)": (
            lambda d, f, x: g.biased_straight_through_gumbel_softmax(d, f),
            1,
        ),
    }

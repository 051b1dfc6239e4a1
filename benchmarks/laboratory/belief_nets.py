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
    "reinforce",
    "nvil",
    "rloo",
    "muprop",
    "arm",
    "disarm",
    "rebar",
    "relax",
    "straight-through (biased)",
    "gumbel-softmax (biased)",
)


class Layers(NamedTuple):
    """An ancestral distribution over a tuple of layers of binary units.

    Attributes:
        first: distribution of the first layer.
        second: from a sample of the first to the distribution of the second; None for one layer.
    """

    first: Bernoulli
    second: Callable[[Array], Bernoulli] | None

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete."""
        return False

    def sample(self, *, seed: Key) -> tuple[Array, ...]:
        """One sample of every layer."""
        first_key, second_key = jax.random.split(seed)
        first = self.first.sample(seed=first_key)
        if self.second is None:
            return (first,)
        return first, self.second(first).sample(seed=second_key)

    def log_prob(self, value: tuple[Array, ...]) -> Array:
        """Log-probability of all layers, []."""
        log_prob = self.first.log_prob(value[0])
        if self.second is None:
            return log_prob
        return log_prob + self.second(value[0]).log_prob(value[1])

    def sample_and_log_prob(self, *, seed: Key) -> tuple[tuple[Array, ...], Array]:
        """A sample and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)


class BeliefNet(NamedTuple):
    """A belief net and its recognition network.

    Attributes:
        model: as a latent-variable model; z is the tuple of layers from x upwards.
        num_dims: of x.
        num_units: of each layer.
        two_layers: whether there are two.
    """

    model: LatentVariableModel
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
            "prior": jnp.zeros(num_units)
        }

    def apply(params: Params, name: str, inputs: Array) -> Bernoulli:
        return Bernoulli(networks[name].apply(params[name], inputs))

    def posterior(params: Params, x: Array) -> Layers:
        second = functools.partial(apply, params, "upper encoder") if two else None
        return Layers(apply(params, "encoder", 2 * x - 1), second)

    def prior(params: Params) -> _Prior:
        lower = functools.partial(apply, params, "upper decoder") if two else None
        return _Prior(Bernoulli(params["prior"]), lower)

    def likelihood(params: Params, z: tuple[Array, ...]) -> Bernoulli:
        return apply(params, "decoder", 2 * z[0] - 1)

    model = LatentVariableModel(init, prior, likelihood, posterior)
    return BeliefNet(model, num_dims, num_units, two)


class _Prior(NamedTuple):
    """The layers from the top down; a sample lists them from x upwards."""

    top: Bernoulli
    lower: Callable[[Array], Bernoulli] | None

    def sample(self, *, seed: Key) -> tuple[Array, ...]:
        sample = Layers(self.top, self.lower).sample(seed=seed)
        return sample[::-1]

    def log_prob(self, value: tuple[Array, ...]) -> Array:
        return Layers(self.top, self.lower).log_prob(value[::-1])


def elbo_terms(net: BeliefNet, params: Params, x: Array, z: tuple[Array, ...]) -> Array:
    """log p(x, z) - log q(z given x), [].

    No gradient flows into the parameters of q from here: that of -log q has expectation zero.
    """
    model = net.model
    joint = model.likelihood(params, z).log_prob(x) + model.prior(params).log_prob(z)
    return joint - model.posterior(jax.lax.stop_gradient(params), x).log_prob(z)


Loss = Callable[[Params, PyTree, Key, Array], tuple[Array, PyTree]]
"""`loss(params, state, key, x) -> (surrogate of minus the bound, observation)`."""


class Learner(NamedTuple):
    """An estimator of the gradient of the bound of one example.

    Attributes:
        init: `init(params, key) -> state`.
        loss: see `Loss`.
        update: `update(state, mean observation) -> state`.
        evaluations: of f for one gradient.
    """

    init: Callable[[Params, Key], PyTree]
    loss: Loss
    update: Callable[[PyTree, PyTree], PyTree]
    evaluations: int


Maker = Callable[[Any, Any, Array], gradients.GradientEstimator]
"""`maker(distribution, f, x)`: the estimator, which may look at the example x."""


def learner(name: str, net: BeliefNet, num_samples: int = 1) -> Learner:
    """An estimator by its name; `num_samples` draws, of two evaluations each where in pairs.

    Raises:
        ValueError: an unknown name, or RELAX where there are two layers.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {list(ESTIMATORS)}, got {name!r}")
    if name == "relax" and net.two_layers:
        raise ValueError('estimator "relax" learns its network where there is one layer: use rebar')
    maker, per_draw = _makers(net)[name]
    if name == "rloo":
        num_samples = max(num_samples, 2)
    layered = net.two_layers and name not in ("reinforce", "nvil", "rloo")
    make_loss = _nested if layered else _joint
    build = functools.partial(make_loss, net, maker)
    dummy = jnp.zeros(net.num_dims)

    def init(params: Params, key: Key) -> PyTree:
        return build(params, dummy, key).init(params, key)

    def loss(params: Params, state: PyTree, key: Key, x: Array) -> tuple[Array, PyTree]:
        build_key, draw_key = jax.random.split(key)
        estimator = build(params, x, build_key)
        found, seen = gradients.surrogate_loss_and_observation(
            estimator, params, state, draw_key, num_samples
        )
        return -found, seen

    def update(state: PyTree, observation: PyTree) -> PyTree:
        return build(None, dummy, jax.random.key(0)).update(state, observation)

    return Learner(init, loss, update, num_samples * per_draw ** (2 if layered else 1))


def _joint(
    net: BeliefNet, maker: Maker, params: Params, x: Array, key: Key
) -> gradients.GradientEstimator:
    """All layers as one sample; of one layer the array itself, for those that want an array."""
    if net.two_layers:
        return maker(
            lambda p: net.model.posterior(p, x), lambda z: elbo_terms(net, params, x, z), x
        )
    return maker(
        lambda p: net.model.posterior(p, x).first, lambda b: elbo_terms(net, params, x, (b,)), x
    )


def _nested(
    net: BeliefNet, maker: Maker, params: Params, x: Array, key: Key
) -> gradients.GradientEstimator:
    """The estimator of the second layer inside that of the first; the state is the outer one's."""

    def given_first(first: Array) -> Array:
        def second(p: Params) -> Bernoulli:
            return net.model.posterior(p, x).second(first)  # type: ignore[attr-defined]

        inner = maker(second, lambda b: elbo_terms(net, params, x, (first, b)), x)
        # The same noise above every first layer that the outer estimator tries.
        state = inner.init(params, jax.random.key(0))
        return gradients.surrogate_loss(inner, params, jax.random.clone(key), state=state)

    return maker(lambda p: net.model.posterior(p, x).first, given_first, x)


def _makers(net: BeliefNet) -> dict[str, tuple[Maker, int]]:
    """By name: the maker and its evaluations of f for each draw."""
    g = gradients
    baseline = mlp(net.num_dims, (100,), 1)
    learned = functools.partial(control_variates.learned_baseline, baseline, optax.adam(1e-3))
    control = mlp(net.num_units, (100,), 1)
    # Learned where one layer makes the observations reach the state; kept in a nest.
    tuned = None if net.two_layers else optax.adam(1e-3)

    def nvil(distribution: Any, f: Any, x: Array) -> g.GradientEstimator:
        return g.score_function(distribution, f, control_variate=learned(x))

    return {
        "reinforce": (lambda d, f, x: g.score_function(d, f), 1),
        "nvil": (nvil, 1),
        "rloo": (lambda d, f, x: g.rloo(d, f), 1),
        "muprop": (lambda d, f, x: g.muprop(d, f), 2),
        "arm": (lambda d, f, x: g.arm(d, f), 2),
        "disarm": (lambda d, f, x: g.disarm(d, f), 2),
        "rebar": (lambda d, f, x: g.rebar(d, f, optimizer=tuned), 3),
        "relax": (lambda d, f, x: g.relax(d, f, control, optimizer=tuned), 3),
        "straight-through (biased)": (lambda d, f, x: g.biased_straight_through(d, f), 1),
        "gumbel-softmax (biased)": (
            lambda d, f, x: g.biased_straight_through_gumbel_softmax(d, f),
            1,
        ),
    }

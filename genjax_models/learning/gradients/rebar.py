"""REBAR and RELAX: the score function with a relaxation of f as control variate."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, Key, Network, Params, PyTree
from genjax_models.learning.gradients.core import (
    DistributionOf,
    Function,
    GradientEstimator,
    State,
    evaluate,
    linear,
)
from genjax_models.learning.gradients.relaxations import Relaxation, relaxation

if TYPE_CHECKING:
    import optax


class RelaxedNoise(NamedTuple):
    """The randomness of one draw, every leaf of the shape of the logits.

    Attributes:
        noise: z - l.
        uniform: of z given the discrete sample.
        hard: the discrete sample.
    """

    noise: Array
    uniform: Array
    hard: Array


class RelaxedDraw(NamedTuple):
    """One draw.

    Attributes:
        noises: its randomness.
        gradient: in the logits.
    """

    noises: RelaxedNoise
    gradient: Array


class RelaxedControlVariate(NamedTuple):
    """The parameters of c(z) = scale f(soft(z / temperature)) + r(z).

    Attributes:
        scale: eta.
        log_temperature: log temperature.
        network: parameters of r; the empty tuple where there is none.
    """

    scale: Array
    log_temperature: Array
    network: PyTree


def rebar(
    distribution: DistributionOf,
    function: Function,
    *,
    scale: float = 1.0,
    temperature: float = 0.5,
    optimizer: "optax.GradientTransformation | None" = None,
) -> GradientEstimator:
    """REBAR, for binary and one-hot variables. Unbiased at any scale and temperature.

        g = [f(b) - c(z')] grad log p(b) + grad c(z) - grad c(z'),
        c(z) = eta f(soft(z / temperature)),  b = hard(z),  z = l + noise,  z' ~ p(z | b)

    Three evaluations of f, which must be differentiable between the discrete values. eta and the
    temperature descend on the variance: its gradient is that of E[g^2], g taken in the logits.

    Args:
        distribution: `distribution(params) -> p`: Bernoulli or one-hot categorical variables.
        function: f, `function(x) -> []`, differentiable.
        scale: eta, at the start.
        temperature: at the start.
        optimizer: any optax optimizer of eta and log temperature; None keeps both.

    Returns:
        The estimator; `init`, `observe` and `update` carry a `RelaxedControlVariate`.

    Raises:
        ValueError: a temperature that is not above zero.
        TypeError: (from the estimator) other variables.

    Source: Tucker et al. 2017 (REBAR), section 3.
    """
    return _relaxed_score(
        "rebar", distribution, function, None, True, scale, temperature, optimizer
    )


def relax(
    distribution: DistributionOf,
    function: Function,
    network: Network,
    *,
    relaxed: bool = True,
    scale: float = 1.0,
    temperature: float = 0.5,
    optimizer: "optax.GradientTransformation | None" = None,
) -> GradientEstimator:
    """RELAX: REBAR with a control variate that a network learns. Unbiased whatever it has learned.

        g = [f(b) - c(z')] grad log p(b) + grad c(z) - grad c(z'),
        c(z) = eta f(soft(z / temperature)) + r(z)

    Args:
        distribution: `distribution(params) -> p`: Bernoulli or one-hot categorical variables.
        function: f, `function(x) -> []`.
        network: r: `init(key) -> params`, `apply(params, z) -> []` (or [1]), z as a vector.
        relaxed: whether c contains f; without it f is a black box, evaluated once.
        scale: eta, at the start.
        temperature: at the start.
        optimizer: any optax optimizer of eta, log temperature and network; None keeps them.

    Returns:
        The estimator; `init`, `observe` and `update` carry a `RelaxedControlVariate`.

    Raises:
        ValueError: a temperature that is not above zero.
        TypeError: (from the estimator) other variables.

    Source: Grathwohl et al. 2018 (Backpropagation through the void), sections 3.1 and 3.3.
    """
    return _relaxed_score(
        "relax", distribution, function, network, relaxed, scale, temperature, optimizer
    )


def _relaxed_score(
    name: str,
    distribution: DistributionOf,
    function: Function,
    network: Network | None,
    relaxed: bool,
    scale: float,
    temperature: float,
    optimizer: "optax.GradientTransformation | None",
) -> GradientEstimator:
    if not temperature > 0:
        raise ValueError(f"temperature must be above zero, got {temperature}")

    def init(params: Params, key: Key) -> State:
        variate = RelaxedControlVariate(
            jnp.asarray(scale, float),
            jnp.log(jnp.asarray(temperature, float)),
            network.init(key) if network else (),
        )
        return variate, optimizer.init(variate) if optimizer else ()

    def control(variate: RelaxedControlVariate, variables: Relaxation, z: Array) -> Array:
        value = jnp.zeros((), z.dtype)
        if relaxed:
            soft = variables.soft(z, jnp.exp(variate.log_temperature))
            value = variate.scale * evaluate(function, soft, differentiable=True)
        if network:
            value = value + jnp.reshape(network.apply(variate.network, jnp.ravel(z)), ())
        return value

    def gradient(
        variate: RelaxedControlVariate, variables: Relaxation, noises: RelaxedNoise
    ) -> Array:
        """The estimate in the logits, differentiable in the control variate."""
        noise, uniform, hard = noises
        conditional = variables.conditional(uniform, hard)
        # Outside of the function that is differentiated: a number for the logits, but not for the
        # control variate.
        signal = evaluate(function, hard) - control(variate, variables, conditional)

        def terms(logits: Array) -> Array:
            moved = variables._replace(logits=logits)
            free = control(variate, moved, logits + noise)
            given = control(variate, moved, moved.conditional(uniform, hard))
            return signal * moved.log_prob(hard) + free - given

        return jax.grad(terms)(variables.logits)

    def draw(params: Params, state: State, key: Key, num_samples: int) -> RelaxedDraw:
        variables = relaxation(name, distribution, params)

        def one(key: Key) -> RelaxedDraw:
            noise_key, uniform_key = jax.random.split(key)
            noise = variables.noise(noise_key)
            uniform = variables.uniform(uniform_key)
            noises = RelaxedNoise(noise, uniform, variables.hard(variables.logits + noise))
            return RelaxedDraw(noises, gradient(state[0], variables, noises))

        return jax.vmap(one)(jax.random.split(key, num_samples))

    def surrogate(params: Params, state: State, draw: RelaxedDraw) -> Array:
        logits = relaxation(name, distribution, params).logits
        return evaluate(function, draw.noises.hard) + linear(draw.gradient, logits)

    def observe(params: Params, state: State, draws: RelaxedDraw) -> PyTree:
        if optimizer is None:
            return ()
        variables = relaxation(name, distribution, params)

        def mean_square(variate: RelaxedControlVariate) -> Array:
            found = jax.vmap(lambda noises: gradient(variate, variables, noises))(draws.noises)
            return jnp.sum(jnp.mean(jnp.square(found), axis=0))

        return jax.grad(mean_square)(state[0])

    def update(state: State, gradient: PyTree) -> State:
        if optimizer is None:
            return state
        variate, optimizer_state = state
        updates, optimizer_state = optimizer.update(gradient, optimizer_state, variate)
        return jax.tree.map(jnp.add, variate, updates), optimizer_state

    return GradientEstimator(draw, surrogate, init, observe, update)

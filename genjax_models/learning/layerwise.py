"""Estimators of single-sample gradients, layer by layer, for latents of binary units."""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from genjax_models.distributions import Chain, Reversed
from genjax_models.interfaces import (
    Array,
    Distribution,
    Key,
    LatentVariableModel,
    Metrics,
    Params,
    Posterior,
    PyTree,
)
from genjax_models.learning import bounds, gradients
from genjax_models.learning.first_order import first_order, gradient_of
from genjax_models.learning.gradients import GradientEstimator
from genjax_models.learning.gradients.core import held
from genjax_models.learning.importance import (
    bound_metrics,
    check_num_samples,
    check_weights,
    draw_parts,
    part_sampler,
    temper,
)
from genjax_models.learning.stateful import StatefulVariational

Maker = Callable[[Callable[[Params], Distribution], Callable[[PyTree], Array]], GradientEstimator]
"""`maker(distribution, function) -> estimator` of the gradient of E[function]."""

_OPTIMIZER = optax.adam(1e-3)
ESTIMATORS: dict[str, Maker] = {
    "score_function": gradients.score_function,
    "muprop": gradients.muprop,
    "arm": gradients.arm,
    "disarm": gradients.disarm,
    "rebar": functools.partial(gradients.rebar, optimizer=_OPTIMIZER),
    "measure_valued": gradients.measure_valued,
    "biased_straight_through": gradients.biased_straight_through,
    "biased_gumbel_softmax": gradients.biased_gumbel_softmax,
    "biased_straight_through_gumbel_softmax": gradients.biased_straight_through_gumbel_softmax,
}
"""Those that `layerwise` knows by name; the control variate of REBAR learns by Adam at 1e-3."""


def layerwise(
    model: LatentVariableModel,
    estimator: str | Maker | tuple[str | Maker, ...],
    *,
    num_samples: int = 1,
) -> StatefulVariational:
    """The ELBO with an estimator of `learning.gradients` for each layer of the posterior.

    With q(z | x) = q(z_1 | x) q(z_2 | z_1) ..., the gradient of E_q[f(z_1, ..., z_L)] is taken one
    layer at a time: the f of layer l is the expectation over those after it, whose own estimator
    stands for it,

        f_l(z_1, ..., z_l) = E_q(z_(l+1) | z_l)[f_(l+1)(z_1, ..., z_(l+1))],   f_L = f,
        f(z) = log p(x | z) + beta [log p(z) - log q(z | x)]

    and log q in f is held constant in the posterior's parameters (its own gradient has expectation
    zero). An estimator that evaluates its f several times evaluates the model as often as the
    product over the layers: ARM and DisARM 2^L times, "measure_valued" (2 D_1) (2 D_2) ... times,
    all at once.

    The loss is minus the bound of draws of their own, so that its value is the discrete bound even
    where the estimator relaxes it; only its gradient is the estimator's.

    Args:
        model: whose posterior is a distribution of binary (or one-hot) units, or a `Chain` or
            `Reversed` chain of such.
        estimator: one of `layerwise.ESTIMATORS`, or `maker(distribution, function)`, such as
            `functools.partial(gradients.relax, network=..., optimizer=...)`; or a tuple of these,
            one for each layer in the order in which they are drawn.
        num_samples: independent estimates whose mean is taken.

    Returns:
        The objective, `objective(params, state, key, batch, *, beta=1.0) -> (loss, (state,
        metrics))` with `init_state(params, key)`, for `training.stateful_gradient_descent`; the
        metrics are those of `variational`.

    Raises:
        ValueError: an unknown estimator, fewer than one sample, (from `init_state`) a tuple of
            another number of estimators than there are layers, or (from the objective) a beta that
            is negative or not finite.
        TypeError: an estimator that is neither a name nor a function, or (from the objective) a
            posterior that the estimator makes no sense for.

    Source: Yin & Zhou 2019 (ARM), section 3.2, and Dong et al. 2020 (DisARM), section 4.2, of
    several layers; Tucker et al. 2017 (REBAR), section 3.3.
    """
    check_num_samples(num_samples)
    if isinstance(estimator, tuple):
        layered = _Layered(model, tuple(map(_maker, estimator)))
    else:
        layered = _Layered(model, _maker(estimator))

    def of_example(
        params: Params, states: tuple, key: Key, x: PyTree, beta: float | Array
    ) -> tuple[Array, tuple[tuple, Metrics]]:
        bound_key, estimates_key = jax.random.split(key)
        draw = part_sampler(model, held(params), x, pathwise=False)
        parts = draw_parts(draw, bound_key, num_samples)
        divergence = parts.log_posterior - parts.log_prior
        value = jnp.mean(temper(parts.log_likelihood, divergence, beta))
        estimates, seen = jax.vmap(lambda key: layered.estimate(params, states, key, x, beta))(
            jax.random.split(estimates_key, num_samples)
        )
        metrics = bound_metrics(bounds.elbo, parts.log_likelihood, divergence)
        loss = -value - gradient_of(jnp.mean(estimates))
        return loss, (_mean(seen), metrics)

    def objective(
        params: Params, state: tuple, key: Key, batch: PyTree, *, beta: float | Array = 1.0
    ) -> tuple[Array, tuple[tuple, Metrics]]:
        check_weights(beta=beta)
        keys = jax.random.split(key, jax.tree.leaves(batch)[0].shape[0])
        losses, (seen, metrics) = jax.vmap(of_example, (None, None, 0, 0, None))(
            params, state, keys, batch, beta
        )
        example = jax.tree.map(lambda leaf: leaf[0], batch)
        moved = layered.update(params, state, example, _mean(seen))
        return first_order(jnp.mean(losses)), (held(moved), _mean(metrics))

    return StatefulVariational(layered.init_state, objective)


def log_weight(
    model: LatentVariableModel, params: Params, x: PyTree, z: PyTree, beta: float | Array = 1.0
) -> Array:
    """The f whose expectation under q(z | x) is the ELBO: what an estimator of its gradient takes.

        f(z) = log p(x | z) + beta [log p(z) - log q(z | x)]

    with log q held constant in the posterior's parameters.

    Args:
        model: whose posterior has a `log_prob`.
        params: its parameters.
        x: one example.
        z: any value of the latents.
        beta: weight of the bracket.

    Returns:
        f(z), [], in nats.
    """
    posterior = cast(Distribution, model.posterior(held(params), x))
    log_likelihood = model.likelihood(params, z).log_prob(x)
    divergence = posterior.log_prob(z) - model.prior(params).log_prob(z)
    return temper(log_likelihood, divergence, beta)


def _maker(estimator: str | Maker) -> Maker:
    if isinstance(estimator, str):
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {list(ESTIMATORS)}, got {estimator!r}")
        return ESTIMATORS[estimator]
    if not callable(estimator):
        raise TypeError(f"estimator must be a name or a function, got {estimator!r}")
    return estimator


class _Layered(NamedTuple):
    """A model and the estimator of each of its posterior's layers: one, or one for each.

    `drawn` are layers in the order in which they are drawn, `states` and `keys` one for each layer.
    """

    model: LatentVariableModel
    makers: Maker | tuple[Maker, ...]

    def estimator_of(
        self,
        params: Params,
        x: PyTree,
        beta: float | Array,
        drawn: tuple,
        states: tuple,
        keys: tuple[Key, ...],
    ) -> GradientEstimator:
        """The estimator of the layer after those drawn."""
        level = len(drawn)

        def distribution(params: Params) -> Distribution:
            return _layers(self.model.posterior(params, x))[level](drawn)

        def function(layer: PyTree) -> Array:
            if level == len(states) - 1:
                z = _event(self.model.posterior(held(params), x), (*drawn, layer))
                return log_weight(self.model, params, x, z, beta)
            following = self.estimator_of(params, x, beta, (*drawn, layer), states, keys)
            # The same noise after every value that this layer's estimator tries.
            key = jax.random.clone(keys[level + 1])
            return gradients.surrogate_loss(following, params, key, state=states[level + 1])

        maker = self.makers[level] if isinstance(self.makers, tuple) else self.makers
        return maker(distribution, function)

    def estimate(
        self, params: Params, states: tuple, key: Key, x: PyTree, beta: float | Array
    ) -> tuple[Array, tuple]:
        """A surrogate of the bound of one example, and what each layer's state learns from."""
        estimate_key, observe_key = jax.random.split(key)
        keys = tuple(jax.random.split(estimate_key, len(states)))
        first = self.estimator_of(params, x, beta, (), states, keys)
        value, seen = gradients.surrogate_loss_and_observation(first, params, states[0], keys[0])
        if not jax.tree.leaves(states[1:]):
            return value, (seen, *[()] * (len(states) - 1))
        # Nothing but a number comes out of a function: the inner ones observe draws of their own.
        constants, observations = held(params), [seen]
        drawn: tuple = ()
        for level, layer in enumerate(_layers(self.model.posterior(constants, x))[:-1]):
            draw_key, see_key, observe_key = jax.random.split(observe_key, 3)
            drawn = (*drawn, layer(drawn).sample(seed=draw_key))
            keys = tuple(jax.random.split(see_key, len(states)))
            inner = self.estimator_of(constants, x, beta, drawn, states, keys)
            _, seen = gradients.surrogate_loss_and_observation(
                inner, constants, states[level + 1], keys[level + 1]
            )
            observations.append(seen)
        return value, tuple(observations)

    def init_state(self, params: Params, key: Key) -> tuple:
        """The state of each layer's estimator."""
        x = _zeros_like(lambda key: self.sample_data(params, key))
        drawn = self.zeros(params, x)
        if isinstance(self.makers, tuple) and len(self.makers) != len(drawn):
            raise ValueError(
                f"estimator must be one for each of {len(drawn)} layers, got {len(self.makers)}"
            )
        states: tuple = ((),) * len(drawn)
        for level, key_of_level in enumerate(jax.random.split(key, len(drawn))):
            of_level = self.estimator_of(params, x, 1.0, drawn[:level], states, ())
            state = of_level.init(params, key_of_level)
            states = (*states[:level], state, *states[level + 1 :])
        return states

    def update(self, params: Params, states: tuple, x: PyTree, seen: tuple) -> tuple:
        """The states after an observation of each layer; x is any example."""
        drawn = self.zeros(params, x)
        return tuple(
            self.estimator_of(params, x, 1.0, drawn[:level], states, ()).update(state, observation)
            for level, (state, observation) in enumerate(zip(states, seen, strict=True))
        )

    def zeros(self, params: Params, x: PyTree) -> tuple:
        """Layers of zeros, in the order in which they are drawn."""
        posterior = self.model.posterior(params, x)
        return _in_order(posterior, _zeros_like(lambda key: posterior.sample(seed=key)))

    def sample_data(self, params: Params, key: Key) -> PyTree:
        """x ~ p(x)."""
        z_key, x_key = jax.random.split(key)
        z = self.model.prior(params).sample(seed=z_key)
        return self.model.likelihood(params, z).sample(seed=x_key)


def _layers(posterior: Posterior) -> tuple[Callable[[tuple], Distribution], ...]:
    """The conditionals of a posterior in the order in which they are drawn."""
    chain = posterior.chain if isinstance(posterior, Reversed) else posterior
    if isinstance(chain, Chain):
        return (lambda drawn: chain.first, *chain.rest)
    return (lambda drawn: cast(Distribution, posterior),)


def _in_order(posterior: Posterior, z: PyTree) -> tuple:
    """The layers of an event in the order in which they are drawn."""
    if isinstance(posterior, Reversed):
        return z[::-1]
    return z if isinstance(posterior, Chain) else (z,)


def _event(posterior: Posterior, drawn: tuple) -> PyTree:
    """The event that the layers drawn make."""
    if isinstance(posterior, Reversed):
        return drawn[::-1]
    return drawn if isinstance(posterior, Chain) else drawn[0]


def _zeros_like(function: Callable[[Key], PyTree]) -> PyTree:
    """Zeros of the shapes that a function of a key gives."""
    shapes = jax.eval_shape(function, jax.eval_shape(jax.random.key, 0))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _mean(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)

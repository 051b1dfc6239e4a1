"""The score function with baselines that are learned along the way (NVIL)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, Key, Metrics, Network, Params, PyTree
from genjax_models.learning import bounds
from genjax_models.learning.bounds import Bound
from genjax_models.learning.first_order import first_order, gradient_of
from genjax_models.learning.leave_one_out import signals
from genjax_models.learning.stateful import StatefulVariational

if TYPE_CHECKING:
    import optax


class NVIL(NamedTuple):
    """Settings of the estimator "nvil" of `learning.variational`.

        sum_k (bound - b(x) - c - v_k) / s  grad log q(z_k | x),   z_k held constant

    with a learned baseline b(x), a moving average c of bound - b(x), and s = max(1, moving standard
    deviation of the same) or 1. All three are those of earlier batches, so that the estimator is
    unbiased; with `normalize=True`, as Mnih & Gregor do, it is unbiased for the gradient **divided
    by s** in the parameters that the posterior sees, and for the gradient in those that the model
    sees. For the ELBO each sample has its own signal, (log w_k - b(x) - c) / K.

    Attributes:
        baseline: network from x to a scalar ([] or [1]); None for the moving average alone.
        optimizer: optax optimizer of the baseline's squared error; it comes with the baseline.
        decay: of the moving averages, from 0 to below 1.
        normalize: divide the signal by s.

    Source: Mnih & Gregor 2014 (Neural variational inference and learning in belief networks),
    section 2.3 and algorithm 1.
    """

    baseline: Network | None = None
    optimizer: "optax.GradientTransformation | None" = None
    decay: float = 0.9
    normalize: bool = False


class NVILState(NamedTuple):
    """What NVIL carries from batch to batch.

    Attributes:
        baseline: parameters of the baseline network.
        optimizer_state: of its optimizer.
        weight: 1 - decay^t, the sum of the weights of the averages, [].
        total: sum of weighted batch means of bound - b(x), []; the average is total / weight.
        total_square: the same of its square, [].
    """

    baseline: Params
    optimizer_state: Any
    weight: Array
    total: Array
    total_square: Array


def stateful_variational(
    evaluate: Callable[..., tuple], bound: Bound, settings: NVIL, *, sign: int
) -> StatefulVariational:
    """The objective of `learning.variational` with estimator "nvil".

    Args:
        evaluate: `(params, key, x, beta) -> (bound, log weights [K], parts, metrics)`.
        bound: from log weights [K] to a scalar.
        settings: of the estimator.
        sign: of the bound in the loss.

    Returns:
        The objective; the gradient of its loss is the mean over the batch.

    Raises:
        ValueError: a decay out of range, or one of baseline and optimizer without the other.
    """
    if not 0 <= settings.decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {settings.decay}")
    if (settings.baseline is None) != (settings.optimizer is None):
        raise ValueError("baseline and optimizer must be given together, got one of the two")

    def init_state(params: Params, key: Key) -> NVILState:
        baseline: Params = ()
        optimizer_state: Any = ()
        if settings.baseline is not None and settings.optimizer is not None:
            baseline = settings.baseline.init(key)
            optimizer_state = settings.optimizer.init(baseline)
        return NVILState(baseline, optimizer_state, *jnp.zeros(3))

    def objective(
        params: Params, state: NVILState, key: Key, batch: PyTree, *, beta: float | Array = 1.0
    ) -> tuple[Array, tuple[NVILState, Metrics]]:
        keys = jax.random.split(key, jax.tree.leaves(batch)[0].shape[0])
        values, log_weights, parts, metrics = jax.vmap(evaluate, (None, 0, 0, None))(
            params, keys, batch, beta
        )
        # What the baselines predict: [batch, K] for the ELBO, whose samples do not interact.
        is_separable = bound is bounds.elbo
        targets = jax.lax.stop_gradient(log_weights if is_separable else values[:, None])
        predictions = _predictions(settings, state.baseline, batch)
        mean, scale = _moving_average(state, settings.normalize)
        share = 1 / log_weights.shape[1] if is_separable else 1.0
        signal = share * signals(targets, (predictions + mean)[:, None]) / scale
        if settings.normalize:
            # What the bound itself has of grad log q, -beta v_k, is divided as well.
            own = jax.vmap(jax.grad(bound))(jax.lax.stop_gradient(log_weights))
            signal = signal + (1 - 1 / scale) * beta * own
        surrogate = jnp.mean(jnp.sum(signal * parts.log_posterior, axis=1))
        loss = sign * (jnp.mean(values) + gradient_of(surrogate))
        moved = _moved(settings, state, batch, targets)
        return first_order(loss), (moved, jax.tree.map(jnp.mean, metrics))

    return StatefulVariational(init_state, objective)


def _predictions(settings: NVIL, baseline: Params, batch: PyTree) -> Array:
    """b(x) of each example, [batch]."""
    if settings.baseline is None:
        return jnp.zeros(jax.tree.leaves(batch)[0].shape[0])
    outputs = jax.vmap(settings.baseline.apply, (None, 0))(baseline, batch)
    if outputs[0].size != 1:
        raise ValueError(f"baseline must map x to a scalar, got outputs {outputs.shape[1:]}")
    return outputs.reshape(-1)


def _moving_average(state: NVILState, normalize: bool) -> tuple[Array, Array]:
    """The average c and the scale s; without a history 0 and 1. The state itself stays biased."""
    weight = jnp.where(state.weight > 0, state.weight, 1)
    mean = state.total / weight
    variance = jnp.maximum(state.total_square / weight - mean**2, 0)
    scale = jnp.maximum(1, jnp.sqrt(variance)) if normalize else jnp.ones_like(mean)
    return mean, scale


def _moved(settings: NVIL, state: NVILState, batch: PyTree, targets: Array) -> NVILState:
    """The state after a batch whose bounds are `targets`, [batch, 1 or K]; -inf teaches nothing."""
    is_finite = jnp.isfinite(targets)
    count = jnp.maximum(jnp.sum(is_finite), 1)

    def finite_mean(numbers: Array) -> Array:
        return jnp.sum(jnp.where(is_finite, numbers, 0)) / count

    def errors(baseline: Params) -> Array:
        residuals = jnp.where(is_finite, targets, 0)
        return residuals - _predictions(settings, baseline, batch)[:, None]

    residuals = errors(state.baseline)
    decay = jnp.where(jnp.any(is_finite), settings.decay, 1)
    mean, _ = _moving_average(state, normalize=False)
    baseline, optimizer_state = state.baseline, state.optimizer_state
    if settings.optimizer is not None:

        def squared_error(baseline: Params) -> Array:
            return finite_mean((errors(baseline) - mean) ** 2)

        gradient = jax.grad(squared_error)(state.baseline)
        updates, optimizer_state = settings.optimizer.update(
            gradient, state.optimizer_state, state.baseline
        )
        baseline = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), baseline, updates)
    return NVILState(
        baseline,
        optimizer_state,
        decay * state.weight + (1 - decay),
        decay * state.total + (1 - decay) * finite_mean(residuals),
        decay * state.total_square + (1 - decay) * finite_mean(residuals**2),
    )

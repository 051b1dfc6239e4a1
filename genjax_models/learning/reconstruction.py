"""Objectives of auto-encoders: the reconstruction error, of corrupted examples, or with a penalty.

All are in nats: with c = encode(x), each is -log p(x | c), and what a name adds to it.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, sum_event
from genjax_models.interfaces import Array, AutoEncoder, Key, Metrics, Objective, Params
from genjax_models.learning.rates import batch_size

Corruption = Callable[[Key, Array], Array]
"""`corruption(key, x) -> x~`, of one example."""
_PENALTIES = ("kl", "l1")


def plain(model: AutoEncoder) -> Objective:
    """What the code loses of x.

        loss = -log p(x | encode(x))

    Args:
        model: any auto-encoder.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`: loss in nats. The key is not used. Metrics:
        "squared_error", ||x - E[x' | c]||^2.

    Source: Hinton & Salakhutdinov 2006 (Reducing the dimensionality of data with neural networks).
    """

    def objective(params: Params, key: Key, x: Array) -> tuple[Array, Metrics]:
        return _reconstruct(model, params, model.encode(params, x), x)

    return objective


def denoising(model: AutoEncoder, corruption: Corruption) -> Objective:
    """What the code of a corrupted example loses of the example itself.

        loss = -log p(x | encode(x~)),  x~ ~ corruption(x)

    Args:
        model: any auto-encoder.
        corruption: e.g. `masking(0.25)`.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`: loss in nats. Metrics: "squared_error",
        ||x - E[x' | c]||^2.

    Source: Vincent et al. 2008 (Extracting and composing robust features with denoising
    autoencoders), section 2.3.
    """

    def objective(params: Params, key: Key, x: Array) -> tuple[Array, Metrics]:
        return _reconstruct(model, params, model.encode(params, corruption(key, x)), x)

    return objective


def sparse(
    model: AutoEncoder, *, weight: float, penalty: str = "kl", target: float = 0.05
) -> Objective:
    """The reconstruction error with a penalty on codes that are often far from zero.

    - "kl": weight sum_j KL(Bernoulli(target) || Bernoulli(a_j)), where a_j is the mean of the
      code's entry j **over the batch**: it runs inside `vmap(axis_name="batch")`, as
      `training.gradient_descent` does. Codes lie in [0, 1]: others make the loss NaN or wrong.
    - "l1": weight sum_j |c_j|, of any code.

    Args:
        model: any auto-encoder whose code is an array; for "kl" one with `code="sigmoid"`.
        weight: of the penalty, in nats; not below zero.
        penalty: "kl" or "l1".
        target: mean activation of each entry of the code, in (0, 1); for "kl".

    Returns:
        `objective(params, key, x) -> (loss, metrics)`: loss in nats. The key is not used. Metrics:
        "squared_error", "penalty" before its weight, and "activation", mean |c_j| of the example.

    Raises:
        ValueError: an unknown penalty, a negative weight, a target outside (0, 1), or (from the
            objective of "kl") no axis "batch".

    Source: Lee et al. 2008 (Sparse deep belief net model for visual area V2), equation 5, for the
    mean over the batch; Ng 2011 (Sparse autoencoder, lecture notes of CS294A) for its KL.
    """
    _check_weight(weight)
    if penalty not in _PENALTIES:
        raise ValueError(f"penalty must be one of {list(_PENALTIES)}, got {penalty!r}")
    if not 0 < target < 1:
        raise ValueError(f"target must be in (0, 1), got {target}")

    def objective(params: Params, key: Key, x: Array) -> tuple[Array, Metrics]:
        code = model.encode(params, x)
        loss, metrics = _reconstruct(model, params, code, x)
        if penalty == "kl":
            batch_size('sparse(penalty="kl")')
            mean_code = jax.lax.pmean(at_least_float32(code), "batch")
            value = sum_event(_bernoulli_divergence(target, mean_code))
        else:
            value = sum_event(jnp.abs(code))
        activation = jnp.mean(at_least_float32(jnp.abs(code)))
        return loss + weight * value, metrics | {"penalty": value, "activation": activation}

    return objective


def contractive(model: AutoEncoder, *, weight: float) -> Objective:
    """The reconstruction error with a penalty on codes that move with x.

        loss = -log p(x | c) + weight ||dc/dx||_F^2

    Args:
        model: any auto-encoder whose x and code are arrays.
        weight: of the penalty, in nats; not below zero.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`: loss in nats. The key is not used. Metrics:
        "squared_error", and "penalty" before its weight.

    Raises:
        ValueError: a negative weight.

    Source: Rifai et al. 2011 (Contractive auto-encoders), equations 1 and 2.
    """
    _check_weight(weight)

    def objective(params: Params, key: Key, x: Array) -> tuple[Array, Metrics]:
        loss, metrics = _reconstruct(model, params, model.encode(params, x), x)
        penalty = squared_jacobian_norm(lambda x: model.encode(params, x), x)
        return loss + weight * penalty, metrics | {"penalty": penalty}

    return objective


def squared_jacobian_norm(function: Callable[[Array], Array], x: Array) -> Array:
    """The squared Frobenius norm of a function's Jacobian at one point.

        ||J||_F^2 = sum_ij (dy_i / dx_j)^2

    The Jacobian is built row by row in reverse mode, or column by column in forward mode, whichever
    are fewer.

    Args:
        function: from an array to an array.
        x: the point.

    Returns:
        A scalar.
    """
    num_outputs = math.prod(jax.eval_shape(function, x).shape)
    jacobian = jax.jacrev if num_outputs <= jnp.size(x) else jax.jacfwd
    return sum_event(jnp.square(jacobian(function)(x)))


def masking(probability: float) -> Corruption:
    """Sets each entry of x to zero with this probability.

    Args:
        probability: in [0, 1).

    Returns:
        `corruption(key, x) -> x~`.

    Raises:
        ValueError: a probability outside [0, 1).

    Source: Vincent et al. 2008, section 2.3.
    """
    _check_probability(probability)

    def corruption(key: Key, x: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, probability, jnp.shape(x)), 0, x)

    return corruption


def salt_and_pepper(probability: float, *, low: float = 0.0, high: float = 1.0) -> Corruption:
    """Sets each entry of x with this probability to one of two values, by the toss of a coin.

    Args:
        probability: in [0, 1).
        low: the one value.
        high: the other.

    Returns:
        `corruption(key, x) -> x~`.

    Raises:
        ValueError: a probability outside [0, 1), or `low` not below `high`.

    Source: Vincent et al. 2010 (Stacked denoising autoencoders), section 3.3.
    """
    _check_probability(probability)
    if not low < high:
        raise ValueError(f"low must be below high, got {low} and {high}")

    def corruption(key: Key, x: Array) -> Array:
        where_key, value_key = jax.random.split(key)
        where = jax.random.bernoulli(where_key, probability, jnp.shape(x))
        is_high = jax.random.bernoulli(value_key, 0.5, jnp.shape(x))
        return jnp.where(where, jnp.where(is_high, high, low).astype(jnp.result_type(x)), x)

    return corruption


def gaussian_noise(scale: float) -> Corruption:
    """Adds Gaussian noise to each entry of x.

        x~ = x + scale * eps,  eps ~ N(0, I)

    Args:
        scale: standard deviation of the noise; not below zero.

    Returns:
        `corruption(key, x) -> x~`.

    Raises:
        ValueError: a negative or infinite scale.

    Source: Vincent et al. 2010 (Stacked denoising autoencoders), section 3.3.
    """
    if not 0 <= scale < math.inf:
        raise ValueError(f"scale must be finite and not negative, got {scale}")

    def corruption(key: Key, x: Array) -> Array:
        noise = jax.random.normal(key, jnp.shape(x), at_least_float32(x).dtype)
        return (x + scale * noise).astype(jnp.result_type(x))

    return corruption


def _reconstruct(
    model: AutoEncoder, params: Params, code: Array, x: Array
) -> tuple[Array, Metrics]:
    distribution = model.decode(params, code)
    mean = distribution.mean()  # type: ignore[attr-defined]
    squared_error = sum_event(jnp.square(at_least_float32(x) - mean))
    return -distribution.log_prob(x), {"squared_error": squared_error}


def _bernoulli_divergence(target: float, mean: Array) -> Array:
    """KL(Bernoulli(target) || Bernoulli(mean)), elementwise, finite where the mean is 0 or 1."""
    # A mean that rounds to 0 or 1 is moved by the spacing of numbers, smoothly: its gradient stays.
    spacing = jnp.finfo(mean.dtype).eps
    mean = spacing + (1 - 2 * spacing) * mean
    entropy = -target * math.log(target) - (1 - target) * math.log1p(-target)
    return -target * jnp.log(mean) - (1 - target) * jnp.log1p(-mean) - entropy


def _check_weight(weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight must be finite and not negative, got {weight}")


def _check_probability(probability: float) -> None:
    if not 0 <= probability < 1:
        raise ValueError(f"probability must be in [0, 1), got {probability}")

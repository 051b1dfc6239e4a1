"""Wake-sleep: objectives of the model alone (theta) and of the posterior alone (phi).

theta are the parameters as the prior and the likelihood see them, phi as the posterior sees them.
Each objective has no gradient in the other; where a network is shared between the two, it learns
from both.
"""

import jax
import jax.numpy as jnp

from genjax_models.interfaces import (
    Array,
    Key,
    LatentVariableModel,
    Metrics,
    Objective,
    Params,
    PyTree,
)
from genjax_models.learning import bounds
from genjax_models.learning.bounds import Bound
from genjax_models.learning.doubly_reparameterized import path_sampler
from genjax_models.learning.first_order import first_order, gradient_of
from genjax_models.learning.importance import (
    WeightParts,
    bound_metrics,
    check_log_prob,
    check_weights,
    draw_parts,
    part_sampler,
    scalar_log_prob,
    temper,
)

ESTIMATORS = (
    "wake_theta",
    "wake_phi",
    "wake_phi_dreg",
    "sleep_phi",
    "wake_sleep",
    "reweighted_wake_sleep",
)
"""Names that `objective` knows."""
Result = tuple[Array, Metrics]
_IWAE_ONLY = ("wake_phi", "wake_phi_dreg", "reweighted_wake_sleep")


def freeze_model(model: LatentVariableModel) -> LatentVariableModel:
    """The same model without derivatives in the parameters that prior and likelihood see."""
    return model._replace(
        prior=lambda params: model.prior(jax.lax.stop_gradient(params)),
        likelihood=lambda params, z: model.likelihood(jax.lax.stop_gradient(params), z),
    )


def objective(
    model: LatentVariableModel,
    bound: Bound,
    estimator: str,
    num_samples: int,
    chunk_size: int | None = None,
) -> Objective:
    """One of the objectives of wake-sleep and reweighted wake-sleep.

    With z_k ~ q(z | x) held constant, w~_k = w_k / sum_j w_j and v_k = d bound / d log w_k:

    - "wake_theta": loss -bound, gradient -sum_k v_k grad_theta log p(x, z_k).
    - "wake_phi": loss -sum_k w~_k log q(z_k | x), the self-normalised estimate of the cross
      entropy of p(z | x) and q; gradient -sum_k w~_k grad_phi log q(z_k | x).
    - "wake_phi_dreg": the same loss; gradient -sum_k w~_k (1 - w~_k) d log w_k / d z_k grad_phi
      z_k, of the same expectation.
    - "sleep_phi": loss -(1/K) sum_k log q(z_k | x_k) of dreams z_k ~ p(z), x_k ~ p(x | z_k); x is
      not used.
    - "wake_sleep": loss -bound, gradient of "wake_theta" + "sleep_phi".
    - "reweighted_wake_sleep": loss -bound, gradient of "wake_theta" + "wake_phi".

    Args:
        model: any latent-variable model whose posterior has a `log_prob`; for the dreams its
            likelihood has a `sample`.
        bound: of the wake phase.
        estimator: one of the above.
        num_samples: K.
        chunk_size: samples, or dreams, held at a time, a divisor of K; None for all.

    Returns:
        `objective(params, key, x, *, beta=1.0) -> (loss, metrics)`, as of `variational`.

    Source: Hinton et al. 1995 (The wake-sleep algorithm for unsupervised neural networks);
    Bornschein & Bengio 2015 (Reweighted wake-sleep), section 2; Tucker et al. 2019, section 4.
    """

    def wake(
        params: Params, key: Key, x: PyTree, beta: float | Array
    ) -> tuple[Array, Array, WeightParts, Metrics]:
        """The bound for theta alone, weights without derivative, parts, metrics."""
        check_log_prob(model.posterior(params, x), estimator)
        if estimator == "wake_phi_dreg":
            draw = path_sampler(freeze_model(model), params, x, beta, estimator)
        else:
            draw = part_sampler(model, params, x, pathwise=False)
        parts = draw_parts(draw, key, num_samples, chunk_size)
        log_posterior = jax.lax.stop_gradient(parts.log_posterior)
        divergence = log_posterior - parts.log_prior
        log_weights = temper(parts.log_likelihood, divergence, beta)
        shares = jax.grad(bound)(jax.lax.stop_gradient(log_weights))
        metrics = bound_metrics(bound, parts.log_likelihood, divergence)
        return bound(log_weights), shares, parts, metrics

    def theta(params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0) -> Result:
        value, _, _, metrics = wake(params, key, x, beta)
        return -value, metrics

    def phi(params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0) -> Result:
        _, shares, parts, metrics = wake(params, key, x, beta)
        cross_entropy = -_dot(shares, parts.log_posterior)
        if estimator == "wake_phi_dreg":
            divergence = parts.log_posterior - parts.log_prior
            log_weights = temper(parts.log_likelihood, divergence, beta)
            path = gradient_of(_dot(_path_weights(shares), log_weights))
            return jax.lax.stop_gradient(cross_entropy) - path, metrics
        return cross_entropy, metrics

    def sleep(params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0) -> Result:
        loss = _dream_loss(model, params, key, num_samples, chunk_size)
        return loss, {"dream_log_posterior": -jax.lax.stop_gradient(loss)}

    def wake_and_sleep(params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0) -> Result:
        wake_key, sleep_key = jax.random.split(key)
        loss, metrics = theta(params, wake_key, x, beta=beta)
        dreams = _dream_loss(model, params, sleep_key, num_samples, chunk_size)
        return loss + gradient_of(dreams), metrics

    def reweighted(params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0) -> Result:
        value, shares, parts, metrics = wake(params, key, x, beta)
        return -value - gradient_of(_dot(shares, parts.log_posterior)), metrics

    chosen = {
        "wake_theta": theta,
        "wake_phi": phi,
        "wake_phi_dreg": phi,
        "sleep_phi": sleep,
        "wake_sleep": wake_and_sleep,
        "reweighted_wake_sleep": reweighted,
    }[estimator]

    def objective(params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0) -> Result:
        check_weights(beta=beta)
        loss, metrics = chosen(params, key, x, beta=beta)
        return first_order(loss), metrics

    return objective


def check_bound(bound: Bound, estimator: str) -> None:
    """Raise a `ValueError` that says why, where the estimator makes no sense for the bound."""
    function, _ = bounds.resolve(bound)
    if bounds.is_upper(bound):
        raise ValueError(
            f'an upper bound is not for estimator "{estimator}": it trains the posterior alone: use'
            ' estimator="dreg", "pathwise" or "rloo"'
        )
    if estimator in _IWAE_ONLY and function is not bounds.iwae:
        raise ValueError(
            f'estimator "{estimator}" is for bound=bounds.iwae, whose derivatives are the'
            " normalised weights that it gives the samples"
        )
    if estimator == "sleep_phi" and function is not bounds.elbo:
        raise ValueError('estimator "sleep_phi" has no bound: it does not see x; leave it out')


def _dream_loss(
    model: LatentVariableModel, params: Params, key: Key, num_samples: int, chunk_size: int | None
) -> Array:
    """-(1/K) sum_k log q(z_k | x_k), z_k ~ p(z), x_k ~ p(x | z_k), without derivative in either."""
    prior = model.prior(params)

    def dream(key: Key) -> Array:
        z_key, x_key = jax.random.split(key)
        z = jax.lax.stop_gradient(prior.sample(seed=z_key))
        x = jax.lax.stop_gradient(model.likelihood(params, z).sample(seed=x_key))
        posterior = check_log_prob(model.posterior(params, x), "sleep_phi")
        return scalar_log_prob("posterior", posterior.log_prob(z))

    return -jnp.mean(draw_parts(dream, key, num_samples, chunk_size))


def _path_weights(shares: Array) -> Array:
    """d w~_k / d log w_k = w~_k (1 - w~_k)."""
    return shares * (1 - shares)


def _dot(shares: Array, values: Array) -> Array:
    """sum_k shares_k values_k, where a share of zero takes nothing, even of -inf."""
    # The double where keeps the branch that is not taken finite.
    return jnp.sum(shares * jnp.where(shares == 0, 0, values))

"""Objectives: functions whose value is a bound and whose gradient is an estimator."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import kl_divergence
from genjax_models.interfaces import Array, Key, LatentVariableModel, Metrics, Objective, Params
from genjax_models.learning import bounds
from genjax_models.learning.importance import (
    ImportanceSamples,
    check_num_samples,
    check_pathwise,
    importance_sampler,
)

Bound = Callable[[Array], Array]
_ESTIMATORS = ("pathwise", "rloo")
_KLS = ("monte_carlo", "analytic")


def variational(
    model: LatentVariableModel,
    *,
    bound: Bound = bounds.elbo,
    estimator: str = "pathwise",
    kl: str = "monte_carlo",
    num_samples: int = 1,
) -> Objective:
    """The negative variational bound of one example, as an objective for `jax.grad`.

        loss = -bound(log w_1, ..., log w_K),
        log w_k = log p(x | z_k) + beta [log p(z_k) - log q(z_k | x)],  z_k ~ q(z | x)

    With `kl="analytic"` the bracket is replaced by -KL(q(z | x) || p(z)) in closed form (the
    ELBO only). beta = 1 gives a lower bound on log p(x), another beta the objective of the
    beta-VAE; a schedule that raises it from 0 to 1 is the warm-up of Sonderby et al. 2016.

    Gradient estimators, all unbiased for the gradient of the expected loss:

    - "pathwise": through the samples, which must be reparameterised.
    - "rloo": the score function with a leave-one-out baseline, for any posterior with a
      `log_prob`, discrete ones included: grad bound + sum_k (bound - bound_without_k)
      grad log q(z_k | x), with the samples held constant; K >= 2.

    Args:
        model: any latent-variable model.
        bound: from log weights [K] to a scalar: `bounds.elbo`, `bounds.iwae`,
            `functools.partial(bounds.renyi, alpha=0.5)`, or the user's own.
        estimator: "pathwise" or "rloo".
        kl: "monte_carlo", or "analytic" for the ELBO of a pair that `kl_divergence` knows.
        num_samples: K >= 1 (K >= 2 for "rloo").

    Returns:
        `objective(params, key, x, *, beta=1.0) -> (loss, metrics)`: loss in nats, to be
        minimised, and metrics "bound" (always with beta = 1: what may be compared with log
        p(x)), "log_likelihood" and "kl_divergence" (means over the samples).

    Raises:
        ValueError: an unknown estimator or KL, K too small, or an analytic KL with another bound.
        TypeError: (from the objective) a posterior that the estimator cannot differentiate.

    Source: Kingma & Welling 2014 (pathwise); Burda et al. 2016 (K samples); Higgins et al. 2017
    (beta); Kool et al. 2019 and Mnih & Rezende 2016 (leave-one-out baselines).
    """
    _check_choice("estimator", estimator, _ESTIMATORS)
    _check_choice("kl", kl, _KLS)
    check_num_samples(num_samples, at_least=2 if estimator == "rloo" else 1)
    if kl == "analytic" and bound is not bounds.elbo:
        raise ValueError('kl="analytic" is for bound=bounds.elbo: no other bound splits off its KL')
    pathwise = estimator == "pathwise"

    def objective(
        params: Params, key: Key, x: Any, *, beta: float | Array = 1.0
    ) -> tuple[Array, Metrics]:
        prior, posterior = model.prior(params), model.posterior(params, x)
        if pathwise:
            check_pathwise(posterior)
        elif not hasattr(posterior, "log_prob"):
            raise TypeError(
                f'estimator "rloo" needs log_prob of the posterior, which a'
                f' {type(posterior).__name__} does not have: use estimator="pathwise"'
            )
        draw = importance_sampler(model, params, x, pathwise=pathwise)
        samples = jax.vmap(draw)(jax.random.split(key, num_samples))
        if kl == "analytic":
            divergence = kl_divergence(posterior, prior)
        else:
            divergence = samples.log_posterior - samples.log_prior
        log_weights = samples.log_likelihood - beta * divergence
        value = bound(log_weights)
        metrics = {
            "bound": bound(samples.log_likelihood - divergence),
            "log_likelihood": jnp.mean(samples.log_likelihood),
            "kl_divergence": jnp.mean(divergence),
        }
        if not pathwise:
            value = value + _leave_one_out_score(bound, log_weights, samples)
        return -value, jax.lax.stop_gradient(metrics)

    return objective


def _leave_one_out_score(bound: Bound, log_weights: Array, samples: ImportanceSamples) -> Array:
    """Zero, with the gradient sum_k (bound - bound_without_k) grad log q(z_k | x).

    bound_without_k does not depend on z_k, so that subtracting it adds no bias.
    """
    num_samples = log_weights.shape[0]
    # Row k lists the other samples.
    others = (np.arange(num_samples)[:, None] + np.arange(1, num_samples)) % num_samples
    baselines = jax.vmap(bound)(log_weights[others])
    signal = jax.lax.stop_gradient(bound(log_weights) - baselines)
    surrogate = jnp.sum(signal * samples.log_posterior)
    return surrogate - jax.lax.stop_gradient(surrogate)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")

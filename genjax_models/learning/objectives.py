"""Objectives: functions whose value is a bound and whose gradient is an estimator."""

from collections.abc import Callable
from typing import overload

import jax
import jax.numpy as jnp

from genjax_models.distributions import kl_divergence
from genjax_models.interfaces import (
    Array,
    Key,
    LatentVariableModel,
    Metrics,
    Objective,
    Params,
    PyTree,
)
from genjax_models.learning import bounds, wake_sleep
from genjax_models.learning.bounds import Bound, SplitBound
from genjax_models.learning.doubly_reparameterized import (
    check_path_bound,
    path_factors,
    path_sampler,
    send_factors,
)
from genjax_models.learning.first_order import first_order, gradient_of
from genjax_models.learning.importance import (
    WeightParts,
    bound_metrics,
    check_chunk_size,
    check_log_prob,
    check_num_samples,
    check_pathwise,
    check_weighable,
    check_weights,
    draw_parts,
    part_sampler,
    temper,
)
from genjax_models.learning.leave_one_out import (
    leave_one_out_baselines,
    signals,
    vimco_baselines,
)
from genjax_models.learning.nvil import NVIL, stateful_variational
from genjax_models.learning.stateful import StatefulVariational

_PATH = ("sticking_the_landing", "dreg")
_LEAVE_ONE_OUT = ("rloo", "vimco_geometric", "vimco_arithmetic")
_SCORE = ("score_function", *_LEAVE_ONE_OUT)
ESTIMATORS = ("pathwise", *_PATH, *_SCORE, "nvil", *wake_sleep.ESTIMATORS)
"""Names that `variational` knows."""
_KLS = ("monte_carlo", "analytic")


@overload
def variational(
    model: LatentVariableModel,
    *,
    bound: Bound | SplitBound = ...,
    estimator: NVIL,
    kl: str = ...,
    num_samples: int = ...,
    chunk_size: int | None = ...,
) -> StatefulVariational: ...
@overload
def variational(
    model: LatentVariableModel,
    *,
    bound: Bound | SplitBound = ...,
    estimator: str = ...,
    kl: str = ...,
    num_samples: int = ...,
    chunk_size: int | None = ...,
) -> Objective: ...
def variational(
    model: LatentVariableModel,
    *,
    bound: Bound | SplitBound = bounds.elbo,
    estimator: str | NVIL = "pathwise",
    kl: str = "monte_carlo",
    num_samples: int = 1,
    chunk_size: int | None = None,
) -> Objective | StatefulVariational:
    """The negative variational bound of one example, as an objective for `jax.grad`.

        loss = -bound(log w_1, ..., log w_K),
        log w_k = log p(x | z_k) + beta [log p(z_k) - log q(z_k | x)],  z_k ~ q(z | x)

    With `kl="analytic"` the bracket is replaced by -KL(q(z | x) || p(z)) in closed form (the
    ELBO only). beta = 1 gives a lower bound on log p(x), another beta the objective of the
    beta-VAE; a schedule that raises it from 0 to 1 is the warm-up of Sonderby et al. 2016.

    Gradient estimators, with v_k = d bound / d log w_k, theta the parameters as the prior and the
    likelihood see them and phi as the posterior sees them (a parameter that both see gets the sum;
    no estimator needs the two apart). All have sum_k v_k grad_theta log p(x, z_k); for phi

    - "pathwise": through the samples, which must be reparameterised; unbiased.
    - "sticking_the_landing": without the score of q inside log w; unbiased, for the ELBO.
    - "dreg": the score replaced by a path derivative, each path weighted by v_k - d v_k / d log
      w_k; unbiased, for any twice differentiable bound; one forward and one backward pass.
    - "score_function": sum_k (bound - v_k) grad log q(z_k | x), with the samples held constant, for
      any posterior with a `log_prob`, discrete or mixed ones included; unbiased, as the next four.
    - "rloo": the same with bound - bound_without_k for bound; K >= 2.
    - "vimco_geometric", "vimco_arithmetic": the same with bound - bound_with_w_k_replaced by that
      mean of the other weights; K >= 2.
    - "nvil", or an `NVIL(...)` with settings: the same with a learned baseline of x and a moving
      average, which are a state: see Returns.
    - "wake_theta": zero, for theta alone.
    - "wake_phi", "wake_phi_dreg": sum_k of normalised weights times grad log q(z_k | x), for phi
      alone, and its doubly reparameterised form; biased for -grad KL(p(z | x) || q), by O(1/K)
      where the weights have a variance;
      bound=bounds.iwae.
    - "sleep_phi": grad log q(z | x) of dreams x, z ~ p, for phi alone; unbiased for
      -grad E_p(x) KL(p(z | x) || q); it has no bound.
    - "wake_sleep": "wake_theta" + "sleep_phi". Not the gradient of any function.
    - "reweighted_wake_sleep": "wake_theta" + "wake_phi", bound=bounds.iwae. As the last.

    These are first derivatives: of all but "pathwise" a second one raises a `TypeError`, because
    what an estimator holds constant would be missing from it.

    `bounds.cubo` and the right rule of `bounds.tvo` are upper bounds: their loss is +bound, and
    trains the posterior alone. A `SplitBound` such as `bounds.piwae(num_groups)` trains the
    posterior by a bound of its own.

    Args:
        model: any latent-variable model.
        bound: from log weights [K] to a scalar: `bounds.elbo`, `bounds.iwae`,
            `functools.partial(bounds.renyi, alpha=0.5)`, or the user's own.
        estimator: one of the above.
        kl: "monte_carlo", or "analytic" for the ELBO of a pair that `kl_divergence` knows.
        num_samples: K >= 1 (K >= 2 where the other samples are the baseline).
        chunk_size: samples whose activations are held at a time, a divisor of K; None for all. The
            gradient is the same to rounding, at one more forward pass.

    Returns:
        `objective(params, key, x, *, beta=1.0) -> (loss, metrics)`: loss in nats, to be
        minimised (+inf, without gradient, where every weight of an average is zero: see
        `bounds`), and metrics "bound" (always with beta = 1: what may be compared with log
        p(x)), "log_likelihood" and "kl_divergence" (means over the samples). For "nvil" a
        `StatefulVariational` of a batch, for `training.stateful_gradient_descent`.

    Raises:
        ValueError: an unknown estimator or KL, K too small, a chunk size that does not divide K, a
            bound and an estimator that make no sense together, or (from the objective, where its
            value is known) a beta that is negative or not finite.
        TypeError: (from the objective) a posterior that the estimator cannot differentiate.

    Source: Kingma & Welling 2014 (pathwise); Burda et al. 2016 (K samples); Higgins et al. 2017
    (beta); Roeder et al. 2017 (sticking the landing); Tucker et al. 2019 (DReG); Kool et al. 2019
    and Mnih & Rezende 2016 (leave-one-out baselines, VIMCO); Mnih & Gregor 2014 (NVIL); Hinton et
    al. 1995 and Bornschein & Bengio 2015 (wake-sleep and its reweighted form).
    """
    name = "nvil" if isinstance(estimator, NVIL) else estimator
    if not callable(bound):
        raise TypeError(f"bound must be a function such as bounds.iwae, got {bound!r}")
    if not isinstance(bound, SplitBound):
        function, keywords = bounds.resolve(bound)
        bound = bound if keywords else function
    _check_choice("estimator", name, ESTIMATORS)
    _check_choice("kl", kl, _KLS)
    check_num_samples(num_samples, at_least=2 if name in _LEAVE_ONE_OUT else 1)
    check_chunk_size(chunk_size, num_samples)
    _check_bound(bound, name, kl, num_samples)
    if isinstance(bound, SplitBound):
        return _split_objective(model, bound, name, num_samples, chunk_size)
    upper = bounds.is_upper(bound)
    model = wake_sleep.freeze_model(model) if upper else model
    if name in wake_sleep.ESTIMATORS:
        return wake_sleep.objective(model, bound, name, num_samples, chunk_size)
    evaluate = _evaluation(model, bound, name, kl, num_samples, chunk_size)
    if name == "nvil":
        settings = estimator if isinstance(estimator, NVIL) else NVIL()
        if settings.normalize and kl == "analytic":
            raise ValueError('NVIL with normalize=True is for kl="monte_carlo"')
        return stateful_variational(evaluate, bound, settings, sign=1 if upper else -1)

    def objective(
        params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0
    ) -> tuple[Array, Metrics]:
        value, log_weights, parts, metrics = evaluate(params, key, x, beta)
        if name == "dreg":
            factors = path_factors(bound, log_weights, beta).astype(parts.slot.dtype)
            value = value + send_factors(parts.slot, factors)
        elif name in _SCORE:
            value = value + _score(bound, name, value, log_weights, parts.log_posterior)
        loss = value if upper else -value
        return (loss if name == "pathwise" else first_order(loss)), metrics

    return objective


Evaluation = Callable[..., tuple[Array, Array, WeightParts, Metrics]]
"""`(params, key, x, beta) -> (bound, log weights [K], parts of them, metrics)`."""


def _evaluation(
    model: LatentVariableModel,
    bound: Bound,
    estimator: str,
    kl: str,
    num_samples: int,
    chunk_size: int | None,
) -> Evaluation:
    """The bound of one example, with the derivatives that its samples leave to it."""

    def evaluate(
        params: Params, key: Key, x: PyTree, beta: float | Array
    ) -> tuple[Array, Array, WeightParts, Metrics]:
        check_weights(beta=beta)
        if estimator in _PATH:
            draw = path_sampler(model, params, x, beta, estimator)
        else:
            posterior = model.posterior(params, x)
            if estimator == "pathwise":
                check_pathwise(posterior)
                if kl == "monte_carlo":
                    check_weighable(posterior)
            else:
                check_log_prob(posterior, estimator)
            draw = part_sampler(model, params, x, pathwise=estimator == "pathwise")
        parts = draw_parts(draw, key, num_samples, chunk_size)
        if kl == "analytic":
            divergence = kl_divergence(model.posterior(params, x), model.prior(params))
        else:
            divergence = parts.log_posterior - parts.log_prior
        log_weights = temper(parts.log_likelihood, divergence, beta)
        metrics = bound_metrics(bound, parts.log_likelihood, divergence)
        return bound(log_weights), log_weights, parts, metrics

    return evaluate


def _score(
    bound: Bound, estimator: str, value: Array, log_weights: Array, log_posterior: Array
) -> Array:
    """Zero, with the gradient sum_k (bound - baseline_k) grad log q(z_k | x)."""
    if estimator == "rloo":
        baselines = leave_one_out_baselines(bound, log_weights)
    elif estimator == "score_function":
        baselines = jnp.zeros_like(log_weights)
    else:
        baselines = vimco_baselines(bound, log_weights, estimator.removeprefix("vimco_"))
    values = value
    if estimator == "score_function" and bound is bounds.elbo:
        # The terms of the other samples have expectation zero.
        values = log_weights / log_weights.shape[0]
    return gradient_of(jnp.sum(signals(values, baselines) * log_posterior))


def _split_objective(
    model: LatentVariableModel,
    bound: SplitBound,
    estimator: str,
    num_samples: int,
    chunk_size: int | None,
) -> Objective:
    """The model's bound for theta and the posterior's for phi, from the same samples."""
    of_model = wake_sleep.objective(model, bound.model, "wake_theta", num_samples, chunk_size)
    of_posterior = variational(
        wake_sleep.freeze_model(model),
        bound=bound.posterior,
        estimator=estimator,
        num_samples=num_samples,
        chunk_size=chunk_size,
    )

    def objective(
        params: Params, key: Key, x: PyTree, *, beta: float | Array = 1.0
    ) -> tuple[Array, Metrics]:
        loss, metrics = of_model(params, jax.random.clone(key), x, beta=beta)
        posterior_loss, _ = of_posterior(params, key, x, beta=beta)
        return loss + gradient_of(posterior_loss), metrics

    return objective


def _check_bound(bound: Bound | SplitBound, estimator: str, kl: str, num_samples: int) -> None:
    """Raise a `ValueError` that says why, where bound, estimator, KL and K make no sense."""
    if kl == "analytic":
        if bound is not bounds.elbo:
            raise ValueError(
                'kl="analytic" is for bound=bounds.elbo: no other bound splits off its KL'
            )
        if estimator in _PATH or estimator in wake_sleep.ESTIMATORS:
            raise ValueError(
                f'kl="analytic" is not for estimator "{estimator}": it works on the samples of'
                ' log q(z | x), of which an analytic KL has none: use kl="monte_carlo"'
            )
    if isinstance(bound, SplitBound):
        if estimator == "nvil" or estimator in wake_sleep.ESTIMATORS:
            raise ValueError(
                f'a SplitBound is not for estimator "{estimator}", which has no second bound for'
                " the posterior: use one of pathwise, dreg, score_function or vimco_geometric"
            )
        if bounds.is_upper(bound.posterior) or bounds.is_upper(bound.model):
            raise ValueError("a SplitBound is of lower bounds, got an upper one")
        _check_bound(bound.posterior, estimator, kl, num_samples)
        bound = bound.model
    else:
        check_path_bound(bound, estimator)
        if estimator in wake_sleep.ESTIMATORS:
            wake_sleep.check_bound(bound, estimator)
    weights = jax.ShapeDtypeStruct((num_samples,), jnp.zeros(()).dtype)
    value = jax.eval_shape(bound, weights)
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(f"bound must map log weights [K] to one real number, got {value}")
    if estimator == "rloo":
        try:
            jax.eval_shape(bound, jax.ShapeDtypeStruct((num_samples - 1,), weights.dtype))
        except ValueError as error:
            raise ValueError(
                f'estimator "rloo" needs the bound of num_samples - 1 = {num_samples - 1} samples,'
                f" which this one does not have ({error}): use estimator="
                '"vimco_geometric", which replaces a sample instead of leaving it out'
            ) from error


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")

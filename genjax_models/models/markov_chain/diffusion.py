"""The denoising diffusion model (Sohl-Dickstein et al. 2015; Ho et al. 2020).

To be read after `schedules` and `noising`, which are its fixed half: here is what is learned.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.checks import check_sizes
from genjax_models.distributions import DiagonalGaussian
from genjax_models.interfaces import Array, ConditionalNetwork, Distribution, Key, Params
from genjax_models.models.markov_chain import observations
from genjax_models.models.markov_chain.noising import (
    PREDICTIONS,
    Prediction,
    from_x_0,
    posterior_mean,
)
from genjax_models.models.markov_chain.observations import Observation
from genjax_models.models.markov_chain.schedules import NoiseSchedule

_REVERSE_VARIANCES = ("beta", "posterior")


class Diffusion(NamedTuple):
    """A fixed chain from data to noise, and a learned chain back.

        p(x, x_1, ..., x_T) = N(x_T; 0, I) prod_(t = T..2) p(x_(t-1) | x_t) p(x | x_1)

    Every function is of one example. x_t are vectors [num_dims]; t is an integer in 1..T, and may
    be traced.

    Attributes:
        num_dims: size of x and of every x_t.
        schedule: the noising chain.
        observation: how data x become x_0, and what p(x | x_1) is.
        prediction: what the network's output is: "noise", "x_0" or "v".
        init: `init(key) -> params`.
        predict: `predict(params, x_t, t) -> Prediction`, what the network says.
        denoise: `denoise(params, x_t, t) -> Prediction`, what the reverse chain uses: the same,
            with x_0 clipped where the model clips.
        reverse: `reverse(params, x_t, t) -> p(x_(t-1) | x_t)`, a Gaussian; at t = 1 it is over x_0
            on the line, and `likelihood` is over the data.
        reverse_step: `reverse_step(params, key, x_t, t) -> x_(t-1)`, one draw.
        likelihood: `likelihood(params, x_1) -> p(x | x_1)`.
        sample: `sample(params, key) -> x`, one draw by T reverse steps.
    """

    num_dims: int
    schedule: NoiseSchedule
    observation: Observation
    prediction: str
    init: Callable[[Key], Params]
    predict: Callable[[Params, Array, int | Array], Prediction]
    denoise: Callable[[Params, Array, int | Array], Prediction]
    reverse: Callable[[Params, Array, int | Array], DiagonalGaussian]
    reverse_step: Callable[[Params, Key, Array, int | Array], Array]
    likelihood: Callable[[Params, Array], Distribution]
    sample: Callable[[Params, Key], Array]


def diffusion(
    network: ConditionalNetwork,
    schedule: NoiseSchedule,
    *,
    num_dims: int,
    prediction: str = "noise",
    reverse_variance: str = "beta",
    likelihood: str = "gaussian",
    num_levels: int | None = None,
    clip: bool | None = None,
) -> Diffusion:
    """A diffusion model with Gaussian reverse steps of fixed variance.

        p(x_(t-1) | x_t) = N(mu_t(x_t, x_0(x_t)), sigma_t^2 I)

    with mu_t the mean of q(x_(t-1) | x_t, x_0) and x_0(x_t) the network's prediction of the data.
    Its parameters are the network's. Two variances sigma_t^2 are the extremes of what is right:

    - "beta": beta_t, right for data that are standard normal. With the best network the mean bound
      tends to that of log p(x), less KL(q(x_T) || N(0, I)), as T grows, whatever the data.
    - "posterior": beta~_t = beta_t (1 - alpha_bar_(t-1)) / (1 - alpha_bar_t), right for data that
      are one point. Smaller, so that samples are less noisy where T is small; but the two differ
      by a factor of about t / (t - 1) in the first steps, which costs some 0.3 nats a dimension
      however large T is. At t = 1, where it is zero, beta_1 is taken.

    Args:
        network: from x_t [num_dims] and the time t / T, a number in (0, 1], to [num_dims].
        schedule: the noising chain.
        num_dims: size of x.
        prediction: what the network predicts: "noise", "x_0" or "v" (see `noising.Prediction`).
        reverse_variance: "beta" or "posterior".
        likelihood: "gaussian" (real x), or "discretized_gaussian" (x = k / (num_levels - 1), scaled
            to [-1, 1] for the chain): its bound is one on the probability of the levels.
        num_levels: number of grey levels, for "discretized_gaussian".
        clip: clip the prediction of x_0 to [-1, 1] in every reverse step, as Ho et al. do. It can
            only come nearer, but has no gradient outside: train the bound without. By default for
            grey levels only, which are the only ones that it is allowed for.

    Returns:
        The model.

    Raises:
        ValueError: a size below one, an unknown choice, levels or clipping that do not fit the
            likelihood, or a network of the wrong output shape (found when `init` runs).

    Source: Ho et al. 2020 (Denoising diffusion probabilistic models), sections 2 and 3.
    """
    check_sizes(num_dims=num_dims)
    _check_choice("prediction", prediction, tuple(PREDICTIONS))
    _check_choice("reverse_variance", reverse_variance, _REVERSE_VARIANCES)
    observation = observations.by_name(likelihood, num_levels=num_levels)
    clip = observation.bounded if clip is None else clip
    if clip and not observation.bounded:
        raise ValueError(
            f"clip=True is for data in a known range, not for likelihood {likelihood!r}"
        )
    network = ConditionalNetwork(*network)
    log_scales = _log_scales(schedule, reverse_variance)

    def init(key: Key) -> Params:
        params = network.init(key)
        _check_outputs(network, params, num_dims)
        return params

    def predict(params: Params, x_t: Array, t: int | Array) -> Prediction:
        check_step(schedule, t)
        time = jnp.asarray(t, float) / schedule.num_steps
        return PREDICTIONS[prediction](schedule, x_t, network.apply(params, x_t, time), t)

    def denoise(params: Params, x_t: Array, t: int | Array) -> Prediction:
        predicted = predict(params, x_t, t)
        return from_x_0(schedule, x_t, jnp.clip(predicted.x_0, -1, 1), t) if clip else predicted

    def reverse(params: Params, x_t: Array, t: int | Array) -> DiagonalGaussian:
        x_0 = denoise(params, x_t, t).x_0
        log_scale = jnp.asarray(log_scales, float)[t]
        return DiagonalGaussian(posterior_mean(schedule, x_t, x_0, t), log_scale)

    def reverse_step(params: Params, key: Key, x_t: Array, t: int | Array) -> Array:
        x = reverse(params, x_t, t).sample(seed=key)
        return jnp.where(t == 1, observation.nearest(x), x)

    def conditional(params: Params, x_1: Array) -> Distribution:
        return observation.distribution(reverse(params, x_1, 1))

    def sample(params: Params, key: Key) -> Array:
        last_key, chain_key = jax.random.split(key)

        def step(x_t: Array, t: Array) -> tuple[Array, None]:
            return reverse_step(params, jax.random.fold_in(chain_key, t), x_t, t), None

        x_T = jax.random.normal(last_key, (num_dims,))
        x_0, _ = jax.lax.scan(step, x_T, jnp.arange(schedule.num_steps, 0, -1))
        return observation.unscale(x_0)

    return Diffusion(
        num_dims=num_dims,
        schedule=schedule,
        observation=observation,
        prediction=prediction,
        init=init,
        predict=predict,
        denoise=denoise,
        reverse=reverse,
        reverse_step=reverse_step,
        likelihood=conditional,
        sample=sample,
    )


def check_step(schedule: NoiseSchedule, t: int | Array) -> None:
    """Raise a `ValueError` unless t, where its value is known, is in 1..T.

    Args:
        schedule: of T steps.
        t: the step; a traced one is not known.
    """
    if isinstance(t, int | np.integer) and not 1 <= t <= schedule.num_steps:
        raise ValueError(f"t must be in 1..{schedule.num_steps}, got {t}")


def _log_scales(schedule: NoiseSchedule, reverse_variance: str) -> np.ndarray:
    """log sigma_t, t = 0..T."""
    variances = schedule.beta.copy()
    if reverse_variance == "posterior":
        variances[2:] = schedule.posterior_variance[2:]
    variances[0] = np.nan  # There is no step 0.
    return 0.5 * np.log(variances)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}, got {value!r}")


def _check_outputs(network: ConditionalNetwork, params: Params, num_dims: int) -> None:
    x_t, time = jax.eval_shape(lambda: (jnp.zeros(num_dims), jnp.zeros(())))
    outputs = jax.eval_shape(network.apply, params, x_t, time)
    shape = jax.tree.map(jnp.shape, outputs)
    if shape != (num_dims,):
        raise ValueError(
            f"network must map [{num_dims}] and a time [] to [{num_dims}], but its outputs have"
            f" shape {shape}"
        )

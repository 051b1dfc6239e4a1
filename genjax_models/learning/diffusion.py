"""The variational bound of a diffusion model in closed-form terms, and what it is trained on.

    -bound = KL(q(x_T | x_0) || N(0, I))                           prior, no parameters
             + sum_(t = 2..T) KL(q(x_(t-1) | x_t, x_0) || p(x_(t-1) | x_t))
             - log p(x | x_1),                        x_t ~ q(x_t | x_0), independently for each t

One term takes one network evaluation, whatever t: that is what makes training possible.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions import DiagonalGaussian, kl_divergence
from genjax_models.interfaces import (
    Array,
    Key,
    Metrics,
    Objective,
    Params,
    PyTree,
    StatefulObjective,
)
from genjax_models.models.markov_chain import Diffusion, marginal, posterior

_DECAY = 0.99
_UNIFORM_SHARE = 0.05


class DiffusionBound(NamedTuple):
    """A draw of the variational bound of one example, in nats, by its parts.

    Attributes:
        log_likelihood: log p(x | x_1), the reconstruction, [].
        step_kls: KL(q(x_(t-1) | x_t, x_0) || p(x_(t-1) | x_t)) for t = 2..T, [T - 1]; or sums over
            K - 1 stretches of them, [K - 1], each estimated by one of its terms.
        prior_kl: KL(q(x_T | x_0) || N(0, I)), [], exact.
    """

    log_likelihood: Array
    step_kls: Array
    prior_kl: Array

    @property
    def value(self) -> Array:
        """The bound: in expectation at most log p(x), []."""
        # The last axis, so that a batch of bounds gives a batch of values.
        return self.log_likelihood - jnp.sum(self.step_kls, axis=-1) - self.prior_kl

    def bits_per_dim(self, num_dims: int) -> Array:
        """-bound / (num_dims log 2), []: of grey levels, bits to code one pixel."""
        return -self.value / (num_dims * math.log(2))


def diffusion_bound(
    model: Diffusion, params: Params, key: Key, x: Array, *, num_terms: int | None = None
) -> DiffusionBound:
    """The full variational bound on log p(x) of one x: T network evaluations, or fewer.

    Args:
        model: a diffusion model.
        params: its parameters.
        key: of x_1, ..., x_T, drawn independently of each other, and of the steps.
        x: one example, [num_dims].
        num_terms: K <= T network evaluations: t = 1, and one step drawn from each of K - 1 equal
            stretches of 2..T, weighted by its length. Unbiased; T by default, every step.

    Returns:
        The parts, whose expectation over the key is exact.

    Raises:
        ValueError: a number of terms that is not in 2..T (1..T for T = 1).

    Source: Ho et al. 2020, equation 5.
    """
    num_steps = model.schedule.num_steps
    starts, lengths = _stretches(num_steps, num_steps if num_terms is None else num_terms)

    def step(_: None, stretch: tuple[Array, Array]) -> tuple[None, Array]:
        start, length = stretch
        t_key, noise_key = jax.random.split(jax.random.fold_in(key, start))
        t = start + jax.random.randint(t_key, (), 0, length)
        return None, length * _noisy_term(model, params, noise_key, x, t)

    _, terms = jax.lax.scan(step, None, (jnp.asarray(starts), jnp.asarray(lengths)))
    return DiffusionBound(-terms[0], terms[1:], prior_kl(model, x))


def diffusion_term(model: Diffusion, params: Params, x: Array, x_t: Array, t: int | Array) -> Array:
    """What step t adds to -bound for a given x_t: one network evaluation.

        KL(q(x_(t-1) | x_t, x_0) || p(x_(t-1) | x_t)) for t >= 2, and -log p(x | x_1) for t = 1

    Args:
        model: a diffusion model.
        params: its parameters.
        x: one example, [num_dims].
        x_t: the example noised by t steps, [num_dims].
        t: 1..T.

    Returns:
        A scalar in nats.
    """
    schedule, observation = model.schedule, model.observation
    reverse = model.reverse(params, x_t, t)
    reconstruction = -observation.distribution(reverse).log_prob(x)
    if schedule.num_steps == 1:
        return reconstruction
    # The posterior is a point at t = 1, where its divergence is not wanted.
    exact = posterior(schedule, x_t, observation.scale(x), jnp.maximum(t, 2))
    return jnp.where(t == 1, reconstruction, kl_divergence(exact, reverse))


def prior_kl(model: Diffusion, x: Array) -> Array:
    """KL(q(x_T | x_0) || N(0, I)) of one x, a scalar in nats."""
    schedule = model.schedule
    last = marginal(schedule, model.observation.scale(x), schedule.num_steps)
    return kl_divergence(last, DiagonalGaussian(jnp.zeros_like(last.loc), jnp.zeros(())))


def variational_diffusion(
    model: Diffusion, *, probabilities: Sequence[float] | np.ndarray | None = None
) -> Objective:
    """The one-term estimate of the negative bound, as an objective for `jax.grad`.

        loss = prior KL + term_t(x_t) / q(t),  t ~ q, x_t ~ q(x_t | x_0)

    Unbiased in value and gradient for any q > 0; its variance is least where q(t) is in proportion
    to sqrt(E[term_t^2]) (`term_probabilities`).

    Args:
        model: a diffusion model; with `clip=False`, since clipping has no gradient.
        probabilities: q(1), ..., q(T); uniform by default.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`: loss in nats, metrics "bound" (its negative)
        and "prior_kl".

    Raises:
        ValueError: probabilities that are not T positive numbers with sum one.

    Source: Sohl-Dickstein et al. 2015; Ho et al. 2020, section 3; Nichol & Dhariwal 2021, section
    3.3 (importance sampling).
    """
    num_steps = model.schedule.num_steps
    weights = _check_probabilities(probabilities, num_steps)

    def objective(params: Params, key: Key, x: Array) -> tuple[Array, Metrics]:
        t_key, noise_key = jax.random.split(key)
        t = _draw_step(t_key, jnp.asarray(weights, float))
        term = _noisy_term(model, params, noise_key, x, t)
        return _one_term_loss(model, x, term, jnp.asarray(weights, float)[t - 1])

    return objective


def term_probabilities(
    mean_squares: Array | np.ndarray, *, uniform_share: float = _UNIFORM_SHARE
) -> Array:
    """The q(t) of least variance for one-term estimates, mixed with a uniform one.

        q(t) = (1 - share) sqrt(E[term_t^2]) / sum_s sqrt(E[term_s^2]) + share / T

    Args:
        mean_squares: E[term_t^2] for t = 1..T, [T], up to a factor.
        uniform_share: keeps 1 / q(t) at most T / share, whatever the estimates of the squares.

    Returns:
        Probabilities, [T].

    Source: Nichol & Dhariwal 2021, equation 18.
    """
    sizes = jnp.sqrt(jnp.asarray(mean_squares, float))
    return (1 - uniform_share) * sizes / jnp.sum(sizes) + uniform_share / sizes.shape[0]


class AdaptiveDiffusion(NamedTuple):
    """What `training.stateful_gradient_descent` takes.

    Attributes:
        objective: `objective(params, state, key, batch) -> (loss, (state, metrics))`.
        init_state: `init_state(params, key) -> state`, a `TermStatistics`.
    """

    objective: StatefulObjective
    init_state: Callable[[Params, Key], PyTree]


class TermStatistics(NamedTuple):
    """Running means of the squared terms.

    Attributes:
        mean_squares: of term_t for t = 1..T, [T].
        is_seen: 1 where t has been drawn, 0 where not yet, [T].
    """

    mean_squares: Array
    is_seen: Array


def adaptive_variational_diffusion(model: Diffusion) -> AdaptiveDiffusion:
    """`variational_diffusion` whose q(t) follows the terms: `term_probabilities` of running means.

    A step that has not been drawn yet is taken to be as large as the largest one. Every estimate is
    unbiased, since q(t) depends on earlier batches only.

    Args:
        model: a diffusion model; with `clip=False`, since clipping has no gradient.

    Returns:
        The objective of a batch [B, num_dims] (metrics "bound" and "prior_kl"), and its initial
        state.

    Source: Nichol & Dhariwal 2021, section 3.3, with running means for their last ten terms.
    """
    num_steps = model.schedule.num_steps

    def init_state(params: Params, key: Key) -> TermStatistics:
        return TermStatistics(jnp.ones(num_steps), jnp.zeros(num_steps))

    def objective(
        params: Params, state: TermStatistics, key: Key, batch: Array
    ) -> tuple[Array, tuple[TermStatistics, Metrics]]:
        probabilities = term_probabilities(_optimistic(state))

        def one_example(key: Key, x: Array) -> tuple[Array, Array, Array, Metrics]:
            t_key, noise_key = jax.random.split(key)
            t = _draw_step(t_key, probabilities)
            term = _noisy_term(model, params, noise_key, x, t)
            loss, metrics = _one_term_loss(model, x, term, probabilities[t - 1])
            return loss, t, term, metrics

        keys = jax.random.split(key, batch.shape[0])
        losses, ts, terms, metrics = jax.vmap(one_example)(keys, batch)
        moved = _update(state, ts, jax.lax.stop_gradient(terms))
        return jnp.mean(losses), (moved, jax.tree.map(jnp.mean, metrics))

    return AdaptiveDiffusion(objective, init_state)


def simple_diffusion(model: Diffusion) -> Objective:
    """The mean squared error of the network's own prediction at a uniform t.

        loss = mean_d (target_d - output_d(x_t, t))^2,  target: the noise, x_0 or v

    With `prediction="noise"` it is the simple loss of Ho et al., their equation 14 per dimension:
    the terms of the bound less their weights, which makes better pictures of a worse bound. It is
    no bound, and not in nats; a network that knows nothing is at about 1.

    Args:
        model: a diffusion model.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`; the metrics are empty.

    Source: Ho et al. 2020, section 3.4.
    """
    schedule = model.schedule

    def objective(params: Params, key: Key, x: Array) -> tuple[Array, Metrics]:
        t_key, noise_key = jax.random.split(key)
        t = jax.random.randint(t_key, (), 1, schedule.num_steps + 1)
        x_0 = model.observation.scale(x)
        noise = jax.random.normal(noise_key, x_0.shape, x_0.dtype)
        signal = jnp.asarray(schedule.signal, float)[t]
        scale = jnp.asarray(schedule.noise_scale, float)[t]
        x_t = signal * x_0 + scale * noise
        targets = {"noise": noise, "x_0": x_0, "v": signal * noise - scale * x_0}
        output = getattr(model.predict(params, x_t, t), model.prediction)
        return jnp.mean(jnp.square(targets[model.prediction] - output)), {}

    return objective


def _stretches(num_steps: int, num_terms: int) -> tuple[np.ndarray, np.ndarray]:
    """Where K stretches of 1..T begin, and their lengths; the first is t = 1 alone."""
    least = min(num_steps, 2)
    if not hasattr(num_terms, "__index__") or not least <= num_terms <= num_steps:
        raise ValueError(f"num_terms must be an integer in {least}..{num_steps}, got {num_terms!r}")
    if num_steps == 1:
        return np.array([1]), np.array([1])
    ends = np.rint(np.linspace(2, num_steps + 1, num_terms)).astype(int)
    return np.concatenate([[1], ends[:-1]]), np.concatenate([[1], np.diff(ends)])


def _noisy_term(model: Diffusion, params: Params, key: Key, x: Array, t: Array) -> Array:
    """`diffusion_term` of a draw of x_t."""
    x_t = marginal(model.schedule, model.observation.scale(x), t).sample(seed=key)
    return diffusion_term(model, params, x, x_t, t)


def _one_term_loss(
    model: Diffusion, x: Array, term: Array, probability: Array
) -> tuple[Array, Metrics]:
    kl = prior_kl(model, x)
    loss = kl + term / probability
    return loss, jax.lax.stop_gradient({"bound": -loss, "prior_kl": kl})


def _draw_step(key: Key, probabilities: Array) -> Array:
    """t in 1..T by the inverse of its distribution function: one uniform number, whatever T."""
    ends = jnp.cumsum(probabilities)
    # Rounding must not leave a gap at the end.
    return 1 + jnp.searchsorted(ends[:-1], jax.random.uniform(key) * ends[-1], side="right")


def _optimistic(state: TermStatistics) -> Array:
    """The mean squares, with the largest of them for every step that has not been drawn yet."""
    is_seen = state.is_seen > 0
    largest = jnp.max(jnp.where(is_seen, state.mean_squares, 0))
    return jnp.where(is_seen, state.mean_squares, jnp.where(largest > 0, largest, 1.0))


def _update(state: TermStatistics, ts: Array, terms: Array) -> TermStatistics:
    """Running means, with the mean over the batch where a step was drawn more than once."""
    nothing = jnp.zeros_like(state.mean_squares)
    counts = nothing.at[ts - 1].add(1)
    new = nothing.at[ts - 1].add(jnp.square(terms)) / jnp.maximum(counts, 1)
    # A first value is taken as it is.
    rate = jnp.where(counts > 0, jnp.where(state.is_seen > 0, 1 - _DECAY, 1.0), 0.0)
    return TermStatistics(
        state.mean_squares + rate * (new - state.mean_squares),
        jnp.maximum(state.is_seen, jnp.minimum(counts, 1)),
    )


def _check_probabilities(
    probabilities: Sequence[float] | np.ndarray | None, num_steps: int
) -> np.ndarray:
    if probabilities is None:
        return np.full(num_steps, 1 / num_steps)
    values = np.asarray(probabilities, np.float64)
    if values.shape != (num_steps,):
        raise ValueError(f"probabilities must have shape [T] = ({num_steps},), got {values.shape}")
    if not (values > 0).all() or abs(values.sum() - 1) > 1e-4:
        raise ValueError(
            "probabilities must be positive with sum one, got a least one of"
            f" {values.min():g} and the sum {values.sum():g}"
        )
    return values / values.sum()

"""Adversarial learning: losses as functions of a critic's logit, and the objectives of two players.

A critic f tells examples of the data, x ~ p, from the model's samples, x ~ q:

    the critic minimises      E_p[critic_real(f(x))] + E_q[critic_fake(f(x))]
    the generator minimises   E_q[generator(f(x))]

Each loss is three functions of one logit. Minus the critic's loss, at its optimum, measures how far
q is from p.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.distributions.numerics import at_least_float32, softplus
from genjax_models.interfaces import (
    Array,
    ImplicitModel,
    Key,
    Metrics,
    Network,
    Objective,
    Params,
    PyTree,
)

LogitLoss = Callable[[Array], Array]
_PENALTIES = ("none", "interpolated", "data")


class AdversarialLoss(NamedTuple):
    """A pair of losses, as elementwise functions of the critic's logit; nothing overflows.

    Attributes:
        critic_real: the critic's loss on an example of the data.
        critic_fake: the critic's loss on a sample of the model.
        generator: the generator's loss on a sample of the model.
    """

    critic_real: LogitLoss
    critic_fake: LogitLoss
    generator: LogitLoss


def minimax() -> AdversarialLoss:
    """The zero-sum game, with D = 1 / (1 + e^-f).

        critic: -log D(x) on data, -log(1 - D(x)) on samples;  generator: log(1 - D(x))

    The best critic is f = log p / q, and its loss log 4 - 2 JSD(p, q).

    Returns:
        The loss.

    Source: Goodfellow et al. 2014 (Generative adversarial nets), equation 1 and theorem 1.
    """
    return AdversarialLoss(
        critic_real=lambda logit: softplus(-at_least_float32(logit)),
        critic_fake=lambda logit: softplus(at_least_float32(logit)),
        generator=lambda logit: -softplus(at_least_float32(logit)),
    )


def non_saturating() -> AdversarialLoss:
    """The critic of `minimax` against a generator whose gradient stays where the critic is sure.

        generator: -log D(x)

    At the best critic, held fixed, the generator's gradient is that of KL(q || p) - 2 JSD(p, q).

    Returns:
        The loss.

    Source: Goodfellow et al. 2014, section 3; Arjovsky & Bottou 2017 (Towards principled methods
    for training generative adversarial networks), theorem 2.5.
    """
    return minimax()._replace(generator=lambda logit: softplus(-at_least_float32(logit)))


def hinge() -> AdversarialLoss:
    """The hinge loss.

        critic: max(0, 1 - f(x)) on data, max(0, 1 + f(x)) on samples;  generator: -f(x)

    The best critic is f = sign(p - q), and its loss 2 (1 - TV(p, q)), with TV half the L1 distance.

    Returns:
        The loss.

    Source: Lim & Ye 2017 (Geometric GAN), section 3.
    """
    return AdversarialLoss(
        critic_real=lambda logit: jax.nn.relu(1 - at_least_float32(logit)),
        critic_fake=lambda logit: jax.nn.relu(1 + at_least_float32(logit)),
        generator=lambda logit: -at_least_float32(logit),
    )


def wasserstein() -> AdversarialLoss:
    """The dual of the Wasserstein-1 distance.

        critic: -f(x) on data, f(x) on samples;  generator: -f(x)

    Over all f of Lipschitz constant one the least loss of the critic is -W1(p, q). What keeps the
    constant near one is `gradient_penalty`.

    Returns:
        The loss.

    Source: Arjovsky et al. 2017 (Wasserstein GAN), equation 2.
    """
    return AdversarialLoss(
        critic_real=lambda logit: -at_least_float32(logit),
        critic_fake=lambda logit: at_least_float32(logit),
        generator=lambda logit: -at_least_float32(logit),
    )


def least_squares(*, a: float = -1.0, b: float = 1.0, c: float = 0.0) -> AdversarialLoss:
    """Squared distances to codes: a for samples, b for data, c for what the generator wants.

        critic: (f(x) - b)^2 / 2 on data, (f(x) - a)^2 / 2 on samples
        generator: (f(x) - c)^2 / 2

    The best critic is f = (b p + a q) / (p + q). Where b - c = 1 and b - a = 2, as by default,
    E_p[(f - c)^2] + E_q[(f - c)^2] is then the Pearson chi-square divergence of p + q and 2 q,
    the integral of (q - p)^2 / (p + q).

    Args:
        a: code of samples.
        b: code of data.
        c: what the generator wants the critic to say of its samples.

    Returns:
        The loss.

    Raises:
        ValueError: a code is not finite, or a = b.

    Source: Mao et al. 2017 (Least squares generative adversarial networks), equations 2 and 9.
    """
    if not all(math.isfinite(code) for code in (a, b, c)) or a == b:
        raise ValueError(f"a, b and c must be finite and a must differ from b, got {(a, b, c)}")

    def distance_to(code: float) -> LogitLoss:
        return lambda logit: 0.5 * jnp.square(at_least_float32(logit) - code)

    return AdversarialLoss(distance_to(b), distance_to(a), distance_to(c))


def by_name(name: str) -> AdversarialLoss:
    """A loss by its name, with its default settings.

    Args:
        name: "minimax", "non_saturating", "hinge", "wasserstein" or "least_squares".

    Returns:
        The loss.

    Raises:
        ValueError: an unknown name.
    """
    factories = (minimax, non_saturating, hinge, wasserstein, least_squares)
    by_name = {factory.__name__: factory for factory in factories}
    if name not in by_name:
        raise ValueError(f"loss must be one of {list(by_name)}, got {name!r}")
    return by_name[name]()


def gradient_penalty(critic: Callable[[PyTree], Array], x: PyTree, *, target: float = 1.0) -> Array:
    """How far the norm of the critic's gradient at one point is from a target.

        (||grad_x f(x)||_2 - target)^2

    Args:
        critic: `critic(x) -> []`, the logit.
        x: one point; floating-point leaves.
        target: of the norm: 1 for a Lipschitz constant of one, 0 for a flat critic.

    Returns:
        The penalty, a scalar. Its own gradient is finite where the critic's vanishes.

    Source: Gulrajani et al. 2017 (Improved training of Wasserstein GANs), equation 3 (target 1);
    Mescheder et al. 2018 (Which training methods for GANs do actually converge?), equation 9
    (target 0).
    """
    gradient = jax.grad(critic)(x)
    squares = (jnp.sum(jnp.square(at_least_float32(leaf))) for leaf in jax.tree.leaves(gradient))
    squared_norm = sum(squares, jnp.zeros(()))
    # The square root has no finite derivative at zero: its argument is replaced there, and so is
    # its result.
    positive = squared_norm > 0
    norm = jnp.where(positive, jnp.sqrt(jnp.where(positive, squared_norm, 1.0)), 0.0)
    return (norm - target) ** 2


def interpolate(key: Key, real: PyTree, fake: PyTree) -> PyTree:
    """A point drawn uniformly from the segment between an example and a sample.

        u real + (1 - u) fake,  u ~ U(0, 1)

    Args:
        key: PRNG key.
        real: one example of the data.
        fake: one sample of the model, of the same structure.

    Returns:
        One point.

    Source: Gulrajani et al. 2017, algorithm 1.
    """
    weight = jax.random.uniform(key)
    return jax.tree.map(lambda ours, theirs: weight * ours + (1 - weight) * theirs, real, fake)


class AdversarialGame(NamedTuple):
    """The objectives of two players, each differentiated in its first argument.

    Attributes:
        generator: `generator(params, critic_params, key, x) -> (loss, metrics)`; x is not used.
        critic: `critic(critic_params, params, key, x) -> (loss, metrics)`, of one example and one
            sample. Metrics: "real_logit", "fake_logit" and, where there is one,
            "gradient_penalty", before its weight.
    """

    generator: Objective
    critic: Objective


def adversarial_game(
    model: ImplicitModel,
    critic: Network,
    loss: AdversarialLoss,
    *,
    penalty: str = "none",
    penalty_weight: float = 10.0,
) -> AdversarialGame:
    """The objectives of a generator and a critic, for `training.alternating`.

    The penalty on the critic's gradient, which the generator's objective is without, is

    - "none": none.
    - "interpolated": weight (||grad f|| - 1)^2 between the example and the sample (WGAN-GP).
    - "data": weight / 2 ||grad f||^2 at the example (R1).

    Args:
        model: the generator, or any other model that can be sampled.
        critic: from one example to one logit.
        loss: e.g. `non_saturating()`.
        penalty: "none", "interpolated" or "data"; it goes with any loss.
        penalty_weight: of the penalty; not below zero.

    Returns:
        The objectives of both players.

    Raises:
        ValueError: an unknown penalty or a negative weight; from the objectives: samples of
            another shape than the example, or logits that are no scalars.

    Source: Goodfellow et al. 2014, algorithm 1; Gulrajani et al. 2017 ("interpolated");
    Mescheder et al. 2018 ("data").
    """
    if penalty not in _PENALTIES:
        raise ValueError(f"penalty must be one of {list(_PENALTIES)}, got {penalty!r}")
    if not penalty_weight >= 0:
        raise ValueError(f"penalty_weight must not be negative, got {penalty_weight}")

    def generator_objective(
        params: Params, critic_params: Params, key: Key, x: PyTree
    ) -> tuple[Array, Metrics]:
        return loss.generator(_logit(critic, critic_params, model.sample(params, key))), {}

    def critic_objective(
        critic_params: Params, params: Params, key: Key, x: PyTree
    ) -> tuple[Array, Metrics]:
        sample_key, point_key = jax.random.split(key)
        fake = jax.lax.stop_gradient(model.sample(params, sample_key))
        _check_alike(fake, x)
        real_logit = _logit(critic, critic_params, x)
        fake_logit = _logit(critic, critic_params, fake)
        value = loss.critic_real(real_logit) + loss.critic_fake(fake_logit)
        metrics = {"real_logit": real_logit, "fake_logit": fake_logit}
        if penalty != "none":
            interpolated = penalty == "interpolated"
            metrics["gradient_penalty"] = gradient_penalty(
                lambda point: critic.apply(critic_params, point),
                interpolate(point_key, x, fake) if interpolated else x,
                target=1.0 if interpolated else 0.0,
            )
            weight = penalty_weight if interpolated else penalty_weight / 2
            value = value + weight * metrics["gradient_penalty"]
        return value, jax.lax.stop_gradient(metrics)

    return AdversarialGame(generator_objective, critic_objective)


def _logit(critic: Network, critic_params: Params, x: PyTree) -> Array:
    logit = critic.apply(critic_params, x)
    if jnp.shape(logit) != ():
        raise ValueError(f"critic must give one logit, a scalar, got shape {jnp.shape(logit)}")
    return logit


def _check_alike(fake: PyTree, x: PyTree) -> None:
    ours, theirs = (jax.tree.map(jnp.shape, tree) for tree in (fake, x))
    if ours != theirs:
        raise ValueError(f"samples must have the shape of an example, {theirs}, got {ours}")

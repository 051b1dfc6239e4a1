"""The ELBO of discrete latents, trained through continuous ones."""

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
from genjax_models.learning import bounds
from genjax_models.learning.first_order import first_order, gradient_of
from genjax_models.learning.gradients.core import held
from genjax_models.learning.gradients.relaxations import Relaxation, relaxation
from genjax_models.learning.importance import (
    bound_metrics,
    check_log_prob,
    check_num_samples,
    check_weights,
    scalar_log_prob,
)

_KLS = ("analytic", "monte_carlo")


def relaxed(
    model: LatentVariableModel,
    *,
    straight_through: bool = False,
    kl: str = "analytic",
    num_samples: int = 1,
) -> Objective:
    """The negative ELBO of binary or one-hot latents, with the gradient of a relaxation. BIASED.

        y = (a + noise) / temperature,  a the logits of q(z | x)
        soft(y) = softmax of every row of y with Gumbel noise, or sigmoid(y) with logistic noise
        z = hard(y): one-hot(argmax) of every row, or 1[y > 0]: a draw of q(z | x)

        loss = -log p(x | z) + beta KL(q(z | x) || p(z))
        gradient of -log p(x | soft(y)) + beta KL

    The loss and the metric "bound" are of the discrete z, and estimate the ELBO of the model
    itself without bias; the relaxed value is the metric "relaxed_bound", which bounds nothing. The
    gradient is biased, by the order of the temperature where p(x | z) is not linear in z, and its
    variance grows as the temperature falls. With `straight_through=True` the decoder sees z and its
    derivative goes on through soft(y), which is cheaper by a forward pass. Its bias stays as the
    temperature goes to zero, unless log p(x | z) is quadratic: of one binary variable the limit is
    the mean of the slopes at its ends, in place of the slope between them.

    The estimators "rloo", "vimco_geometric" and so on of `learning.variational` have no bias.

    Args:
        model: a latent-variable model whose posterior is a Bernoulli or one-hot categorical
            distribution over one array, of ours or of distrax, and whose likelihood takes numbers
            between zero and one as well.
        straight_through: the discrete sample forwards, the relaxed one backwards.
        kl: "analytic" for a pair that `kl_divergence` knows; or "monte_carlo", with log q(z | x) -
            log p(z) at the samples, and at soft(y) in the gradient: the logarithms of the masses,
            as they continue between zero and one.
        num_samples: K >= 1 samples, over which all is averaged.

    Returns:
        `objective(params, key, x, *, temperature=1.0, beta=1.0) -> (loss, metrics)`: loss in nats,
        to be minimised, and metrics "bound" (with beta = 1: a lower bound on log p(x)),
        "log_likelihood", "kl_divergence", "relaxed_bound" and "temperature". A schedule of
        `training.gradient_descent` fills in the temperature; one that falls to zero or below makes
        loss and gradient NaN.

    Raises:
        ValueError: an unknown KL, K < 1, or (from the objective, where its value is known) a
            temperature that is not above zero, or a beta that is negative or not finite.
        TypeError: (from the objective) a posterior of another kind, or a pair without a KL in
            closed form.

    Source: Jang et al. 2017 (Categorical reparameterization with Gumbel-softmax), with
    straight-through in section 2.2; Maddison et al. 2017 (The concrete distribution).
    """
    if kl not in _KLS:
        raise ValueError(f"kl must be one of {list(_KLS)}, got {kl!r}")
    check_num_samples(num_samples)

    def objective(
        params: Params,
        key: Key,
        x: PyTree,
        *,
        temperature: float | Array = 1.0,
        beta: float | Array = 1.0,
    ) -> tuple[Array, Metrics]:
        check_weights(beta=beta)
        _check_temperature(temperature)
        variables = relaxation("relaxed", lambda params: model.posterior(params, x), params)
        positive = _positive(temperature, variables)

        def parts(z: Array) -> tuple[Array, Array]:
            return _parts(model, params, x, z, kl)

        def draw(key: Key) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
            noisy = variables.logits + variables.noise(key)
            hard, soft = held(variables.hard(noisy)), variables.soft(noisy, positive)
            if straight_through:
                found = parts(hard + (soft - held(soft)))
                return held(found), found
            return held(parts(hard)), parts(soft)

        discrete, soft = jax.vmap(draw)(jax.random.split(key, num_samples))
        (log_likelihood, divergence), (soft_log_likelihood, soft_divergence) = discrete, soft
        loss = jnp.mean(beta * divergence - log_likelihood)
        of_gradient = jnp.mean(beta * soft_divergence - soft_log_likelihood)
        metrics = bound_metrics(bounds.elbo, log_likelihood, divergence)
        metrics["relaxed_bound"] = held(jnp.mean(soft_log_likelihood - soft_divergence))
        metrics["temperature"] = positive
        # The last term is zero, or NaN.
        return first_order(loss + gradient_of(of_gradient) + 0 * positive), metrics

    return objective


def _parts(
    model: LatentVariableModel, params: Params, x: PyTree, z: Array, kl: str
) -> tuple[Array, Array]:
    """log p(x | z) and the divergence, in closed form or at z."""
    log_likelihood = scalar_log_prob("likelihood", model.likelihood(params, z).log_prob(x))
    prior, posterior = model.prior(params), model.posterior(params, x)
    if kl == "analytic":
        return log_likelihood, kl_divergence(posterior, prior)
    log_posterior = check_log_prob(posterior, "relaxed").log_prob(z)
    log_prior = scalar_log_prob("prior", prior.log_prob(z))
    return log_likelihood, scalar_log_prob("posterior", log_posterior) - log_prior


def _check_temperature(temperature: float | Array) -> None:
    """Raise a `ValueError` unless the temperature is above zero, where it is known."""
    if not isinstance(temperature, jax.core.Tracer) and not 0 < float(temperature) < float("inf"):
        raise ValueError(f"temperature must be finite and above zero, got {temperature}")


def _positive(temperature: float | Array, variables: Relaxation) -> Array:
    """The temperature, NaN unless it is above zero: a scheduled one is not known beforehand."""
    value = jnp.asarray(temperature, variables.logits.dtype)
    return held(jnp.where(value > 0, value, jnp.nan))

"""Path derivatives: what is left of a pathwise gradient without the score of the posterior.

With v_k = d bound / d log w_k, the gradient of a bound is

    sum_k v_k [grad_theta log p(x, z_k) + d log w_k / d z_k  grad_phi z_k - grad_phi log q(z_k | x)]

where theta are the parameters as the prior and the likelihood see them and phi as the posterior
sees them; a parameter that both see gets the sum of its two derivatives. The last term, the score,
holds z_k constant. Its expectation is that of a path derivative (integrate by parts in z_k),

    E[v_k grad_phi log q(z_k | x)] = E[d v_k / d log w_k  d log w_k / d z_k  grad_phi z_k],

so it may be left out if the path is weighted by v_k - d v_k / d log w_k instead of v_k: that is the
doubly reparameterised gradient. For the ELBO v_k is constant: sticking the landing. As q nears the
exact posterior, log w_k no longer depends on z_k, and the variance goes to zero.

The model is evaluated once. Its backward pass runs with the weights v_k, which is what theta wants,
and an identity between sampler and model scales the cotangent of z_k on its way to phi.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, Key, LatentVariableModel, Params, PyTree
from genjax_models.learning import bounds
from genjax_models.learning.bounds import Bound
from genjax_models.learning.importance import WeightParts, check_log_prob, check_pathwise
from genjax_models.learning.importance import scalar_log_prob as scalar


@jax.custom_vjp
def scale_cotangent(value: PyTree, slot: Array) -> tuple[PyTree, Array]:
    """The identity, whose backward pass multiplies the cotangent of `value` by that of `slot`.

    So a factor that is only known once the rest of the forward pass is done can act on a
    cotangent: `send_factors` gives it to the slot. Under `vmap` the slot must be mapped whenever
    the factor will be (make it with `zero_slot`), or the factors of all examples are summed before
    they get here.

    Args:
        value: a pytree of floating-point arrays.
        slot: a scalar zero.

    Returns:
        Both, as they are.
    """
    # Mapped where the slot is, so that cotangents arrive one by one; XLA removes the choice.
    return jax.tree.map(lambda leaf: jnp.where(slot == 0, leaf, leaf), value), slot


def _scale_forward(value: PyTree, slot: Array) -> tuple[tuple[PyTree, Array], None]:
    return scale_cotangent(value, slot), None


def _scale_backward(_: None, cotangents: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
    cotangent, factor = cotangents

    def scale(leaf: Array) -> Array:
        # A sample without weight has no say, even where its derivative is not finite.
        return jnp.where(factor == 0, 0, leaf * factor).astype(leaf.dtype)

    return jax.tree.map(scale, cotangent), jnp.zeros_like(factor)


scale_cotangent.defvjp(_scale_forward, _scale_backward)


@jax.custom_vjp
def send_factors(slots: Array, factors: Array) -> Array:
    """Zero, to be added to the loss; its backward pass gives each slot its factor as cotangent.

    Whatever scales or negates the loss afterwards scales the cotangents of the values, and must
    not scale the factors as well.

    Args:
        slots: zeros that `scale_cotangent` gave, [K].
        factors: what the cotangents of the K values are multiplied by, [K], of the slots' dtype.

    Returns:
        A scalar zero.
    """
    return jnp.sum(slots)


def _send_forward(slots: Array, factors: Array) -> tuple[Array, Array]:
    return jnp.sum(slots), factors


def _send_backward(factors: Array, _: Array) -> tuple[Array, Array]:
    return factors, jnp.zeros_like(factors)


send_factors.defvjp(_send_forward, _send_backward)


def zero_slot(*sources: PyTree, dtype: jnp.dtype) -> Array:
    """A scalar zero that depends on every leaf of `sources`, as far as `vmap` can tell."""
    is_any = sum(jnp.sum(leaf == leaf) for leaf in jax.tree.leaves(sources)) == 0
    # Both branches are zero, so that XLA computes nothing.
    return jnp.where(is_any, jnp.zeros((), dtype), jnp.zeros((), dtype))


def path_sampler(
    model: LatentVariableModel, params: Params, x: PyTree, beta: float | Array, estimator: str
) -> Callable[[Key], WeightParts]:
    """Draws of log weights without the score: parameters inside log q(z | x) are constants.

    Args:
        model: a latent-variable model with reparameterised samples and a `log_prob` of q.
        params: its parameters.
        x: one example.
        beta: weight of the KL term, which the factors of "dreg" depend on.
        estimator: its name, for errors. "dreg" also lets the slot of each sample scale the
            cotangent of z.

    Returns:
        `draw(key) -> WeightParts` of one sample.

    Raises:
        TypeError: samples that are not reparameterised, or no `log_prob`.
    """
    prior, posterior = model.prior(params), model.posterior(params, x)
    check_pathwise(posterior, estimator)
    frozen = check_log_prob(model.posterior(jax.lax.stop_gradient(params), x), estimator)

    def draw(key: Key) -> WeightParts:
        z = posterior.sample(seed=key)
        dtype = jnp.promote_types(jax.tree.leaves(z)[0].dtype, jnp.float32)
        slot = zero_slot(z, params, x, beta, dtype=dtype)
        if estimator == "dreg":
            z, slot = scale_cotangent(z, slot)
        return WeightParts(
            scalar("likelihood", model.likelihood(params, z).log_prob(x)),
            scalar("prior", prior.log_prob(z)),
            scalar("posterior", frozen.log_prob(z)),
            slot,
        )

    return draw


def check_path_bound(bound: Bound, estimator: str) -> None:
    """Raise a `ValueError` that says why, where a path derivative of the bound makes no sense."""
    function, keywords = bounds.resolve(bound)
    if estimator == "sticking_the_landing" and function is not bounds.elbo:
        raise ValueError(
            'estimator "sticking_the_landing" is for bound=bounds.elbo: the score that it leaves'
            " out has expectation zero only where all samples weigh the same (Tucker et al. 2019,"
            ' section 3): use estimator="dreg", which replaces it'
        )
    is_renyi_max = function is bounds.renyi and keywords.get("alpha") == -math.inf
    if estimator == "dreg" and (function is bounds.vr_max or is_renyi_max):
        raise ValueError(
            'estimator "dreg" needs weights that are differentiable in z, but those of VR-max jump'
            ' between 0 and 1: use estimator="pathwise", or bounds.renyi with a finite alpha'
        )


def path_factors(bound: Bound, log_weights: Array, beta: float | Array) -> Array:
    """What the cotangent of each z_k is multiplied by, 1 - beta v'_k / v_k, shape [K].

    v_k = d bound / d log w_k and v'_k its derivative in log w_k. For IWAE this is the normalised
    weight; for Renyi bounds alpha + (1 - alpha) times the normalised power of the weight; for the
    ELBO one. Other bounds are differentiated twice (they must be smooth), in memory K^2.
    """
    log_weights = jax.lax.stop_gradient(log_weights)
    function, keywords = bounds.resolve(bound)
    alpha = {bounds.elbo: 1.0, bounds.iwae: 0.0}.get(function)
    if function is bounds.renyi:
        alpha = keywords.get("alpha")
    elif function is bounds.cubo:
        alpha = 1 - keywords.get("order", 2.0)
    weights = jax.grad(bound)(log_weights)
    if alpha is not None:
        return 1 - beta * (1 - alpha) * (1 - weights)

    def own_curvature(basis: Array) -> Array:
        return jnp.sum(basis * jax.jvp(jax.grad(bound), (log_weights,), (basis,))[1])

    curvatures = jax.vmap(own_curvature)(jnp.eye(len(log_weights), dtype=log_weights.dtype))
    # Where a sample has no weight its curvature is zero as well.
    return 1 - beta * jnp.where(weights == 0, 1, curvatures / jnp.where(weights == 0, 1, weights))

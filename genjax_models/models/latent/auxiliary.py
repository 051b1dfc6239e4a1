"""Pairs of variables, and posteriors in which one of a pair is there to enrich the other."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from genjax_models.distributions import Chain, Marginal
from genjax_models.interfaces import Array, Distribution, Key, Params, PyTree
from genjax_models.models.latent.hierarchies import of_layers
from genjax_models.models.latent.parts import Conditional


def pair(first: Conditional, second: Conditional, *, skip: bool = False) -> Conditional:
    """p(u | x) p(v | u), or p(u | x) p(v | u, x), over the pair (u, v).

    Args:
        first: p(u | x), of the vector x; a tuple of vectors is concatenated.
        second: p(v | .), of the vector u, or of the concatenation (u, x).
        skip: whether v is given x beside u.

    Returns:
        The conditional; its parameters are {"first", "second"}.
    """

    def init(key: Key) -> Params:
        first_key, second_key = jax.random.split(key)
        return {"first": first.init(first_key), "second": second.init(second_key)}

    def draw_second(params: Params, given: tuple[Array, ...], drawn: tuple[Array]) -> Distribution:
        return second.distribution(params, jnp.concatenate([*drawn, *given]))

    def distribution(params: Params, x: PyTree) -> Chain:
        vectors = x if isinstance(x, tuple) else (x,)
        given = vectors if skip else ()
        return Chain(
            first.distribution(params["first"], jnp.concatenate(vectors)),
            (Partial(draw_second, params["second"], given),),
        )

    return Conditional(init, distribution)


def auxiliary(mixing: Conditional, given: Conditional, reverse: Conditional) -> Conditional:
    """q(z | x), the integral over a of q(a | x) q(z | a, x).

    The integral is not known: a draw's log-probability is log q(a | x) + log q(z | a, x) -
    log r(a | z, x), with a reverse model r that makes the bound on log p(x) a looser one, the
    tighter the nearer it is to q(a | z, x). In a model p(z) p(x | z) p(a | z, x), whose marginal
    p(x, z) does not depend on the last factor, that factor is r.

    Args:
        mixing: q(a | x), of a vector x.
        given: q(z | a, x), of the concatenation (a, x).
        reverse: r(a | z, x), of the concatenation (z, x).

    Returns:
        The posterior; its parameters are {"joint", "reverse"}. It has no `log_prob`.

    Source: Maaloe et al. 2016 (Auxiliary deep generative models); Agakov & Barber
    2004 (An auxiliary variational method) for the bound.
    """
    joint, reverse = pair(mixing, given, skip=True), of_layers(reverse, skip=True)

    def init(key: Key) -> Params:
        joint_key, reverse_key = jax.random.split(key)
        return {"joint": joint.init(joint_key), "reverse": reverse.init(reverse_key)}

    def draw_auxiliary(params: Params, x: Array, z: Array) -> Distribution:
        return reverse.distribution(params, (z, x))

    def distribution(params: Params, x: Array) -> Marginal:
        return Marginal(
            joint.distribution(params["joint"], x), Partial(draw_auxiliary, params["reverse"], x)
        )

    return Conditional(init, distribution)

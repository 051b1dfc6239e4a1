"""Latent-variable models of one variable given another, the context."""

from collections.abc import Callable
from typing import NamedTuple

from genjax_models.interfaces import Distribution, Key, LatentVariableModel, Params, PyTree


class ConditionalLatentVariableModel(NamedTuple):
    """p(y | c) = integral of p(z | c) p(y | z, c), with an approximate posterior q(z | y, c).

    Attributes:
        init: `init(key) -> params`.
        prior: `prior(params, context) -> p(z | c)`.
        likelihood: `likelihood(params, z, context) -> p(y | z, c)`.
        posterior: `posterior(params, y, context) -> q(z | y, c)`.
    """

    init: Callable[[Key], Params]
    prior: Callable[[Params, PyTree], Distribution]
    likelihood: Callable[[Params, PyTree, PyTree], Distribution]
    posterior: Callable[[Params, PyTree, PyTree], Distribution]


def condition(model: ConditionalLatentVariableModel, context: PyTree) -> LatentVariableModel:
    """The model of y for one context, which everything of a latent-variable model is made for.

    Args:
        model: of y given a context.
        context: one.

    Returns:
        The latent-variable model; its parameters are the same.
    """
    return LatentVariableModel(
        model.init,
        lambda params: model.prior(params, context),
        lambda params, z: model.likelihood(params, z, context),
        lambda params, y: model.posterior(params, y, context),
    )

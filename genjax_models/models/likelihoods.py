"""Likelihoods p(x | z) as parts: from the outputs of a decoder to a distribution over x."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from genjax_models.distributions import Bernoulli, DiagonalGaussian, DiscretizedLogistic
from genjax_models.interfaces import Array, Distribution, Key, Params


class Likelihood(NamedTuple):
    """How the outputs of a decoder become a distribution over x.

    Attributes:
        num_outputs_per_dim: how many numbers the decoder gives for each dimension of x.
        init: `init(key) -> params` of the likelihood itself, beside the decoder's.
        distribution: `distribution(params, outputs) -> p(x | z)`, from outputs
            [num_outputs_per_dim * num_dims], one block of num_dims after the other.
    """

    num_outputs_per_dim: int
    init: Callable[[Key], Params]
    distribution: Callable[[Params, Array], Distribution]


def bernoulli() -> Likelihood:
    """Binary x in {0, 1}; the outputs are logits.

    Returns:
        The likelihood, with one output for each dimension.
    """
    return Likelihood(1, lambda key: {}, lambda params, outputs: Bernoulli(outputs))


def gaussian() -> Likelihood:
    """Real x; the outputs are means, and one learned scale is shared by all dimensions.

    A scale for each dimension has no maximum of the likelihood on data with a constant dimension,
    such as the corner pixels of an image; the shared one does.

    Returns:
        The likelihood, with one output for each dimension.

    Source: Rybkin et al. 2021 (Simple and effective VAE training with calibrated decoders).
    """
    return Likelihood(
        1,
        lambda key: {"log_scale": jnp.zeros(())},
        lambda params, outputs: DiagonalGaussian(outputs, params["log_scale"]),
    )


def discretized_logistic(num_levels: int) -> Likelihood:
    """Grey levels k/(L-1) in [0, 1]; the outputs are location and log scale of each dimension.

    The location starts around mid-grey and the scale around e^-2.

    Args:
        num_levels: L, e.g. 17 for scikit-learn's digits and 256 for MNIST.

    Returns:
        The likelihood, with two outputs for each dimension.

    Raises:
        ValueError: fewer than two levels.
    """
    if num_levels < 2:
        raise ValueError(f"num_levels must be at least 2, got {num_levels}")

    def distribution(params: Params, outputs: Array) -> Distribution:
        loc, log_scale = jnp.split(outputs, 2)
        return DiscretizedLogistic(loc + 0.5, log_scale - 2.0, num_levels)

    return Likelihood(2, lambda key: {}, distribution)


def by_name(name: str, *, num_levels: int | None = None) -> Likelihood:
    """A likelihood by its name.

    Args:
        name: "bernoulli", "gaussian" or "discretized_logistic".
        num_levels: number of grey levels; for "discretized_logistic" only, which needs it.

    Returns:
        The likelihood.

    Raises:
        ValueError: an unknown name, or `num_levels` missing or out of place.
    """
    if name == "discretized_logistic":
        if num_levels is None:
            raise ValueError(
                'likelihood "discretized_logistic" needs num_levels, the number of grey levels'
                " (17 for digits, 256 for MNIST)"
            )
        return discretized_logistic(num_levels)
    factories = {"bernoulli": bernoulli, "gaussian": gaussian}
    if name not in factories:
        names = [*factories, "discretized_logistic"]
        raise ValueError(f"likelihood must be one of {names}, got {name!r}")
    if num_levels is not None:
        raise ValueError(f'num_levels is for likelihood "discretized_logistic", not {name!r}')
    return factories[name]()


def resolve(likelihood: str | Likelihood, *, num_levels: int | None = None) -> Likelihood:
    """A likelihood that is given by its name or as it is.

    Args:
        likelihood: a name that `by_name` knows, or a likelihood.
        num_levels: number of grey levels, for a name that needs it.

    Returns:
        The likelihood.

    Raises:
        ValueError: as of `by_name`, or `num_levels` beside a likelihood that is no name.
    """
    if isinstance(likelihood, str):
        return by_name(likelihood, num_levels=num_levels)
    if num_levels is not None:
        raise ValueError("num_levels is for a likelihood that is given by its name")
    return likelihood

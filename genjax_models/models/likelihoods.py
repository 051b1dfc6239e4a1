"""Likelihoods p(x | z) as parts: from the outputs of a decoder to a distribution over x."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from genjax_models.checks import check_sizes
from genjax_models.distributions import (
    Bernoulli,
    CategoricalLevels,
    DiagonalGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
)
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
    _check_num_levels(num_levels)

    def distribution(params: Params, outputs: Array) -> Distribution:
        loc, log_scale = jnp.split(outputs, 2)
        return DiscretizedLogistic(loc + 0.5, log_scale - 2.0, num_levels)

    return Likelihood(2, lambda key: {}, distribution)


def discretized_logistic_mixture(num_levels: int, num_components: int = 5) -> Likelihood:
    """Grey levels k/(L-1) in [0, 1], each of a mixture of discretised logistics.

    The outputs are log weights, locations and log scales, a block of num_dims for each component
    of each. The locations start evenly spaced in [0, 1], the scales around e^-2 / num_components.

    Args:
        num_levels: L, e.g. 17 for scikit-learn's digits and 256 for MNIST.
        num_components: logistics of each dimension's mixture.

    Returns:
        The likelihood, with 3 * num_components outputs for each dimension.

    Raises:
        ValueError: fewer than two levels, or no component.

    Source: Salimans et al. 2017 (PixelCNN++), section 2.1.
    """
    _check_num_levels(num_levels)
    check_sizes(num_components=num_components)
    start = ((np.arange(num_components) + 0.5) / num_components)[:, None]

    def distribution(params: Params, outputs: Array) -> Distribution:
        logits, loc, log_scale = outputs.reshape(3, num_components, -1)
        log_scale = log_scale - 2.0 - np.log(num_components)
        return DiscretizedLogisticMixture(logits, loc + start, log_scale, num_levels)

    return Likelihood(3 * num_components, lambda key: {}, distribution)


def categorical(num_levels: int) -> Likelihood:
    """Grey levels k/(L-1) in [0, 1], with a probability of its own for each; outputs are logits.

    Nothing says that neighbouring levels are alike, and 256 levels make the decoder's last layer
    256 times as large as that of a Bernoulli.

    Args:
        num_levels: L, e.g. 17 for scikit-learn's digits and 256 for MNIST.

    Returns:
        The likelihood, with num_levels outputs for each dimension.

    Raises:
        ValueError: fewer than two levels.

    Source: van den Oord et al. 2016 (Pixel recurrent neural networks), section 2.2.
    """
    _check_num_levels(num_levels)
    return Likelihood(
        num_levels,
        lambda key: {},
        lambda params, outputs: CategoricalLevels(outputs.reshape(num_levels, -1)),
    )


_PLAIN: dict[str, Callable[[], Likelihood]] = {"bernoulli": bernoulli, "gaussian": gaussian}
_OF_LEVELS: dict[str, Callable[[int], Likelihood]] = {
    "discretized_logistic": discretized_logistic,
    "discretized_logistic_mixture": discretized_logistic_mixture,
    "categorical": categorical,
}


def needs_num_levels(name: str) -> bool:
    """Whether the likelihood of this name is of grey levels, and `by_name` wants their number.

    Args:
        name: of a likelihood.

    Returns:
        True if it is.
    """
    return name in _OF_LEVELS


def by_name(name: str, *, num_levels: int | None = None) -> Likelihood:
    """A likelihood by its name.

    Args:
        name: "bernoulli" or "gaussian"; or, of grey levels, "discretized_logistic",
            "discretized_logistic_mixture" (of five components) or "categorical".
        num_levels: number of grey levels; for the likelihoods of grey levels, which need it.

    Returns:
        The likelihood.

    Raises:
        ValueError: an unknown name, or `num_levels` missing or out of place.
    """
    if name in _OF_LEVELS:
        if num_levels is None:
            raise ValueError(
                f'likelihood "{name}" needs num_levels, the number of grey levels (17 for digits,'
                " 256 for MNIST)"
            )
        return _OF_LEVELS[name](num_levels)
    if name not in _PLAIN:
        raise ValueError(f"likelihood must be one of {[*_PLAIN, *_OF_LEVELS]}, got {name!r}")
    if num_levels is not None:
        raise ValueError(f"num_levels is for likelihood {' or '.join(_OF_LEVELS)}, not {name!r}")
    return _PLAIN[name]()


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


def _check_num_levels(num_levels: int) -> None:
    if num_levels < 2:
        raise ValueError(f"num_levels must be at least 2, got {num_levels}")

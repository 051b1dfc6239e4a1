"""How data lie on the line on which a diffusion runs, and p(x | x_1) from the last reverse step."""

import math
from collections.abc import Callable
from typing import NamedTuple

from genjax_models.distributions import DiagonalGaussian, DiscretizedGaussian
from genjax_models.distributions.discretized_gaussian import round_to_levels
from genjax_models.interfaces import Array, Distribution


class Observation(NamedTuple):
    """From data x to the start x_0 of the chain, and back.

    Attributes:
        scale: `scale(x) -> x_0`.
        unscale: `unscale(x_0) -> x`, its inverse.
        nearest: `nearest(x_0) -> x_0`, the nearest that data can be.
        distribution: from the last reverse step, a Gaussian over x_0, to p(x | x_1).
        bounded: x_0 is in [-1, 1], to which predictions of it may be clipped.
    """

    scale: Callable[[Array], Array]
    unscale: Callable[[Array], Array]
    nearest: Callable[[Array], Array]
    distribution: Callable[[DiagonalGaussian], Distribution]
    bounded: bool


def gaussian() -> Observation:
    """Real x = x_0, and p(x | x_1) is the Gaussian itself; scale the data to variance about 1.

    Returns:
        The observation.
    """
    return Observation(
        scale=lambda x: x,
        unscale=lambda x_0: x_0,
        nearest=lambda x_0: x_0,
        distribution=lambda reverse: reverse,
        bounded=False,
    )


def discretized_gaussian(num_levels: int) -> Observation:
    """Grey levels x = k/(L-1), x_0 = 2 x - 1; p(x | x_1) is the Gaussian's mass around the level.

    Args:
        num_levels: L, e.g. 17 for scikit-learn's digits and 256 for MNIST.

    Returns:
        The observation.

    Raises:
        ValueError: fewer than two levels.

    Source: Ho et al. 2020, section 3.3.
    """
    if num_levels < 2:
        raise ValueError(f"num_levels must be at least 2, got {num_levels}")

    def unscale(x_0: Array) -> Array:
        return (x_0 + 1) / 2

    def distribution(reverse: DiagonalGaussian) -> Distribution:
        return DiscretizedGaussian(
            unscale(reverse.loc), reverse.log_scale - math.log(2), num_levels
        )

    return Observation(
        scale=lambda x: 2 * x - 1,
        unscale=unscale,
        nearest=lambda x_0: 2 * round_to_levels(unscale(x_0), num_levels) - 1,
        distribution=distribution,
        bounded=True,
    )


def by_name(name: str, *, num_levels: int | None = None) -> Observation:
    """An observation by its name.

    Args:
        name: "gaussian" or "discretized_gaussian".
        num_levels: number of grey levels; for "discretized_gaussian" only, which needs it.

    Returns:
        The observation.

    Raises:
        ValueError: an unknown name, or `num_levels` missing or out of place.
    """
    if name == "discretized_gaussian":
        if num_levels is None:
            raise ValueError(
                'likelihood "discretized_gaussian" needs num_levels, the number of grey levels'
                " (17 for digits, 256 for MNIST)"
            )
        return discretized_gaussian(num_levels)
    if name != "gaussian":
        names = ["gaussian", "discretized_gaussian"]
        raise ValueError(f"likelihood must be one of {names}, got {name!r}")
    if num_levels is not None:
        raise ValueError(f'num_levels is for likelihood "discretized_gaussian", not {name!r}')
    return gaussian()

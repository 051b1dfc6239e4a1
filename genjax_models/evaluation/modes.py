"""How many modes of a known mixture a sampler finds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array


class ModeCoverage(NamedTuple):
    """What samples say of a mixture of equally likely, well separated modes.

    Attributes:
        num_modes: modes to which at least one high-quality sample belongs.
        high_quality: share of samples of high quality, near a mode.
        reverse_kl: KL in nats from the frequencies of the modes, each sample counted for the
            nearest one, to equal ones.
    """

    num_modes: Array
    high_quality: Array
    reverse_kl: Array


def mode_coverage(
    samples: Array,
    centres: Array,
    standard_deviation: float,
    *,
    num_standard_deviations: float = 3.0,
) -> ModeCoverage:
    """Count the modes that samples cover, and the samples that are near a mode.

    A sample belongs to the nearest centre, and is of high quality where its Euclidean distance
    from it is at most `num_standard_deviations` standard deviations.

    Args:
        samples: [N, num_dims].
        centres: of the modes, [M, num_dims].
        standard_deviation: of every mode in every dimension.
        num_standard_deviations: what is near.

    Returns:
        The number of modes, the share of samples of high quality, and the reverse KL.

    Raises:
        ValueError: the shapes do not fit, or a number is not above zero.

    Source: Srivastava et al. 2017 (VEEGAN), section 5.1; the reverse KL is from Lin et al. 2018
    (PacGAN), section 4.1.
    """
    shapes = jnp.shape(samples), jnp.shape(centres)
    if any(len(shape) != 2 or not shape[0] for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "samples and centres must have shapes [N, num_dims] and [M, num_dims], with N and M at"
            f" least 1, got {shapes[0]} and {shapes[1]}"
        )
    if not (standard_deviation > 0 and num_standard_deviations > 0):
        raise ValueError(
            "standard_deviation and num_standard_deviations must be above zero, got"
            f" {standard_deviation} and {num_standard_deviations}"
        )
    radius = num_standard_deviations * standard_deviation
    return _mode_coverage(jnp.asarray(samples), jnp.asarray(centres), radius)


@jax.jit
def _mode_coverage(samples: Array, centres: Array, radius: Array) -> ModeCoverage:
    distances = jnp.linalg.norm(samples[:, None] - centres, axis=-1)
    nearest = jnp.argmin(distances, axis=1)
    near = jnp.min(distances, axis=1) <= radius
    num_modes = centres.shape[0]
    hits = jnp.zeros(num_modes, jnp.int32).at[nearest].add(near.astype(jnp.int32))
    frequencies = jnp.zeros(num_modes).at[nearest].add(1.0) / samples.shape[0]
    return ModeCoverage(
        num_modes=jnp.sum(hits > 0),
        high_quality=jnp.mean(near),
        reverse_kl=jnp.sum(jax.scipy.special.xlogy(frequencies, frequencies * num_modes)),
    )

"""A linear-Gaussian chain z_L -> ... -> z_1 -> x of independent dimensions, in closed form.

z_L ~ N(0, 1), z_l = a_l z_(l+1) + b_l + s_l eps, x = a_0 z_1 + b_0 + s_0 eps, each elementwise. Its
exact posterior factorises upwards, p(z_1 | x) p(z_2 | z_1) ..., and downwards, and either way every
factor is a diagonal Gaussian with a mean that is affine in what it is given.
"""

from typing import NamedTuple

import numpy as np
import scipy.stats


class Affine(NamedTuple):
    """N(slope y + offset, scale^2), elementwise."""

    slope: np.ndarray
    offset: np.ndarray
    scale: np.ndarray


class LinearHierarchy(NamedTuple):
    """Elementwise maps: `maps[0]` is that of x given z_1, `maps[l]` that of z_l given z_(l+1)."""

    maps: list[Affine]

    @property
    def num_layers(self) -> int:
        return len(self.maps)

    def moments(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Means and variances of x, z_1, ..., z_L."""
        mean, variance = np.zeros_like(self.maps[0].slope), np.ones_like(self.maps[0].slope)
        found = [(mean, variance)]
        for slope, offset, scale in reversed(self.maps):
            mean, variance = slope * mean + offset, slope**2 * variance + scale**2
            found.append((mean, variance))
        return found[::-1]

    def log_prob(self, x: np.ndarray) -> float:
        """log p(x)."""
        mean, variance = self.moments()[0]
        return float(scipy.stats.norm(mean, np.sqrt(variance)).logpdf(x).sum())

    def upwards(self) -> list[Affine]:
        """p(z_1 | x), p(z_2 | z_1), ..., p(z_L | z_(L-1))."""
        moments = self.moments()
        found = []
        for (slope, _, _), below, above in zip(self.maps, moments, moments[1:], strict=False):
            gain = slope * above[1] / below[1]
            variance = above[1] * (1 - gain * slope)
            found.append(Affine(gain, above[0] - gain * below[0], np.sqrt(variance)))
        return found

    def evidence(self) -> list[Affine]:
        """p(x | z_l) as a Gaussian of z_l whose mean is affine in x, for l = 1, ..., L."""
        slope, offset, variance = 1.0, 0.0, 0.0
        found = []
        for a, b, s in self.maps:
            offset, variance = offset + slope * b, variance + slope**2 * s**2
            slope = slope * a
            found.append(Affine(1 / slope, -offset / slope, np.sqrt(variance) / np.abs(slope)))
        return found


def linear_hierarchy(num_layers: int, num_dims: int = 2) -> LinearHierarchy:
    """Of asymmetric numbers; the scale of x is the same for all its dimensions."""
    rng = np.random.default_rng(num_layers)
    shape = (num_layers, num_dims)
    signs = rng.choice([-1, 1], shape)
    slopes, offsets = signs * rng.uniform(0.5, 1.5, shape), rng.normal(size=shape)
    scales = rng.uniform(0.4, 1.2, shape)
    scales[0] = scales[0, 0]
    return LinearHierarchy([Affine(*each) for each in zip(slopes, offsets, scales, strict=True)])


def dense(slope: np.ndarray, offset: np.ndarray, scale: np.ndarray | None = None) -> dict:
    """Parameters of an affine `mlp` for diag(slope) y + offset, and constant log scales."""
    kernel, bias = np.diag(slope), offset
    if scale is not None:
        kernel = np.concatenate([kernel, np.zeros_like(kernel)], axis=1)
        bias = np.concatenate([bias, np.log(scale)])
    layer = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return {"params": {"Dense_0": layer}}

"""Points in the plane: data sets of two dimensions, drawn once and the same for everyone."""

import numpy as np

from experiments.harness.arrays import Source, split_examples

RING_MODES = 8
RING_STANDARD_DEVIATION = 0.01


def read_half_moons() -> Source:
    """Two interleaved half circles of radius 1, noise of standard deviation 0.1, 10,000 points."""
    from sklearn.datasets import make_moons

    x, labels = make_moons(10_000, noise=0.1, random_state=0)
    return _source(x, labels)


def read_ring() -> Source:
    """Eight Gaussians on the unit circle, of standard deviation 0.01, 50,000 points.

    Source: Srivastava et al. 2017 (VEEGAN), section 5.1; Lin et al. 2018 (PacGAN), section 4.1.
    """
    generator = np.random.default_rng(0)
    labels = np.arange(50_000) % RING_MODES
    noise = generator.standard_normal((len(labels), 2))
    return _source(ring_centres()[labels] + RING_STANDARD_DEVIATION * noise, labels)


def ring_centres() -> np.ndarray:
    """The means of the eight Gaussians, [8, 2]."""
    angles = 2 * np.pi * np.arange(RING_MODES) / RING_MODES
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _source(x: np.ndarray, labels: np.ndarray) -> Source:
    splits = split_examples(x.astype(np.float32), labels.astype(np.int32))
    return Source(*splits, example_shape=(2,), num_levels=None)

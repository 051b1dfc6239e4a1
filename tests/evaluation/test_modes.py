"""Mode coverage, of samples whose modes are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax_models.evaluation import mode_coverage
from tests.statistics import assert_mean

CENTRES = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])


def test_a_count_by_hand() -> None:
    """Radius 0.3: three near samples at two modes, one beyond the radius, one far from all."""
    samples = np.array([[0.0, 0.29], [0.2, -0.2], [1.0, 0.1], [1.0, 0.31], [4.0, 4.0]])
    found = mode_coverage(samples, CENTRES, 0.1)
    assert found.num_modes == 2
    np.testing.assert_allclose(found.high_quality, 3 / 5)
    frequencies = np.array([2, 2, 1]) / 5
    np.testing.assert_allclose(
        found.reverse_kl, (frequencies * np.log(4 * frequencies)).sum(), rtol=1e-5
    )
    # Two standard deviations hold only one of them; a mode of poor samples alone is not covered.
    assert mode_coverage(samples, CENTRES, 0.1, num_standard_deviations=2.0).num_modes == 1


def test_one_mode_and_all_modes() -> None:
    one = mode_coverage(np.zeros((7, 2)), CENTRES, 0.1)
    np.testing.assert_allclose([*one], [1, 1, np.log(4)], rtol=1e-6)
    every = mode_coverage(np.tile(CENTRES, (3, 1)), CENTRES, 0.1)
    np.testing.assert_allclose([*every], [4, 1, 0], atol=1e-6)
    none = mode_coverage(np.full((5, 2), 100.0), CENTRES, 0.1)
    np.testing.assert_allclose([*none], [0, 0, np.log(4)], rtol=1e-6)


@pytest.mark.parametrize("num_dims", [2, 3])
def test_the_mixture_itself_has_the_quality_of_a_chi_square(num_dims: int) -> None:
    """P(||noise|| <= 3) is 98.9 % in two dimensions, not the 99.7 % of one."""
    centres = 10 * np.arange(4)[:, None] * np.ones(num_dims)
    index_key, noise_key = jax.random.split(jax.random.key(0))
    index = jax.random.randint(index_key, (100, 2500), 0, len(centres))
    noise = jax.random.normal(noise_key, (100, 2500, num_dims))
    found = jax.vmap(lambda x: mode_coverage(x, jnp.asarray(centres), 0.5))(
        jnp.asarray(centres)[index] + 0.5 * noise
    )
    assert_mean(found.high_quality, stats.chi2.cdf(9, num_dims))
    assert (found.num_modes == 4).all()
    # 2 N KL is chi-square with 3 degrees of freedom.
    assert_mean(2 * 2500 * np.asarray(found.reverse_kl), 3.0, resolution=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 2)), CENTRES, 0.1), r"got \(0, 2\) and \(4, 2\)"),
        ((np.zeros((3, 3)), CENTRES, 0.1), r"got \(3, 3\) and \(4, 2\)"),
        ((np.zeros(2), CENTRES, 0.1), r"got \(2,\)"),
        ((CENTRES, CENTRES, 0.0), "standard_deviation .*above zero, got 0.0"),
    ],
)
def test_what_is_refused(arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mode_coverage(*arguments)

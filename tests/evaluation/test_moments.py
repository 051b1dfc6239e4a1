"""Moments in batches equal those of all replicates at once, and those that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax_models.evaluation import moments
from genjax_models.evaluation.moments import batch_moments, merge


def replicate(key: jax.Array) -> dict[str, jax.Array]:
    """Skewed, and far from zero, where sums of squares cancel."""
    exponential = jax.random.exponential(key, (3,))
    return {"vector": 1e3 + exponential * jnp.array([0.1, 1.0, 5.0]), "scalar": exponential[0]}


@pytest.mark.parametrize(("num_replicates", "batch_size"), [(12, 4), (13, 4), (7, 100)])
def test_batches_are_all_replicates_at_once(num_replicates: int, batch_size: int) -> None:
    found = moments(
        replicate, jax.random.key(0), num_replicates=num_replicates, batch_size=batch_size
    )
    batch_size = min(batch_size, num_replicates)
    num_batches = -(-num_replicates // batch_size)
    keys = [
        jax.random.split(jax.random.fold_in(jax.random.key(0), index), batch_size)
        for index in range(num_batches)
    ]
    every = np.concatenate([jax.vmap(replicate)(batch)["vector"] for batch in keys], dtype=float)
    assert found.num_replicates == len(every)
    np.testing.assert_allclose(found.mean["vector"], every.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.variance["vector"], every.var(axis=0, ddof=1), rtol=2e-3)


def test_merging_is_exact_to_the_fourth_power_in_any_split() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=(20, 2)) * np.array([1.0, 10.0])
    deviations = values - values.mean(axis=0)
    for cut in (1, 7, 19):
        parts = [
            jax.tree.map(lambda leaf: np.asarray(leaf, float), batch_moments(jnp.asarray(part)))
            for part in (values[:cut], values[cut:])
        ]
        found = merge(*parts)
        for power, name in ((2, "second"), (3, "third"), (4, "fourth")):
            expected = (deviations**power).sum(axis=0)
            np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-4)


def test_the_errors_of_mean_and_variance_are_the_known_ones() -> None:
    """Of an exponential variable: variance 1, fourth central moment 9."""
    found = jax.jit(
        lambda key: moments(
            lambda key: jax.random.exponential(key), key, num_replicates=100_000, batch_size=1000
        )
    )(jax.random.key(1))
    assert abs(found.mean - 1) < 5 * found.standard_error
    assert found.standard_error == pytest.approx(1e5**-0.5, rel=0.02)
    assert found.variance_error == pytest.approx(np.sqrt(8 / 1e5), rel=0.1)
    assert abs(found.variance - 1) < 5 * found.variance_error
    assert stats.expon.stats(moments="k") + 3 == 9


def test_memory_is_that_of_one_batch() -> None:
    """A million replicates of ten thousand numbers would be 40 GB."""

    def compiled(num_replicates: int):
        run = jax.jit(
            lambda key: moments(
                lambda key: jax.random.normal(key, (10_000,)),
                key,
                num_replicates=num_replicates,
                batch_size=100,
            )
        )
        return run.lower(jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    assert compiled(1_000_000) == pytest.approx(compiled(1000), rel=0.01)
    assert compiled(1_000_000) < 50e6


@pytest.mark.parametrize(("num_replicates", "batch_size"), [(1, 1), (10, 0)])
def test_bad_sizes_are_refused(num_replicates: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=r"must be at least .*, got"):
        moments(replicate, jax.random.key(0), num_replicates=num_replicates, batch_size=batch_size)

"""The helper of the stochastic tests must itself reject what it is there to find."""

import numpy as np
import pytest

from tests.statistics import assert_mean, standard_error

EXACT = np.array([1.0, -2.0, 0.5])


def draws(num_samples: int = 20_000, *, noise: float = 1.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return EXACT + noise * rng.standard_normal((num_samples, 3))


def test_the_right_mean_passes() -> None:
    for seed in range(100):
        assert_mean(draws(seed=seed), EXACT)


def test_standard_error_is_that_of_the_mean() -> None:
    means = [draws(500, seed=seed).mean(axis=0) for seed in range(2000)]
    np.testing.assert_allclose(standard_error(draws(500)), np.std(means, axis=0), rtol=0.15)


@pytest.mark.parametrize("component", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_an_injected_bias_is_rejected(component: int, sign: int) -> None:
    """A bias of ten standard errors in one component: 4 % of the largest number."""
    samples = draws()
    samples[:, component] += sign * 10 * standard_error(samples)[component]
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(samples, EXACT)


def test_a_wrong_axis_is_rejected() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_mean(draws().T, EXACT)


def test_a_wrong_axis_of_a_square_array_is_rejected() -> None:
    exact = np.linspace(-1, 1, 400)
    samples = exact + 0.1 * np.random.default_rng(0).standard_normal((400, 400))
    assert_mean(samples, exact)
    with pytest.raises(AssertionError):
        assert_mean(samples.T, exact)


def test_a_broadcast_is_rejected() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_mean(np.ones((200, 3)), np.ones(()))


@pytest.mark.parametrize(
    "samples", [draws(200, noise=10.0), draws(5, noise=1e-3)], ids=["noise", "few samples"]
)
def test_no_power_is_rejected(samples: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="no power"):
        assert_mean(samples, EXACT)


def test_a_target_of_zero_needs_a_scale() -> None:
    samples = draws() - EXACT
    with pytest.raises(AssertionError, match="no power"):
        assert_mean(samples, np.zeros(3))
    assert_mean(samples, np.zeros(3), scale=1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_rejected(bad: float) -> None:
    samples = draws()
    samples[7, 1] = bad
    with pytest.raises(AssertionError, match="not finite"):
        assert_mean(samples, EXACT)
    with pytest.raises(AssertionError, match="not finite"):
        assert_mean(draws(), np.array([1.0, bad, 0.5]))


def test_without_variance_the_floor_decides() -> None:
    samples = np.broadcast_to(EXACT, (200, 3))
    assert_mean(samples + 1e-10, EXACT)
    with pytest.raises(AssertionError, match="biased"):
        assert_mean(samples + 1e-8, EXACT)
    assert_mean(samples + 1e-8, EXACT, floor=1e-7)


def test_every_leaf_of_a_pytree_is_checked() -> None:
    samples = {"a": draws(), "b": (draws(seed=1), draws(seed=2) + 1.0)}
    with pytest.raises(AssertionError, match=r"\['b'\]\[1\] biased"):
        assert_mean(samples, {"a": EXACT, "b": (EXACT, EXACT)})
    with pytest.raises(AssertionError, match="structure"):
        assert_mean(samples, {"a": EXACT, "b": EXACT})

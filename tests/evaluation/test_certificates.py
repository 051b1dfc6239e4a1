"""The certificate passes what is unbiased, and rejects what is not, in any one component."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.evaluation import certify_gradient

EXACT = {"loc": np.array([1.0, -0.3, 0.0]), "scale": np.float64(0.02)}


@functools.cache
def estimator(bias: float = 0.0, noise: float = 1.0):
    """The exact gradient with normal noise, and a bias in one component."""

    def estimate(key: jax.Array) -> dict[str, jax.Array]:
        loc_key, scale_key = jax.random.split(key)
        shift = jnp.array([0.0, bias, 0.0])
        return {
            "loc": EXACT["loc"] + shift + noise * jax.random.normal(loc_key, (3,)),
            "scale": EXACT["scale"] * (1 + noise * jax.random.normal(scale_key)),
        }

    return estimate


def test_an_unbiased_estimator_is_certified_with_its_variance_and_power() -> None:
    found = certify_gradient(estimator(), EXACT, jax.random.key(0), resolution=0.02)
    assert found.verdict == "unbiased" and found.is_unbiased
    assert found.num_replicates == 10_000
    assert 0.05 < found.detectable_bias < 0.2
    for part, variance in (("loc", 1.0), ("scale", 0.02**2)):
        error = found.variance_error[part]
        assert (np.abs(found.variance[part] - variance) < 5 * error).all()
        assert (error < 0.05 * variance).all()
    np.testing.assert_allclose(found.signal_to_noise["loc"], [1, 0.3, 0], rtol=0.1)


def test_a_bias_that_it_claims_to_detect_is_detected() -> None:
    """The claim is 99 %: of 20 tries with that bias, all but a few are rejected."""
    unbiased = certify_gradient(estimator(), EXACT, jax.random.key(0), resolution=0.05)
    bias = unbiased.detectable_bias
    verdicts = [
        certify_gradient(estimator(bias), EXACT, jax.random.key(seed), resolution=0.05).verdict
        for seed in range(20)
    ]
    assert verdicts.count("biased") >= 18


def test_more_replicates_are_drawn_until_there_is_power() -> None:
    found = certify_gradient(estimator(noise=3.0), EXACT, jax.random.key(0), resolution=0.01)
    assert 90_000 <= found.num_replicates <= 110_000
    few = certify_gradient(
        estimator(noise=3.0), EXACT, jax.random.key(0), resolution=0.01, max_replicates=20_000
    )
    assert few.verdict == "inconclusive"
    assert few.num_replicates == 20_000


def test_false_alarms_are_as_rare_as_they_should_be() -> None:
    """At significance 0.2, one in five: 40 tries are compatible with that, whatever the number
    of components."""
    verdicts = [
        certify_gradient(
            estimator(), EXACT, jax.random.key(seed), resolution=0.05, significance=0.2
        ).verdict
        for seed in range(40)
    ]
    assert 1 <= verdicts.count("biased") <= 17


def test_an_estimator_without_variance_is_compared_to_rounding() -> None:
    exactly = certify_gradient(estimator(noise=0.0), EXACT, jax.random.key(0))
    assert exactly.is_unbiased
    off = certify_gradient(estimator(bias=1e-3, noise=0.0), EXACT, jax.random.key(0))
    assert off.verdict == "biased"


@pytest.mark.parametrize(
    ("exact", "message"),
    [
        ({"loc": np.ones(3)}, "one structure"),
        ({"loc": np.ones(2), "scale": 1.0}, r"estimate\['loc'\] has shape \(3,\), exact \(2,\)"),
        ({"loc": np.zeros(3), "scale": 0.0}, "not zero everywhere"),
        ({"loc": np.full(3, np.nan), "scale": 0.0}, "finite gradient"),
    ],
)
def test_an_exact_gradient_that_does_not_fit_is_refused(exact, message) -> None:
    with pytest.raises(ValueError, match=message):
        certify_gradient(estimator(), exact, jax.random.key(0))


def test_estimates_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"estimates\['loc'\] are not all finite"):
        certify_gradient(estimator(noise=jnp.inf), EXACT, jax.random.key(0))


@pytest.mark.parametrize("setting", [{"resolution": 0.0}, {"significance": 1.0}, {"chunk_size": 1}])
def test_settings_out_of_range_are_refused(setting) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        certify_gradient(estimator(), EXACT, jax.random.key(0), **setting)

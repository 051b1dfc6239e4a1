"""Scores of disentanglement on codes whose score is known, and their parts against other code."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.preprocessing import StandardScaler

from genjax_models.evaluation import fixed_factor
from genjax_models.evaluation.disentanglement import (
    bin_codes,
    dci,
    discrete_mutual_information,
    informativeness,
    mutual_information_gap,
)
from genjax_models.evaluation.fixed_factor import beta_vae_score, factor_vae_score

# A full grid of two factors: the fixed-factor scores see one shape of arrays in all tests.
FACTORS = np.array(list(itertools.product(range(12), range(12))), np.int32)
NUM_TEST = 1000
# Five standard errors of an accuracy of one half, and the vote's own advantage of noise.
TOLERANCE = 5 * 0.5 / NUM_TEST**0.5
DRAWS = {"num_train": 1000, "num_test": NUM_TEST}


@functools.cache
def codes_of(name: str) -> np.ndarray:
    """Two codes for each example."""
    first, second = FACTORS.T.astype(np.float32)
    noise = np.random.default_rng(0).normal(size=FACTORS.shape)
    return np.stack(
        {
            # In another order, with another sign and scale: none of which a score may see.
            "disentangled": (-3 * second, 0.5 * first + 7),
            "rotated": (first + second, first - second),
            "one code for both": (12 * first + second, 0 * first),
            "noise": noise.T,
        }[name],
        axis=1,
    ).astype(np.float32)


def fixed_factor_scores(name: str) -> tuple[float, float]:
    codes, key = codes_of(name), jax.random.key(1)
    beta = beta_vae_score(key, codes, FACTORS, num_pairs=16, **DRAWS)
    factor = factor_vae_score(jax.random.clone(key), codes, FACTORS, num_examples=16, **DRAWS)
    return float(beta), float(factor)


def test_mutual_information_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, (500, 2))
    second = np.stack([first[:, 0] // 2, rng.integers(0, 3, 500), first.sum(axis=1)], axis=1)
    found = discrete_mutual_information(first, second)
    expected = [[mutual_info_score(a, b) for b in second.T] for a in first.T]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_mutual_information_of_an_enumerated_joint_distribution():
    counts = np.array([[3, 0, 5], [1, 4, 2]])
    pairs = np.repeat(np.array(list(np.ndindex(counts.shape))), counts.ravel(), axis=0)
    joint = counts / counts.sum()
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    expected = sum(
        joint[i] * np.log(joint[i] / independent[i]) for i in np.ndindex(joint.shape) if joint[i]
    )
    found = discrete_mutual_information(pairs[:, :1], pairs[:, 1:])
    np.testing.assert_allclose(found, [[expected]], atol=1e-6)


def test_bins_are_equally_wide_and_the_last_one_holds_the_largest():
    codes = np.array([[0.0, 5.0], [0.9, 5.0], [1.1, 5.0], [3.0, 5.0], [3.9, 5.0], [4.0, 5.0]])
    np.testing.assert_array_equal(
        bin_codes(codes, num_bins=4), np.array([[0, 0, 1, 3, 3, 3], [0] * 6]).T
    )


@pytest.mark.parametrize(
    ("name", "num_bins", "expected"),
    [
        ("disentangled", 20, 1),
        ("rotated", 20, 0),  # By symmetry both codes have the same information on either factor.
        ("one code for both", 144, 1),  # Each factor is whole in one code, the other has nothing.
    ],
)
def test_the_gap_of_known_codes(name, num_bins, expected):
    gap = mutual_information_gap(codes_of(name), FACTORS, num_bins=num_bins)
    np.testing.assert_allclose(gap, expected, atol=1e-5)


def test_the_gap_of_two_codes_for_one_factor_is_zero_for_that_factor():
    first, second = FACTORS.T
    codes = np.stack([first, -first, 0 * first], axis=1).astype(np.float32)
    # Nothing is known of the second factor, which has no gap either.
    np.testing.assert_allclose(mutual_information_gap(codes, FACTORS), 0, atol=1e-6)
    codes = np.stack([first, -first, second], axis=1).astype(np.float32)
    np.testing.assert_allclose(mutual_information_gap(codes, FACTORS), 0.5, atol=1e-6)


def test_the_gap_of_noise_is_no_more_than_the_bias_of_the_information():
    gap = mutual_information_gap(codes_of("noise"), FACTORS, num_bins=4)
    bias = 3 * 11 / (2 * len(FACTORS)) / np.log(12)
    assert 0 <= gap < bias < 0.05


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("disentangled", (1, 1)),
        ("rotated", (0.5, 0.5)),
        # |z - z'| is small where the leading factor is fixed, which a linear classifier sees;
        # but one code can name one factor only.
        ("one code for both", (1, 0.5)),
        ("noise", (0.5, 0.5)),
    ],
)
def test_the_fixed_factor_scores_of_known_codes(name, expected):
    # That of noise is a little above chance: the same draws of 144 examples are met again.
    found = fixed_factor_scores(name)
    for value, target in zip(found, expected, strict=True):
        assert abs(value - target) < (TOLERANCE if target < 1 else 1e-6)


def test_a_collapsed_code_has_no_vote():
    """Its variance among examples that agree is as small a part as chance will have it."""
    first = FACTORS[:, 0].astype(np.float32)
    tiny = 1e-3 * np.random.default_rng(0).normal(size=len(first)).astype(np.float32)
    # A code of the first factor alone, and two collapsed ones.
    codes = np.stack([first, 0 * tiny, tiny], axis=1)
    key = jax.random.key(2)
    score = factor_vae_score(key, codes, FACTORS, num_examples=16, **DRAWS)
    assert abs(score - 0.5) < TOLERANCE
    # With a vote it often says "not the first factor", which is no knowledge of the second.
    score = factor_vae_score(
        jax.random.clone(key), codes, FACTORS, num_examples=16, min_variance=1e-9, **DRAWS
    )
    assert score > 0.75


def test_the_vote_is_of_shares_of_the_variance():
    """A code of small scale does not vary least because of its scale."""
    noise = 0.3 * np.random.default_rng(0).normal(size=FACTORS.shape)
    codes = ((FACTORS + noise) * [100, 1]).astype(np.float32)
    score = factor_vae_score(jax.random.key(2), codes, FACTORS, num_examples=16, **DRAWS)
    assert score == 1


def test_examples_that_agree_in_a_factor_are_drawn_uniformly():
    rng = np.random.default_rng(0)
    factors = jnp.asarray(rng.integers(0, 3, (50, 2)).astype(np.int32))
    groups = fixed_factor._groups(factors)
    draws = np.asarray(groups.draw(jax.random.key(0), jnp.int32(1), jnp.int32(2), 20_000))
    members = np.flatnonzero(factors[:, 1] == 2)
    counts = np.bincount(draws, minlength=50)
    assert counts.sum() == counts[members].sum()
    assert stats.chisquare(counts[members]).pvalue > 1e-6


def test_the_linear_classifier_is_scikit_learns():
    rng = np.random.default_rng(0)
    inputs = StandardScaler().fit_transform(rng.normal(size=(300, 3))).astype(np.float32)
    labels = np.argmax(inputs @ rng.normal(size=(3, 4)) + rng.gumbel(size=(300, 4)), axis=1)
    weights, bias = jax.jit(fixed_factor._fit_linear, static_argnums=2)(inputs, labels, 4)
    other = LogisticRegression(tol=1e-8, max_iter=1000).fit(inputs, labels)
    probabilities = jax.nn.softmax(inputs @ weights + bias)
    np.testing.assert_allclose(probabilities, other.predict_proba(inputs), atol=2e-4)


def test_dci_of_known_importances():
    perfect = dci(np.array([[0.0, 3.0], [2.0, 0.0], [0.0, 0.0]]))
    assert (perfect.disentanglement, perfect.completeness) == (1, 1)
    np.testing.assert_array_equal(perfect.of_codes, [1, 1, 0])
    rotated = dci(np.full((2, 2), 0.7))
    np.testing.assert_allclose(rotated[:2], [0, 0], atol=1e-6)
    one_code_for_both = dci(np.array([[1.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(one_code_for_both[:2], [0, 1], atol=1e-6)
    two_codes_for_each = dci(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_allclose(two_codes_for_each[:2], [1, 0.5], atol=1e-6)
    nothing = dci(np.zeros((3, 2)))
    np.testing.assert_allclose(nothing[:2], [0, 0], atol=1e-6)


def test_dci_is_its_definition():
    importance = np.random.default_rng(0).gamma(0.5, size=(4, 3))
    found = dci(importance)
    of_codes = 1 - stats.entropy(importance, base=3, axis=1)
    of_factors = 1 - stats.entropy(importance, base=4, axis=0)
    np.testing.assert_allclose(found.of_codes, of_codes, atol=1e-6)
    np.testing.assert_allclose(found.of_factors, of_factors, atol=1e-6)
    weights = importance.sum(axis=1) / importance.sum()
    assert found.disentanglement == pytest.approx(weights @ of_codes, abs=1e-6)
    assert found.completeness == pytest.approx(of_factors.mean(), abs=1e-6)


def test_informativeness_is_the_accuracy_for_each_factor():
    factors = np.array([[0, 1], [1, 1], [2, 0], [0, 0]])
    predictions = np.array([[0, 1], [1, 0], [2, 1], [1, 1]])
    np.testing.assert_allclose(informativeness(predictions, factors), [0.75, 0.25])


def test_names_of_the_values_do_not_matter():
    """A table with a row for each number up to the largest label would not fit into memory."""
    large = 10**6 * np.array([2, 0, 1, 5, 4, 3, 6, 11, 10, 9, 8, 7], np.int32)[FACTORS]
    expected = mutual_information_gap(CODES, FACTORS)
    np.testing.assert_allclose(mutual_information_gap(CODES, large), expected, rtol=1e-5)


CODES = codes_of("disentangled")
BROKEN = np.array(CODES)
BROKEN[3, 1] = np.nan


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mutual_information_gap(CODES[:, 0], FACTORS), r"codes must have shape"),
        (lambda: mutual_information_gap(CODES[:, :1], FACTORS), "at least 2 codes, got 1"),
        (lambda: mutual_information_gap(CODES[:5], FACTORS), "got 5 and 144 rows"),
        (lambda: mutual_information_gap(CODES, 0 * FACTORS), "number 0 is constant"),
        (lambda: mutual_information_gap(CODES, FACTORS - 3), "factors must not be negative"),
        (lambda: bin_codes(CODES, num_bins=0), "num_bins must be at least 1, got 0"),
        (lambda: dci(np.ones((3, 1))), r"at least 2 of each, got \(3, 1\)"),
        (lambda: dci([[1, -1], [0.5, -0.2]]), "importance must be finite and not negative"),
        (lambda: dci([[1, np.nan], [0.5, 0.2]]), "importance must be finite and not negative"),
        (lambda: dci([[1, np.inf], [0.5, 0.2]]), "importance must be finite and not negative"),
        (lambda: mutual_information_gap(BROKEN, FACTORS), "codes must be finite, but number 1"),
        (
            lambda: beta_vae_score(jax.random.key(0), BROKEN, FACTORS),
            "codes must be finite, but number 1 is not",
        ),
        (
            lambda: factor_vae_score(jax.random.key(0), BROKEN, FACTORS),
            "codes must be finite, but number 1 is not",
        ),
        (lambda: informativeness(FACTORS[:3], FACTORS), "predictions and factors"),
        (
            lambda: beta_vae_score(jax.random.key(0), CODES, FACTORS, num_pairs=0),
            "num_pairs must be at least 1, got 0",
        ),
        (
            lambda: factor_vae_score(jax.random.key(0), CODES, FACTORS, num_examples=1),
            "num_examples must be at least 2, got 1",
        ),
        (
            lambda: factor_vae_score(jax.random.key(0), CODES, FACTORS, min_variance=-1.0),
            "min_variance must not be negative",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_factors_that_are_no_integers_are_refused():
    with pytest.raises(TypeError, match="factors must be integers, got float32"):
        mutual_information_gap(CODES, FACTORS.astype(np.float32))

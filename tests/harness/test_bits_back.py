"""Bits-back coding: to the bit and back, at the price of the bound."""

import functools
import itertools
from typing import Any

import constriction
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments.harness import bits_back, codecs
from genjax_models.distributions import (
    Bernoulli,
    LinearAutoregressiveBernoulli,
    LinearAutoregressiveOneHot,
)
from genjax_models.models.latent import lossy_vae, posteriors, vae
from genjax_models.models.latent.deep_autoregressive_network import darn
from genjax_models.networks import mlp

NUM_DIMS = 6
XS = (np.random.default_rng(0).uniform(size=(20, NUM_DIMS)) < 0.4).astype(np.uint8)


def _model(name: str) -> Any:
    small = {"latent_dim": 2, "hidden": (4,)}
    if name == "vae":
        return vae(num_dims=NUM_DIMS, **small)
    if name == "lossy":
        image = {"image_shape": (2, 3), "radius": 1, "num_features": 2, "pixel_hidden": (3,)}
        return lossy_vae(**image, **small)
    if name == "darn":
        return darn(num_dims=NUM_DIMS, latent_dims=(3, 2))
    return darn(num_dims=NUM_DIMS, latent_dims=(3,), recognition="sigmoid")


@functools.cache
def case(name: str) -> tuple[Any, Any, bits_back.BitsBack]:
    """The model, its parameters away from where they start, and its codecs."""
    model, noise = _model(name), np.random.default_rng(1)
    params = jax.tree.map(
        lambda leaf: leaf + 0.7 * jnp.asarray(noise.normal(size=leaf.shape), leaf.dtype),
        jax.jit(model.init)(jax.random.key(0)),
    )
    return model, params, bits_back.from_model(model, params, NUM_DIMS)


MODELS = ("vae", "lossy", "darn", "darn, independent units")


@functools.cache
def coded(name: str) -> bits_back.Coded:
    return bits_back.encode(case(name)[2], XS, seed=3)


def new_stack() -> Any:
    """With random bits: the first symbols on an empty one are cheaper."""
    words = np.random.default_rng(0).integers(1, 2**32, 50, dtype=np.uint32)
    return constriction.stream.stack.AnsCoder(words, seal=True)


def description_lengths(name: str) -> np.ndarray:
    """In bits, of each image at the z that it was coded by, a Gaussian one cut into its bins."""
    model, params, _ = case(name)
    edges = codecs.equal_mass_bins(4096).edges

    @jax.jit
    def of_one(x, z):
        prior, posterior = model.prior(params), model.posterior(params, x)
        is_binary = isinstance(z, tuple)
        log_ratio = posterior.log_prob(z) - prior.log_prob(z) if is_binary else posterior
        return model.likelihood(params, z).log_prob(x), log_ratio

    lengths = []
    for x, z in zip(XS, coded(name).zs, strict=True):
        log_likelihood, log_ratio = of_one(np.float32(x), z)
        if not isinstance(z, tuple):
            q = stats.norm(np.float64(log_ratio.loc), np.exp(np.float64(log_ratio.log_scale)))
            above = np.searchsorted(edges, z)
            log_ratio = np.sum(np.log((q.cdf(edges[above]) - q.cdf(edges[above - 1])) * 4096))
        lengths.append(float(log_ratio - log_likelihood) / np.log(2))
    return np.array(lengths)


@pytest.mark.parametrize("name", MODELS)
def test_images_come_back_to_the_bit(name: str) -> None:
    model = case(name)[2]
    found = bits_back.decode(model, coded(name).words, len(XS), seed=3)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, XS)


@pytest.mark.parametrize("name", MODELS)
def test_each_image_costs_its_description_length(name: str) -> None:
    """-log2 p(x | z) - log2 p(z) + log2 q(z | x), to the bit that sizes are told in."""
    costs = np.diff(coded(name).sizes)[::-1]
    lengths = description_lengths(name)
    assert np.abs(costs - lengths).max() < 1.1
    assert np.abs(costs.sum() - lengths.sum()) < 1.5
    # The stack begins with random words and no more.
    assert coded(name).sizes[0] == 32 * case(name)[2].num_initial_words


def test_the_rate_of_a_code_is_the_bound() -> None:
    """Of one image many times, whose bound with binary z is a sum over all z."""
    model, params, codes = case("darn, independent units")
    x, num_times = XS[5], 100
    zs = np.array(list(itertools.product([0.0, 1.0], repeat=3)), np.float32)

    @jax.jit
    @jax.vmap
    def terms(z):
        log_q = model.posterior(params, jnp.float32(x)).log_prob((z,))
        likelihood = model.likelihood(params, (z,))
        return log_q, likelihood.log_prob(jnp.float32(x)) + model.prior(params).log_prob((z,))

    log_q, log_joint = map(np.asarray, terms(zs))
    weights, lengths = np.exp(log_q), (log_q - log_joint) / np.log(2)
    bound = weights @ lengths
    found = bits_back.encode(codes, np.tile(x, (num_times, 1)))
    rate = (found.sizes[-1] - found.sizes[0]) / num_times
    error = np.sqrt(weights @ (lengths - bound) ** 2 / num_times)
    assert error < 0.06 * bound
    assert abs(rate - bound) < 5 * error + 0.01


def test_without_initial_bits_it_still_comes_back() -> None:
    model = case("vae")[2]._replace(num_initial_words=0)
    found = bits_back.encode(model, XS[:3])
    np.testing.assert_array_equal(bits_back.decode(model, found.words, 3), XS[:3])


def test_every_changed_word_is_found() -> None:
    model, words = case("vae")[2], coded("vae").words
    for index in range(len(words)):
        changed = words.copy()
        changed[index] ^= np.uint32(1 << (7 * index % 32))
        with pytest.raises(bits_back.DecodingError, match="does not end in the bits"):
            bits_back.decode(model, changed, len(XS), seed=3)
    for wrong in ({"seed": 4}, {"num_examples": len(XS) - 1}):
        settings = {"num_examples": len(XS), "seed": 3} | wrong
        with pytest.raises(bits_back.DecodingError):
            bits_back.decode(model, words, **settings)


@pytest.mark.parametrize("num_bins", [2, 8, 4096])
def test_bins_have_equal_probability(num_bins: int) -> None:
    edges, centers = codecs.equal_mass_bins(num_bins)
    np.testing.assert_allclose(np.diff(stats.norm.cdf(edges)), 1 / num_bins, rtol=1e-9)
    np.testing.assert_allclose(stats.norm.cdf(centers), (np.arange(num_bins) + 0.5) / num_bins)
    assert (edges[:-1] < centers).all() and (centers < edges[1:]).all()


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (0.7, 0.3), (-4.0, 2.0), (9.0, 1e-3)])
def test_masses_of_any_gaussian_sum_to_one(loc: float, scale: float) -> None:
    """And what the coder takes for a bin is its probability, where it has one."""
    bins = codecs.equal_mass_bins(64)
    below = np.array([codecs.mass_below(edge, loc, scale) for edge in bins.edges])
    assert below[0] == 0 and below[-1] == 1 and (np.diff(below) >= 0).all()
    np.testing.assert_allclose(below, stats.norm(loc, scale).cdf(bins.edges), atol=1e-15)
    codec = codecs.binned_gaussian(np.full(50, loc), np.full(50, scale), bins)
    for symbol in (0, 20, 45, 63):
        stack = new_stack()
        before = stack.num_valid_bits()
        codec.push(stack, np.full(50, symbol))
        bits = (stack.num_valid_bits() - before) / 50
        np.testing.assert_array_equal(codec.pop(stack), np.full(50, symbol))
        # A bin too improbable for the coder has the least that it can give: 2^-24.
        exact = -np.log2(np.diff(below)[symbol] * (1 - 2**-18) + 2**-24)
        assert bits == pytest.approx(exact, abs=0.7)


def test_probabilities_are_never_zero_or_one() -> None:
    extreme = np.array([0.0, 1e-30, 0.5, 1 - 1e-9, 1.0])
    found = codecs.quantized(extreme)
    np.testing.assert_array_equal(found, [2**-22, 2**-22, 0.5, 1 - 2**-22, 1 - 2**-22])
    probabilities = np.random.default_rng(0).uniform(size=1000)
    found = codecs.quantized(probabilities)
    assert np.abs(found - probabilities).max() <= 2**-23
    assert (found * 2**22 == np.rint(found * 2**22)).all()


def test_the_improbable_costs_what_it_should() -> None:
    """A bit that the model is sure of, and that is otherwise: 22 bits, not infinitely many."""
    codec = codecs.codec(Bernoulli(jnp.float32([1e4, -1e4, 0.0])))
    stack = new_stack()
    before = stack.num_valid_bits()
    codec.push(stack, np.array([0, 1, 1]))
    assert abs(stack.num_valid_bits() - before - 45) <= 1
    np.testing.assert_array_equal(codec.pop(stack), [0, 1, 1])


def test_what_has_no_codec_is_refused() -> None:
    model = case("vae")[2]
    for xs in (XS[0], XS[:0]):
        with pytest.raises(ValueError, match="xs must have shape"):
            bits_back.encode(model, xs)
    for xs in (XS * 2, XS + 0.5):
        with pytest.raises(ValueError, match="xs must be zeros and ones"):
            bits_back.encode(model, xs)
    categories = LinearAutoregressiveOneHot(jnp.zeros((2, 3)), jnp.zeros((2, 3, 2, 3)))
    with pytest.raises(TypeError, match="a LinearAutoregressiveOneHot has no codec"):
        codecs.codec(categories)
    for num_bins in (1, 3000, 2**17):
        with pytest.raises(ValueError, match=f"power of two in 2..65536, got {num_bins}"):
            bits_back.from_model(*case("vae")[:2], NUM_DIMS, num_bins=num_bins)
    gaussian = vae(num_dims=NUM_DIMS, latent_dim=2, hidden=(3,), likelihood="gaussian")
    codes = bits_back.from_model(gaussian, gaussian.init(jax.random.key(0)), NUM_DIMS)
    with pytest.raises(TypeError, match="a DiagonalGaussian has no codec"):
        bits_back.encode(codes, XS)
    posterior = posteriors.full_covariance(functools.partial(mlp, NUM_DIMS, (3,)), 2)
    flow = vae(num_dims=NUM_DIMS, latent_dim=2, hidden=(3,), posterior=posterior)
    with pytest.raises(TypeError, match="must be a DiagonalGaussian, got a FullCovariance"):
        bits_back.from_model(flow, flow.init(jax.random.key(0)), NUM_DIMS)


@pytest.mark.parametrize("name", ["vae", "darn"])
def test_parameters_of_nan_are_an_error(name: str) -> None:
    model, params, _ = case(name)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    with pytest.raises(ValueError, match="parameters cannot be used"):
        bits_back.encode(bits_back.from_model(model, broken, NUM_DIMS), XS)


def test_probabilities_of_double_precision_are_the_same_in_both_directions() -> None:
    with jax.enable_x64(True):
        noise = np.random.default_rng(0)
        made = LinearAutoregressiveBernoulli(
            jnp.asarray(noise.normal(size=100)), jnp.asarray(noise.normal(size=(100, 100)) / 10)
        )
        codec, stack = codecs.codec(made), new_stack()
        before, x = stack.get_compressed(), noise.integers(0, 2, 100)
        codec.push(stack, x)
        np.testing.assert_array_equal(codec.pop(stack), x)
    np.testing.assert_array_equal(stack.get_compressed(), before)


def test_words_that_are_no_stack_are_refused() -> None:
    for words in ([], [1, 0]):
        with pytest.raises(bits_back.DecodingError, match="the words are no stack"):
            bits_back.decode(case("vae")[2], np.array(words, np.uint32), 1)

"""The VQ-VAE's parts against brute force, and its bound against enumeration of all codes."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.evaluation import bound_estimate
from genjax_models.learning import bounds
from genjax_models.models.latent import (
    as_latent_variable_model,
    categorical,
    code_perplexity,
    quantize,
    reconstruct,
    sample,
    start_at_encodings,
    vq_vae,
)
from genjax_models.networks import mlp
from tests.statistics import assert_mean, jit_once

XS = np.array(list(itertools.product([0.0, 1.0], repeat=3)), np.float32)
CODES = np.array(list(itertools.product(range(4), repeat=2)))
SIZES = {"num_dims": 3, "num_codes": 2, "code_dim": 3, "hidden": (4,)}


@functools.cache
def small(codebook_size: int = 4, prior: str = "autoregressive") -> Any:
    """A model and its parameters, the codebook on encodings and the prior not uniform."""
    chosen = getattr(categorical, prior)(2, codebook_size)
    model = vq_vae(codebook_size=codebook_size, prior=chosen, **SIZES)
    params = model.init(jax.random.key(0))
    noise = np.random.default_rng(0)
    perturb = lambda leaf: leaf + jnp.asarray(noise.normal(0, 0.7, leaf.shape), leaf.dtype)  # noqa: E731
    params = jax.tree.map(perturb, params)
    return model, start_at_encodings(model, params, jax.random.key(1), XS)


def test_quantize_finds_the_nearest_entry() -> None:
    noise = np.random.default_rng(0)
    codebook, encodings = noise.normal(0, 1, (11, 3)), noise.normal(0, 1.5, (7, 5, 3))
    nearest = ((encodings[:, :, None] - codebook) ** 2).sum(axis=-1).argmin(axis=-1)
    assert len(np.unique(nearest)) > 5
    for shift in (0.0, 1000.0):
        # In float32; far from the origin the entries are as far apart as before.
        found = quantize(jnp.float32(codebook + shift), jnp.float32(encodings + shift))
        np.testing.assert_array_equal(found, nearest)
    one = quantize(jnp.float32(codebook), jnp.float32(encodings[0, 0]))
    assert one.shape == () and one == nearest[0, 0]
    doubled = np.concatenate([codebook, codebook])
    np.testing.assert_array_equal(quantize(jnp.asarray(doubled), jnp.asarray(codebook)), range(11))


def test_shapes_that_do_not_fit_are_refused() -> None:
    for codebook, encodings in (((3, 2), (5, 3)), ((3,), (3,)), ((3, 2), ())):
        with pytest.raises(ValueError, match="codebook must be"):
            quantize(jnp.zeros(codebook), jnp.zeros(encodings))


@pytest.mark.usefixtures("strict_ranks")
def test_ranks_are_not_mixed_in_silence() -> None:
    model, params = small()
    view = as_latent_variable_model(model)
    z = view.posterior(params, XS[0]).sample(seed=jax.random.key(0))
    view.likelihood(params, z).log_prob(XS[0])
    quantize(params["codebook"], jnp.zeros((2, 5, 3)))


def log_joint(params: Any, model: Any, x: np.ndarray) -> np.ndarray:
    """log p(x, z) of every z, [16], by the parts of the model."""
    codebook = np.asarray(params["codebook"])

    def one(indices: jax.Array) -> jax.Array:
        likelihood = model.decode(params, jnp.asarray(codebook)[indices])
        return likelihood.log_prob(x) + model.prior(params).log_prob(jax.nn.one_hot(indices, 4))

    return np.asarray(jit_once(jax.vmap(one))(CODES))


def test_the_bound_is_one_term_of_the_sum_over_all_codes() -> None:
    model, params = small()
    view = as_latent_variable_model(model)

    @jit_once
    def estimate(key: jax.Array, x: jax.Array) -> Any:
        return bound_estimate(view, params, key, x, bound=bounds.iwae, num_samples=3)

    evidences = []
    for index, x in enumerate(XS):
        joint = log_joint(params, model, x)
        encodings = np.asarray(model.encode(params, x))
        distances = ((encodings[:, None] - np.asarray(params["codebook"])) ** 2).sum(axis=-1)
        own = int(np.flatnonzero((distances.argmin(axis=1) == CODES).all(axis=1))[0])
        found = estimate(jax.random.key(index), x)
        np.testing.assert_allclose(found.value, joint[own], rtol=1e-5)
        assert found.monte_carlo_error < 1e-6
        evidences.append(np.logaddexp.reduce(joint))
        assert found.value < evidences[-1] - 1e-3
    np.testing.assert_allclose(np.exp(evidences).sum(), 1, rtol=1e-5)


def test_samples_have_the_models_own_probabilities() -> None:
    model, params = small()
    view = as_latent_variable_model(model)
    keys = jax.random.split(jax.random.key(0), 20_000)
    drawn = np.asarray(jit_once(jax.vmap(lambda key: sample(view, params, key)))(keys))
    is_x = (drawn[:, None] == XS).all(axis=-1)
    evidence = [np.logaddexp.reduce(log_joint(params, model, x)) for x in XS]
    assert_mean(is_x, np.exp(evidence))


def test_a_reconstruction_decodes_the_nearest_entries() -> None:
    model, params = small()
    view = as_latent_variable_model(model)
    for x in XS[:3]:
        codes = params["codebook"][quantize(params["codebook"], model.encode(params, x))]
        found = reconstruct(view, params, jax.random.key(0), x, mean=True)
        np.testing.assert_allclose(found, model.decode(params, codes).mean(), rtol=1e-5)


def test_with_one_entry_the_bound_is_exact_and_the_same_code_serves_all() -> None:
    model, params = small(1)
    view = as_latent_variable_model(model)
    log_probs = model.decode(params, jnp.tile(params["codebook"], (2, 1))).log_prob
    for x in XS[:3]:
        posterior = view.posterior(params, x)
        z, log_q = posterior.sample_and_log_prob(seed=jax.random.key(0))
        np.testing.assert_array_equal(z, np.ones((2, 1)))
        assert log_q == 0 and view.prior(params).log_prob(z) == 0
        np.testing.assert_allclose(view.likelihood(params, z).log_prob(x), log_probs(x), rtol=1e-6)
    total = np.exp(jax.vmap(log_probs)(XS)).sum()
    np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_the_start_is_at_different_encodings_and_changes_nothing_else() -> None:
    model, before = small()
    params = start_at_encodings(model, before, jax.random.key(7), XS)
    encodings = np.asarray(jax.vmap(model.encode, (None, 0))(params, XS)).reshape(-1, 3)
    distances = np.abs(np.asarray(params["codebook"])[:, None] - encodings).max(axis=-1)
    assert (distances.min(axis=1) < 1e-6).all()
    assert len(set(distances.argmin(axis=1))) == 4
    for part in ("encoder", "decoder", "prior"):
        jax.tree.map(np.testing.assert_array_equal, params[part], before[part])
    with pytest.raises(ValueError, match="at least as many encodings as the codebook has entries"):
        start_at_encodings(model, before, jax.random.key(7), XS[:1])


def test_perplexity() -> None:
    for counts, expected in (([3, 3, 3, 3], 4), ([0, 9, 0], 1), ([5, 0, 5], 2)):
        np.testing.assert_allclose(code_perplexity(np.array(counts)), expected, rtol=1e-6)
    skewed = np.array([1.0, 2.0, 5.0]) / 8
    found = code_perplexity(jnp.array([10.0, 20.0, 50.0]))
    np.testing.assert_allclose(found, np.exp(-skewed @ np.log(skewed)), rtol=1e-6)


def test_parameters_are_named_and_the_codebook_starts_small() -> None:
    params = vq_vae(codebook_size=5, **SIZES).init(jax.random.key(0))
    assert set(params) == {"encoder", "codebook", "decoder", "prior"}
    assert params["codebook"].shape == (5, 3)
    assert 0.05 < np.abs(params["codebook"]).max() <= 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_codes": 0}, "num_codes must be at least 1"),
        ({"codebook_size": 0}, "codebook_size must be at least 1"),
        ({"code_dim": 0}, "code_dim must be at least 1"),
        ({"hidden": (3, 0)}, "hidden must be at least 1"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"encoder": mlp(3, (), 7)}, r"encoder must map \[3\] to \[6\]"),
        ({"decoder": mlp(6, (), 2)}, r"decoder must map \[6\] to \[3\]"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vq_vae(**SIZES | settings).init(jax.random.key(0))

"""The codebook against k-means, the gradients against their closed forms."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.cluster import KMeans

from genjax_models.distributions import DiagonalGaussian
from genjax_models.learning import bounds, vector_quantization
from genjax_models.learning.importance import log_weights
from genjax_models.learning.vector_quantization import CodebookState, straight_through
from genjax_models.models.latent import (
    VectorQuantizedVAE,
    as_latent_variable_model,
    categorical,
    code_perplexity,
    quantize,
    vq_vae,
)
from genjax_models.training import stateful_gradient_descent
from tests.statistics import jit_once

KEY = jax.random.key(0)
WRITERS = ("moving_average", "gradient")


def frozen(num_codes: int, code_dim: int, codebook_size: int) -> VectorQuantizedVAE:
    """The encodings are the example itself."""
    prior = categorical.uniform(num_codes, codebook_size)
    return VectorQuantizedVAE(
        lambda key: {"codebook": jax.random.normal(key, (codebook_size, code_dim))},
        lambda params, x: x.reshape(num_codes, code_dim),
        lambda params, codes: DiagonalGaussian(codes.reshape(-1), jnp.zeros(codes.size)),
        lambda params: prior.distribution({}),
    )


@functools.cache
def points() -> np.ndarray:
    """60 examples of two codes each: 120 points around four centres."""
    noise = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [3.0, 0.5], [0.0, 2.5], [-2.0, -2.0]])
    return (centers[noise.integers(0, 4, 120)] + noise.normal(0, 0.9, (120, 2))).reshape(60, 4)


@functools.cache
def kmeans_step() -> Any:
    """`codebook -> (codebook, metrics)`: one step on all points."""
    vq = vector_quantization(frozen(2, 2, 4), decay=0.0)

    @jit_once
    def step(codebook: jax.Array) -> Any:
        params = {"codebook": codebook}
        state = vq.init_state(params, KEY)
        _, (state, metrics) = vq.objective(params, state, KEY, points())
        return vq.write_back(params, state)["codebook"], metrics

    return step


def lloyd(rows: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """One step of k-means, in words."""
    nearest = np.array([np.argmin([((row - e) ** 2).sum() for e in codebook]) for row in rows])
    return np.stack([rows[nearest == k].mean(axis=0) for k in range(len(codebook))])


def sklearn_kmeans(codebook: np.ndarray, max_iter: int) -> KMeans:
    return KMeans(4, init=codebook, n_init=1, max_iter=max_iter, tol=0).fit(points().reshape(-1, 2))


def test_without_decay_a_step_is_one_of_k_means() -> None:
    start = points().reshape(-1, 2)[[0, 1, 2, 3]]
    found, metrics = kmeans_step()(start)
    np.testing.assert_allclose(found, lloyd(points().reshape(-1, 2), start), rtol=1e-12)
    np.testing.assert_allclose(found, sklearn_kmeans(start, 1).cluster_centers_, rtol=1e-10)
    assert np.abs(found - start).max() > 0.1
    assert metrics["dead_codes"] == 0


def test_steps_without_decay_end_where_k_means_does() -> None:
    codebook = start = points().reshape(-1, 2)[[0, 1, 2, 3]]
    for _ in range(60):
        codebook, metrics = kmeans_step()(codebook)
    reference = sklearn_kmeans(start, 300)
    assert 3 < reference.n_iter_ < 60
    np.testing.assert_allclose(codebook, reference.cluster_centers_, rtol=1e-10)
    # The commitment is the mean squared distance, which is what k-means makes small.
    np.testing.assert_allclose(metrics["commitment"], reference.inertia_ / 120, rtol=1e-10)
    counts = np.bincount(reference.labels_) / 120
    np.testing.assert_allclose(metrics["perplexity"], np.exp(-counts @ np.log(counts)), rtol=1e-10)


def test_the_moving_averages_of_two_batches() -> None:
    """By hand: with decay, and with smoothed counts."""
    decay, smoothing, rows = 0.9, 0.5, points().reshape(-1, 2)
    vq = vector_quantization(frozen(2, 2, 4), decay=decay, smoothing=smoothing)
    codebook, counts, sums = rows[[0, 1, 2, 3]], np.zeros(4), np.zeros((4, 2))
    params = {"codebook": jnp.asarray(codebook)}
    state = vq.init_state(params, KEY)
    for batch in (points()[:35], points()[35:]):
        _, (state, _) = vq.objective(params, state, KEY, batch)
        params = vq.write_back(params, state)
        encodings = batch.reshape(-1, 2)
        nearest = ((encodings[:, None] - codebook) ** 2).sum(axis=-1).argmin(axis=1)
        chosen = np.eye(4)[nearest]
        counts = decay * counts + (1 - decay) * chosen.sum(axis=0)
        sums = decay * sums + (1 - decay) * chosen.T @ encodings
        total = counts.sum()
        smoothed = (counts + smoothing) / (total + 4 * smoothing) * total
        codebook = sums / smoothed[:, None]
        np.testing.assert_allclose(state.counts, counts, rtol=1e-12)
        np.testing.assert_allclose(params["codebook"], codebook, rtol=1e-10)


def test_an_entry_that_nothing_chooses_stays() -> None:
    """Whether it never was chosen, or so long ago that its average is lost to rounding."""
    start = np.concatenate([points().reshape(-1, 2)[:3], [[50.0, -40.0]]])
    found, metrics = kmeans_step()(start)
    np.testing.assert_array_equal(found[3], [50.0, -40.0])
    assert np.isfinite(found).all() and metrics["dead_codes"] == 1
    vq = vector_quantization(frozen(2, 2, 4))
    counts = jnp.array([3.0, 1e-300, 0.0, 2.0])
    sums = jnp.array([[3.0, 6.0], [2e-300, 0.0], [0.0, 0.0], [-2.0, 1.0]])
    params = vq.write_back({"codebook": jnp.asarray(start)}, CodebookState(counts, sums))
    expected = np.array([[1.0, 2.0], start[1], start[2], [-1.0, 0.5]])
    np.testing.assert_allclose(params["codebook"], expected)


@functools.cache
def small(codebook_size: int = 3) -> Any:
    """A model of networks with its parameters and examples, and all of its codebook in use."""
    model = vq_vae(
        num_dims=4,
        num_codes=2,
        codebook_size=codebook_size,
        code_dim=2,
        hidden=(5,),
        prior=categorical.independent(2, codebook_size),
    )
    params = model.init(jax.random.key(1))
    noise = np.random.default_rng(3)
    params["prior"]["logits"] = jnp.asarray(noise.normal(0, 1, (2, codebook_size)))
    xs = jnp.array([[1.0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]])
    encodings = jax.vmap(model.encode, (None, 0))(params, xs).reshape(-1, 2)
    near = encodings[jnp.array([0, 3, 7])][:codebook_size]
    params["codebook"] = near + 0.01 * jnp.asarray(noise.normal(0, 1, near.shape))
    return model, params, xs


@functools.cache
def gradients(writer: str, codebook_size: int = 3) -> Any:
    """Loss, metrics, gradient and state of a batch."""
    model, params, xs = small(codebook_size)
    vq = vector_quantization(model, commitment=0.3, codebook=writer)

    @jit_once
    def run(params: Any) -> Any:
        state = vq.init_state(params, KEY)
        objective = functools.partial(vq.objective, state=state, key=KEY, batch=xs)
        return jax.value_and_grad(lambda p: objective(p), has_aux=True)(params)

    (loss, (state, metrics)), gradient = run(params)
    return loss, metrics, gradient, state


def quantities(codebook_size: int = 3) -> Any:
    """Encodings and codes of the batch [5, 2, 2], and their indices, by brute force."""
    model, params, xs = small(codebook_size)
    encodings = np.asarray(jax.vmap(model.encode, (None, 0))(params, xs))
    codebook = np.asarray(params["codebook"])
    indices = ((encodings[:, :, None] - codebook) ** 2).sum(axis=-1).argmin(axis=-1)
    return encodings, codebook[indices], indices


@pytest.mark.parametrize("writer", WRITERS)
def test_the_loss_is_the_bound_and_the_distances(writer: str) -> None:
    model, params, xs = small()
    encodings, codes, indices = quantities()
    assert len(np.unique(indices)) == 3
    loss, metrics, _, _ = gradients(writer)
    likelihoods = jax.vmap(lambda c, x: model.decode(params, c).log_prob(x))(codes, xs)
    log_prior = jax.nn.log_softmax(params["prior"]["logits"])[np.arange(2), indices].sum(axis=1)
    distance = ((encodings - codes) ** 2).sum(axis=2).mean()
    bound = (likelihoods + log_prior).mean()
    weight = 0.3 if writer == "moving_average" else 1.3
    np.testing.assert_allclose(loss, -bound + weight * distance, rtol=1e-10)
    np.testing.assert_allclose(metrics["bound"], bound, rtol=1e-10)
    np.testing.assert_allclose(metrics["log_likelihood"], likelihoods.mean(), rtol=1e-10)
    np.testing.assert_allclose(metrics["kl_divergence"], -log_prior.mean(), rtol=1e-10)
    np.testing.assert_allclose(metrics["commitment"], distance, rtol=1e-10)
    # The same number as that of the latent-variable model, for any draw.
    view = as_latent_variable_model(model)
    keys = jax.random.split(jax.random.key(5), 5)
    weights = jax.vmap(lambda key, x: log_weights(view, params, key, x, 2))(keys, xs)
    np.testing.assert_allclose(jax.vmap(bounds.elbo)(weights).mean(), bound, rtol=1e-10)


@pytest.mark.parametrize("writer", WRITERS)
def test_the_encoders_gradient_is_that_of_the_decoders_input_and_of_the_commitment(
    writer: str,
) -> None:
    model, params, xs = small()
    encodings, codes, _ = quantities()

    def at_input(codes: jax.Array, x: jax.Array) -> jax.Array:
        return -model.decode(params, codes).log_prob(x)

    # Means over five examples, and over two codes of each.
    received = jax.vmap(jax.grad(at_input))(codes, xs) / 5 + 0.3 * 2 * (encodings - codes) / 10
    encode = lambda encoder: jax.vmap(model.encode, (None, 0))({"encoder": encoder}, xs)  # noqa: E731
    expected = jax.vjp(encode, params["encoder"])[1](received)[0]
    found = gradients(writer)[2]["encoder"]
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    jax.tree.map(compare, found, expected)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(found)) > 0.01


def test_the_codebooks_gradient_is_the_distance_to_its_encodings() -> None:
    encodings, codes, indices = quantities()
    expected = np.zeros((3, 2))
    np.add.at(expected, indices, 2 * (codes - encodings) / 10)
    found = gradients("gradient")[2]["codebook"]
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13)
    np.testing.assert_array_equal(gradients("moving_average")[2]["codebook"], 0)


@pytest.mark.parametrize("writer", WRITERS)
def test_decoder_and_prior_learn_from_the_bound_alone(writer: str) -> None:
    model, params, xs = small()
    _, codes, indices = quantities()

    def negative(decoder: Any) -> jax.Array:
        at = params | {"decoder": decoder}
        return -jnp.mean(jax.vmap(lambda c, x: model.decode(at, c).log_prob(x))(codes, xs))

    found = gradients(writer)[2]
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
    jax.tree.map(compare, found["decoder"], jax.grad(negative)(params["decoder"]))
    frequencies = np.eye(3)[indices].mean(axis=0)
    expected = jax.nn.softmax(params["prior"]["logits"]) - frequencies
    compare(found["prior"]["logits"], expected)


def test_straight_through_is_the_code_with_the_encodings_derivative() -> None:
    encodings, codes = jnp.array([0.1, 1e8]), jnp.array([0.7, -0.3])
    np.testing.assert_array_equal(straight_through(encodings, codes), codes)
    for argument, expected in ((0, np.eye(2)), (1, np.zeros((2, 2)))):
        found = jax.jacobian(straight_through, argument)(encodings, codes)
        np.testing.assert_array_equal(found, expected)


def test_one_entry_is_a_constant_code() -> None:
    """Every example has it, it carries nothing, and it moves to the mean of all encodings."""
    model, params, _ = small(1)
    encodings, codes, indices = quantities(1)
    _, metrics, _, state = gradients("moving_average", 1)
    assert (indices == 0).all() and len(np.unique(codes, axis=0)) == 1
    np.testing.assert_allclose(metrics["perplexity"], 1, rtol=1e-12)
    np.testing.assert_allclose(metrics["kl_divergence"], 0, atol=1e-12)
    moved = vector_quantization(model).write_back(params, state)["codebook"]
    np.testing.assert_allclose(moved[0], encodings.mean(axis=(0, 1)), rtol=1e-9)


def test_training_writes_the_codebook_back_and_the_optimizer_does_not_touch_it() -> None:
    model, params, xs = small()
    vq = vector_quantization(model, decay=0.5)
    init, step = stateful_gradient_descent(
        vq.objective,
        optax.adamw(0.05, weight_decay=0.5),
        lambda key: params,
        vq.init_state,
        write_back=vq.write_back,
    )
    state = init(jax.random.key(0))
    encodings, _, indices = quantities()
    compiled, losses = jit_once(step), []
    for seed in range(40):
        state, metrics = compiled(state, jax.random.key(seed), xs)
        losses.append(float(metrics["loss"]))
        if not seed:
            chosen = np.eye(3)[indices.reshape(-1)]
            means = chosen.T @ encodings.reshape(-1, 2) / chosen.sum(axis=0)[:, None]
            np.testing.assert_allclose(state.params["codebook"], means, rtol=1e-9)
    assert losses[-1] < losses[0] - 0.5
    expected = state.objective_state.sums / state.objective_state.counts[:, None]
    np.testing.assert_allclose(state.params["codebook"], expected, rtol=1e-9)
    used = jax.vmap(lambda x: quantize(state.params["codebook"], model.encode(state.params, x)))(xs)
    counts = np.bincount(np.ravel(used), minlength=3)
    assert 1 <= code_perplexity(counts) <= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"commitment": -0.1}, "commitment must be finite and not negative"),
        ({"smoothing": float("inf")}, "smoothing must be finite and not negative"),
        ({"codebook": "ema"}, "codebook must be one of"),
        ({"decay": 1.0}, "decay must be at least 0 and below 1"),
        ({"decay": -0.1}, "decay must be at least 0 and below 1"),
        ({"codebook": "gradient", "decay": 0.3}, "decay and smoothing have no effect .* got 0.3"),
        ({"codebook": "gradient", "smoothing": 7.0}, "have no effect .* got 0.99 and 7.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vector_quantization(frozen(2, 2, 4), **settings)

"""What holds for every model: a new one adds a line to `MODELS`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.evaluation import log_likelihood
from genjax_models.interfaces import LatentVariableModel
from genjax_models.learning import importance_samples, variational
from genjax_models.models.latent import reconstruct, sample, vae
from genjax_models.networks import convolutional_decoder, convolutional_encoder
from tests import oracles


class Case(NamedTuple):
    """A model at a tiny size, three examples, the values of x that it allows."""

    model: LatentVariableModel
    xs: Any
    supports: Callable[[np.ndarray], np.ndarray]
    estimator: str = "pathwise"


def levels(num_levels: int) -> Callable[[np.ndarray], np.ndarray]:
    steps = num_levels - 1
    return lambda x: (x >= 0) & (x <= 1) & (np.abs(x * steps - np.round(x * steps)) < 1e-4)


def grid(num_levels: int, num_dims: int) -> jax.Array:
    values = jnp.arange(3 * num_dims).reshape(3, num_dims) * 7 % num_levels
    return values / (num_levels - 1)


def convolutional() -> LatentVariableModel:
    return vae(
        num_dims=12,
        latent_dim=2,
        likelihood="discretized_logistic",
        num_levels=256,
        encoder=convolutional_encoder((2, 3, 2), 4, features=(2,)),
        decoder=convolutional_decoder(2, (2, 3, 2), num_outputs_per_dim=2, features=(2,)),
    )


TINY: dict = {"num_dims": 4, "latent_dim": 2, "hidden": (3,)}
MODELS = {
    "vae, bernoulli": lambda: Case(vae(**TINY), grid(2, 4), levels(2)),
    "vae, gaussian": lambda: Case(vae(**TINY, likelihood="gaussian"), grid(5, 4), np.isfinite),
    "vae, discretized logistic": lambda: Case(
        vae(**TINY, likelihood="discretized_logistic", num_levels=17), grid(17, 4), levels(17)
    ),
    "vae, convolutional": lambda: Case(convolutional(), grid(256, 12), levels(256)),
    "linear-Gaussian, by hand": lambda: Case(oracles.linear_gaussian(), grid(5, 3), np.isfinite),
    "linear-Gaussian, pytrees": lambda: Case(
        oracles.structured_linear_gaussian(),
        {"pair": grid(5, 2), "last": jnp.array([-1.0, 0.3, 2.0])},
        np.isfinite,
    ),
    "discrete, by hand": lambda: Case(oracles.discrete(), grid(2, 3), levels(2), estimator="rloo"),
}


@functools.cache
def case(name: str) -> Case:
    return MODELS[name]()


@functools.cache
def everything(name: str) -> Callable:
    """All that is random of one model, as a function (params, key, x) of one example."""
    model, _, _, estimator = case(name)

    def run(params, key, x):
        keys = jax.random.split(key, 6)
        loss, metrics = variational(model, estimator=estimator, num_samples=2)(params, keys[0], x)
        return {
            "loss": loss,
            "metrics": metrics,
            "importance_samples": importance_samples(model, params, keys[1], x, 2),
            "log_likelihood": log_likelihood(
                model, params, keys[2], x, num_samples=3, chunk_size=2
            ),
            "sample": sample(model, params, keys[3]),
            "mean": sample(model, params, keys[4], mean=True),
            "reconstruction": reconstruct(model, params, keys[5], x),
        }

    return run


@functools.cache
def compiled(name: str) -> Callable:
    return jax.jit(everything(name))


@functools.cache
def params_of(name: str) -> Any:
    return jax.jit(case(name).model.init)(jax.random.key(0))


def example(name: str, index: int = 0) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], case(name).xs)


def assert_close(first: Any, second: Any) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), first, second)


@pytest.mark.parametrize("name", MODELS)
def test_jit_is_no_jit(name: str) -> None:
    arguments = params_of(name), jax.random.key(1), example(name)
    with jax.disable_jit():
        eager = everything(name)(*arguments)
    assert_close(compiled(name)(*arguments), eager)


@pytest.mark.parametrize("name", MODELS)
def test_vmap_is_a_loop(name: str) -> None:
    params, keys = params_of(name), jax.random.split(jax.random.key(1), 3)
    batch = jax.jit(jax.vmap(everything(name), (None, 0, 0)))(params, keys, case(name).xs)
    loop = [compiled(name)(params, keys[index], example(name, index)) for index in range(3)]
    assert_close(batch, jax.tree.map(lambda *leaves: np.stack(leaves), *loop))


@pytest.mark.parametrize("name", MODELS)
def test_the_key_decides_and_is_used_once(name: str) -> None:
    """The checker that the suite runs under finds any key that is used twice within."""
    assert jax.config.jax_debug_key_reuse
    params, x, key = params_of(name), example(name), jax.random.key(1)
    first = compiled(name)(params, jax.random.clone(key), x)
    jax.tree.map(
        np.testing.assert_array_equal, first, compiled(name)(params, jax.random.clone(key), x)
    )
    others = [compiled(name)(params, jax.random.key(seed), x) for seed in range(2, 8)]
    differs = jax.tree.map(
        lambda leaf, *rest: any((leaf != other).any() for other in rest), first, *others
    )
    # The KL of two fixed categoricals apart, everything moves with the key.
    assert all(jax.tree.leaves(differs))
    compiled(name)(params, key, x)
    with pytest.raises(jax.errors.KeyReuseError):
        compiled(name)(params, key, x)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    model, xs, _, estimator = case(name)
    objective = variational(model, estimator=estimator, num_samples=2)
    params = params_of(name)

    @jax.jit
    def gradient(params, keys, xs):
        losses = lambda params: jax.vmap(objective, (None, 0, 0))(params, keys, xs)[0]  # noqa: E731
        return jax.grad(lambda params: jnp.mean(losses(params)))(params)

    for path, leaf in jax.tree.leaves_with_path(
        gradient(params, jax.random.split(jax.random.key(1), 3), xs)
    ):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf != 0), path


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_like_examples_and_in_the_support(name: str) -> None:
    model, xs, supports, _ = case(name)
    params = params_of(name)

    @jax.jit
    @jax.vmap
    def draw(key):
        z_key, x_key = jax.random.split(key)
        z = model.prior(params).sample(seed=z_key)
        likelihood = model.likelihood(params, z)
        x = likelihood.sample(seed=x_key)
        return x, likelihood.log_prob(x), model.posterior(params, x).log_prob(z)

    samples, *log_probs = draw(jax.random.split(jax.random.key(1), 50))
    for leaf in jax.tree.leaves(log_probs):
        assert leaf.shape == (50,)
        assert np.isfinite(leaf).all()
    assert jax.tree.structure(samples) == jax.tree.structure(xs)
    for leaf, like in zip(jax.tree.leaves(samples), jax.tree.leaves(xs), strict=True):
        assert leaf.shape[1:] == like.shape[1:]
        assert supports(np.asarray(leaf)).all()
        assert len(np.unique(leaf)) > 1


@pytest.mark.parametrize("name", MODELS)
def test_distributions_cross_jit_and_vmap(name: str) -> None:
    """They are pytrees: flattened on the way out, put together again on the way in."""
    model, xs, _, _ = case(name)
    params = params_of(name)
    posteriors = jax.jit(jax.vmap(model.posterior, (None, 0)))(params, xs)
    zs = jax.jit(jax.vmap(lambda q, key: q.sample(seed=key)))(
        posteriors, jax.random.split(jax.random.key(1), 3)
    )
    likelihoods = jax.jit(jax.vmap(model.likelihood, (None, 0)))(params, zs)
    crossed = jax.jit(jax.vmap(lambda q, p, z, x: (q.log_prob(z), p.log_prob(x))))(
        posteriors, likelihoods, zs, xs
    )
    within = jax.jit(
        jax.vmap(
            lambda z, x: (
                model.posterior(params, x).log_prob(z),
                model.likelihood(params, z).log_prob(x),
            )
        )
    )(zs, xs)
    assert_close(crossed, within)


@pytest.mark.parametrize("name", MODELS)
def test_init_is_a_function_of_its_key(name: str) -> None:
    init, key = case(name).model.init, jax.random.key(7)
    first, again, other = init(jax.random.clone(key)), init(key), init(jax.random.key(8))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    if "by hand" not in name and "pytrees" not in name:
        assert any(
            np.any(a != b)
            for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
        )
    leaves, structure = jax.tree.flatten(first)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    rebuilt = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
    assert jax.tree.structure(rebuilt) == structure
    x = example(name)
    assert_close(
        compiled(name)(rebuilt, jax.random.key(1), x), compiled(name)(first, jax.random.key(1), x)
    )

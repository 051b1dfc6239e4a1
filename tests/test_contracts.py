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
from tests.statistics import jit_once


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


def draws(name: str, params: Any, key: jax.Array, x: Any) -> dict:
    """The loss of one example, a sample and a reconstruction."""
    model, _, _, estimator = case(name)
    keys = jax.random.split(key, 4)
    loss, metrics = variational(model, estimator=estimator, num_samples=2)(params, keys[0], x)
    return {
        "loss": loss,
        "metrics": metrics,
        "sample": sample(model, params, keys[1]),
        "mean": sample(model, params, keys[2], mean=True),
        "reconstruction": reconstruct(model, params, keys[3], x),
    }


def everything(name: str, params: Any, key: jax.Array, x: Any) -> dict:
    """The same with gradients, importance samples and log-likelihoods."""
    model = case(name).model
    draws_key, *keys = jax.random.split(key, 4)

    def loss(params):
        drawn = draws(name, params, draws_key, x)
        return drawn["loss"], drawn

    gradient, drawn = jax.grad(loss, has_aux=True)(params)
    return {
        "draws": drawn,
        "gradient": gradient,
        "importance_samples": importance_samples(model, params, keys[0], x, 2),
        "log_likelihood": log_likelihood(model, params, keys[1], x, num_samples=3, chunk_size=2),
        "of_own_sample": importance_samples(model, params, keys[2], drawn["sample"], 2),
    }


@functools.cache
def compiled(name: str) -> Callable:
    return jit_once(functools.partial(everything, name))


@functools.cache
def params_of(name: str) -> Any:
    return jax.jit(case(name).model.init)(jax.random.key(0))


def example(name: str, index: int = 0) -> Any:
    return jax.tree.map(lambda leaf: leaf[index], case(name).xs)


def stack(trees: list) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@functools.cache
def results(name: str, num_keys: int = 20) -> Any:
    """Of many keys and the three examples in turn, [num_keys, ...]."""
    run = compiled(name)
    return stack(
        [
            run(params_of(name), jax.random.key(seed), example(name, seed % 3))
            for seed in range(num_keys)
        ]
    )


def assert_close(first: Any, second: Any) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), first, second)


@pytest.mark.parametrize("name", MODELS)
def test_jit_is_no_jit(name: str) -> None:
    with jax.disable_jit():
        draws_key = jax.random.split(jax.random.key(0), 4)[0]
        eager = draws(name, params_of(name), draws_key, example(name))
    assert_close(eager, jax.tree.map(lambda leaf: leaf[0], results(name)["draws"]))


@pytest.mark.parametrize("name", MODELS)
def test_vmap_is_a_loop(name: str) -> None:
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    run = jit_once(jax.vmap(functools.partial(everything, name), (None, 0, 0)))
    batch = run(params_of(name), keys, case(name).xs)
    assert_close(batch, jax.tree.map(lambda leaf: leaf[:3], results(name)))


@pytest.mark.parametrize("name", MODELS)
def test_the_key_decides_and_is_used_once(name: str) -> None:
    """The checker that the suite runs under finds any key that is used twice within."""
    assert jax.config.jax_debug_key_reuse
    params, x, run, key = params_of(name), example(name), compiled(name), jax.random.key(0)
    first = run(params, key, x)
    with pytest.raises(jax.errors.KeyReuseError):
        run(params, key, x)
    assert_close(first, jax.tree.map(lambda leaf: leaf[0], results(name)))
    # Every third key had the same example: nothing may come out the same for all of them.
    for path, leaf in jax.tree.leaves_with_path(results(name)):
        assert (leaf[0] != leaf[3::3]).any(), path


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    for path, leaf in jax.tree.leaves_with_path(results(name)["gradient"]):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf != 0), path


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_like_examples_and_in_the_support(name: str) -> None:
    _, xs, supports, _ = case(name)
    for part in ("sample", "reconstruction", "mean"):
        samples = results(name)["draws"][part]
        assert jax.tree.structure(samples) == jax.tree.structure(xs)
        for leaf, like in zip(jax.tree.leaves(samples), jax.tree.leaves(xs), strict=True):
            assert leaf.shape[1:] == like.shape[1:]
            assert part == "mean" or supports(leaf).all()
            assert len(np.unique(leaf)) > 1


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_are_finite(name: str) -> None:
    """Of the examples, and of the model's own samples."""
    for part in ("draws", "log_likelihood", "importance_samples", "of_own_sample"):
        for path, leaf in jax.tree.leaves_with_path(results(name)[part]):
            assert np.isfinite(leaf).all(), (part, path)


OURS = [name for name in MODELS if name.startswith("vae")]


@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize("name", OURS)
def test_nothing_is_broadcast_in_silence(name: str) -> None:
    run = functools.partial(everything, name)
    jax.eval_shape(run, params_of(name), jax.random.key(0), example(name))


@pytest.mark.parametrize("name", OURS)
def test_our_distributions_cross_jit_and_vmap(name: str) -> None:
    """They are pytrees: taken apart on the way out, put together again on the way in."""
    model, xs, _, _ = case(name)
    params, zs = params_of(name), jnp.arange(6.0).reshape(3, 2)

    @jax.jit
    @jax.vmap
    def make(z, x):
        posterior, likelihood = model.posterior(params, x), model.likelihood(params, z)
        log_probs = posterior.log_prob(z), likelihood.log_prob(x)
        return posterior, likelihood, log_probs, likelihood.mean()

    @jax.jit
    @jax.vmap
    def use(posterior, likelihood, z, x):
        log_probs = posterior.log_prob(z), likelihood.log_prob(x)
        return log_probs, likelihood.mean()

    posteriors, likelihoods, *within = make(zs, xs)
    assert_close(use(posteriors, likelihoods, zs, xs), tuple(within))


@pytest.mark.parametrize("name", MODELS)
def test_init_is_a_function_of_its_key(name: str) -> None:
    init = case(name).model.init
    first, again, other = (init(jax.random.key(seed)) for seed in (7, 7, 8))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    if name in OURS:
        pairs = zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
        assert any(np.any(a != b) for a, b in pairs)


@pytest.mark.parametrize("name", MODELS)
def test_params_survive_flatten_and_unflatten(name: str) -> None:
    leaves, structure = jax.tree.flatten(params_of(name))
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    rebuilt = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
    assert jax.tree.structure(rebuilt) == structure
    assert_close(
        compiled(name)(rebuilt, jax.random.key(0), example(name)),
        jax.tree.map(lambda leaf: leaf[0], results(name)),
    )

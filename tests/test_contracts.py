"""What holds for every model of the registry: a new one adds a line to `registry.MODELS`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.evaluation import log_likelihood
from genjax_models.interfaces import (
    AutoEncoder,
    DensityModel,
    EnergyModel,
    ImplicitModel,
    LatentVariableModel,
)
from genjax_models.learning import importance_samples, reconstruction, variational
from genjax_models.models.latent import reconstruct, sample
from tests.registry import MODELS, Case
from tests.statistics import jit_once

SAMPLES = ("sample", "reconstruction", "mean")


@functools.cache
def case(name: str) -> Case:
    return MODELS[name]()


# One function a shape: (case, params, key, x) -> what is drawn, the loss, and what hangs on no key.


def of_density(case: Case, params: Any, key: jax.Array, x: Any) -> tuple[dict, jax.Array, dict]:
    drawn = case.model.sample(params, key)
    of_own_sample = case.model.log_prob(params, jax.lax.stop_gradient(drawn))
    return (
        {"sample": drawn, "of_own_sample": of_own_sample},
        -of_own_sample,
        {"log_prob": case.model.log_prob(params, x)},
    )


def of_energy(case: Case, params: Any, key: jax.Array, x: Any) -> tuple[dict, jax.Array, dict]:
    drawn = case.kernel(params, key, x)
    of_own_sample = case.model.energy(params, jax.lax.stop_gradient(drawn))
    energy = case.model.energy(params, x)
    return (
        {"sample": drawn, "of_own_sample": of_own_sample},
        energy - of_own_sample,
        {"energy": energy},
    )


def of_implicit(case: Case, params: Any, key: jax.Array, x: Any) -> tuple[dict, jax.Array, dict]:
    drawn = case.model.sample(params, key)
    weights = jax.tree.map(lambda leaf: jnp.sin(jnp.arange(1.0, leaf.size + 1)), drawn)
    products = jax.tree.map(lambda leaf, weight: jnp.sum(leaf.ravel() * weight), drawn, weights)
    return {"sample": drawn}, sum(jax.tree.leaves(products)), {}


def of_latent(case: Case, params: Any, key: jax.Array, x: Any) -> tuple[dict, jax.Array, dict]:
    model, keys = case.model, jax.random.split(key, 4)
    objective = variational(model, estimator=case.estimator, num_samples=2)
    loss, metrics = objective(params, keys[0], x)
    drawn = {
        "loss": loss,
        "metrics": metrics,
        "sample": sample(model, params, keys[1]),
        "mean": sample(model, params, keys[2], mean=True),
        "reconstruction": reconstruct(model, params, keys[3], x),
    }
    return drawn, loss, {}


def of_auto_encoder(
    case: Case, params: Any, key: jax.Array, x: Any
) -> tuple[dict, jax.Array, dict]:
    noise_key, objective_key, sample_key = jax.random.split(key, 3)
    noise = reconstruction.gaussian_noise(0.3)
    loss, metrics = reconstruction.denoising(case.model, noise)(params, objective_key, x)
    code = case.model.encode(params, noise(noise_key, x))
    distribution = case.model.decode(params, code)
    drawn = {
        "loss": loss,
        "metrics": metrics,
        "code": code,
        "sample": distribution.sample(seed=sample_key),
        "mean": distribution.mean(),
    }
    return drawn, loss, {"code_of_example": case.model.encode(params, x)}


SHAPES = {
    AutoEncoder: of_auto_encoder,
    DensityModel: of_density,
    EnergyModel: of_energy,
    ImplicitModel: of_implicit,
    LatentVariableModel: of_latent,
}


def draws(name: str, params: Any, key: jax.Array, x: Any) -> tuple[dict, jax.Array, dict]:
    return SHAPES[type(case(name).model)](case(name), params, key, x)


def everything(name: str, params: Any, key: jax.Array, x: Any) -> dict:
    """The same with gradients and, where there are latents, importance samples."""
    model = case(name).model
    draws_key, *keys = jax.random.split(key, 4)

    def loss(params):
        drawn, loss, fixed = draws(name, params, draws_key, x)
        return loss, (drawn, fixed)

    gradient, (drawn, fixed) = jax.grad(loss, has_aux=True)(params)
    found = {"draws": drawn, "fixed": fixed, "gradient": gradient}
    if not isinstance(model, LatentVariableModel):
        return found
    return found | {
        "importance_samples": importance_samples(model, params, keys[0], x, 2),
        "log_likelihood": log_likelihood(model, params, keys[1], x, num_samples=3, chunk_size=2),
        "of_own_sample": importance_samples(model, params, keys[2], drawn["sample"], 2),
    }


@functools.cache
def compiled(name: str) -> Callable:
    return jit_once(functools.partial(everything, name))


@functools.cache
def initial_params(name: str) -> Any:
    return jax.jit(case(name).model.init)(jax.random.key(0))


@functools.cache
def params_of(name: str) -> Any:
    """Not quite the initial ones: what starts at zero would hide what lies behind it."""
    noise = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * jnp.asarray(noise.standard_normal(leaf.shape), leaf.dtype),
        initial_params(name),
    )


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
        eager, _, _ = draws(name, params_of(name), draws_key, example(name))
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
    found = {part: tree for part, tree in results(name).items() if part != "fixed"}
    for path, leaf in jax.tree.leaves_with_path(found):
        assert (leaf[0] != leaf[3::3]).any(), path


@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_finite_and_reach_every_parameter(name: str) -> None:
    for path, leaf in jax.tree.leaves_with_path(results(name)["gradient"]):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf != 0), path


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_like_examples_and_in_the_support(name: str) -> None:
    xs, supports, drawn = case(name).xs, case(name).supports, results(name)["draws"]
    for part in (part for part in SAMPLES if part in drawn):
        samples = drawn[part]
        assert jax.tree.structure(samples) == jax.tree.structure(xs)
        for leaf, like in zip(jax.tree.leaves(samples), jax.tree.leaves(xs), strict=True):
            assert leaf.shape[1:] == like.shape[1:]
            assert part == "mean" or supports(leaf).all()
            assert len(np.unique(leaf)) > 1


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_are_finite(name: str) -> None:
    """Of the examples, and of the model's own samples."""
    for path, leaf in jax.tree.leaves_with_path(results(name)):
        assert np.isfinite(leaf).all(), path


BY_HAND = ("linear-Gaussian, pytrees", "discrete, by hand")
OURS = [name for name in MODELS if name not in BY_HAND]
VAES = [name for name in MODELS if name.startswith("vae")]


# Layers of flax add a bias [channels] to an image without saying so.
STRICT = [name for name in OURS if name != "real_nvp, several scales, logits"]


@pytest.mark.usefixtures("strict_ranks")
@pytest.mark.parametrize("name", STRICT)
def test_nothing_is_broadcast_in_silence(name: str) -> None:
    run = functools.partial(everything, name)
    jax.eval_shape(run, params_of(name), jax.random.key(0), example(name))


@pytest.mark.parametrize("name", VAES)
def test_our_distributions_cross_jit_and_vmap(name: str) -> None:
    """They are pytrees: taken apart on the way out, put together again on the way in."""
    model, xs = case(name).model, case(name).xs
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
    initial = jax.tree.leaves(initial_params(name))
    # A weak type would change with the first step, and have it compiled twice.
    assert not any(leaf.weak_type for leaf in initial)
    assert len({leaf.unsafe_buffer_pointer() for leaf in initial}) == len(initial)
    leaves, structure = jax.tree.flatten(params_of(name))
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves)
    rebuilt = jax.tree.unflatten(structure, [np.asarray(leaf) for leaf in leaves])
    assert jax.tree.structure(rebuilt) == structure
    assert_close(
        compiled(name)(rebuilt, jax.random.key(0), example(name)),
        jax.tree.map(lambda leaf: leaf[0], results(name)),
    )

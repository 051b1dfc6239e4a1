"""Hierarchies of Gaussian layers: linear ones in closed form, degenerate ones, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from genjax_models.distributions import DiagonalGaussian
from genjax_models.learning import log_weights
from genjax_models.models.latent import (
    deep_latent_gaussian_model,
    gaussian_belief_net,
    hierarchies,
    ladder_vae,
    parts,
    vae,
)
from genjax_models.networks import with_output_bias
from tests.models.latent.linear_hierarchy import dense, linear_hierarchy
from tests.statistics import assert_mean, jit_once

X = jnp.array([0.7, -1.2])


def identity(x: jax.Array) -> jax.Array:
    return x


def of_generative(linear) -> dict:
    """Prior and likelihood parameters of the linear hierarchy, for belief net and ladder alike."""
    x_given_z, *layers = linear.maps
    return {
        "prior": {"top": {}, "layers": tuple(dense(*layer) for layer in layers[::-1])},
        "likelihood": {
            "network": dense(*x_given_z[:2]),
            "observation": {"log_scale": jnp.log(x_given_z.scale[0])},
        },
    }


def belief_net(num_layers: int):
    """The belief net with the exact posterior."""
    sizes = (2,) * num_layers
    model = gaussian_belief_net(
        num_dims=2, latent_dims=sizes, hidden=sizes, num_hidden_layers=0, likelihood="gaussian"
    )
    linear = linear_hierarchy(num_layers)
    posterior = tuple(dense(*layer) for layer in linear.upwards())
    return model, of_generative(linear) | {"posterior": posterior}


def ladder(num_layers: int):
    """The ladder with the exact posterior: what x says of each layer is affine in x."""
    sizes = (2,) * num_layers
    model = ladder_vae(
        num_dims=2,
        latent_dims=sizes,
        hidden=sizes,
        num_hidden_layers=1,
        activation=identity,
        likelihood="gaussian",
    )
    linear = linear_hierarchy(num_layers)
    *below, top = linear.evidence()
    # The top layer is not merged: its posterior is what x says times N(0, 1).
    variance = 1 / (1 + 1 / top.scale**2)
    gain = variance / top.scale**2
    merged = type(top)(gain * top.slope, gain * top.offset, np.sqrt(variance))
    through = dense(np.ones(2), np.zeros(2))["params"]["Dense_0"]

    def after_identity(parameters: dict) -> dict:
        return {"params": {"Dense_0": through, "Dense_1": parameters["params"]["Dense_0"]}}

    generative = of_generative(linear)
    prior, likelihood = generative["prior"], generative["likelihood"]
    prior["layers"] = tuple(map(after_identity, prior["layers"]))
    likelihood["network"] = after_identity(likelihood["network"])
    evidence = {
        "trunks": tuple({"params": {"Dense_0": through}} for _ in sizes),
        "heads": tuple(dense(*layer) for layer in (*below, merged)),
    }
    return model, generative | {"posterior": evidence}


@pytest.mark.parametrize("num_layers", [1, 3, 5])
@pytest.mark.parametrize("make", [belief_net, ladder])
def test_with_the_exact_posterior_every_weight_is_the_likelihood(make, num_layers: int) -> None:
    """log p(x) of a linear-Gaussian hierarchy, for every sample."""
    model, params = make(num_layers)
    like = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, like)
    found = jit_once(log_weights, static_argnums=(0, 4))(model, params, jax.random.key(0), X, 20)
    exact = linear_hierarchy(num_layers).log_prob(np.asarray(X))
    np.testing.assert_allclose(found, exact, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("make", [belief_net, ladder])
def test_with_another_posterior_the_weights_average_to_the_likelihood(make) -> None:
    model, params = make(3)
    params["posterior"] = jax.tree.map(lambda leaf: leaf + 0.1, params["posterior"])
    draw = jit_once(log_weights, static_argnums=(0, 4))
    weights = np.exp(draw(model, params, jax.random.key(1), X, 50_000))
    assert weights.std() > 0.01 * weights.mean()
    assert_mean(weights, np.exp(linear_hierarchy(3).log_prob(np.asarray(X))))


def test_ancestral_samples_have_the_moments_of_the_hierarchy() -> None:
    model, params = belief_net(3)

    def draw(key):
        z_key, x_key = jax.random.split(key)
        z = model.prior(params).sample(seed=z_key)
        return jnp.stack([*z, model.likelihood(params, z).sample(seed=x_key)])

    found = jit_once(jax.vmap(draw))(jax.random.split(jax.random.key(2), 100_000))
    moments = linear_hierarchy(3).moments()[::-1]
    assert_mean(found, np.stack([mean for mean, _ in moments]))
    centred = np.asarray(found, np.float64) - np.stack([mean for mean, _ in moments])
    assert_mean(centred**2, np.stack([variance for _, variance in moments]))


def test_a_layer_that_says_nothing_leaves_the_model_of_one_layer() -> None:
    """p(z_1 | z_2) = N(0, I) and q(z_2 | z_1) = N(0, I): the two-layer model is the VAE."""
    two = gaussian_belief_net(num_dims=4, latent_dims=(3, 2), hidden=(5, 4))
    one = vae(num_dims=4, latent_dim=3, hidden=(5, 5))
    params = two.init(jax.random.key(0))
    zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)  # noqa: E731
    params["prior"] = zeros(params["prior"])
    params["posterior"] = (params["posterior"][0], zeros(params["posterior"][1]))
    of_one = params | {"prior": {}, "posterior": params["posterior"][0]}
    x = jnp.array([1.0, 0.0, 0.0, 1.0])
    z_2, z_1 = jnp.array([0.4, -2.0]), jnp.array([0.3, -0.8, 1.5])

    def log_weight(model, params, z):
        log_joint = model.likelihood(params, z).log_prob(x) + model.prior(params).log_prob(z)
        return log_joint - model.posterior(params, x).log_prob(z)

    expected = log_weight(one, of_one, z_1)
    np.testing.assert_allclose(log_weight(two, params, (z_2, z_1)), expected, rtol=1e-5)


def test_merging_multiplies_densities() -> None:
    grid = np.linspace(-30, 30, 60_001)
    for loc, scale, other_loc, other_scale in [(1.0, 0.5, -2.0, 1.5), (3.0, 2.0, 0.1, 0.2)]:
        merged = hierarchies.merge(
            DiagonalGaussian(jnp.array([loc]), jnp.log(jnp.array([scale]))),
            DiagonalGaussian(jnp.array([other_loc]), jnp.log(jnp.array([other_scale]))),
        )
        product = scipy.stats.norm.pdf(grid, loc, scale)
        product *= scipy.stats.norm.pdf(grid, other_loc, other_scale)
        product /= product.sum()
        mean = (grid * product).sum()
        np.testing.assert_allclose(merged.loc, mean, rtol=1e-5)
        deviation = np.sqrt(((grid - mean) ** 2 * product).sum())
        np.testing.assert_allclose(jnp.exp(merged.log_scale), deviation, rtol=1e-5)


@pytest.mark.parametrize(("log_scale", "expected"), [(-200.0, 1.0), (200.0, -2.0)])
def test_merging_with_extreme_scales_is_finite(log_scale: float, expected: float) -> None:
    def merge(log_scale):
        evidence = DiagonalGaussian(jnp.array([1.0]), log_scale)
        return hierarchies.merge(evidence, DiagonalGaussian(jnp.array([-2.0]), jnp.zeros(1)))

    merged = merge(jnp.array([log_scale]))
    assert merged.loc[0] == expected
    np.testing.assert_allclose(merged.log_scale, min(log_scale, 0.0), atol=1e-6)
    derivatives = jax.jacobian(merge)(jnp.array([log_scale]))
    assert all(np.isfinite(leaf).all() for leaf in derivatives)


def test_with_skips_every_layer_sees_all_above_it() -> None:
    model = gaussian_belief_net(
        num_dims=3, latent_dims=(2, 3, 4), hidden=(5, 5, 5), num_hidden_layers=1, skip=True
    )
    params = model.init(jax.random.key(0))

    def distributions(z_3, z_2, z_1):
        prior = model.prior(params)
        return (
            prior.rest[0]((z_3,)),
            prior.rest[1]((z_3, z_2)),
            model.likelihood(params, (z_3, z_2, z_1)),
        )

    z = jnp.ones(4), jnp.ones(3), jnp.ones(2)
    for above in range(3):
        derivatives = jax.jacobian(distributions, argnums=above)(*z)
        for layer, derivative in enumerate(derivatives):
            is_above = above <= layer
            assert np.any(derivative[0] != 0) == is_above


def dlgm(num_layers: int, **options):
    sizes = (2,) * num_layers
    model = deep_latent_gaussian_model(
        num_dims=2,
        latent_dims=sizes,
        hidden=sizes,
        num_hidden_layers=0,
        likelihood="gaussian",
        **options,
    )
    return model, model.init(jax.random.key(3))


def exact_dlgm_log_prob(params: dict, num_layers: int, x: np.ndarray) -> float:
    """h_L = G_L xi_L, h_l = T_l h_(l+1) + t_l + G_l xi_l, x = T_0 h_1 + t_0 + s eps."""
    mean, covariance = np.zeros(2), np.zeros((2, 2))
    networks = (*params["likelihood"]["layers"], params["likelihood"]["network"])
    layers = zip(params["likelihood"]["noise"], networks, strict=True)
    for noise, network in layers:
        covariance = covariance + np.asarray(noise @ noise.T, np.float64)
        kernel, bias = (np.asarray(network["params"]["Dense_0"][k]) for k in ("kernel", "bias"))
        mean, covariance = kernel.T @ mean + bias, kernel.T @ covariance @ kernel
    scale = float(jnp.exp(params["likelihood"]["observation"]["log_scale"]))
    covariance = covariance + scale**2 * np.eye(2)
    return scipy.stats.multivariate_normal(mean, covariance).logpdf(x)


@pytest.mark.parametrize(
    ("num_layers", "covariance"), [(1, "diagonal"), (3, "rank_one"), (5, "diagonal")]
)
def test_weights_of_a_linear_deep_latent_gaussian_model(num_layers: int, covariance: str) -> None:
    model, params = dlgm(num_layers, covariance=covariance)
    # A posterior near the prior, so that the weights have a small variance.
    params["posterior"] = jax.tree.map(lambda leaf: 0.2 * leaf + 0.05, params["posterior"])
    params["likelihood"]["observation"]["log_scale"] = jnp.array(0.9)
    for network in (*params["likelihood"]["layers"], params["likelihood"]["network"]):
        network["params"]["Dense_0"]["bias"] = jnp.array([0.3, -0.2])
    draw = jit_once(log_weights, static_argnums=(0, 4))
    weights = np.exp(draw(model, params, jax.random.key(4), X, 100_000))
    assert_mean(weights, np.exp(exact_dlgm_log_prob(params, num_layers, np.asarray(X))))


def test_a_rank_one_posterior_is_exact_for_one_observed_dimension() -> None:
    """p(xi | x) has the precision I + w w' / s^2 where x = w'xi + b + s eps."""
    model = deep_latent_gaussian_model(
        num_dims=1, latent_dims=(3,), hidden=(1,), num_hidden_layers=0, likelihood="gaussian"
    )
    params = model.init(jax.random.key(0))
    s, b, x = 0.6, 0.4, jnp.array([1.3])
    params["likelihood"]["observation"]["log_scale"] = jnp.log(s)
    network = params["likelihood"]["network"]["params"]["Dense_0"]
    network["bias"] = jnp.array([b])
    w = np.asarray(params["likelihood"]["noise"][0].T @ network["kernel"][:, 0], np.float64)
    covariance = np.linalg.inv(np.eye(3) + np.outer(w, w) / s**2)
    gain = covariance @ w / s**2
    kernel = np.zeros((1, 9))
    kernel[0, :3] = gain
    bias = np.concatenate([-gain * b, np.zeros(3), w / s])
    params["posterior"] = (
        {"params": {"Dense_0": {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}}},
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    found = jit_once(log_weights, static_argnums=(0, 4))(model, params, jax.random.key(1), x, 20)
    exact = scipy.stats.norm(b, np.sqrt(w @ w + s**2)).logpdf(1.3)
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@pytest.mark.parametrize("factory", [gaussian_belief_net, ladder_vae, deep_latent_gaussian_model])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dims": (3, 2), "hidden": (4,)}, r"hidden must have one .* got 1, \(4,\), for"),
        ({"latent_dims": (), "hidden": ()}, "hidden must have one number"),
        ({"latent_dims": (3, 0), "hidden": (4, 4)}, r"latent_dims must be at least 1.*\(3, 0\)"),
        ({"latent_dims": (3,), "hidden": (-1,)}, "hidden must be at least 1"),
        ({"num_dims": 0}, "num_dims must be at least 1, got 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers must be"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
    ],
)
def test_bad_sizes_are_refused_by_name(factory, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory(**settings)


def test_an_unknown_covariance_is_refused() -> None:
    with pytest.raises(ValueError, match="covariance must be"):
        deep_latent_gaussian_model(covariance="full")


@pytest.mark.parametrize("factory", [gaussian_belief_net, ladder_vae, deep_latent_gaussian_model])
def test_a_start_at_the_mean_is_one_for_small_activities(factory) -> None:
    """With all other weights of the decoder at zero, p(x | z) has the mean of the data."""
    model = factory(num_dims=3, latent_dims=(2, 2), hidden=(4, 4), num_hidden_layers=1)
    params = model.init(jax.random.key(0))
    mean = jnp.array([0.2, 1.0, 0.7])
    started = parts.start_at_mean(params, mean)
    assert jax.tree.structure(started) == jax.tree.structure(params)
    changed = [
        jax.tree_util.keystr(path)
        for (path, leaf), other in zip(
            jax.tree.leaves_with_path(started), jax.tree.leaves(params), strict=True
        )
        if np.any(leaf != other)
    ]
    assert len(changed) == 1
    assert changed[0].startswith("['likelihood']['network']")
    bias = jax.tree.map(jnp.zeros_like, started["likelihood"])
    bias["network"] = with_output_bias(
        bias["network"], started["likelihood"]["network"]["params"]["Dense_1"]["bias"]
    )
    z = model.prior(params).sample(seed=jax.random.key(1))
    found = model.likelihood(started | {"likelihood": bias}, z).mean()
    np.testing.assert_allclose(found, [0.2, 0.999, 0.7], rtol=1e-5)


def test_a_start_at_the_mean_of_another_size_is_refused() -> None:
    params = vae(num_dims=3, latent_dim=2, hidden=(4,)).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"last dense layer, of shape \(3,\), got \(4,\)"):
        parts.start_at_mean(params, jnp.full(4, 0.5))
    with pytest.raises(ValueError, match="of shape None"):
        with_output_bias({"params": {"Conv_0": {"bias": jnp.zeros(3)}}}, jnp.zeros(3))


def test_default_sizes_are_those_of_the_papers() -> None:
    def kernels(params):
        return [
            leaf.shape
            for path, leaf in jax.tree.leaves_with_path(params)
            if "kernel" in jax.tree_util.keystr(path)
        ]

    params = jax.eval_shape(gaussian_belief_net().init, jax.random.key(0))
    assert kernels(params["posterior"]) == [
        (784, 200),
        (200, 200),
        (200, 200),
        (100, 100),
        (100, 100),
        (100, 100),
    ]
    assert kernels(params["prior"]) == [(50, 100), (100, 100), (100, 200)]
    assert kernels(params["likelihood"]) == [(100, 200), (200, 200), (200, 784)]
    params = jax.eval_shape(ladder_vae().init, jax.random.key(0))
    assert [kernel[1] for kernel in kernels(params["posterior"]["heads"])] == [128, 64, 32, 16, 8]
    assert kernels(params["posterior"]["trunks"])[:4] == [
        (784, 512),
        (512, 512),
        (512, 256),
        (256, 256),
    ]

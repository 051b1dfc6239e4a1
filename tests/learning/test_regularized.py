"""Free bits, capacity, InfoVAE, beta-TCVAE: limits, hand-written batches, Gaussian closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm
from jax.tree_util import Partial

from genjax_models.distributions import Chain, DiagonalGaussian, Reversed
from genjax_models.evaluation import squared_mmd
from genjax_models.interfaces import LatentVariableModel
from genjax_models.learning import (
    beta_tcvae,
    controlled_capacity,
    free_bits,
    gaussian_kernel,
    info_vae,
    inverse_multiquadratic_kernel,
    variational,
)
from tests import oracles
from tests.statistics import assert_mean, jit_once

SIZE = 5
XS = np.random.default_rng(0).normal(size=(SIZE, 3)) * [1.0, 0.4, 2.0]
MODEL = oracles.linear_gaussian()
PARAMS = jax.tree.map(np.float64, oracles.linear_gaussian_params())


def keys_of(seed: int, size: int = SIZE) -> jax.Array:
    return jax.random.split(jax.random.key(seed), size)


def mean_loss(objective, params, keys, xs=XS, **scheduled):
    """As `training.gradient_descent` has it."""
    one = lambda key, x: objective(params, key, x, **scheduled)  # noqa: E731
    losses, metrics = jax.vmap(one, axis_name="batch")(keys, xs)
    return jnp.mean(losses), metrics


def value_and_grad(loss, params=PARAMS):
    return jit_once(jax.value_and_grad(lambda params: loss(params)))(params)


def of(objective, keys, xs=XS, **scheduled):
    return lambda params: mean_loss(objective, params, jax.random.clone(keys), xs, **scheduled)[0]


def distortion(keys):
    """-mean log p(x | z) of the draws that these keys give."""
    return of(variational(MODEL), keys, beta=0.0)


def divergences(params):
    """KL of each dimension for every x, [N, 2], written down anew."""
    loc = XS @ params["encoder"].T + params["encoder_bias"] - params["prior_loc"]
    log_ratio = params["log_scale"] - params["prior_log_scale"]
    scaled = loc / jnp.exp(params["prior_log_scale"])
    return 0.5 * (jnp.exp(2 * log_ratio) + scaled**2 - 1) - log_ratio


def assert_same(first, second, **tolerance) -> None:
    tolerance = {"rtol": 1e-9, "atol": 1e-9} | tolerance
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), first, second)


def first_of_split(keys):
    return jax.vmap(lambda key: jax.random.split(key)[0])(keys)


# In these limits each is the negative ELBO, values and gradients.
LIMITS = {
    "free bits": (free_bits(MODEL, minimum=0.0), {}, "analytic"),
    "free bits of the layer": (free_bits(MODEL, minimum=0.0, group="layer"), {}, "analytic"),
    "capacity": (controlled_capacity(MODEL, gamma=1.0), {"capacity": 0.0}, "analytic"),
    "info": (info_vae(MODEL, alpha=0.0, scale=1.0), {}, "analytic"),
    "weighted": (beta_tcvae(MODEL, num_examples=50), {"beta": 1.0}, "monte_carlo"),
    "stratified": (
        beta_tcvae(MODEL, num_examples=50, estimator="stratified"),
        {"beta": 1.0},
        "monte_carlo",
    ),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_is_the_elbo(name: str) -> None:
    objective, scheduled, kl = LIMITS[name]
    keys = keys_of(1)
    # InfoVAE keeps the second half of its key for the prior's draws.
    used = first_of_split(jax.random.clone(keys)) if name == "info" else keys
    ours = value_and_grad(of(objective, keys, **scheduled))
    assert_same(ours, value_and_grad(of(variational(MODEL, kl=kl), used)))


def test_beta_is_a_capacity_of_zero() -> None:
    keys = keys_of(2)
    ours = value_and_grad(of(controlled_capacity(MODEL, gamma=3.5), keys, capacity=0.0))
    assert_same(ours, value_and_grad(of(variational(MODEL, kl="analytic"), keys, beta=3.5)))


def test_metrics_are_the_elbo_and_its_parts() -> None:
    keys, whole = keys_of(3), variational(MODEL, kl="analytic")
    expected = mean_loss(whole, PARAMS, jax.random.clone(keys))[1]
    names = ("bound", "log_likelihood", "kl_divergence")
    for objective in (
        free_bits(MODEL, minimum=2.0),
        controlled_capacity(MODEL, gamma=7.0),
    ):
        found = mean_loss(objective, PARAMS, jax.random.clone(keys))[1]
        for name in names:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


@pytest.mark.parametrize("side", [-1, 1])
def test_free_bits_by_hand(side: int) -> None:
    """lambda between the two dimensions' divergences: one is free, the other is not."""
    low, high = np.sort(np.mean(divergences(PARAMS), axis=0))
    minimum = float(low + high) / 2 if side > 0 else float(high) + 1.0
    keys = keys_of(4)

    def by_hand(params):
        held = jnp.maximum(minimum, jnp.mean(divergences(params), axis=0))
        return distortion(keys)(params) + jnp.sum(held)

    assert_same(
        value_and_grad(of(free_bits(MODEL, minimum=minimum), keys)), value_and_grad(by_hand)
    )
    _, metrics = mean_loss(free_bits(MODEL, minimum=minimum), PARAMS, jax.random.clone(keys))
    assert (metrics["free_groups"] == (1 if side > 0 else 2)).all()


@pytest.mark.parametrize("capacity", [0.3, 9.0])
def test_capacity_by_hand(capacity: float) -> None:
    keys = keys_of(5)

    def by_hand(params):
        rate = jnp.mean(jnp.sum(divergences(params), axis=1))
        return distortion(keys)(params) + 3.0 * jnp.abs(rate - capacity)

    objective = controlled_capacity(MODEL, gamma=3.0)
    assert_same(value_and_grad(of(objective, keys, capacity=capacity)), value_and_grad(by_hand))


def mmd_by_hand(z, z_prior, kernel):
    """All pairs but a draw and itself."""
    size = len(z)
    squared = lambda a, b: jnp.sum((a[:, None] - b[None]) ** 2, axis=-1)  # noqa: E731
    others = 1 - jnp.eye(size)
    within = sum(jnp.sum(kernel(squared(a, a)) * others) for a in (z, z_prior)) / (size - 1)
    return (within - 2 * jnp.sum(kernel(squared(z, z_prior))) / size) / size


def info_draws(params, keys):
    """The draws of posterior and prior."""

    def one(key, x):
        posterior_key, prior_key = jax.random.split(key)
        key = jax.random.split(posterior_key, 1)[0]
        prior = MODEL.prior(params).sample(seed=prior_key)
        return MODEL.posterior(params, x).sample(seed=key), prior

    return jax.vmap(one)(jax.random.clone(keys), XS)


@pytest.mark.parametrize("kernel", [gaussian_kernel(1.3), inverse_multiquadratic_kernel(2.5)])
def test_info_vae_by_hand(kernel) -> None:
    alpha, scale, keys = 0.7, 4.0, keys_of(6)
    objective = info_vae(MODEL, alpha=alpha, scale=scale, kernel=kernel)

    def by_hand(params):
        rate = jnp.mean(jnp.sum(divergences(params), axis=1))
        mmd = mmd_by_hand(*info_draws(params, keys), kernel)
        of_draws = distortion(first_of_split(jax.random.clone(keys)))(params)
        return of_draws + (1 - alpha) * rate + (alpha + scale - 1) * mmd

    ours = value_and_grad(of(objective, keys))
    assert_same(ours, value_and_grad(by_hand))
    # The gradient of the mean is the mean of the gradients, collectives and all.
    one = lambda key, x: jax.grad(objective, has_aux=True)(PARAMS, key, x)[0]  # noqa: E731
    each = jit_once(jax.vmap(one, axis_name="batch"))(jax.random.clone(keys), XS)
    assert_same(ours[1], jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each))


def test_the_mmd_is_that_of_the_two_sample_test() -> None:
    keys = keys_of(7)
    objective = info_vae(MODEL, scale=2.0, kernel=gaussian_kernel(0.8))
    _, metrics = mean_loss(objective, PARAMS, jax.random.clone(keys))
    expected = squared_mmd(*info_draws(PARAMS, keys), bandwidth=0.8).value
    np.testing.assert_allclose(jnp.mean(metrics["mmd"]), expected, rtol=1e-6)


# x ~ N(a, diag b^2) makes the aggregate posterior Gaussian.
LOC, SCALE = np.array([0.4, -0.3, 0.8]), np.array([1.0, 0.5, 0.7])


def mean_gaussian_kernel(first, second, bandwidth):
    """E k(z, z') of independent Gaussians with these means and covariances."""
    loc, covariance = first[0] - second[0], first[1] + second[1]
    inner = np.eye(len(loc)) + covariance / bandwidth**2
    exponent = loc @ np.linalg.solve(inner, loc) / bandwidth**2
    return np.exp(-exponent / 2) / np.sqrt(np.linalg.det(inner))


def test_the_mmd_of_gaussians_is_the_closed_form() -> None:
    params = PARAMS | {"encoder_bias": np.array([1.9, -1.1])}
    bandwidth, size = 1.1, 6
    encoder = np.asarray(params["encoder"])
    noise = np.diag(np.exp(2 * np.asarray(params["log_scale"])))
    aggregate = (
        encoder @ LOC + np.asarray(params["encoder_bias"]),
        encoder @ np.diag(SCALE**2) @ encoder.T + noise,
    )
    prior = (
        np.asarray(params["prior_loc"]),
        np.diag(np.exp(2 * np.asarray(params["prior_log_scale"]))),
    )
    pairs = [(aggregate, aggregate), (prior, prior), (aggregate, prior)]
    qq, pp, qp = (mean_gaussian_kernel(*pair, bandwidth) for pair in pairs)
    objective = info_vae(MODEL, scale=2.0, kernel=gaussian_kernel(bandwidth))

    def one(key):
        x_key, loss_key = jax.random.split(key)
        xs = LOC + SCALE * jax.random.normal(x_key, (size, 3))
        keys = jax.random.split(loss_key, size)
        return jnp.mean(mean_loss(objective, params, keys, xs)[1]["mmd"])

    found = jit_once(jax.vmap(one))(jax.random.split(jax.random.key(0), 3000))
    assert_mean(found, qq + pp - 2 * qp)


@functools.cache
def on_a_line():
    """x on the quantiles of a standard normal, q(z | x) = N(v x, diag s^2): q(z) is Gaussian."""
    num_examples = 100
    xs = norm.ppf((jnp.arange(num_examples) + 0.5) / num_examples)
    params = {"weight": jnp.array([0.9, -0.6]), "log_scale": jnp.array([-0.5, -0.9])}
    model = LatentVariableModel(
        lambda key: params,
        lambda params: DiagonalGaussian(jnp.zeros(2), jnp.array([0.1, 0.2])),
        lambda params, z: DiagonalGaussian(z[0], jnp.zeros(())),
        lambda params, x: DiagonalGaussian(params["weight"] * x, params["log_scale"]),
    )
    # The variance of the quantiles themselves is a little below 1.
    spread = np.var(np.asarray(xs))
    weight = np.asarray(params["weight"])
    noise = np.diag(np.exp(2 * np.asarray(params["log_scale"])))
    covariance = spread * np.outer(weight, weight) + noise
    return model, params, xs, covariance


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_mutual_information_and_total_correlation_of_gaussians(estimator: str) -> None:
    """On the whole training set at once q(z) is exact, but for the constant of the weighted one."""
    model, params, xs, covariance = on_a_line()
    size = len(xs)
    objective = beta_tcvae(model, num_examples=size, estimator=estimator)

    def one(key):
        metrics = mean_loss(objective, params, jax.random.split(key, size), xs)[1]
        names = ("mutual_information", "total_correlation", "dimension_wise_kl")
        return jnp.stack([jnp.mean(metrics[name]) for name in names])

    found = jit_once(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(1), 200))
    variances = np.diag(covariance)
    log_det = np.linalg.slogdet(covariance)[1]
    information = 0.5 * log_det - float(jnp.sum(params["log_scale"]))
    correlation = 0.5 * (np.sum(np.log(variances)) - log_det)
    prior = np.array([0.1, 0.2])
    marginal = 0.5 * (variances / np.exp(2 * prior) - 1 - np.log(variances)) + prior
    shift = np.log(size) if estimator == "weighted" else 0.0
    exact = [information + shift, correlation + shift, np.sum(marginal) - 2 * shift]
    # The density of a mixture of 100 is not quite the Gaussian's.
    assert_mean(found, np.array(exact), scale=0.3, floor=2e-3)


def test_the_stratified_estimate_of_q_is_unbiased() -> None:
    """Over all batches that hold an example, for its own draw: q(z) and every q(z_d) exactly."""
    model, params, xs, _ = on_a_line()
    xs, num_examples = xs[::25], 4
    objective = beta_tcvae(model, num_examples=num_examples, estimator="stratified")
    own_key = jax.random.split(jax.random.key(2), 1)[0]
    z = model.posterior(params, xs[0]).sample(seed=own_key)

    run = jit_once(lambda keys, batch: mean_loss(objective, params, keys, batch)[1])

    def parts(others):
        batch = xs[jnp.array([0, *others])]
        keys = jax.vmap(jax.random.key)(jnp.array([2, *others]))
        metrics = run(keys, batch)
        own = {name: values[0] for name, values in metrics.items()}
        log_own = model.posterior(params, xs[0]).log_prob(z)
        return jnp.exp(log_own - own["mutual_information"])

    exact = np.mean([np.exp(model.posterior(params, x).log_prob(z)) for x in xs])
    for size in (2, 3, 4):
        batches = list(itertools.combinations(range(1, num_examples), size - 1))
        found = np.mean([parts(others) for others in batches])
        np.testing.assert_allclose(found, exact, rtol=1e-9)


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_beta_tcvae_by_hand(estimator: str) -> None:
    """Value and gradient of the batch, every density written down."""
    keys, num_examples = keys_of(8), 40
    weights = {"alpha": 0.6, "gamma": 1.7}
    objective = beta_tcvae(MODEL, num_examples=num_examples, estimator=estimator, **weights)

    def by_hand(params):
        draw = lambda key, x: MODEL.posterior(params, x).sample(seed=jax.random.split(key, 1)[0])  # noqa: E731
        z = jax.vmap(draw)(jax.random.clone(keys), XS)
        loc = XS @ params["encoder"].T + params["encoder_bias"]
        scale = jnp.exp(params["log_scale"])
        pairs = norm.logpdf(z[:, None], loc[None], scale)  # [i, j, d]
        if estimator == "weighted":
            log_w = jnp.full((SIZE, SIZE), -jnp.log(num_examples * SIZE))
        else:
            other = (num_examples - 1) / (num_examples * (SIZE - 1))
            log_w = jnp.log(jnp.where(jnp.eye(SIZE) > 0, 1 / num_examples, other))
        log_q = jax.nn.logsumexp(pairs.sum(-1) + log_w, axis=1)
        log_q_d = jax.nn.logsumexp(pairs + log_w[..., None], axis=1).sum(-1)
        log_own = jnp.diagonal(pairs.sum(-1))
        log_p = norm.logpdf(z, params["prior_loc"], jnp.exp(params["prior_log_scale"])).sum(-1)
        parts = 0.6 * (log_own - log_q) + 3.0 * (log_q - log_q_d) + 1.7 * (log_q_d - log_p)
        return distortion(keys)(params) + jnp.mean(parts)

    assert_same(value_and_grad(of(objective, keys, beta=3.0)), value_and_grad(by_hand))


def _given_above(params, above):
    return DiagonalGaussian(jnp.stack([params[0] * above[-1][0], params[1]]), params[2:])


def _two_layers():
    """z = (z_2 [1], z_1 [2]), both chains downwards."""
    prior = jnp.array([0.8, -0.3, 0.1, -0.2])
    params = {
        "prior": prior,
        "posterior": jnp.array([0.5, 0.2, -0.4, -0.6]),
        "top": jnp.array([0.7, -0.3]),
    }

    def posterior(params, x):
        top = DiagonalGaussian(params["top"][:1] * x[:1], params["top"][1:])
        return Chain(top, (Partial(_given_above, params["posterior"] * x[1]),))

    def prior_of(params):
        top = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
        return Chain(top, (Partial(_given_above, params["prior"]),))

    def likelihood(params, z):
        return DiagonalGaussian(jnp.concatenate([z[1], z[0]]), jnp.zeros(3))

    return LatentVariableModel(lambda key: params, prior_of, likelihood, posterior)


CHAINS = _two_layers()


def test_a_hierarchy_has_the_divergence_of_each_layer() -> None:
    """Without a minimum the loss is the ELBO with less noise; with a high one nothing of it."""
    params = jax.tree.map(np.float64, CHAINS.init(None))
    keys = keys_of(9, 2000)
    xs = jnp.tile(XS[:1], (2000, 1))

    def losses(objective):
        one = lambda key, x: objective(params, key, x)[0]  # noqa: E731
        return jit_once(jax.vmap(one, axis_name="batch"))(jax.random.clone(keys), xs)

    free = losses(free_bits(CHAINS, minimum=0.0, group="layer"))
    assert_mean(free - losses(variational(CHAINS)), 0.0, scale=1.0)
    assert_same(free, losses(free_bits(CHAINS, minimum=0.0)), rtol=1e-6)
    held = losses(free_bits(CHAINS, minimum=50.0, group="layer"))
    plain = losses(lambda params, key, x: variational(CHAINS)(params, key, x, beta=0.0))
    assert_same(held, plain + 2 * 50.0, rtol=1e-6)


def test_all_layers_count_in_the_mmd() -> None:
    params = jax.tree.map(np.float64, CHAINS.init(None))
    gradient = jax.grad(
        lambda params: of(info_vae(CHAINS, alpha=1.0, scale=5.0), keys_of(10))(params)
    )
    for leaf in jax.tree.leaves(jit_once(gradient)(params)):
        assert np.isfinite(leaf).all() and np.any(leaf != 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: free_bits(MODEL, minimum=-0.1), "minimum must be finite and not negative"),
        (lambda: free_bits(MODEL, minimum=0.1, group="pair"), 'group must be "dimension"'),
        (lambda: free_bits(MODEL, minimum=0.1, num_samples=0), "num_samples must be"),
        (lambda: controlled_capacity(MODEL, gamma=-1.0), "gamma must be finite"),
        (lambda: info_vae(MODEL, alpha=1.2), "alpha must be finite and at most 1"),
        (lambda: info_vae(MODEL, alpha=0.0, scale=0.5), r"scale \(lambda\) must be at least 1"),
        (lambda: info_vae(MODEL, alpha=1.0, scale=-2.0), r"scale \(lambda\) must be at least 1"),
        (lambda: gaussian_kernel(0.0), "bandwidth must be finite and above zero"),
        (lambda: inverse_multiquadratic_kernel(-1.0), "scale must be finite and above zero"),
        (lambda: beta_tcvae(MODEL, num_examples=9, alpha=-1.0), "alpha must be finite"),
        (lambda: beta_tcvae(MODEL, num_examples=9, gamma=-1.0), "gamma must be finite"),
        (lambda: beta_tcvae(MODEL, num_examples=0), "num_examples must be an integer >= 1"),
        (lambda: beta_tcvae(MODEL, num_examples=9, estimator="exact"), "estimator must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_a_batch_must_be_is_said() -> None:
    call = functools.partial(mean_loss, params=PARAMS)
    with pytest.raises(ValueError, match=r'free_bits is of a whole batch.*axis_name="batch"'):
        free_bits(MODEL, minimum=0.1)(PARAMS, jax.random.key(0), XS[0])
    with pytest.raises(ValueError, match="info_vae needs at least 2 examples in a batch, got 1"):
        call(info_vae(MODEL), keys=keys_of(0, 1), xs=XS[:1])
    with pytest.raises(ValueError, match="num_examples must be at least the batch size, 5, got 4"):
        call(beta_tcvae(MODEL, num_examples=4), keys=keys_of(0))
    with pytest.raises(ValueError, match="beta must be finite and not negative, got -1"):
        call(beta_tcvae(MODEL, num_examples=9), keys=keys_of(0), beta=-1.0)
    with pytest.raises(ValueError, match="capacity must be finite and not negative, got -1"):
        call(controlled_capacity(MODEL, gamma=1.0), keys=keys_of(0), capacity=-1.0)


class _Mixture:
    reparameterized = False


def test_models_that_an_objective_has_no_meaning_for_are_refused() -> None:
    full = oracles.linear_gaussian(exact_posterior=True)
    mixture = MODEL._replace(prior=lambda params: _Mixture())
    upwards = CHAINS._replace(posterior=lambda *inputs: Reversed(CHAINS.posterior(*inputs)))
    for objective, params, message in [
        (free_bits(full, minimum=0.1), PARAMS, 'use group="layer"'),
        (beta_tcvae(full, num_examples=9), PARAMS, "diagonal Gaussian as posterior"),
        (beta_tcvae(mixture, num_examples=9), PARAMS, "diagonal Gaussian as prior"),
        (free_bits(upwards, minimum=0.1), CHAINS.init(None), "draws its layers upwards"),
        (info_vae(mixture), PARAMS, "info_vae needs a reparameterised prior"),
        (
            free_bits(oracles.discrete(), minimum=0.1),
            oracles.discrete_params(),
            "needs reparameterised samples",
        ),
    ]:
        with pytest.raises(TypeError, match=message):
            mean_loss(objective, params, keys_of(0))

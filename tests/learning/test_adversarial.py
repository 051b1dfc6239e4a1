"""Adversarial losses, for two densities of one variable, p (data) and q (model), by quadrature."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.interfaces import ImplicitModel, Network
from genjax_models.learning import adversarial, adversarial_game
from genjax_models.learning.adversarial import gradient_penalty, interpolate
from genjax_models.models.transformation import critic as mlp_critic
from tests.statistics import assert_mean, jit_once

NAMES = ("minimax", "non_saturating", "hinge", "wasserstein", "least_squares")
GRID = np.linspace(-12, 12, 4001)
THETA = np.array([0.7, -0.9])


def integral(values):
    """Trapezoidal rule: exact to rounding for what is smooth and vanishes at both ends."""
    return jnp.sum(values) * (GRID[1] - GRID[0])


def normal(x, loc, scale):
    return jnp.exp(-0.5 * ((x - loc) / scale) ** 2) / (scale * np.sqrt(2 * np.pi))


def density_p(x=GRID):
    return 0.7 * normal(x, 1.0, 0.6) + 0.3 * normal(x, -1.4, 0.9)


def density_q(theta=THETA, x=GRID):
    return normal(x, theta[0], jnp.exp(theta[1]))


def divergence(left, right):
    """KL(left || right)."""
    return integral(left * (jnp.log(left) - jnp.log(right)))


def jensen_shannon(theta=THETA):
    p, q = density_p(), density_q(theta)
    middle = (p + q) / 2
    return (divergence(p, middle) + divergence(q, middle)) / 2


def log_ratio():
    return jnp.log(density_p()) - jnp.log(density_q())


def optimum_of_squares(a, b):
    return (b * density_p() + a * density_q()) / (density_p() + density_q())


def critic_loss(loss, logits):
    real, fake = loss.critic_real(logits), loss.critic_fake(logits)
    return integral(density_p() * real + density_q() * fake)


def generator_gradient(loss, logits):
    """Of E_q[generator(f)] for a fixed f."""
    return jax.grad(lambda theta: integral(density_q(theta) * loss.generator(logits)))(THETA)


def slopes(loss, logits):
    """The derivative of p critic_real(f) + q critic_fake(f), over p + q, at every x."""
    p, q = density_p(), density_q()
    real, fake = (jax.vmap(jax.grad(part))(logits) for part in (loss.critic_real, loss.critic_fake))
    return (p * real + q * fake) / (p + q)


def assert_optimum(loss, logits):
    """The critic's loss at every x is the least at these logits."""
    np.testing.assert_allclose(slopes(loss, logits), 0, atol=1e-12)
    assert (slopes(loss, logits + 0.1) > 0).all() and (slopes(loss, logits - 0.1) < 0).all()


def assert_hinge_optimum(loss):
    p, q = density_p(), density_q()
    logits = np.linspace(-3, 3, 601)[:, None]
    values = p * loss.critic_real(logits) + q * loss.critic_fake(logits)
    best = p * loss.critic_real(jnp.sign(p - q)) + q * loss.critic_fake(jnp.sign(p - q))
    assert (best <= values.min(axis=0) + 1e-15).all()
    # Off the points where p and q are nearly equal, no logit of another sign is as good.
    clear = np.abs(p - q) > 1e-6
    others = np.where(np.sign(logits) == np.sign(p - q), np.inf, values).min(axis=0)
    assert (best < others)[clear].all()


MUTANTS = {
    "roles of data and samples": lambda loss: loss._replace(
        critic_real=loss.critic_fake, critic_fake=loss.critic_real
    ),
    "sign on samples": lambda loss: loss._replace(critic_fake=lambda f: -loss.critic_fake(f)),
    "weight of data": lambda loss: loss._replace(critic_real=lambda f: 2 * loss.critic_real(f)),
    "scale of the logit": lambda loss: loss._replace(
        critic_real=lambda f: loss.critic_real(2 * f), critic_fake=lambda f: loss.critic_fake(2 * f)
    ),
}


def test_the_quadrature_is_exact() -> None:
    assert abs(integral(density_p()) - 1) < 1e-12 and abs(integral(density_q()) - 1) < 1e-12
    mean, scale = THETA[0], np.exp(THETA[1])
    exact = 0.5 * (scale**2 + mean**2 - 1) - np.log(scale)
    assert abs(divergence(density_q(), normal(GRID, 0.0, 1.0)) - exact) < 1e-9
    assert 0.1 < jensen_shannon() < np.log(2)


@pytest.mark.parametrize("loss", [adversarial.minimax(), adversarial.non_saturating()])
def test_the_best_critic_is_the_log_ratio(loss) -> None:
    assert_optimum(loss, log_ratio())


def test_the_value_of_the_minimax_game() -> None:
    for loss in (adversarial.minimax(), adversarial.non_saturating()):
        value = -critic_loss(loss, log_ratio())
        np.testing.assert_allclose(value, 2 * jensen_shannon() - np.log(4), rtol=1e-10)


def test_the_minimax_generator_descends_the_jensen_shannon_divergence() -> None:
    exact = jax.grad(lambda theta: 2 * jensen_shannon(theta))(THETA)
    np.testing.assert_allclose(generator_gradient(adversarial.minimax(), log_ratio()), exact)


def test_the_non_saturating_generator_descends_two_divergences() -> None:
    """KL(q || p) - 2 JSD; neither KL alone nor the gradient of minimax will do."""

    def kl(theta):
        return divergence(density_q(theta), density_p())

    exact = jax.grad(lambda theta: kl(theta) - 2 * jensen_shannon(theta))(THETA)
    found = generator_gradient(adversarial.non_saturating(), log_ratio())
    np.testing.assert_allclose(found, exact, rtol=1e-8)
    for other in (jax.grad(kl)(THETA), generator_gradient(adversarial.minimax(), log_ratio())):
        assert (np.abs(found - other) > 0.05).any()


def test_the_best_hinge_critic_is_the_sign_of_the_difference() -> None:
    assert_hinge_optimum(adversarial.hinge())


def total_variation(theta=THETA):
    return integral(jnp.abs(density_p() - density_q(theta))) / 2


def test_the_hinge_loss_at_the_optimum_is_of_the_total_variation() -> None:
    loss, best = adversarial.hinge(), jnp.sign(density_p() - density_q())
    exact = 2 * (1 - total_variation())
    np.testing.assert_allclose(critic_loss(loss, best), exact, rtol=1e-10)
    gradient = jax.grad(lambda theta: 2 * total_variation(theta))(THETA)
    np.testing.assert_allclose(generator_gradient(loss, best), gradient, rtol=1e-8)


@pytest.mark.parametrize("codes", [(-1.0, 1.0, 0.0), (0.0, 1.0, 1.0), (0.3, -0.4, 2.0)])
def test_the_best_critic_of_least_squares(codes) -> None:
    a, b, c = codes
    assert_optimum(adversarial.least_squares(a=a, b=b, c=c), optimum_of_squares(a, b))


@pytest.mark.parametrize("codes", [{}, {"a": -0.7, "b": 1.3, "c": 0.3}])
def test_least_squares_measure_the_pearson_divergence(codes: dict) -> None:
    """Of p + q and 2 q, where b - c = 1 and b - a = 2."""
    loss = adversarial.least_squares(**codes)
    best = optimum_of_squares(*((codes["a"], codes["b"]) if codes else (-1.0, 1.0)))
    p, q = density_p(), density_q()
    exact = integral((2 * q - (p + q)) ** 2 / (p + q))
    np.testing.assert_allclose(2 * integral((p + q) * loss.generator(best)), exact, rtol=1e-10)
    other = adversarial.least_squares(a=0.0, b=1.0, c=1.0)
    value = 2 * integral((p + q) * other.generator(optimum_of_squares(0.0, 1.0)))
    assert abs(value - exact) > 0.1


def cumulative(density):
    """The distribution function on the grid."""
    areas = (density[1:] + density[:-1]) / 2 * (GRID[1] - GRID[0])
    return jnp.concatenate([jnp.zeros(1), jnp.cumsum(areas)])


def test_the_dual_of_the_wasserstein_distance() -> None:
    """The best 1-Lipschitz critic falls where F_p > F_q; W1 is the area between the quantiles."""
    distribution_p, distribution_q = map(np.asarray, map(cumulative, (density_p(), density_q())))
    difference = distribution_p - distribution_q
    # The mean sign of F_p - F_q over a cell of the grid, in which one of them may overtake.
    change = np.diff(difference)
    signs = np.diff(np.abs(difference)) / np.where(change == 0, 1.0, change)
    best = -np.concatenate([[0.0], np.cumsum(signs)]) * (GRID[1] - GRID[0])
    levels = (np.arange(400_000) + 0.5) / 400_000
    quantiles = [np.interp(levels, values, GRID) for values in (distribution_p, distribution_q)]
    exact = np.abs(quantiles[0] - quantiles[1]).mean()
    loss = adversarial.wasserstein()
    np.testing.assert_allclose(-critic_loss(loss, best), exact, rtol=1e-4)
    for other in (GRID, -GRID, np.sin(GRID), np.abs(GRID), -best):
        assert -critic_loss(loss, other) < exact - 0.05

    def area(theta):
        return integral(jnp.abs(distribution_p - cumulative(density_q(theta))))

    # To the width of the cell of the grid in which the distribution functions cross.
    np.testing.assert_allclose(generator_gradient(loss, best), jax.grad(area)(THETA), atol=3e-3)


def test_without_a_bound_on_the_gradient_the_wasserstein_critic_has_no_optimum() -> None:
    logits = density_p() - density_q()
    values = [critic_loss(adversarial.wasserstein(), scale * logits) for scale in (1, 10, 1000)]
    np.testing.assert_allclose(values[1:], [10 * values[0], 1000 * values[0]], rtol=1e-10)


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("name", ["minimax", "hinge", "least_squares"])
def test_the_oracles_reject_other_losses(name: str, mutant: str) -> None:
    loss = MUTANTS[mutant](adversarial.by_name(name))
    with pytest.raises(AssertionError):
        if name == "hinge":
            assert_hinge_optimum(loss)
            exact = 2 * (1 - total_variation())
            best = jnp.sign(density_p() - density_q())
            np.testing.assert_allclose(critic_loss(loss, best), exact, rtol=1e-10)
        else:
            best = log_ratio() if name == "minimax" else optimum_of_squares(-1.0, 1.0)
            assert_optimum(loss, best)


# Objectives of one example: their means are the same integrals, and so are their gradients.


def sampler() -> ImplicitModel:
    """q: x = theta_0 + exp(theta_1) z."""

    def sample(params, key):
        return params[0] + jnp.exp(params[1]) * jax.random.normal(key)

    return ImplicitModel(lambda key: jnp.array(THETA), sample)


def parabola() -> Network:
    """A critic with a gradient that is known: f(x) = w_0 + w_1 x + w_2 x^2."""

    def apply(params, x):
        return params[0] + params[1] * x + params[2] * x**2

    return Network(lambda key: jnp.array([0.3, -0.4, 0.2]), apply)


WEIGHTS = np.array([0.3, -0.4, 0.2])
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
NODE_WEIGHTS = NODE_WEIGHTS / np.sqrt(2 * np.pi)
DATUM = 1.7


def expected_losses(loss, penalty: str):
    """(weights, theta) -> the two players' expected losses for the one example DATUM."""
    logit = parabola().apply

    def samples(theta):
        return theta[0] + jnp.exp(theta[1]) * NODES

    def critic(weights, theta):
        fake = samples(jax.lax.stop_gradient(theta))
        value = loss.critic_real(logit(weights, DATUM)) + NODE_WEIGHTS @ loss.critic_fake(
            logit(weights, fake)
        )
        if penalty == "data":
            value += 0.5 * 3.0 * (weights[1] + 2 * weights[2] * DATUM) ** 2
        if penalty == "interpolated":
            levels, level_weights = np.polynomial.legendre.leggauss(200)
            share = (levels[:, None] + 1) / 2
            points = share * DATUM + (1 - share) * fake
            norms = jnp.abs(weights[1] + 2 * weights[2] * points)
            value += 3.0 * (level_weights / 2) @ ((norms - 1) ** 2) @ NODE_WEIGHTS
        return value

    def generator(theta, weights):
        return NODE_WEIGHTS @ loss.generator(logit(weights, samples(theta)))

    return critic, generator


@pytest.mark.parametrize(
    ("name", "penalty"),
    [
        ("minimax", "none"),
        ("non_saturating", "data"),
        ("wasserstein", "interpolated"),
        ("least_squares", "none"),
    ],
)
def test_the_objectives_are_unbiased(name: str, penalty: str) -> None:
    """Their values and gradients, in expectation over the noise (the hinge has kinks: below)."""
    loss = adversarial.by_name(name)
    game = adversarial_game(sampler(), parabola(), loss, penalty=penalty, penalty_weight=3.0)
    critic, generator = expected_losses(loss, penalty)

    @jit_once
    def draw(keys):
        def one(key):
            keys = jax.random.split(key)
            of_critic = jax.value_and_grad(game.critic, has_aux=True)(
                jnp.array(WEIGHTS), jnp.array(THETA), keys[0], jnp.array(DATUM)
            )
            of_generator = jax.value_and_grad(game.generator, has_aux=True)(
                jnp.array(THETA), jnp.array(WEIGHTS), keys[1], jnp.array(DATUM)
            )
            return [(value, gradient) for (value, _), gradient in (of_critic, of_generator)]

        return jax.vmap(one)(keys)

    exact = [
        jax.value_and_grad(critic)(jnp.array(WEIGHTS), THETA),
        jax.value_and_grad(generator)(jnp.array(THETA), WEIGHTS),
    ]
    assert_mean(draw(jax.random.split(jax.random.key(0), 60_000)), exact)


def test_the_objectives_are_the_losses_of_their_own_samples() -> None:
    """For every loss and draw, from the metrics; the hinge included."""
    for name in NAMES:
        loss = adversarial.by_name(name)
        game = adversarial_game(sampler(), parabola(), loss, penalty="data", penalty_weight=3.0)
        critic = jit_once(jax.vmap(game.critic, in_axes=(None, None, 0, None)))
        keys = jax.random.split(jax.random.key(1), 50)
        values, metrics = critic(WEIGHTS, THETA, keys, DATUM)
        exact = loss.critic_real(metrics["real_logit"]) + loss.critic_fake(metrics["fake_logit"])
        np.testing.assert_allclose(values, exact + 1.5 * metrics["gradient_penalty"], rtol=1e-10)
        np.testing.assert_allclose(metrics["gradient_penalty"], (2 * 0.2 * DATUM - 0.4) ** 2)
        np.testing.assert_allclose(metrics["real_logit"], parabola().apply(WEIGHTS, DATUM))
        assert np.std(metrics["fake_logit"]) > 0.01


def test_the_critic_does_not_move_the_generator() -> None:
    game = adversarial_game(
        sampler(), parabola(), adversarial.wasserstein(), penalty="interpolated"
    )
    gradient = jax.grad(lambda theta: game.critic(WEIGHTS, theta, jax.random.key(0), DATUM)[0])
    np.testing.assert_array_equal(gradient(THETA), 0)


# The gradient penalty on its own.


def test_the_gradient_penalty_of_known_functions() -> None:
    def linear(x):
        return 3 * x[0] - 4 * x[1] + 7

    def quadratic(x):
        return jnp.sum(x**2) / 2

    x = jnp.array([0.6, 0.9])
    norm = np.sqrt(0.6**2 + 0.9**2)
    for function, target, exact in [
        (linear, 1.0, 16.0),
        (linear, 0.0, 25.0),
        (quadratic, 1.0, (norm - 1) ** 2),
        (quadratic, 0.0, norm**2),
        (lambda x: x[0] * 0 + 2.0, 1.0, 1.0),
        (lambda x: x[0] * 0 + 2.0, 0.0, 0.0),
    ]:
        np.testing.assert_allclose(gradient_penalty(function, x, target=target), exact, rtol=1e-12)


def test_the_gradient_penalty_of_a_pytree_is_that_of_its_leaves_together() -> None:
    def function(x):
        return 3 * x["a"][0] + 4 * x["b"]

    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.5)}
    np.testing.assert_allclose(gradient_penalty(function, x), 16.0)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_the_gradient_of_the_penalty(target: float) -> None:
    """Of f(x) = w x: 2 (||w|| - target) w / ||w||; finite where the norm is zero."""
    x = jnp.array([0.4, -0.2])

    def penalty(w):
        return gradient_penalty(lambda x: w @ x, x, target=target)

    w = jnp.array([0.6, 1.1])
    norm = jnp.linalg.norm(w)
    np.testing.assert_allclose(jax.grad(penalty)(w), 2 * (norm - target) * w / norm, rtol=1e-10)
    np.testing.assert_array_equal(jax.grad(penalty)(jnp.zeros(2)), 0)


def test_the_penalty_of_a_network_has_the_gradient_of_finite_differences() -> None:
    """Second derivatives through the library's own network."""
    network = mlp_critic(num_dims=3, hidden=(4,))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), network.init(jax.random.key(0)))
    x = jnp.array([0.3, -0.8, 1.2])

    def penalty(params):
        return gradient_penalty(lambda x: network.apply(params, x), x)

    gradient, value = jit_once(jax.grad(penalty))(params), jit_once(penalty)
    for seed in range(3):
        leaves, structure = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        direction = jax.tree.unflatten(
            structure,
            [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)],
        )
        ahead, behind = (
            jax.tree.map(lambda leaf, step, h=h: leaf + h * step, params, direction)
            for h in (1e-5, -1e-5)
        )
        slope = (value(ahead) - value(behind)) / 2e-5
        products = jax.tree.map(lambda left, right: jnp.sum(left * right), gradient, direction)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), slope, rtol=1e-6)


def test_interpolates_are_uniform_on_the_segment() -> None:
    real, fake = {"a": jnp.array([1.0, 4.0])}, {"a": jnp.array([-1.0, 2.0])}
    draw = jax.vmap(functools.partial(interpolate, real=real, fake=fake))
    points = draw(jax.random.split(jax.random.key(0), 20_000))["a"]
    np.testing.assert_allclose(points[:, 1] - points[:, 0], 3, rtol=1e-10)
    share = (points[:, 0] + 1) / 2
    assert_mean(jnp.stack([share, share**2, share**3], axis=1), jnp.array([1 / 2, 1 / 3, 1 / 4]))


# Numbers and errors.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "size"), [(jnp.float32, 1e4), (jnp.bfloat16, 1e3)])
def test_nothing_overflows(name: str, dtype, size: float) -> None:
    logits = jnp.array([-size, -1.0, 0.0, 1.0, size], dtype)
    for part in adversarial.by_name(name):
        values = part(logits)
        assert values.dtype == jnp.float32
        assert jnp.isfinite(values).all()
        gradient = jax.vmap(jax.grad(part))(logits)
        assert jnp.isfinite(gradient).all()


def test_the_non_saturating_generator_has_a_gradient_where_the_critic_is_sure() -> None:
    logit = jnp.float32(-50.0)
    assert jax.grad(adversarial.non_saturating().generator)(logit) == -1
    assert abs(jax.grad(adversarial.minimax().generator)(logit)) < 1e-20


def test_losses_have_names() -> None:
    for name in NAMES:
        loss, exact = adversarial.by_name(name), getattr(adversarial, name)()
        for part, other in zip(loss, exact, strict=True):
            np.testing.assert_array_equal(part(GRID), other(GRID))
    with pytest.raises(ValueError, match=r"loss must be one of \['minimax'.*got 'wgan'"):
        adversarial.by_name("wgan")


@pytest.mark.parametrize("codes", [{"a": 1.0}, {"b": float("nan")}, {"c": float("inf")}])
def test_codes_that_are_refused(codes: dict) -> None:
    with pytest.raises(ValueError, match="a, b and c must be finite"):
        adversarial.least_squares(**codes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": "gp"}, "penalty must be one of .*got 'gp'"),
        ({"penalty_weight": -1.0}, "penalty_weight must not be negative, got -1"),
        ({"penalty_weight": float("nan")}, "penalty_weight must not be negative, got nan"),
    ],
)
def test_settings_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adversarial_game(sampler(), parabola(), adversarial.hinge(), **options)


def test_shapes_that_are_refused() -> None:
    loss, x = adversarial.hinge(), jnp.ones(2)
    game = adversarial_game(sampler(), parabola(), loss)
    with pytest.raises(ValueError, match=r"shape of an example, \(2,\), got \(\)"):
        game.critic(WEIGHTS, THETA, jax.random.key(0), x)
    vector = ImplicitModel(sampler().init, lambda params, key: jnp.ones(2))
    game = adversarial_game(vector, parabola(), loss)
    with pytest.raises(ValueError, match=r"one logit, a scalar, got shape \(2,\)"):
        game.critic(WEIGHTS, THETA, jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"one logit, a scalar, got shape \(2,\)"):
        game.generator(THETA, WEIGHTS, jax.random.key(0), x)

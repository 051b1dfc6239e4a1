"""Which distributions are reparameterised: every class of distrax, and what holds others."""

import math

import distrax
import jax
import jax.numpy as jnp
import pytest
from tensorflow_probability.substrates import jax as tfp

from genjax_models.distributions import (
    Bernoulli,
    DiagonalGaussian,
    DiscretizedLogistic,
    is_reparameterized,
)
from tests.statistics import assert_mean, jit_once

tfd = tfp.distributions


def mixture() -> distrax.Distribution:
    return distrax.MixtureSameFamily(
        distrax.Categorical(jnp.zeros(2)), distrax.Normal(jnp.arange(2.0), jnp.ones(2))
    )


# One of each class, and parameters for the factory of those that are reparameterised.
REPARAMETERIZED = {
    "Beta": (distrax.Beta, (1.4, 2.3)),
    "Dirichlet": (distrax.Dirichlet, (jnp.array([0.8, 1.5, 2.2]),)),
    "Gamma": (distrax.Gamma, (1.7, 0.6)),
    "Gumbel": (distrax.Gumbel, (0.3, 1.4)),
    "Laplace": (distrax.Laplace, (0.3, 1.4)),
    "LogStddevNormal": (distrax.LogStddevNormal, (0.3, 0.4)),
    "Logistic": (distrax.Logistic, (0.3, 1.4)),
    "MultivariateNormalDiag": (
        distrax.MultivariateNormalDiag,
        (jnp.array([0.3, -1.0]), jnp.array([1.4, 0.5])),
    ),
    "MultivariateNormalDiagPlusLowRank": (
        distrax.MultivariateNormalDiagPlusLowRank,
        (jnp.array([0.3, -1.0]), jnp.array([1.4, 0.5]), jnp.array([[0.7], [-0.4]])),
    ),
    "MultivariateNormalFromBijector": (
        lambda loc, scale: distrax.MultivariateNormalFromBijector(loc, distrax.DiagLinear(scale)),
        (jnp.array([0.3, -1.0]), jnp.array([1.4, 0.5])),
    ),
    "MultivariateNormalFullCovariance": (
        distrax.MultivariateNormalFullCovariance,
        (jnp.array([0.3, -1.0]), jnp.array([[1.4, 0.5], [0.5, 0.9]])),
    ),
    "MultivariateNormalTri": (
        distrax.MultivariateNormalTri,
        (jnp.array([0.3, -1.0]), jnp.array([[1.4, 0.0], [-0.5, 0.9]])),
    ),
    "Normal": (distrax.Normal, (0.3, 1.4)),
    "Uniform": (distrax.Uniform, (-0.4, 1.3)),
    "VonMises": (distrax.VonMises, (0.3, 1.4)),
}
OTHERS = {
    "Bernoulli": lambda: distrax.Bernoulli(0.3),
    "Categorical": lambda: distrax.Categorical(jnp.zeros(3)),
    "CategoricalUniform": lambda: distrax.CategoricalUniform(
        low=0.0, high=1.0, logits=jnp.zeros(3)
    ),
    "Clipped": lambda: distrax.Clipped(distrax.Normal(0.0, 1.0), minimum=-1.0, maximum=1.0),
    "ClippedLogistic": lambda: distrax.ClippedLogistic(0.0, 1.0, minimum=-1.0, maximum=1.0),
    "ClippedNormal": lambda: distrax.ClippedNormal(0.0, 1.0, minimum=-1.0, maximum=1.0),
    "Deterministic": lambda: distrax.Deterministic(0.3),
    "EpsilonGreedy": lambda: distrax.EpsilonGreedy(jnp.arange(3.0), 0.1),
    "Greedy": lambda: distrax.Greedy(jnp.arange(3.0)),
    "MixtureOfTwo": lambda: distrax.MixtureOfTwo(
        0.3, distrax.Normal(0.0, 1.0), distrax.Normal(1.0, 2.0)
    ),
    "MixtureSameFamily": mixture,
    "Multinomial": lambda: distrax.Multinomial(4, jnp.zeros(3)),
    "OneHotCategorical": lambda: distrax.OneHotCategorical(jnp.zeros(3)),
    "Quantized": lambda: distrax.Quantized(distrax.Normal(0.0, 1.0)),
    "Softmax": lambda: distrax.Softmax(jnp.arange(3.0)),
}
# These ask of what they hold.
RECURSIVE = {"Independent", "Joint", "Transformed"}


def test_every_class_of_distrax_is_classified() -> None:
    classes = {
        name
        for name, value in vars(distrax).items()
        if isinstance(value, type) and issubclass(value, distrax.Distribution)
    }
    assert classes == {"Distribution", *REPARAMETERIZED, *OTHERS, *RECURSIVE}


@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_reparameterized(name: str) -> None:
    factory, params = REPARAMETERIZED[name]
    assert is_reparameterized(factory(*params)) is True


@pytest.mark.parametrize("name", OTHERS)
def test_not_reparameterized(name: str) -> None:
    assert is_reparameterized(OTHERS[name]()) is False


def test_ours() -> None:
    assert is_reparameterized(DiagonalGaussian(jnp.zeros(2), jnp.zeros(2)))
    assert not is_reparameterized(Bernoulli(jnp.zeros(2)))
    assert not is_reparameterized(DiscretizedLogistic(jnp.zeros(2), jnp.zeros(2), 17))


def test_what_holds_others_asks_of_them() -> None:
    normal, categorical = (
        distrax.Normal(jnp.zeros(2), jnp.ones(2)),
        distrax.Categorical(jnp.zeros((2, 3))),
    )
    assert is_reparameterized(distrax.Independent(normal, 1))
    assert not is_reparameterized(distrax.Independent(categorical, 1))
    assert is_reparameterized(distrax.Transformed(normal, distrax.Tanh()))
    assert not is_reparameterized(distrax.Transformed(mixture(), distrax.Tanh()))
    assert is_reparameterized(distrax.Joint({"a": normal, "b": (normal, normal)}))
    assert not is_reparameterized(distrax.Joint({"a": normal, "b": (normal, categorical)}))
    deep = distrax.Independent(distrax.Transformed(normal, distrax.Tanh()), 1)
    assert is_reparameterized(distrax.Joint([deep]))


@pytest.mark.parametrize("wrap", [lambda d: d, distrax.as_distribution], ids=["tfp", "distrax"])
def test_those_of_tfp(wrap) -> None:
    assert is_reparameterized(wrap(tfd.Normal(0.0, 1.0)))
    assert is_reparameterized(wrap(tfd.Gamma(1.0, 1.0)))
    assert not is_reparameterized(wrap(tfd.Bernoulli(0.0)))
    assert not is_reparameterized(wrap(tfd.OneHotCategorical(jnp.zeros(3))))
    assert is_reparameterized(wrap(tfd.Independent(tfd.Normal(jnp.zeros(2), 1.0), 1)))
    assert not is_reparameterized(wrap(tfd.Independent(tfd.Bernoulli(jnp.zeros(2)), 1)))


def test_distrax_around_tfp() -> None:
    def independent(distribution: tfd.Distribution) -> distrax.Distribution:
        return distrax.Independent(distrax.as_distribution(distribution), 1)

    assert is_reparameterized(independent(tfd.Normal(jnp.zeros(2), 1.0)))
    assert not is_reparameterized(independent(tfd.Poisson(jnp.ones(2))))


def test_an_unknown_type_must_declare_itself() -> None:
    class Unknown:
        pass

    class Declared:
        def __init__(self, reparameterized: bool) -> None:
            self.reparameterized = reparameterized

    with pytest.raises(TypeError, match=r"Unknown.*`reparameterized = True`"):
        is_reparameterized(Unknown())
    assert is_reparameterized(Declared(True)) is True
    assert is_reparameterized(Declared(False)) is False


def test_a_users_subclass_of_distrax_must_declare_itself() -> None:
    """Its sample may be anything."""

    class Perturbed(distrax.Normal):
        pass

    with pytest.raises(TypeError, match="Perturbed"):
        is_reparameterized(Perturbed(0.0, 1.0))
    Perturbed.reparameterized = True
    assert is_reparameterized(Perturbed(0.0, 1.0)) is True
    assert is_reparameterized(distrax.Independent(Perturbed(jnp.zeros(2), 1.0), 1)) is True


def expectation(name: str, *params):
    """Of `statistic` below, in closed form."""
    distribution = REPARAMETERIZED[name][0](*params)
    if name == "VonMises":
        loc, concentration = params
        ratio = jax.scipy.special.i1e(concentration) / jax.scipy.special.i0e(concentration)
        return jnp.cos(loc) * ratio
    variance = distribution.variance()
    return jnp.sum(distribution.mean() ** 2 + variance)


def statistic(name: str, value):
    return jnp.cos(value) if name == "VonMises" else jnp.sum(value**2)


@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_the_pathwise_gradient_is_that_of_the_expectation(name: str) -> None:
    """The claim behind every True above."""
    factory, params = REPARAMETERIZED[name]
    params = jax.tree.map(jnp.asarray, params)
    arguments = tuple(range(len(params)))
    with_key = tuple(range(1, 1 + len(params)))

    def draw(key, *params):
        return statistic(name, factory(*params).sample(seed=key))

    # distrax's VonMises uses a key twice.
    with jax.debug_key_reuse(name != "VonMises"):
        keys = jax.random.split(jax.random.key(0), 5000)
        gradients = jit_once(jax.vmap(jax.grad(draw, with_key), (0, *([None] * len(params)))))(
            keys, *params
        )
    exact = jax.jit(jax.grad(lambda *params: expectation(name, *params), arguments))(*params)
    if name == "MultivariateNormalFullCovariance":
        # Of the two halves of a symmetric matrix the factorisation reads one, as it likes.
        symmetric = lambda matrix: matrix + jnp.swapaxes(matrix, -1, -2)  # noqa: E731
        gradients = gradients[0], symmetric(gradients[1])
        exact = exact[0], symmetric(exact[1])
    scale = max(float(jnp.abs(leaf).max()) for leaf in exact)
    assert_mean(gradients, exact, scale=scale, resolution=0.05, floor=1e-5)


def test_the_pathwise_gradient_of_a_mixture_is_wrong() -> None:
    """Why the question is asked: no error, no NaN, and the derivative of the weights is zero."""

    def draw(key, logit):
        return distrax.MixtureOfTwo(
            jax.nn.sigmoid(logit), distrax.Normal(0.0, 1.0), distrax.Normal(3.0, 1.0)
        ).sample(seed=key)

    keys = jax.random.split(jax.random.key(0), 1000)
    gradients = jit_once(jax.vmap(jax.grad(draw, 1), (0, None)))(keys, 0.4)
    assert not gradients.any()
    assert not math.isclose(jax.grad(lambda logit: 3 * jax.nn.sigmoid(-logit))(0.4), 0)


@pytest.mark.parametrize(
    "joint", [tfd.JointDistributionNamed, tfd.JointDistributionNamedAutoBatched]
)
def test_a_joint_of_tfp_is_what_all_of_its_parts_are(joint) -> None:
    mixed = joint({"c": tfd.Normal(0.0, 1.0), "d": tfd.Bernoulli(logits=0.3)})
    assert not is_reparameterized(mixed)
    assert is_reparameterized(joint({"c": tfd.Normal(0.0, 1.0), "d": tfd.Gamma(1.0, 1.0)}))

"""The single entry: identities that hold for every draw, and the pairs that it refuses."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import bounds, objectives, variational
from tests.learning.exact import BOUNDS, belief_net, gaussian, mixed, objective
from tests.statistics import jit_once

MIWAE, CUBO = BOUNDS["miwae"], BOUNDS["cubo"]


def gradients(case, names: dict[str, tuple], params=None, num_draws: int = 20) -> dict:
    """Gradients [num_draws, ...] of (bound, estimator, K) by name, with common random numbers."""

    @jit_once
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def draws(params, key):
        return {
            name: jax.grad(objective(case, *names[name]), has_aux=True)(
                params, jax.random.clone(key), case.x
            )[0]
            for name in names
        }

    keys = jax.random.split(jax.random.key(0), num_draws)
    return draws(case.params if params is None else params, keys)


def assert_equal(first, second, **tolerance) -> None:
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), first, second)


def test_path_derivatives_of_the_exact_posterior_have_no_variance() -> None:
    """With p(z | x) as q: zero in phi, and for every draw (Roeder et al. 2017)."""
    case = gaussian()
    theta = case.params["theta"]
    precision = jnp.exp(-2 * theta["log_scale"]) + theta["weight"] ** 2 * jnp.exp(
        -2 * theta["log_noise"]
    )
    gain = theta["weight"] * jnp.exp(-2 * theta["log_noise"]) / precision
    rest = theta["loc"] * jnp.exp(-2 * theta["log_scale"]) / precision
    phi = {
        "weight": gain,
        "bias": rest - gain * theta["bias"],
        "log_scale": -0.5 * jnp.log(precision),
    }
    params = {"theta": theta, "phi": phi}
    names = {
        "landing": ("elbo", "sticking_the_landing", 2),
        "iwae": ("iwae", "dreg", 2),
        "renyi": ("renyi", "dreg", 2),
        "between": ("between", "dreg", 2),
    }
    names["pathwise"] = ("iwae", "pathwise", 2)
    found = gradients(case, names, params)
    assert max(np.abs(leaf).max() for leaf in found.pop("pathwise")["phi"].values()) > 0.1
    for gradient in found.values():
        for leaf in gradient["phi"].values():
            np.testing.assert_allclose(leaf, 0, atol=1e-10)


def test_dreg_is_linear_in_what_follows_the_loss() -> None:
    """A mean over a batch and a factor, which may be negative."""
    case = gaussian()
    loss = variational(case.model, bound=bounds.iwae, estimator="dreg", num_samples=3)
    keys = jax.random.split(jax.random.key(0), 4)
    xs = jnp.array([1.4, -0.3, 0.8, 2.0])

    def value(params, key, x):
        return loss(params, key, x)[0]

    def mean(params):
        fresh = jax.random.clone(keys)
        return -2.5 * jnp.mean(jax.vmap(value, (None, 0, 0))(params, fresh, xs))

    each = jax.jit(jax.vmap(jax.grad(value), (None, 0, 0)))(case.params, keys, xs)
    ours = jax.jit(jax.grad(mean))(case.params)
    exact = jax.tree.map(lambda leaf: -2.5 * leaf.mean(), each)
    assert_equal(ours, exact, rtol=1e-10)


def test_with_one_sample_every_bound_is_the_elbo() -> None:
    names = {"landing": ("elbo", "sticking_the_landing", 1)}
    names |= {name: (name, "dreg", 1) for name in ("elbo", "iwae", "renyi", "between", "tvo")}
    found = gradients(gaussian(), names)
    for gradient in found.values():
        assert_equal(gradient, found["landing"], atol=1e-12)


def test_identities_between_leave_one_out_estimators() -> None:
    """VIMCO with the arithmetic mean is RLOO for IWAE, with the geometric one for the ELBO."""
    pairs = [("iwae", "rloo"), ("iwae", "vimco_arithmetic")]
    pairs += [("elbo", "rloo"), ("elbo", "vimco_geometric"), ("iwae", "vimco_geometric")]
    found = gradients(belief_net(), {f"{a} {b}": (a, b, 3) for a, b in pairs})
    assert_equal(found["iwae rloo"], found["iwae vimco_arithmetic"], atol=1e-12)
    assert_equal(found["elbo rloo"], found["elbo vimco_geometric"], atol=1e-12)
    with pytest.raises(AssertionError):
        assert_equal(found["iwae rloo"], found["iwae vimco_geometric"], atol=1e-3)


def test_renyi_takes_its_limits() -> None:
    """alpha = 1 is the ELBO and alpha = 0 IWAE, values and gradients, and so it is near them."""
    case = gaussian()
    limits = {1: bounds.elbo, 1 - 1e-7: bounds.elbo, 0: bounds.iwae}

    def estimate(key, bound, estimator):
        loss = variational(case.model, bound=bound, estimator=estimator, num_samples=3)
        fresh = jax.random.clone(key)
        return jax.value_and_grad(loss, has_aux=True)(case.params, fresh, case.x)

    @jit_once
    def pairs(key):
        return [
            (estimate(key, functools.partial(bounds.renyi, alpha=a), e), estimate(key, limit, e))
            for e in ("pathwise", "dreg")
            for a, limit in limits.items()
        ]

    for ours, exact in pairs(jax.random.key(0)):
        assert_equal(ours, exact, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "vimco_geometric"}, "num_samples must be an integer >= 2, got 1"),
        ({"estimator": "vimco_arithmetic"}, "num_samples must be an integer >= 2, got 1"),
        (
            {"estimator": "sticking_the_landing", "bound": bounds.iwae, "num_samples": 2},
            'bounds.elbo.*use estimator="dreg"',
        ),
        ({"estimator": "dreg", "bound": bounds.vr_max}, "VR-max jump.*pathwise"),
        (
            {"estimator": "dreg", "bound": functools.partial(bounds.renyi, alpha=-math.inf)},
            "VR-max jump",
        ),
        ({"estimator": "dreg", "kl": "analytic"}, 'kl="analytic" is not for estimator "dreg"'),
        (
            {"estimator": "rloo", "bound": MIWAE, "num_samples": 4},
            "num_samples - 1 = 3.*vimco_geometric",
        ),
        ({"bound": MIWAE, "num_samples": 3}, "num_groups must divide num_samples, 3"),
        ({"bound": bounds.jackknife}, "order must be an integer from 0 to num_samples - 1 = 0"),
        ({"bound": CUBO, "estimator": "wake_theta"}, "it trains the posterior alone"),
        ({"bound": bounds.piwae(1), "estimator": "nvil"}, "SplitBound is not for"),
        ({"bound": bounds.piwae(1), "estimator": "wake_phi"}, "SplitBound is not for"),
        ({"bound": bounds.SplitBound(CUBO, bounds.elbo)}, "of lower bounds, got an upper"),
        ({"estimator": "wake_phi"}, "bound=bounds.iwae"),
        ({"estimator": "sleep_phi", "bound": bounds.iwae}, "does not see x"),
        ({"chunk_size": 2, "num_samples": 3}, "chunk_size must divide num_samples, 3, got 2"),
        ({"chunk_size": 0}, "chunk_size must divide num_samples, 1, got 0"),
        ({"bound": lambda log_weights: log_weights, "num_samples": 2}, "to one real number"),
        ({"bound": lambda log_weights: bounds.iwae(log_weights)[None]}, "to one real number"),
        ({"bound": lambda log_weights: 3}, "to one real number"),
    ],
)
def test_pairs_that_make_no_sense_are_refused_with_the_reason(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        variational(gaussian().model, **options)


@pytest.mark.parametrize("estimator", ["sticking_the_landing", "dreg"])
def test_path_derivatives_of_other_samples_are_refused(estimator: str) -> None:
    for case in (belief_net(), mixed()):
        with pytest.raises(TypeError, match=f'"{estimator}" needs reparameterised.*rloo'):
            variational(case.model, estimator=estimator)(case.params, jax.random.key(0), case.x)


REFUSED = {
    # Path derivatives of other bounds than the ELBO; of weights that jump.
    "sticking_the_landing": set(BOUNDS) - {"elbo"},
    "dreg": {"vr_max"},
    # A bound of K - 1 = 3 samples in two groups.
    "rloo": {"miwae", "piwae"},
    "nvil": {"piwae"},
    # Wake-sleep has the model's bound, and it is a lower one; sleep has none.
    "wake_theta": {"cubo", "right", "piwae"},
    "wake_sleep": {"cubo", "right", "piwae"},
    "sleep_phi": set(BOUNDS) - {"elbo"},
    "wake_phi": set(BOUNDS) - {"iwae"},
    "wake_phi_dreg": set(BOUNDS) - {"iwae"},
    "reweighted_wake_sleep": set(BOUNDS) - {"iwae"},
}


@pytest.mark.parametrize("estimator", objectives.ESTIMATORS)
def test_every_pair_is_made_or_refused(estimator: str) -> None:
    refused = set()
    for name in BOUNDS:
        try:
            objective(gaussian(), name, estimator, 4)
        except ValueError as error:
            assert estimator in str(error)
            refused.add(name)
    assert refused == REFUSED.get(estimator, set())


def test_unnormalised_weights_shift_the_loss_and_nothing_else() -> None:
    """p(x, z) times e^700, which is more than float32 holds."""
    case = gaussian()

    class Shifted:
        def __init__(self, plain) -> None:
            self.plain = plain

        def log_prob(self, value):
            return self.plain.log_prob(value) + 700.0

    plain = case.model.likelihood
    model = case.model._replace(likelihood=lambda params, z: Shifted(plain(params, z)))
    names = [("iwae", "dreg"), ("tvo", "vimco_geometric"), ("iwae", "reweighted_wake_sleep")]

    @jit_once
    def estimates(key):
        return [
            jax.value_and_grad(objective(of, *pair, 3), has_aux=True)(
                case.params, jax.random.clone(key), case.x
            )
            for of in (case, case._replace(model=model))
            for pair in names
        ]

    found = estimates(jax.random.key(0))
    for ((first, _), gradient), ((second, _), same) in zip(found[:3], found[3:], strict=True):
        np.testing.assert_allclose(second, first - 700)
        assert_equal(gradient, same, rtol=1e-9, atol=1e-10)


def test_a_bound_is_a_function() -> None:
    with pytest.raises(
        TypeError, match=r"bound must be a function such as bounds.iwae, got 'iwae'"
    ):
        variational(gaussian().model, bound="iwae")
    plain = functools.partial(bounds.elbo)
    variational(gaussian().model, bound=plain, kl="analytic")


def test_a_posterior_without_any_log_probability_is_refused() -> None:
    class Sampler:
        reparameterized = True

        def sample(self, *, seed):
            return jax.random.normal(seed)

    model = gaussian().model._replace(posterior=lambda params, x: Sampler())
    with pytest.raises(TypeError, match=r'neither sample_and_log_prob nor log_prob.*kl="analytic"'):
        variational(model)(gaussian().params, jax.random.key(0), gaussian().x)

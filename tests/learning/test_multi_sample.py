"""Every multi-sample estimator has the gradient of its bound's expectation; mutants do not.

Exact gradients are sums over all K-tuples of z: quadrature for a scalar Gaussian model,
enumeration for a sigmoid belief net, both for a model of a label and a real number.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import bounds, objectives, variational
from tests.learning.exact import (
    assert_certified,
    belief_net,
    certify,
    exact,
    gaussian,
    largest_z,
    mixed,
    part,
)

RENYI = functools.partial(bounds.renyi, alpha=0.4)
NEGATIVE = functools.partial(bounds.renyi, alpha=-0.7)
TVO = functools.partial(bounds.tvo, betas=(0.0, 0.2, 1.0))
TRAPEZOID = functools.partial(bounds.tvo, betas=(0.0, 0.4, 1.0), rule="trapezoid")
CIWAE = functools.partial(bounds.ciwae, weight=0.3)
MIWAE = functools.partial(bounds.miwae, num_groups=2)
RIGHT = functools.partial(bounds.tvo, betas=(0.0, 0.2, 1.0), rule="right")
CUBO = functools.partial(bounds.cubo, order=1.5)


def between(log_weights: jax.Array) -> jax.Array:
    """A bound of the user's own."""
    return 0.3 * bounds.elbo(log_weights) + 0.7 * bounds.iwae(log_weights)


BOUNDS = {
    "elbo": bounds.elbo,
    "iwae": bounds.iwae,
    "renyi": RENYI,
    "negative": NEGATIVE,
    "vr_max": bounds.vr_max,
    "tvo": TVO,
    "trapezoid": TRAPEZOID,
    "jackknife": bounds.jackknife,
    "ciwae": CIWAE,
    "miwae": MIWAE,
    "between": between,
}


UPPER = {"cubo": CUBO, "right": RIGHT}


@functools.cache
def answer(case_name: str, name: str, num_samples: int, beta: float = 1.0) -> dict:
    """The exact gradient of the loss; upper bounds and piwae are put together from parts."""
    case = {"gaussian": gaussian, "belief_net": belief_net, "mixed": mixed}[case_name]()
    if name in UPPER:
        negative = part(exact(case, UPPER[name], num_samples, beta), "phi")
        return jax.tree.map(jnp.negative, negative)
    if name == "piwae":
        theta = part(exact(case, bounds.iwae, num_samples, beta), "theta")
        phi = part(exact(case, MIWAE, num_samples, beta), "phi")
        return jax.tree.map(jnp.add, theta, phi)
    num_nodes = 201 if name == "vr_max" else None
    return exact(case, BOUNDS[name], num_samples, beta, num_nodes)


def objective(case, name: str, estimator: str, num_samples: int, **options):
    bound = {**BOUNDS, **UPPER, "piwae": bounds.piwae(2)}[name]
    return variational(
        case.model, bound=bound, estimator=estimator, num_samples=num_samples, **options
    )


def certificate(case_name: str, pairs: list[tuple[str, str]], num_samples: int, **scheduled):
    """Of many (bound, estimator) pairs at once."""
    case = {"gaussian": gaussian, "belief_net": belief_net, "mixed": mixed}[case_name]()
    made = {
        f"{name} {estimator}": objective(case, name, estimator, num_samples)
        for name, estimator in pairs
    }
    answers = {
        f"{name} {estimator}": answer(case_name, name, num_samples, **scheduled)
        for name, estimator in pairs
    }
    return certify(case, made, answers, **scheduled)


def test_pathwise_gradients_against_quadrature() -> None:
    """And sticking the landing and DReG, of every bound where they exist."""
    pairs = [
        ("elbo", "pathwise"),
        ("elbo", "sticking_the_landing"),
        ("elbo", "dreg"),
        ("vr_max", "pathwise"),
    ]
    for name in (
        "iwae",
        "renyi",
        "negative",
        "tvo",
        "trapezoid",
        "ciwae",
        "between",
        "cubo",
        "right",
    ):
        pairs += [(name, "pathwise"), (name, "dreg")]
    assert_certified(certificate("gaussian", pairs, 2))


def test_bounds_of_groups_and_subsets_against_quadrature() -> None:
    pairs = [
        ("miwae", "pathwise"),
        ("miwae", "dreg"),
        ("piwae", "pathwise"),
        ("piwae", "dreg"),
        ("piwae", "vimco_geometric"),
    ]
    assert_certified(certificate("gaussian", pairs, 4))
    pairs = [("jackknife", "pathwise"), ("jackknife", "dreg"), ("jackknife", "rloo")]
    assert_certified(certificate("gaussian", pairs, 3))


def test_beta_is_in_the_path_derivatives() -> None:
    """With another beta than one the score that DReG replaces has that weight."""
    pairs = [("elbo", "sticking_the_landing"), ("iwae", "dreg"), ("renyi", "dreg")]
    pairs += [("between", "dreg"), ("iwae", "vimco_geometric")]
    assert_certified(certificate("gaussian", pairs, 2, beta=0.4))


SCORE = ("score_function", "rloo", "vimco_geometric", "vimco_arithmetic")


def test_score_functions_against_quadrature() -> None:
    pairs = [(name, estimator) for name in ("elbo", "iwae") for estimator in SCORE]
    assert_certified(certificate("gaussian", pairs, 2))


def test_score_functions_against_enumeration() -> None:
    pairs = [(name, estimator) for name in ("elbo", "iwae") for estimator in SCORE]
    for name in ("renyi", "vr_max", "tvo", "cubo"):
        pairs += [(name, "rloo"), (name, "vimco_geometric")]
    pairs += [("jackknife", "vimco_arithmetic"), ("ciwae", "rloo")]
    assert_certified(certificate("belief_net", pairs, 3))


def test_a_bound_that_cannot_leave_a_sample_out_has_vimco() -> None:
    pairs = [("miwae", "vimco_geometric"), ("miwae", "vimco_arithmetic")]
    pairs += [("miwae", "score_function"), ("piwae", "vimco_geometric")]
    assert_certified(certificate("belief_net", pairs, 4))


def test_a_mixed_pytree_of_latent_variables() -> None:
    pairs = [(name, estimator) for name in ("elbo", "iwae") for estimator in SCORE]
    assert_certified(certificate("mixed", pairs, 2))


def test_parameters_that_encoder_and_decoder_share() -> None:
    """The gradient is the sum of both derivatives, also of what path derivatives freeze."""
    plain = gaussian()

    def tied(params):
        return {**params, "phi": {**params["phi"], "weight": 0.5 * params["theta"]["weight"]}}

    model = plain.model._replace(posterior=lambda params, x: plain.model.posterior(tied(params), x))
    case = plain._replace(
        model=model, table=lambda params, x, num: plain.table(tied(params), x, num)
    )
    made = {
        "elbo": objective(case, "elbo", "sticking_the_landing", 2),
        "iwae": objective(case, "iwae", "dreg", 2),
        "vimco": objective(case, "iwae", "vimco_arithmetic", 2),
    }
    iwae = exact(case, bounds.iwae, 2)
    answers = {"elbo": exact(case, bounds.elbo, 1), "iwae": iwae, "vimco": iwae}
    assert_certified(certify(case, made, answers))


# Mistakes that others have published, each put into our own code.


def rejected(case_name: str, name: str, estimator: str, num_samples: int) -> None:
    found = certificate(case_name, [(name, estimator)], num_samples)
    assert found.verdict == "biased", largest_z(found)


def test_dreg_with_unsquared_weights_is_rejected(monkeypatch) -> None:
    """It is also sticking the landing for IWAE, which is why that pair is refused."""
    monkeypatch.setattr(objectives, "path_factors", lambda bound, weights, beta: weights * 0 + 1)
    rejected("gaussian", "iwae", "dreg", 2)


def test_dreg_with_the_factor_of_another_bound_is_rejected(monkeypatch) -> None:
    monkeypatch.setattr(
        objectives, "path_factors", lambda bound, weights, beta: jax.nn.softmax(weights)
    )
    rejected("gaussian", "renyi", "dreg", 2)


def test_dreg_without_beta_is_rejected(monkeypatch) -> None:
    factors = objectives.path_factors
    monkeypatch.setattr(
        objectives, "path_factors", lambda bound, weights, beta: factors(bound, weights, 1.0)
    )
    found = certificate("gaussian", [("iwae", "dreg")], 2, beta=0.4)
    assert found.verdict == "biased", largest_z(found)


def test_vimco_with_its_own_sample_in_the_mean_is_rejected(monkeypatch) -> None:
    """The mean of all K log weights in the place of the mean of the others."""

    def wrong(bound, log_weights, mean):
        substitute = jnp.mean(log_weights)
        is_own = np.eye(len(log_weights), dtype=bool)
        baselines = jax.vmap(bound)(jnp.where(is_own, substitute, log_weights))
        return jax.lax.stop_gradient(baselines)

    monkeypatch.setattr(objectives, "vimco_baselines", wrong)
    rejected("belief_net", "iwae", "vimco_geometric", 3)


def test_a_baseline_of_its_own_sample_is_rejected(monkeypatch) -> None:
    """Sample k is scored by the bound without sample k + 1."""
    right = objectives.leave_one_out_baselines
    monkeypatch.setattr(
        objectives, "leave_one_out_baselines", lambda *args: jnp.roll(right(*args), 1)
    )
    rejected("belief_net", "iwae", "rloo", 3)


def test_a_signal_that_is_differentiated_is_rejected(monkeypatch) -> None:
    monkeypatch.setattr(objectives, "signals", lambda values, baselines: values - baselines)
    rejected("belief_net", "iwae", "score_function", 3)


def test_a_score_that_is_left_out_is_rejected(monkeypatch) -> None:
    """Discrete samples without a score term: the silent mistake of pathwise on them."""
    monkeypatch.setattr(objectives, "signals", lambda values, baselines: 0 * baselines)
    rejected("belief_net", "iwae", "rloo", 3)


def test_posterior_gradients_of_the_wrong_bound_are_rejected() -> None:
    """PIWAE with IWAE for both, and with MIWAE for both."""
    case = gaussian()
    for name in ("iwae", "miwae"):
        made = {"wrong": objective(case, name, "dreg", 4)}
        found = certify(case, made, {"wrong": answer("gaussian", "piwae", 4)})
        assert found.verdict == "biased"


# Identities that hold for every draw.


def gradients(case, names: dict[str, tuple], params=None, num_draws: int = 20) -> dict:
    """Gradients [num_draws, ...] of (bound, estimator, K) by name, with common random numbers."""

    @jax.jit
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
        return -2.5 * jnp.mean(jax.vmap(value, (None, 0, 0))(params, keys, xs))

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
    """alpha = 1 is the ELBO and alpha = 0 IWAE, values and gradients of every estimator."""
    case = gaussian()
    key = jax.random.key(0)
    for estimator in ("pathwise", "dreg", "rloo"):
        for alpha, limit in ((1, bounds.elbo), (1 - 1e-7, bounds.elbo), (0, bounds.iwae)):
            first, second = (
                jax.jit(
                    jax.value_and_grad(
                        variational(case.model, bound=bound, estimator=estimator, num_samples=3),
                        has_aux=True,
                    )
                )(case.params, jax.random.clone(key), case.x)
                for bound in (functools.partial(bounds.renyi, alpha=alpha), limit)
            )
            assert_equal(first, second, atol=1e-5)


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

"""Every multi-sample estimator has the gradient of its bound's expectation; mutants do not.

Exact gradients are sums over all K-tuples of z: quadrature for a scalar Gaussian model,
enumeration for a sigmoid belief net, both for a model of a label and a real number.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.learning import bounds, objectives
from tests.learning.exact import (
    BOUNDS,
    CASES,
    assert_certified,
    certify,
    exact,
    exact_largest,
    gaussian,
    largest_z,
    objective,
    part,
)

MIWAE = BOUNDS["miwae"]


@functools.cache
def answer(case_name: str, name: str, num_samples: int, beta: float = 1.0) -> dict:
    """The exact gradient of the loss; upper bounds and piwae are put together from parts."""
    case = CASES[case_name]()
    if name in ("cubo", "right"):
        negative = part(exact(case, BOUNDS[name], num_samples, beta), "phi")
        return jax.tree.map(jnp.negative, negative)
    if name == "piwae":
        theta = part(exact(case, bounds.iwae, num_samples, beta), "theta")
        phi = part(exact(case, MIWAE, num_samples, beta), "phi")
        return jax.tree.map(jnp.add, theta, phi)
    if name == "vr_max":
        return exact_largest(case, num_samples)
    return exact(case, BOUNDS[name], num_samples, beta)


def certificate(
    case_name: str,
    pairs: list[tuple[str, str]],
    num_samples: int,
    *,
    resolution: float = 0.02,
    **scheduled: float,
):
    """Of many (bound, estimator) pairs at once."""
    case = CASES[case_name]()
    made = {
        f"{name} {estimator}": objective(case, name, estimator, num_samples)
        for name, estimator in pairs
    }
    answers = {
        f"{name} {estimator}": answer(case_name, name, num_samples, **scheduled)
        for name, estimator in pairs
    }
    return certify(case, made, answers, resolution=resolution, **scheduled)


def test_pathwise_gradients_against_quadrature() -> None:
    """And sticking the landing and DReG, of every bound where they exist."""
    pairs = [("elbo", "pathwise"), ("elbo", "sticking_the_landing"), ("vr_max", "pathwise")]
    for name in ("iwae", "renyi", "tvo", "ciwae"):
        pairs += [(name, "pathwise"), (name, "dreg")]
    pairs += [(name, "dreg") for name in ("elbo", "negative", "trapezoid", "between")]
    assert_certified(certificate("gaussian", pairs, 2, resolution=0.01))


def test_upper_bounds_train_the_posterior() -> None:
    """Downwards, and it alone."""
    pairs = [("cubo", "pathwise"), ("cubo", "dreg"), ("cubo", "rloo")]
    pairs += [("right", "pathwise"), ("right", "dreg"), ("right", "vimco_geometric")]
    assert_certified(certificate("distant", pairs, 2))


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
    pairs = [("elbo", "sticking_the_landing"), ("iwae", "dreg"), ("between", "dreg")]
    pairs += [("iwae", "vimco_geometric")]
    assert_certified(certificate("gaussian", pairs, 2, resolution=0.005, beta=0.4))


SCORE = [("elbo", "score_function"), ("elbo", "rloo"), ("iwae", "score_function")]
SCORE += [("iwae", "rloo"), ("iwae", "vimco_geometric"), ("iwae", "vimco_arithmetic")]


def test_score_functions_against_quadrature() -> None:
    others = [("renyi", "vimco_arithmetic"), ("vr_max", "rloo"), ("tvo", "rloo")]
    assert_certified(certificate("gaussian", [*SCORE, *others], 2))


def test_score_functions_against_enumeration() -> None:
    others = [("elbo", "vimco_arithmetic"), ("elbo", "vimco_geometric"), ("renyi", "rloo")]
    others += [("vr_max", "rloo"), ("tvo", "vimco_geometric")]
    others += [("jackknife", "vimco_arithmetic"), ("ciwae", "rloo")]
    assert_certified(certificate("belief_net", [*SCORE, *others], 3))
    upper = [("cubo", "vimco_geometric"), ("right", "rloo")]
    assert_certified(certificate("distant_net", upper, 3))


def test_a_bound_that_cannot_leave_a_sample_out_has_vimco() -> None:
    pairs = [("miwae", "vimco_geometric"), ("miwae", "vimco_arithmetic")]
    pairs += [("miwae", "score_function"), ("piwae", "vimco_geometric")]
    assert_certified(certificate("belief_net", pairs, 4))


def test_a_mixed_pytree_of_latent_variables() -> None:
    others = [("renyi", "rloo"), ("vr_max", "rloo"), ("tvo", "vimco_geometric")]
    others += [("jackknife", "vimco_geometric")]
    # Those without a baseline need ten times as many draws.
    plain = [pair for pair in SCORE if pair[1] == "score_function"]
    assert_certified(certificate("mixed", plain, 2))
    rest = [pair for pair in SCORE if pair not in plain]
    assert_certified(certificate("mixed", [*rest, *others], 2))


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

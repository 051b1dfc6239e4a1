"""Log weights of -inf: finite values where weights are averaged, and no gradient that is NaN."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import NVIL, bounds, leave_one_out, variational
from tests.learning.exact import gaussian

AVERAGES = {
    "iwae": bounds.iwae,
    "renyi": functools.partial(bounds.renyi, alpha=0.4),
    "cubo": bounds.cubo,
    "vr_max": bounds.vr_max,
    "right": functools.partial(bounds.tvo, betas=(0.0, 0.5, 1.0), rule="right"),
}
LOGARITHMS = {
    "elbo": bounds.elbo,
    "renyi": functools.partial(bounds.renyi, alpha=1.5),
    "tvo": functools.partial(bounds.tvo, betas=(0.0, 0.5, 1.0)),
    "ciwae": functools.partial(bounds.ciwae, weight=0.5),
}
SOME = np.array([-3.0, -math.inf, -1.0, -math.inf])


@pytest.mark.parametrize("name", AVERAGES)
def test_bounds_that_average_weights_are_finite(name: str) -> None:
    """The value is that of a weight of e^-1000, and so is the gradient: none for those samples."""
    bound = AVERAGES[name]
    tiny = np.where(np.isinf(SOME), -1000.0, SOME)
    for function in (bound, jax.grad(bound), jax.hessian(bound)):
        np.testing.assert_allclose(function(SOME), function(tiny), atol=1e-9)
    gradient = jax.grad(bound)(SOME)
    assert gradient[1] == gradient[3] == 0


@pytest.mark.parametrize("name", LOGARITHMS)
def test_bounds_that_average_logarithms_are_minus_infinity(name: str) -> None:
    value, gradient = jax.value_and_grad(LOGARITHMS[name])(SOME)
    assert value == -math.inf
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("bounds_of", [AVERAGES, LOGARITHMS])
def test_all_weights_zero(bounds_of) -> None:
    """The value is -inf, the gradient finite; that of an average of weights is zero."""
    nothing = jnp.full(3, -math.inf)
    for name, bound in bounds_of.items():
        value, gradient = jax.value_and_grad(bound)(nothing)
        assert value == -math.inf, name
        assert np.isfinite(gradient).all(), name
        if name in ("iwae", "cubo", "right"):
            assert not gradient.any(), name


def test_a_log_weight_that_is_not_a_number_is_not_hidden() -> None:
    values = jnp.array([-3.0, math.nan])
    for name, bound in (AVERAGES | LOGARITHMS).items():
        assert np.isnan(bound(values)), name


class Interval(NamedTuple):
    """Uniform on [low, low + 1.5)."""

    low: jax.Array

    def log_prob(self, value):
        is_inside = (value >= self.low) & (value < self.low + 1.5)
        return jnp.where(is_inside, -math.log(1.5), -jnp.inf)


def truncated():
    """The Gaussian case with a prior that is uniform: some z, or all, cannot have been."""
    case = gaussian()
    prior = lambda params: Interval(params["theta"]["loc"])  # noqa: E731
    return case._replace(model=case.model._replace(prior=prior))


ESTIMATORS = (
    "pathwise",
    "dreg",
    "score_function",
    "rloo",
    "vimco_geometric",
    "vimco_arithmetic",
    "reweighted_wake_sleep",
    "wake_phi_dreg",
)


@functools.cache
def estimates(bound_name: str, names: tuple[str, ...], num_samples: int, shift: float):
    """(loss, gradient, number of live samples) of 200 draws for each estimator."""
    case = truncated()
    params = {**case.params, "theta": {**case.params["theta"], "loc": jnp.asarray(0.3 + shift)}}

    @jax.jit
    @jax.vmap
    def draws(key):
        def estimate(name):
            loss = variational(
                case.model,
                bound=getattr(bounds, bound_name),
                estimator=name,
                num_samples=num_samples,
            )
            (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(
                params, jax.random.clone(key), case.x
            )
            return value, gradient

        z = jax.vmap(lambda k: case.model.posterior(params, case.x).sample(seed=k))(
            jax.random.split(jax.random.clone(key), num_samples)
        )
        alive = jnp.sum((z >= params["theta"]["loc"]) & (z < params["theta"]["loc"] + 1.5))
        return {name: estimate(name) for name in names}, alive

    return draws(jax.random.split(jax.random.key(0), 200))


def test_no_estimator_of_iwae_is_nan() -> None:
    found, alive = estimates("iwae", ESTIMATORS, 3, 0.0)
    assert {0, 1, 2, 3} <= set(alive.tolist())
    for name, (value, gradient) in found.items():
        for leaf in jax.tree.leaves(gradient):
            assert np.isfinite(leaf).all(), name
            # Nothing tells where to go.
            assert not leaf[alive == 0].any(), name
        if name != "wake_phi_dreg":
            np.testing.assert_array_equal(np.isfinite(value), alive > 0, err_msg=name)
            assert (value[alive == 0] == math.inf).all(), name


def test_no_estimator_of_the_elbo_is_nan() -> None:
    names = ("pathwise", "sticking_the_landing", "rloo", "vimco_geometric", "score_function")
    found, alive = estimates("elbo", names, 3, 0.0)
    for name, (value, gradient) in found.items():
        np.testing.assert_array_equal(np.isfinite(value), alive == 3, err_msg=name)
        for leaf in jax.tree.leaves(gradient):
            assert np.isfinite(leaf).all(), name


def test_a_dead_sample_leaves_the_gradient_of_the_others() -> None:
    """IWAE of K samples of which m live is that of the m, less log K / m; so is its gradient."""
    case, key = truncated(), jax.random.key(3)

    def samples(params):
        keys = jax.random.split(jax.random.clone(key), 8)
        return jax.vmap(lambda k: case.model.posterior(params, case.x).sample(seed=k))(keys)

    z = np.asarray(samples(case.params))
    alive = np.flatnonzero((z > 0.3) & (z < 1.8))
    assert 0 < len(alive) < 8

    def by_hand(params):
        posterior, z = case.model.posterior(params, case.x), samples(params)[alive]
        weights = jax.vmap(
            lambda z: case.model.likelihood(params, z).log_prob(case.x) - posterior.log_prob(z)
        )(z)
        return math.log(1.5) + math.log(8) - jax.nn.logsumexp(weights)

    loss = variational(case.model, bound=bounds.iwae, num_samples=8)
    ours = jax.jit(jax.value_and_grad(loss, has_aux=True))(case.params, key, case.x)
    value, gradient = jax.jit(jax.value_and_grad(by_hand))(case.params)
    np.testing.assert_allclose(ours[0][0], value)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9), ours[1], gradient)


class Ramp(NamedTuple):
    """p(z) = z for z > 0 (unnormalised), written without care: its derivative is NaN elsewhere."""

    def log_prob(self, value):
        return jnp.log(jnp.maximum(value, 0.0))


def test_dreg_takes_nothing_from_a_sample_without_weight() -> None:
    """Not even the NaN that its density has for a derivative."""
    case = gaussian()
    model = case.model._replace(prior=lambda params: Ramp())
    loss = variational(model, bound=bounds.iwae, estimator="dreg", num_samples=3)
    estimate = jax.jit(jax.vmap(jax.grad(loss, has_aux=True), (None, 0, None)))
    gradient, _ = estimate(case.params, jax.random.split(jax.random.key(0), 100), -1.0)
    for leaf in gradient["phi"].values():
        assert np.isfinite(leaf).all() and leaf.any()


def test_a_split_bound_with_a_dead_group_keeps_the_gradient_of_the_others() -> None:
    """IWAE of all samples is finite where MIWAE of one group is not; the loss is IWAE."""
    case = truncated()
    loss = variational(case.model, bound=bounds.piwae(3), estimator="dreg", num_samples=3)
    keys = jax.random.split(jax.random.key(0), 50)
    estimate = jax.vmap(jax.value_and_grad(loss, has_aux=True), (None, 0, None))
    (values, _), gradient = jax.jit(estimate)(case.params, keys, case.x)
    plain = variational(case.model, bound=bounds.iwae, num_samples=3)
    exact, _ = jax.jit(jax.vmap(plain, (None, 0, None)))(
        case.params, jax.random.clone(keys), case.x
    )
    np.testing.assert_allclose(values, exact)
    assert np.isfinite(values).any()
    for leaf in gradient["phi"].values():
        assert np.isfinite(leaf).all() and leaf.any()


@pytest.mark.parametrize("estimator", ["pathwise", "dreg", "rloo", "reweighted_wake_sleep"])
def test_a_sample_that_the_prior_excludes_is_dead_for_every_beta(estimator: str) -> None:
    """Zero times minus infinity is not a number; at the start of a warm-up beta is zero."""
    case = truncated()
    loss = variational(case.model, bound=bounds.iwae, estimator=estimator, num_samples=3)
    keys = jax.random.split(jax.random.key(0), 50)

    def value(params, beta, key):
        return loss(params, key, case.x, beta=beta)[0]

    estimate = jax.vmap(jax.value_and_grad(value, (0, 1)), (None, None, 0))
    for beta in (0.0, 1e-9):
        values, gradient = jax.jit(estimate)(case.params, beta, jax.random.clone(keys))
        assert not np.isnan(values).any() and np.isfinite(values).any()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_nvil_with_dead_samples() -> None:
    case = truncated()
    of = variational(case.model, bound=bounds.iwae, estimator=NVIL(), num_samples=2)
    batch = jnp.array([1.4, -9.0])
    state = of.init_state(case.params, jax.random.key(0))
    gradient = jax.jit(jax.grad(of, has_aux=True))
    for index in range(5):
        key = jax.random.fold_in(jax.random.key(1), index)
        found, (state, _) = gradient(case.params, state, key, batch)
        assert np.isfinite(jax.tree.leaves((found, state))).all()


def test_baselines_that_are_infinite_are_none() -> None:
    """Where the others have no weight the baseline is 0, which leaves the estimator unbiased."""
    weights = jnp.array([-1.0, -math.inf])
    for baselines in (
        leave_one_out.leave_one_out_baselines(bounds.iwae, weights),
        leave_one_out.vimco_baselines(bounds.iwae, weights, "arithmetic"),
    ):
        assert np.isneginf(baselines[0]) or baselines[0] == pytest.approx(-1 - math.log(2))
        assert np.isfinite(leave_one_out.signals(jnp.asarray(-1.7), baselines)).all()


def test_means_of_others_lose_no_digits() -> None:
    """Against double precision with a wide spread, and against a plain mean of the others."""
    values = jnp.array([-90.0, 3.0, -2.0, 2.9999, -1e4, 3.0])
    for ours, plain in (
        (leave_one_out.log_mean_of_others, lambda v: jax.nn.logsumexp(v) - math.log(5)),
        (leave_one_out.mean_of_others, jnp.mean),
    ):
        exact = [plain(jnp.delete(values, k)) for k in range(6)]
        np.testing.assert_allclose(ours(values), exact, rtol=1e-12)
        single = ours(values.astype(jnp.float32))
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, exact, rtol=2e-6)


def test_means_of_others_take_memory_in_proportion_to_the_samples() -> None:
    """A matrix of all pairs would take a hundred times as much."""
    compiled = jax.jit(leave_one_out.mean_of_others).lower(jnp.zeros(2000)).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40 * 2000 * 8


def test_a_jackknife_without_a_sample_left_is_iwae() -> None:
    """Leaving out the only weight leaves none: not plus infinity, and not a slope of K."""
    weights = jnp.array([-math.inf, -math.inf, 1.0])
    value, slope = jax.value_and_grad(bounds.jackknife)(weights)
    assert value == pytest.approx(1 - math.log(3))
    np.testing.assert_allclose(slope, [0, 0, 1])

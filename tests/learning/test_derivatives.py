"""What may be done with a loss beside `jax.grad`: vmap of any kind, checkpoint, forward mode."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.distributions import DiagonalGaussian
from genjax_models.learning import NVIL, bounds, variational
from tests.learning.exact import belief_net, gaussian
from tests.statistics import jit_once

PATH = {"pathwise": bounds.iwae, "sticking_the_landing": bounds.elbo, "dreg": bounds.iwae}
SCORE = {"vimco_geometric": bounds.iwae, "reweighted_wake_sleep": bounds.iwae}
assert_close = functools.partial(
    jax.tree.map, functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12)
)


def loss_of(estimator: str, bound=None, model=None):
    """`loss(params, key, x, beta) -> []`."""
    bound = bound or {**PATH, **SCORE}[estimator]
    model = model or gaussian().model
    objective = variational(model, bound=bound, estimator=estimator, num_samples=3)
    return lambda params, key, x, beta=1.0: objective(params, key, x, beta=beta)[0]


def constant_posterior():
    """A model whose q(z) does not see x, so that z is drawn from the key alone."""

    def posterior(params, x):
        return DiagonalGaussian(params["phi"]["bias"], params["phi"]["log_scale"])

    return gaussian().model._replace(posterior=posterior)


@pytest.mark.parametrize("estimator", ["dreg", "vimco_geometric"])
@pytest.mark.parametrize("sees_x", [True, False])
def test_the_gradient_of_a_mean_is_the_mean_of_gradients(estimator: str, sees_x: bool) -> None:
    """Whatever is mapped: examples and keys, or beta or the model's parameters alone."""
    case = gaussian()
    loss = loss_of(estimator, model=None if sees_x else constant_posterior())
    key, keys = jax.random.key(0), jax.random.split(jax.random.key(1), 3)
    xs = jnp.array([1.4, -0.3, 0.8])
    thetas = jax.tree.map(lambda leaf: leaf + 0.3 * jnp.arange(3), case.params["theta"])

    def with_theta(params, key, theta):
        return loss({**params, "theta": {**params["theta"], **theta}}, key, case.x)

    def with_beta(params, key, beta):
        return loss(params, key, case.x, beta)

    functions = [(loss, 0, xs), (loss, None, xs)]
    if not sees_x:
        functions += [(with_beta, None, xs), (with_theta, None, {"bias": thetas["bias"]})]

    def pairs(params):
        """Gradients of -2.5 times a mean, and -2.5 times the means of gradients."""
        for function, axis, values in functions:
            axes = (None, axis, 0)
            some = keys if axis == 0 else key

            def mean(params, function=function, axes=axes, some=some, values=values):
                each = jax.vmap(function, axes)(params, jax.random.clone(some), values)
                return -2.5 * jnp.mean(each)

            each = jax.vmap(jax.grad(function), axes)(params, jax.random.clone(some), values)
            yield jax.grad(mean)(params), jax.tree.map(lambda leaf: -2.5 * leaf.mean(0), each)

    for ours, exact in jit_once(lambda params: list(pairs(params)))(case.params):
        assert_close(ours, exact)
        assert any(map(np.any, jax.tree.leaves(exact["phi"])))


@pytest.mark.parametrize("estimator", ["dreg", "vimco_geometric"])
def test_checkpoints_change_nothing(estimator: str) -> None:
    case, key, loss = gaussian(), jax.random.key(0), loss_of(estimator)

    @jit_once
    def gradients(params):
        both = (loss, jax.checkpoint(loss))
        return [jax.grad(of)(params, jax.random.clone(key), case.x) for of in both]

    assert_close(*gradients(case.params))


def test_forward_mode_is_the_gradient_in_a_direction() -> None:
    """DReG has none (its weights act on cotangents), and says so."""
    case, key = gaussian(), jax.random.key(0)
    direction = jax.tree.map(lambda leaf: 0.7 - leaf, case.params)
    for estimator in ("pathwise", "sticking_the_landing", *SCORE):
        loss = loss_of(estimator)
        of = lambda p, loss=loss: loss(p, jax.random.clone(key), case.x)  # noqa: E731
        value, slope = jit_once(lambda p, of=of: jax.jvp(of, (p,), (direction,)))(case.params)
        exact, gradient = jit_once(jax.value_and_grad(of))(case.params)
        np.testing.assert_allclose(value, exact)
        products = jax.tree.map(lambda a, b: float(jnp.sum(a * b)), gradient, direction)
        np.testing.assert_allclose(slope, sum(jax.tree.leaves(products)))
    of = functools.partial(loss_of("dreg"), key=key, x=case.x)
    with pytest.raises(TypeError, match=r"forward-mode.*custom_vjp"):
        jax.jvp(of, (case.params,), (direction,))


def test_second_derivatives_are_those_of_the_bound_or_refused() -> None:
    """A Hessian of a surrogate would miss what the surrogate holds constant."""
    case, key = gaussian(), jax.random.key(0)
    of = functools.partial(loss_of("pathwise"), key=key, x=case.x)
    twice = jit_once(jax.jacrev(jax.grad(of)))(case.params)["phi"]["bias"]["phi"]["bias"]
    step = 1e-5

    def slope(bias):
        phi = {**case.params["phi"], "bias": bias}
        at = functools.partial(loss_of("pathwise"), key=jax.random.clone(key), x=case.x)
        return jax.grad(at)({**case.params, "phi": phi})["phi"]["bias"]

    bias = case.params["phi"]["bias"]
    above, below = jit_once(jax.vmap(slope))(jnp.stack([bias + step, bias - step]))
    np.testing.assert_allclose(twice, (above - below) / (2 * step), rtol=1e-5)
    others = {
        "dreg": bounds.piwae(3),
        "score_function": bounds.elbo,
        "sleep_phi": bounds.elbo,
        "wake_phi_dreg": bounds.iwae,
    }
    for name, bound in {"sticking_the_landing": bounds.elbo, **SCORE, **others}.items():
        of = functools.partial(loss_of(name, bound), key=jax.random.clone(key), x=case.x)
        with pytest.raises(TypeError, match='second derivatives use estimator="pathwise"'):
            jax.eval_shape(jax.jacrev(jax.grad(of)), case.params)
        with pytest.raises(TypeError):
            jax.eval_shape(jax.hessian(of), case.params)


def test_nvil_has_first_derivatives_alone() -> None:
    case = belief_net()
    of = variational(case.model, estimator=NVIL(), num_samples=2)
    state = of.init_state(case.params, jax.random.key(0))
    loss = lambda params: of(params, state, jax.random.key(1), case.x[None])[0]  # noqa: E731
    jax.eval_shape(jax.grad(loss), case.params)
    with pytest.raises(TypeError, match="second derivatives"):
        jax.eval_shape(jax.jacrev(jax.grad(loss)), case.params)

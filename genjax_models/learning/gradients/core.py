"""What an estimator of the gradient of an expectation is made of, and the two ways to use one."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.interfaces import Array, Distribution, Key, Params, PyTree
from genjax_models.learning.first_order import gradient_of

State = PyTree
Draws = PyTree
DistributionOf = Callable[[Params], Any]
"""`distribution(params) -> Distribution`."""
Function = Callable[[PyTree], Array]
"""`function(x) -> []`."""


def no_state(params: Params, key: Key) -> State:
    """The initial state of what learns nothing: the empty tuple."""
    return ()


class GradientEstimator(NamedTuple):
    """An estimator of grad_params E_{x ~ distribution(params)}[f(x)], in two steps.

    `draw` does all that is random or held constant; `surrogate` is a function of one draw whose
    value estimates E[f] and whose gradient in `params` estimates the gradient of E[f]. What f
    closes over is differentiated in the surrogate as well: its gradient is df at the draws, so that
    f may depend on the parameters that one trains. What learns (baselines, control variates) is an
    explicit state: `observe` says what it learns from, to be averaged over examples, and `update`
    makes the new state of the average.

    Attributes:
        draw: `draw(params, state, key, num_samples) -> draws`, every leaf [num_samples, ...]; no
            gradient flows through it.
        surrogate: `surrogate(params, state, draw) -> []`, of one draw.
        init: `init(params, key) -> state`; the empty tuple where nothing learns.
        observe: `observe(params, state, draws) -> observation`, a pytree of arrays.
        update: `update(state, observation) -> state`.
    """

    draw: Callable[[Params, State, Key, int], Draws]
    surrogate: Callable[[Params, State, PyTree], Array]
    init: Callable[[Params, Key], State] = no_state
    observe: Callable[[Params, State, Draws], PyTree] = lambda params, state, draws: ()
    update: Callable[[State, PyTree], State] = lambda state, observation: state


def per_sample_gradients(
    estimator: GradientEstimator,
    params: Params,
    key: Key,
    num_samples: int = 1,
    *,
    state: State = (),
) -> PyTree:
    """The gradient of each sample; their mean over the leading axis is the estimate.

        g_s = grad_params surrogate(params, state, draw_s),  s = 1..S

    Args:
        estimator: any `GradientEstimator`.
        params: what is differentiated, a pytree.
        key: PRNG key.
        num_samples: S.
        state: the estimator's, where it has one.

    Returns:
        A pytree of the structure of `params` with a leading axis [S].

    Raises:
        ValueError: fewer samples than the estimator needs, or no state where it has one.
        TypeError: a distribution that the estimator makes no sense for.
    """
    draws = _draws(estimator, params, state, key, num_samples)
    return jax.vmap(jax.grad(estimator.surrogate), (None, None, 0))(params, state, draws)


def surrogate_loss(
    estimator: GradientEstimator,
    params: Params,
    key: Key,
    num_samples: int = 1,
    *,
    state: State = (),
) -> Array:
    """A loss whose value estimates E[f] and whose `jax.grad` is the mean of the S gradients.

        (1/S) sum_s surrogate(params, state, draw_s)

    A first derivative only: what the estimator holds constant is missing from a second one, unless
    the estimator is a plain `pathwise`.

    Args:
        estimator: any `GradientEstimator`.
        params: what is differentiated, a pytree.
        key: PRNG key.
        num_samples: S.
        state: the estimator's, where it has one.

    Returns:
        The loss, [].

    Raises:
        ValueError: fewer samples than the estimator needs, or no state where it has one.
        TypeError: a distribution that the estimator makes no sense for.
    """
    draws = _draws(estimator, params, state, key, num_samples)
    return jnp.mean(jax.vmap(estimator.surrogate, (None, None, 0))(params, state, draws))


def surrogate_loss_and_observation(
    estimator: GradientEstimator,
    params: Params,
    state: State,
    key: Key,
    num_samples: int = 1,
) -> tuple[Array, PyTree]:
    """`surrogate_loss` with what the estimator's state learns from, for `jax.grad(has_aux=True)`.

    Average the observations over the examples of a batch, then call `estimator.update`.

    Args:
        estimator: any `GradientEstimator`.
        params: what is differentiated, a pytree.
        state: the estimator's.
        key: PRNG key.
        num_samples: S.

    Returns:
        The loss, [], and the observation, through which no gradient flows.

    Raises:
        ValueError: fewer samples than the estimator needs, or no state where it has one.
        TypeError: a distribution that the estimator makes no sense for.
    """
    draws = _draws(estimator, params, state, key, num_samples)
    losses = jax.vmap(estimator.surrogate, (None, None, 0))(params, state, draws)
    observation = estimator.observe(held(params), state, draws)
    return jnp.mean(losses), held(observation)


def held(tree: PyTree) -> PyTree:
    """The same values, through which no gradient flows."""
    return jax.lax.stop_gradient(tree)


def linear(coefficients: PyTree, params: PyTree) -> Array:
    """Zero, with the gradient `coefficients` in `params`: two pytrees of one structure."""

    def product(coefficient: Array, param: Array) -> Array:
        # Infinite logits, of what cannot occur, have no difference; their coefficients are zero.
        finite = jnp.where(jnp.isinf(param), 0, param)
        return jnp.sum(held(coefficient) * gradient_of(finite))

    return jax.tree.reduce(jnp.add, jax.tree.map(product, coefficients, params))


def evaluate(function: Function, x: PyTree, *, differentiable: bool = False) -> Array:
    """f(x), a real number, once it is known to be one; counts and truth values become floats.

    Raises:
        ValueError: it is more than one number.
        TypeError: the estimator needs a `differentiable` f, and this one gives integers.
    """
    value = jnp.asarray(function(x))
    if value.shape != ():
        raise ValueError(f"function must return one number, got an array of shape {value.shape}")
    if differentiable and not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            f"function must be differentiable here, and return a float, got {value.dtype}: its"
            " gradient would be zero; use score_function"
        )
    return value.astype(jnp.result_type(value, float))


def check_one_event(distribution: Any) -> None:
    """Raises a `ValueError` if `distribution` is a batch of distributions rather than one."""
    # A joint distribution of TFP has a pytree of shapes, whose leaves are sizes.
    batch_shape = getattr(distribution, "batch_shape", ())
    if jax.tree.leaves(jax.tree.map(tuple, batch_shape, is_leaf=_is_shape)):
        raise ValueError(
            f"distribution(params) must be over one event, got a batch of shape {batch_shape}: wrap"
            " it in distrax.Independent(..., reinterpreted_batch_ndims=...)"
        )


def _is_shape(node: Any) -> bool:
    is_tuple = isinstance(node, tuple) and all(isinstance(size, int) for size in node)
    return is_tuple or hasattr(node, "as_list")


def sample(distribution: Distribution, key: Key, num_samples: int) -> PyTree:
    """Independent samples, leaves [S, ...], through which no gradient flows."""
    keys = jax.random.split(key, num_samples)
    return held(jax.vmap(lambda key: distribution.sample(seed=key))(keys))


def check_num_samples(num_samples: int, at_least: int = 1, why: str = "") -> None:
    """Raises a `ValueError` if `num_samples` is no integer from `at_least` on."""
    if not hasattr(num_samples, "__index__") or num_samples < at_least:
        raise ValueError(
            f"num_samples must be an integer, at least {at_least}{why}, got {num_samples!r}"
        )


def leave_one_out_sums(values: PyTree) -> PyTree:
    """The sum over the other samples for each sample: leaves [S, ...].

    A difference of the total and the sample's own value would be biased by rounding where one
    sample outweighs all others; sums from both sides need no subtraction.
    """

    def sums(leaf: Array) -> Array:
        nothing = jnp.zeros_like(leaf[:1])
        before = jnp.concatenate([nothing, jnp.cumsum(leaf, axis=0)[:-1]])
        after = jnp.concatenate([jnp.cumsum(leaf[::-1], axis=0)[::-1][1:], nothing])
        return before + after

    return jax.tree.map(sums, values)


def _draws(
    estimator: GradientEstimator, params: Params, state: State, key: Key, num_samples: int
) -> Draws:
    check_num_samples(num_samples)
    if type(state) is tuple and not state:
        wanted = jax.eval_shape(estimator.init, params, jax.random.key(0))
        if jax.tree.leaves(wanted):
            raise ValueError("state is missing: pass state=estimator.init(params, key)")
    return held(estimator.draw(held(params), state, key, num_samples))

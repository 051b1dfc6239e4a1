"""NADE against its definition in O(D^2 H), and against sums over all states."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax_models.learning import maximum_likelihood
from genjax_models.models.fully_observed import nade
from genjax_models.training import gradient_descent
from tests.statistics import assert_mean, jit_once

NUM_DIMS, HIDDEN_DIM = 10, 3
# Ten dimensions do not fill two blocks of eight.
ORDERINGS = {
    "natural": None,
    "reversed": [*range(NUM_DIMS)][::-1],
    "random": [3, 9, 0, 7, 1, 8, 2, 6, 5, 4],
}


def positions(ordering: list[int] | None, num_dims: int) -> np.ndarray:
    """Where in the ordering each dimension stands."""
    return np.argsort(np.arange(num_dims) if ordering is None else ordering)


def naive_conditionals(params, x, position: np.ndarray, *, leak: bool = False):
    """p(x_d = 1 | earlier dimensions) for each d, every hidden unit summed anew: O(D^2 H).

    With `leak` a dimension sees itself, the mistake that the tests must notice.
    """
    earlier = position[None] <= position[:, None] if leak else position[None] < position[:, None]
    hidden = jax.nn.sigmoid(params["hidden_bias"] + (earlier * x) @ params["input_weights"])
    logits = params["output_bias"] + jnp.sum(params["output_weights"] * hidden, axis=1)
    return jax.nn.sigmoid(logits)


def naive_log_prob(params, x, position: np.ndarray, *, leak: bool = False):
    probabilities = naive_conditionals(params, x, position, leak=leak)
    return jnp.sum(jnp.log(jnp.where(x == 1, probabilities, 1 - probabilities)))


def draw_params(seed: int, num_dims: int, hidden_dim: int, scale: float, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(nade(num_dims=num_dims, hidden_dim=hidden_dim).init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: (scale * rng.standard_normal(leaf.shape)).astype(dtype), shapes
    )


def all_states(num_dims: int, dtype=np.float32) -> jax.Array:
    """[2^D, D]."""
    return jnp.asarray(np.arange(2**num_dims)[:, None] >> np.arange(num_dims) & 1, dtype)


@functools.cache
def enumerated(name: str) -> Callable:
    """params -> log p of every state of ten dimensions, [1024]."""
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM, ordering=ORDERINGS[name])
    return jit_once(lambda params: jax.vmap(model.log_prob, (None, 0))(params, all_states(10)))


def leaves_close(found, expected, **tolerance) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected)


@pytest.mark.parametrize("name", ORDERINGS)
@pytest.mark.parametrize("scale", [0.3, 3.0, 30.0])
def test_probabilities_of_all_states_sum_to_one(name: str, scale: float) -> None:
    for seed in range(3):
        log_probs = enumerated(name)(draw_params(seed, NUM_DIMS, HIDDEN_DIM, scale))
        assert np.exp(np.float64(log_probs)).sum() == pytest.approx(1, abs=2e-5 * max(scale, 1))


def test_the_sum_notices_a_dimension_that_sees_itself() -> None:
    params = draw_params(0, NUM_DIMS, HIDDEN_DIM, 3.0)
    position = positions(None, NUM_DIMS)
    for leak, is_one in ((False, True), (True, False)):
        log_probs = jax.vmap(lambda x, leak=leak: naive_log_prob(params, x, position, leak=leak))(
            all_states(NUM_DIMS)
        )
        assert (abs(np.exp(np.float64(log_probs)).sum() - 1) < 1e-3) == is_one


@pytest.mark.parametrize("num_dims", [1, 7, 8, 9, 17])
@pytest.mark.parametrize("shuffled", [False, True])
def test_values_and_gradients_are_those_of_the_definition(num_dims: int, shuffled: bool) -> None:
    """In float64 to rounding, around the size of a block; float32 to its own rounding."""
    rng = np.random.default_rng(num_dims)
    ordering = rng.permutation(num_dims).tolist() if shuffled else None
    position = positions(ordering, num_dims)
    model = nade(num_dims=num_dims, hidden_dim=4, ordering=ordering)
    with jax.enable_x64(True):
        params = draw_params(0, num_dims, 4, 1.0, np.float64)
        xs = rng.integers(0, 2, (5, num_dims)).astype(np.float64)

        def total(log_prob, params, xs):
            log_probs = jax.vmap(log_prob, (None, 0))(params, xs)
            return jnp.sum(jnp.arange(1, 6) * log_probs), log_probs

        def both(params, xs):
            ours = jax.grad(functools.partial(total, model.log_prob), has_aux=True)
            theirs = functools.partial(naive_log_prob, position=position)
            return ours(params, xs), jax.grad(functools.partial(total, theirs), has_aux=True)(
                params, xs
            )

        ours, theirs = jit_once(both)(params, xs)
        leaves_close(ours, theirs, rtol=1e-10, atol=1e-12)
        narrow = jit_once(jax.vmap(model.log_prob, (None, 0)))(
            jax.tree.map(np.float32, params), np.float32(xs)
        )
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, theirs[1], rtol=1e-5)


def test_float32_keeps_its_precision_over_784_dimensions() -> None:
    """The running sum against one in float64, with weights of the size that training gives."""
    model = nade(hidden_dim=20)
    wide = draw_params(0, 784, 20, 1.0, np.float64)
    x = np.random.default_rng(0).integers(0, 2, 784)
    narrow = jit_once(model.log_prob)(jax.tree.map(np.float32, wide), x)
    with jax.enable_x64(True):
        exact = naive_log_prob(wide, x.astype(np.float64), positions(None, 784))
    assert abs(float(exact)) > 100
    assert float(narrow) == pytest.approx(float(exact), rel=1e-5)


@pytest.mark.parametrize("name", ["natural", "random"])
def test_each_conditional_depends_on_what_comes_earlier_only(name: str) -> None:
    """d log p(x) / d b_d = x_d - p(x_d = 1 | earlier): turn over each x_j and look at every d."""
    ordering = ORDERINGS[name]
    position = positions(ordering, NUM_DIMS)
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM, ordering=ordering)
    params = draw_params(1, NUM_DIMS, HIDDEN_DIM, 1.0)
    x = np.float32([1, 0, 0, 1, 1, 0, 1, 0, 0, 1])
    xs = np.concatenate([x[None], np.abs(x - np.eye(NUM_DIMS, dtype=np.float32))])
    gradients = jit_once(jax.vmap(jax.grad(model.log_prob), (None, 0)))(params, xs)
    conditionals = xs - gradients["output_bias"]
    changed = np.abs(conditionals[1:] - conditionals[0]) > 1e-6
    np.testing.assert_array_equal(changed, position[:, None] < position[None])
    exact = jax.vmap(lambda x: naive_conditionals(params, x, position))(xs)
    np.testing.assert_allclose(conditionals, exact, rtol=1e-4, atol=1e-6)


def test_an_ordering_permutes_the_dimensions_and_their_parameters() -> None:
    ordering = np.array(ORDERINGS["random"])
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM, ordering=ordering.tolist())
    natural = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM)
    params = draw_params(2, NUM_DIMS, HIDDEN_DIM, 1.0)
    permuted = {k: v if k == "hidden_bias" else v[ordering] for k, v in params.items()}
    keys = jax.random.split(jax.random.key(0), 50)
    xs = jit_once(jax.vmap(model.sample, (None, 0)))(params, keys)
    expected = jit_once(jax.vmap(natural.sample, (None, 0)))(permuted, jax.random.clone(keys))
    np.testing.assert_array_equal(xs[:, ordering], expected)
    assert len(np.unique(xs, axis=0)) > 10


@pytest.mark.parametrize("ordering", [None, [2, 0, 3, 1]])
def test_frequencies_of_samples_are_the_probabilities(ordering: list[int] | None) -> None:
    model = nade(num_dims=4, hidden_dim=3, ordering=ordering)
    params = draw_params(3, 4, 3, 1.5)
    states = all_states(4)
    position = positions(ordering, 4)
    exact = np.exp(jax.vmap(lambda x: naive_log_prob(params, x, position))(states))
    assert exact.sum() == pytest.approx(1, abs=1e-5)
    keys = jax.random.split(jax.random.key(4), 40_000)
    xs = jit_once(jax.vmap(model.sample, (None, 0)))(params, keys)
    assert_mean((xs[:, None] == states).all(axis=-1), exact)


def test_moments_of_samples_are_those_of_the_sum_over_states() -> None:
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM, ordering=ORDERINGS["random"])
    params = draw_params(5, NUM_DIMS, HIDDEN_DIM, 1.5)
    states, probabilities = all_states(NUM_DIMS), np.exp(enumerated("random")(params))
    keys = jax.random.split(jax.random.key(6), 40_000)
    xs = np.asarray(jit_once(jax.vmap(model.sample, (None, 0)))(params, keys))
    exact = np.einsum("s,si,sj->ij", probabilities, states, states)
    assert_mean(np.einsum("ni,nj->nij", xs, xs), exact)


def test_the_mean_score_is_zero() -> None:
    """sum_x p(x) grad log p(x) = 0, the sum over all states."""
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM, ordering=ORDERINGS["random"])
    with jax.enable_x64(True):
        params = draw_params(7, NUM_DIMS, HIDDEN_DIM, 1.0, np.float64)
        score = jax.vmap(jax.value_and_grad(model.log_prob), (None, 0))
        log_probs, scores = jit_once(score)(params, all_states(NUM_DIMS, np.float64))
    probabilities = np.exp(log_probs)
    for leaf in jax.tree.leaves(scores):
        np.testing.assert_allclose(np.tensordot(probabilities, leaf, 1), 0, atol=1e-12)
        assert np.tensordot(probabilities, np.abs(leaf), 1).max() > 0.05


def test_the_gradient_of_the_objective_is_that_of_the_divergence_from_the_data() -> None:
    """Against the slope of KL(data || model), summed over all states without autodiff."""
    ordering = ORDERINGS["random"]
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM, ordering=ordering)
    rng = np.random.default_rng(8)
    data = rng.dirichlet(np.full(2**NUM_DIMS, 0.5))
    with jax.enable_x64(True):
        states = all_states(NUM_DIMS, np.float64)
        params = draw_params(9, NUM_DIMS, HIDDEN_DIM, 1.0, np.float64)
        direction = draw_params(10, NUM_DIMS, HIDDEN_DIM, 1.0, np.float64)
        objective = maximum_likelihood(model)

        def loss(params):
            losses = jax.vmap(lambda x: objective(params, jax.random.key(0), x)[0])(states)
            return jnp.sum(data * losses)

        gradient = jit_once(jax.grad(loss))(params)
        position = positions(ordering, NUM_DIMS)

        @jit_once
        def divergence(step):
            moved = jax.tree.map(lambda p, d: p + step * d, params, direction)
            log_probs = jax.vmap(lambda x: naive_log_prob(moved, x, position))(states)
            return jnp.sum(data * (jnp.log(data) - log_probs))

        slope = float(divergence(1e-5) - divergence(-1e-5)) / 2e-5
    products = jax.tree.map(lambda g, d: np.sum(np.asarray(g) * d), gradient, direction)
    assert abs(slope) > 0.1
    np.testing.assert_allclose(sum(products.values()), slope, rtol=1e-7)


def test_training_finds_a_distribution_that_independent_dimensions_cannot_have() -> None:
    """Over three dimensions of odd parity the loss falls to the entropy, log 4."""
    model = nade(num_dims=3, hidden_dim=8, ordering=[1, 2, 0])
    states = all_states(3)
    data = states[states.sum(axis=1) % 2 == 1]
    algorithm = gradient_descent(maximum_likelihood(model), optax.adam(0.1), model.init)

    @jit_once
    def train(key):
        init_key, steps_key = jax.random.split(key)
        state, _ = jax.lax.scan(
            lambda state, key: algorithm.step(state, key, data),
            algorithm.init(init_key),
            jax.random.split(steps_key, 500),
        )
        return jax.vmap(model.log_prob, (None, 0))(state.params, data)

    np.testing.assert_allclose(train(jax.random.key(0)), -np.log(4), atol=0.02)


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("where", ["output_bias", "output_weights", "input_weights", "hidden_bias"])
def test_extremes_are_finite(where: str, size: float) -> None:
    """Logits of +-1e4: -1e4 for each dimension that is not what is certain, and no NaN."""
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM, ordering=ORDERINGS["random"])
    params = jax.tree.map(np.zeros_like, draw_params(0, NUM_DIMS, HIDDEN_DIM, 1.0))
    params[where] = np.full_like(params[where], size)
    x = np.float32([1, 0, 0, 1, 1, 0, 1, 0, 0, 0])
    value, gradient = _extreme()(params, x)
    num_wrong = 6 if size > 0 else 4
    if where == "output_bias":
        assert value == pytest.approx(-1e4 * num_wrong)
    elif where == "output_weights":  # Every hidden unit is one half.
        assert value == pytest.approx(-1e4 * HIDDEN_DIM / 2 * num_wrong)
    else:
        assert value == pytest.approx(-NUM_DIMS * np.log(2))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    xs = jit_once(jax.vmap(model.sample, (None, 0)))(params, jax.random.split(jax.random.key(0), 9))
    if where.startswith("output"):
        np.testing.assert_array_equal(xs, np.full_like(xs, size > 0))


@functools.cache
def _extreme() -> Callable:
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM, ordering=ORDERINGS["random"])
    return jit_once(jax.value_and_grad(model.log_prob))


def test_integers_are_as_good_as_floats_and_bfloat16_sums_in_float32() -> None:
    model = nade(num_dims=NUM_DIMS, hidden_dim=HIDDEN_DIM)
    params = jax.tree.map(jnp.bfloat16, draw_params(0, NUM_DIMS, HIDDEN_DIM, 1.0))
    x = np.array([1, 0, 0, 1, 1, 0, 1, 0, 0, 1])
    exact = naive_log_prob(
        jax.tree.map(np.float32, params), x.astype(np.float32), positions(None, NUM_DIMS)
    )
    for dtype in (np.uint8, bool, np.float32, jnp.bfloat16):
        value = jit_once(model.log_prob)(params, x.astype(dtype))
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, exact, rtol=1e-5)


def test_the_gradient_does_not_store_the_hidden_units() -> None:
    num_dims, hidden_dim, batch_size = 256, 64, 10
    model = nade(num_dims=num_dims, hidden_dim=hidden_dim)

    def loss(params, xs):
        return jnp.mean(jax.vmap(model.log_prob, (None, 0))(params, xs))

    params = jax.eval_shape(model.init, jax.random.key(0))
    xs = jax.ShapeDtypeStruct((batch_size, num_dims), jnp.float32)
    compiled = jit_once(jax.grad(loss)).lower(params, xs).compile()
    hidden_units = 4 * batch_size * num_dims * hidden_dim
    assert compiled.memory_analysis().temp_size_in_bytes < 0.75 * hidden_units


def test_default_is_the_model_of_the_literature() -> None:
    params = jax.eval_shape(nade().init, jax.random.key(0))
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "input_weights": (784, 500),
        "output_weights": (784, 500),
        "hidden_bias": (500,),
        "output_bias": (784,),
    }


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_dims": 0}, ValueError, "num_dims must be at least 1, got 0"),
        ({"hidden_dim": -1}, ValueError, "hidden_dim must be at least 1, got -1"),
        ({"ordering": [0, 1]}, ValueError, r"ordering must have each dimension 0\.\.2 once"),
        ({"ordering": [0, 1, 1]}, ValueError, r"ordering .* got \[0 1 1\]"),
        ({"ordering": [1, 2, 3]}, ValueError, "ordering"),
        ({"ordering": [0, 1, 2, 2]}, ValueError, "ordering"),
        ({"ordering": [0, 1, -1]}, ValueError, "ordering"),
        ({"ordering": [[0, 1, 2]]}, ValueError, "ordering"),
        ({"ordering": []}, TypeError, "ordering must be of integers"),
        ({"ordering": [0.0, 1.0, 2.0]}, TypeError, "ordering must be of integers, got float64"),
    ],
)
def test_settings_that_are_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        nade(**{"num_dims": 3, **options})


@pytest.mark.parametrize("shape", [(2,), (3, 1), (5, 3)])
def test_an_example_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    model = nade(num_dims=3, hidden_dim=2)
    with pytest.raises(ValueError, match=r"value must have the shape of one event, \(3,\)"):
        model.log_prob(model.init(jax.random.key(0)), jnp.zeros(shape))

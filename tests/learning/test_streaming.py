"""K samples in chunks: the same gradient in the memory of one chunk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax_models.learning import NVIL, bounds, variational
from genjax_models.models import latent
from tests.learning.exact import belief_net, gaussian
from tests.statistics import jit_once

PAIRS = [
    (bounds.iwae, "pathwise"),
    (functools.partial(bounds.renyi, alpha=0.3), "dreg"),
    (bounds.piwae(3), "dreg"),
    (bounds.iwae, "vimco_geometric"),
    (bounds.elbo, "wake_sleep"),
]


def test_the_gradient_is_the_same() -> None:
    """Value, metrics and gradient of every kind of estimator, in a batch of two."""
    case = gaussian()
    xs = jnp.stack([case.x, -0.3 * case.x])

    @jit_once
    def estimates(key):
        def estimate(index, chunk_size):
            bound, estimator = PAIRS[index]
            loss = variational(
                case.model,
                bound=bound,
                estimator=estimator,
                num_samples=6,
                chunk_size=chunk_size,
            )
            keys = jax.random.split(jax.random.fold_in(key, index), 2)
            estimate = jax.value_and_grad(loss, has_aux=True)
            return jax.vmap(estimate, (None, 0, 0))(case.params, keys, xs)

        return [[estimate(i, size) for i in range(len(PAIRS))] for size in (None, 2)]

    whole, chunked = estimates(jax.random.key(0))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), whole, chunked
    )
    assert all(np.any(leaf) for leaf in jax.tree.leaves(whole[0][1]))


def test_nvil_in_chunks() -> None:
    case = belief_net()
    batch = jnp.array([[1.0, 0.0], [1.0, 1.0]])

    def estimate(chunk_size):
        of = variational(
            case.model, bound=bounds.iwae, estimator=NVIL(), num_samples=4, chunk_size=chunk_size
        )
        state = of.init_state(case.params, jax.random.key(0))
        gradient = jax.jit(jax.grad(of, has_aux=True))
        return gradient(case.params, state, jax.random.key(1), batch)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9), estimate(None), estimate(2)
    )


@pytest.mark.parametrize("estimator", ["dreg", "vimco_arithmetic"])
def test_memory_is_that_of_a_chunk(estimator: str) -> None:
    model = latent.vae(num_dims=300, latent_dim=2, hidden=(8,))
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((300,), jnp.zeros(()).dtype)

    def memory(num_samples: int, chunk_size: int | None) -> int:
        loss = variational(
            model,
            bound=bounds.iwae,
            estimator=estimator,
            num_samples=num_samples,
            chunk_size=chunk_size,
        )
        gradient = jit_once(jax.grad(loss, has_aux=True))
        compiled = gradient.lower(params, jax.eval_shape(jax.random.key, 0), x).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many, whole = memory(64, 8), memory(512, 8), memory(512, None)
    # A few numbers a sample, where its activations alone are 300.
    assert (many - few) / (512 - 64) < 10 * x.dtype.itemsize
    assert whole > 8 * many

"""The neural autoregressive distribution estimator (Larochelle & Murray 2011)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.checks import check_sizes
from genjax_models.distributions import NeuralAutoregressiveBernoulli
from genjax_models.distributions.numerics import check_event
from genjax_models.interfaces import Array, DensityModel, Key, Params
from genjax_models.networks.masked_mlp import check_ordering


def nade(
    *, num_dims: int = 784, hidden_dim: int = 500, ordering: Sequence[int] | None = None
) -> DensityModel:
    """A product of conditionals of binary dimensions, whose hidden units share their weights.

        p(x) = prod_i p(x_{o_i} | x_{o_1}, ..., x_{o_{i-1}})
        p(x_d = 1 | ...) = sigmoid(b_d + V_d . h_i),  d = o_i
        h_i = sigmoid(a_i),  a_1 = c,  a_{i+1} = a_i + W_d x_d

    One pass over the dimensions costs O(num_dims * hidden_dim), for `log_prob` as for `sample`
    (`distributions.NeuralAutoregressiveBernoulli`).

    Its parameters are a dict: "input_weights" W and "output_weights" V, [num_dims, hidden_dim],
    "hidden_bias" c, [hidden_dim], and "output_bias" b, [num_dims]. Row d belongs to dimension d
    in any ordering. Weights start Glorot-uniform, biases at zero.

    Args:
        num_dims: size of the vector x, of zeros and ones.
        hidden_dim: number of hidden units of each conditional.
        ordering: o, each dimension 0..num_dims - 1 once; default: 0, 1, 2, ...

    Returns:
        The model.

    Raises:
        ValueError: a size below one, an ordering that leaves a dimension out or has one twice, or
            (from `log_prob`) an x of another shape.
        TypeError: an ordering that is not of integers.

    Source: Larochelle & Murray 2011 (The neural autoregressive distribution estimator), section 3,
    with weights of their own for input and output.
    """
    check_sizes(num_dims=num_dims, hidden_dim=hidden_dim)
    order = None if ordering is None else check_ordering(ordering, num_dims)

    def init(key: Key) -> Params:
        input_key, output_key = jax.random.split(key)
        glorot_uniform = jax.nn.initializers.glorot_uniform()
        return {
            "input_weights": glorot_uniform(input_key, (num_dims, hidden_dim)),
            "output_weights": glorot_uniform(output_key, (num_dims, hidden_dim)),
            "hidden_bias": jnp.zeros(hidden_dim),
            "output_bias": jnp.zeros(num_dims),
        }

    def conditionals(params: Params) -> NeuralAutoregressiveBernoulli:
        """In the model's order."""
        if order is not None:
            params = params | {
                name: params[name][order]
                for name in ("input_weights", "output_weights", "output_bias")
            }
        return NeuralAutoregressiveBernoulli(**params)

    def log_prob(params: Params, x: Array) -> Array:
        x = check_event(x, params["output_bias"])
        return conditionals(params).log_prob(x if order is None else x[order])

    def sample(params: Params, key: Key) -> Array:
        x = conditionals(params).sample(seed=key)
        return x if order is None else x[np.argsort(order)]

    return DensityModel(init, log_prob, sample)

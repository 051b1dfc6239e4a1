"""Binary variables of which each is a small network's output, with shared hidden weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.numerics import at_least_float32, check_event
from genjax_models.distributions.rows import rows_dot_general
from genjax_models.distributions.sequential import mean_field_bits, sample_bits
from genjax_models.interfaces import Array, Key

# Dimensions whose hidden units are computed together. The product within a block costs twice this
# a hidden unit; a shorter block has products too thin to be fast, a longer one leaves the cache.
_BLOCK_SIZE = 8


class NeuralAutoregressiveBernoulli(NamedTuple):
    """The conditionals of the neural autoregressive distribution estimator.

        p(x_d = 1 | x_<d) = sigmoid(b_d + V_d . sigmoid(c + sum_{j < d} W_j x_j))

    The running pre-activation makes one pass over the dimensions cost O(D H), for `log_prob` as
    for `sample`. Its gradient recomputes the hidden units, so that memory for one example is
    O(D H / 8).

    Attributes:
        input_weights: W, [D, H].
        output_weights: V, [D, H].
        output_bias: b, [D].
        hidden_bias: c, [H].

    Source: Larochelle & Murray 2011 (The neural autoregressive distribution estimator), section 3,
    with weights of their own for input and output.
    """

    input_weights: Array
    output_weights: Array
    output_bias: Array
    hidden_bias: Array

    @property
    def reparameterized(self) -> bool:
        """Samples are discrete: no pathwise gradient."""
        return False

    def sample(self, *, seed: Key) -> Array:
        """Zeros and ones, [D], of the output bias' dtype."""
        return sample_bits(self._checked(), self.output_bias, seed=seed)

    def log_prob(self, value: Array) -> Array:
        """Log-probability of `value`, zeros and ones [D], a scalar in nats."""
        value = check_event(value, self.output_bias)
        return Bernoulli(self.conditional_logits(value)).log_prob(value)

    def sample_and_log_prob(self, *, seed: Key) -> tuple[Array, Array]:
        """A draw and its log-probability."""
        value = self.sample(seed=seed)
        return value, self.log_prob(value)

    def mean(self) -> Array:
        """Each probability of a one, those before it at their own probabilities: close to E[x]."""
        return mean_field_bits(self._checked(), self.output_bias)

    def conditional_logits(self, value: Array) -> Array:
        """log p(x_d = 1 | x_<d) / p(x_d = 0 | x_<d) of every variable, [D]; blocks at a time."""
        wide, x = jax.tree.map(at_least_float32, (self._checked(), value))
        earlier = np.tri(_BLOCK_SIZE, k=-1, dtype=bool)

        # Recomputed by the gradient, which would else store 160 MB of hidden units for a batch of
        # 100 images.
        @jax.checkpoint
        def block_logits(pre_activation: Array, block: tuple[Array, ...]) -> tuple[Array, Array]:
            input_weights, output_weights, output_bias, x = block
            # Row k adds what dimensions 0..k-1 of the block contribute.
            within = rows_dot_general(jnp.where(earlier, x[None], 0), input_weights)
            hidden = jax.nn.sigmoid(pre_activation[None] + within)
            logits = output_bias + jnp.einsum("kh,kh->k", hidden, output_weights)
            return pre_activation + rows_dot_general(x, input_weights), logits

        blocks = tuple(_blocks(rows) for rows in (*wide[:3], x))
        _, logits = jax.lax.scan(block_logits, wide.hidden_bias, blocks)
        return logits.reshape(-1)[: x.shape[0]]

    def start(self) -> Array:
        """The summary is the pre-activation of the hidden units, c, [H]."""
        return at_least_float32(self.hidden_bias)

    def next_logits(self, summary: Array, index: int | Array) -> Array:
        """The logit of variable `index` given those before it, []."""
        output_weights = self.output_weights[index].astype(summary.dtype)
        return self.output_bias[index] + jnp.dot(jax.nn.sigmoid(summary), output_weights)

    def see(self, summary: Array, index: int | Array, x: Array) -> Array:
        """The summary that has variable `index` in it."""
        return summary + x * self.input_weights[index]

    def _checked(self) -> "NeuralAutoregressiveBernoulli":
        """Itself, or a `ValueError`: what does not fit would be padded or broadcast."""
        num_dims, hidden_dim = self.output_bias.shape[0], self.hidden_bias.shape[0]
        for name in ("input_weights", "output_weights"):
            shape = jnp.shape(getattr(self, name))
            if shape != (num_dims, hidden_dim):
                raise ValueError(f"{name} must have shape {(num_dims, hidden_dim)}, got {shape}")
        return self


def _blocks(rows: Array) -> Array:
    """[D, ...] as [num_blocks, block_size, ...], zeros added after the last dimension."""
    padding = [(0, -rows.shape[0] % _BLOCK_SIZE)] + [(0, 0)] * (rows.ndim - 1)
    return jnp.pad(rows, padding).reshape(-1, _BLOCK_SIZE, *rows.shape[1:])

"""(e) The floor: the matrix products of one training step, and nothing else.

A dense layer with inputs X [rows, m], kernel W [m, n] and gradient G [rows, n] of its outputs needs

    X W     its outputs,
    X^T G   the gradient of its kernel,
    G W^T   the gradient of its inputs, for every layer but the encoder's first: nobody wants that
            of the data,

where the encoder has `batch_size` rows and the decoder K times as many. These are 17 products, 3 of
each of 6 layers less one. No bias, activation, likelihood, random number or optimizer is counted.

All 17 are outputs of one compiled function of X, W and G, which are its arguments: none can be
elided, no two are the same, and none waits for another. `tests/test_benchmarks.py` counts them in
the compiled program.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contenders import Contender, Layers, Sizes

Operands = list[tuple[jax.Array, jax.Array, jax.Array]]


def products(operands: Operands) -> list[jax.Array]:
    """All products of layers with operands (X, W, G), of which the first is the encoder's first."""
    outputs = []
    for i, (inputs, kernel, gradient) in enumerate(operands):
        outputs += [inputs @ kernel, inputs.T @ gradient]
        if i > 0:
            outputs.append(gradient @ kernel.T)
    return outputs


def draw_operands(sizes: Sizes, num_samples: int) -> Operands:
    """Random X, W and G of every layer."""
    generator = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(generator.standard_normal(shape, np.float32))

    return [
        (normal(rows, num_inputs), normal(num_inputs, num_outputs), normal(rows, num_outputs))
        for units, rows in [
            (sizes.encoder, sizes.batch_size),
            (sizes.decoder, sizes.batch_size * num_samples),
        ]
        for num_inputs, num_outputs in itertools.pairwise(units)
    ]


def contender(
    sizes: Sizes, num_samples: int, encoder: Layers, decoder: Layers, batch: np.ndarray
) -> Contender:
    """The products at K; of the other contenders' arguments it needs only the sizes."""
    operands = draw_operands(sizes, num_samples)
    compiled = jax.jit(products)

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            outputs = compiled(operands)
        jax.block_until_ready(outputs)

    return Contender("matrix products", run, None)

"""What 5,000-sample log-likelihoods cost: time an image, and memory as K grows."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.contenders import Sizes, draw_batch, draw_layers
from benchmarks.peers import library, matmuls
from benchmarks.timing import Interval, median_interval, race, ratios
from genjax_models.evaluation import log_likelihood

NUM_SAMPLES = 5000
MEMORY_NUM_SAMPLES = (500, 5000, 50_000)


class EvaluationCost(NamedTuple):
    """What `measure` gives.

    Attributes:
        seconds: an image, for the library.
        floor_seconds: an image, for the matrix products alone.
        ratio: of the two, round by round.
        compile_seconds: the first call less a later one.
        chunked_bytes: temporary memory of the compiled function, for each of
            `MEMORY_NUM_SAMPLES`.
        whole_bytes: the same with all samples of an image in one chunk.
    """

    seconds: float
    floor_seconds: float
    ratio: Interval
    compile_seconds: float
    chunked_bytes: list[int]
    whole_bytes: list[int]


def measure(
    *, num_rounds: int, num_images: int, chunk_size: int, sizes: Sizes | None = None
) -> EvaluationCost:
    """Evaluate a batch of images, in alternation with the matrix products that this needs.

    Args:
        num_rounds: turns of each.
        num_images: evaluated together, by vmap.
        chunk_size: samples of one image held at a time.
        sizes: of the network; the benchmark's by default.
    """
    sizes = (sizes or Sizes())._replace(batch_size=num_images)
    model, params = library.model_and_params(
        sizes, draw_layers(sizes.encoder, 0), draw_layers(sizes.decoder, 1)
    )
    x = jnp.asarray(draw_batch(sizes, 2))
    keys = jax.random.split(jax.random.key(0), num_images)

    def compiled(num_samples: int, chunk_size: int) -> Any:
        def evaluate(params: Any, keys: jax.Array, x: jax.Array) -> Any:
            return jax.vmap(
                lambda key, x: log_likelihood(
                    model, params, key, x, num_samples=num_samples, chunk_size=chunk_size
                )
            )(keys, x)

        return jax.jit(evaluate).lower(params, keys, x).compile()

    start = time.perf_counter()
    evaluate = compiled(NUM_SAMPLES, chunk_size)
    compile_seconds = time.perf_counter() - start

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            jax.block_until_ready(evaluate(params, keys, x))

    floor = _forward_products(sizes, chunk_size, -(-NUM_SAMPLES // chunk_size))
    floor(1)
    seconds, floor_seconds = race([run, floor], num_rounds=num_rounds, num_steps=1)

    def temporary_bytes(num_samples: int, chunk_size: int) -> int:
        return int(compiled(num_samples, chunk_size).memory_analysis().temp_size_in_bytes)

    return EvaluationCost(
        seconds=median_interval(seconds).median / num_images,
        floor_seconds=median_interval(floor_seconds).median / num_images,
        ratio=ratios(seconds, floor_seconds),
        compile_seconds=compile_seconds,
        chunked_bytes=[temporary_bytes(num, chunk_size) for num in MEMORY_NUM_SAMPLES],
        whole_bytes=[temporary_bytes(num, num) for num in MEMORY_NUM_SAMPLES],
    )


def _forward_products(sizes: Sizes, chunk_size: int, num_chunks: int) -> Callable[[int], None]:
    """The decoder's outputs for every chunk; the encoder runs once an image and is left out."""
    operands = [
        (inputs, kernel) for inputs, kernel, _ in matmuls.draw_operands(sizes, chunk_size)[3:]
    ]
    products = jax.jit(lambda operands: [inputs @ kernel for inputs, kernel in operands])

    def run(num_steps: int) -> None:
        for _ in range(num_steps * num_chunks):
            outputs = products(operands)
        jax.block_until_ready(outputs)

    return run

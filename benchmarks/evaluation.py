"""What 5,000-sample log-likelihoods cost: time an image, and memory as K grows."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.contenders import Sizes, draw_batch, draw_layers
from benchmarks.peers import library, matmuls
from benchmarks.timing import Interval, median_interval, race, ratios
from genjax_models.evaluation import log_likelihood

NUM_SAMPLES = 5000


class Cost(NamedTuple):
    """Time of the evaluation.

    Attributes:
        seconds: an image, for the library.
        floor_seconds: an image, for the matrix products alone.
        ratio: of the two, round by round.
        compile_seconds: tracing and compiling.
    """

    seconds: float
    floor_seconds: float
    ratio: Interval
    compile_seconds: float


class Memory(NamedTuple):
    """Memory of the evaluation with K samples.

    Attributes:
        num_samples: K.
        temporary_bytes: of the compiled function.
        whole_bytes: the same with all K samples of an image in one chunk.
        resident_bytes: the most that a process held that did nothing else, JAX itself included;
            None where there is no /proc.
    """

    num_samples: int
    temporary_bytes: int
    whole_bytes: int
    resident_bytes: int | None


def measure_cost(*, num_rounds: int, num_images: int, chunk_size: int) -> Cost:
    """Evaluate images in alternation with the matrix products that this needs.

    Args:
        num_rounds: turns of each.
        num_images: evaluated together, by vmap.
        chunk_size: samples of one image held at a time.
    """
    start = time.perf_counter()
    evaluate, arguments = compiled_evaluation(num_images, NUM_SAMPLES, chunk_size)
    compile_seconds = time.perf_counter() - start

    def run(num_steps: int) -> None:
        for _ in range(num_steps):
            jax.block_until_ready(evaluate(*arguments))

    sizes = Sizes(batch_size=num_images)
    floor = _forward_products(sizes, chunk_size, -(-NUM_SAMPLES // chunk_size))
    floor(1)
    seconds, floor_seconds = race([run, floor], num_rounds=num_rounds, num_steps=1)
    return Cost(
        seconds=median_interval(seconds).median / num_images,
        floor_seconds=median_interval(floor_seconds).median / num_images,
        ratio=ratios(seconds, floor_seconds),
        compile_seconds=compile_seconds,
    )


def measure_memory(*, num_images: int, num_samples: int, chunk_size: int) -> Memory:
    """Memory of the same evaluation for another K."""

    def temporary_bytes(chunk_size: int) -> int:
        evaluate, _ = compiled_evaluation(num_images, num_samples, chunk_size)
        return int(evaluate.memory_analysis().temp_size_in_bytes)

    code = (
        f"from benchmarks import evaluation as e; e.peak({num_images},{num_samples},{chunk_size})"
    )
    child = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return Memory(
        num_samples,
        temporary_bytes(chunk_size),
        temporary_bytes(num_samples),
        int(child.stdout) if child.stdout.strip() else None,
    )


def peak(num_images: int, num_samples: int, chunk_size: int) -> None:
    """Evaluate once and print the most bytes that this process has held; nothing without /proc."""
    evaluate, arguments = compiled_evaluation(num_images, num_samples, chunk_size)
    jax.block_until_ready(evaluate(*arguments))
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else []:
        # Not getrusage: its maximum is inherited from the parent process.
        if line.startswith("VmHWM:"):
            print(int(line.split()[1]) * 1024)


def compiled_evaluation(num_images: int, num_samples: int, chunk_size: int) -> tuple[Any, Any]:
    """`log_likelihood` of several images, compiled, and its arguments."""
    sizes = Sizes(batch_size=num_images)
    model, params = library.model_and_params(
        sizes, draw_layers(sizes.encoder, 0), draw_layers(sizes.decoder, 1)
    )

    def evaluate(params: Any, keys: jax.Array, x: jax.Array) -> Any:
        return jax.vmap(
            lambda key, x: log_likelihood(
                model, params, key, x, num_samples=num_samples, chunk_size=chunk_size
            )
        )(keys, x)

    keys = jax.random.split(jax.random.key(0), num_images)
    arguments = (params, keys, jnp.asarray(draw_batch(sizes, 2)))
    return jax.jit(evaluate).lower(*arguments).compile(), arguments


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

"""Milliseconds a training step, beside peers and beside the matrix products alone.

    python -m benchmarks.throughput --markdown throughput.md

Contenders take turns in one process: in every round each runs a fixed number of steps, and who
goes first rotates. A ratio is the median over rounds of the ratio within a round, with its 95 %
interval from order statistics; so what else the machine does moves both sides of it. NumPyro and
PyTorch take part where they are installed.
"""

import dataclasses
import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import tyro

from benchmarks import evaluation
from benchmarks.contenders import Contender, Sizes, draw_batch, draw_layers
from benchmarks.peers import hierarchies
from benchmarks.timing import Interval, median_interval, race, ratios

PEERS = ("library", "handwritten", "numpyro_svi", "torch_eager", "matmuls")
LIBRARY = "genjax_models"
MICROBATCH_ROWS = 1000
OPTIONAL = ("numpyro", "torch")
IMPORTS = (
    "import genjax_models",
    # Here is whatever the first puts off.
    "import genjax_models.models.latent, genjax_models.training, genjax_models.evaluation",
)
MEMORY_NUM_SAMPLES = (500, 5000, 50_000)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    rounds: int = 21
    """Turns of each contender; at least 15 for a result worth keeping."""
    num_samples: tuple[int, ...] = (1, 5, 50)
    """K of the training steps: the ELBO for 1, the importance-weighted bound above."""
    hierarchy_samples: int = 50
    """K of the two-layer IWAE and the ladder, beside the same by hand; 0 skips them."""
    num_images: int = 10
    """Images whose log-likelihoods are evaluated together; 0 skips evaluation."""
    chunk_size: int = 100
    """Samples of an image held at a time in evaluation."""
    markdown: Path | None = None
    """File that the report is written to, besides the screen."""


def main(settings: Settings) -> None:
    """Run the benchmark and print its report."""
    if settings.rounds < 6:
        raise ValueError(f"rounds must be at least 6 for a 95 % interval, got {settings.rounds}")
    # Compile times are of real compilations.
    jax.config.update("jax_enable_compilation_cache", False)
    report = [describe_machine()]
    for statement in IMPORTS:
        report.append(f"`{statement}` beyond `import jax`: {_import_time(statement)} s")
    for num_samples in settings.num_samples:
        competing = contenders(num_samples, Sizes())
        report.append(
            _training_table(f"K = {num_samples}", competing, num_samples, settings.rounds)
        )
    if settings.hierarchy_samples:
        num_samples = settings.hierarchy_samples
        for name in hierarchies.MODELS:
            competing = hierarchies.contenders(
                name,
                num_samples,
                draw_batch(Sizes(), 2),
                microbatch_size=_microbatch_size(num_samples, Sizes().batch_size),
            )
            title = f"{name}, K = {num_samples}"
            report.append(_training_table(title, competing, num_samples, settings.rounds))
    if settings.num_images:
        report.append(_evaluation_report(settings))
    report.append(f"Load average at the end: {_load()}")
    text = "\n\n".join(report) + "\n"
    print(text)
    if settings.markdown:
        settings.markdown.write_text(text)


def contenders(num_samples: int, sizes: Sizes) -> list[Contender]:
    """Every contender whose packages are installed, all with the same layers and batch.

    The library comes first. Where the decoder has more than `MICROBATCH_ROWS` rows, it takes part a
    second time with as large a microbatch as keeps to them.
    """
    encoder, decoder = draw_layers(sizes.encoder, 0), draw_layers(sizes.decoder, 1)
    arguments = (sizes, num_samples, encoder, decoder, draw_batch(sizes, 2))
    found = []
    for peer in PEERS:
        try:
            module = importlib.import_module(f"benchmarks.peers.{peer}")
        except ModuleNotFoundError as error:
            if error.name not in OPTIONAL:
                raise
            continue
        found.append(module.contender(*arguments))
        size = _microbatch_size(num_samples, sizes.batch_size)
        if peer == "library" and size is not None:
            found.append(module.contender(*arguments, microbatch_size=size))
    return found


def _microbatch_size(num_samples: int, batch_size: int) -> int | None:
    """The largest that divides the batch and keeps to `MICROBATCH_ROWS`; None where all does."""
    if num_samples * batch_size <= MICROBATCH_ROWS:
        return None
    at_most = MICROBATCH_ROWS // num_samples
    return max((d for d in range(1, at_most + 1) if batch_size % d == 0), default=1)


def _training_table(
    title: str, competing: list[Contender], num_samples: int, num_rounds: int
) -> str:
    first_calls = [_seconds_of_first_step(contender) for contender in competing]
    num_steps = max(10, 100 // num_samples)
    runs = [contender.run for contender in competing]
    race(runs, num_rounds=1, num_steps=num_steps)
    seconds = race(runs, num_rounds=num_rounds, num_steps=num_steps)
    # Each row's ratios are against the library, and against it in microbatches where it has them.
    ours = [i for i, contender in enumerate(competing) if contender.name.startswith(LIBRARY)]
    lines = [
        f"### {title}: {num_rounds} rounds of {num_steps} steps",
        "",
        f"| | ms a step |{''.join(f' {competing[i].name} / this |' for i in ours)} compile s |",
        f"|---|---|{'---|' * len(ours)}---|",
    ]
    for contender, turns, first_call in zip(competing, seconds, first_calls, strict=True):
        step = median_interval(turns)
        cells = [contender.name, _milliseconds(step)]
        cells += [str(ratios(seconds[i], turns)) for i in ours]
        cells.append(f"{max(first_call - step.median, 0):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    print(f"{title} done", file=sys.stderr)
    return "\n".join(lines)


def _seconds_of_first_step(contender: Contender) -> float:
    start = time.perf_counter()
    contender.run(1)
    return time.perf_counter() - start


def _evaluation_report(settings: Settings) -> str:
    cost = evaluation.measure_cost(
        num_rounds=max(settings.rounds // 2, 6),
        num_images=settings.num_images,
        chunk_size=settings.chunk_size,
    )
    lines = [
        f"### Log-likelihood with {evaluation.NUM_SAMPLES:,} samples, {settings.num_images} images"
        f" at a time, chunks of {settings.chunk_size}",
        "",
        f"{1e3 * cost.seconds:.1f} ms an image; the decoder's matrix products alone"
        f" {1e3 * cost.floor_seconds:.1f} ms; ratio {cost.ratio}; compile"
        f" {cost.compile_seconds:.2f} s.",
        "",
        "| K | temporary MB | with all samples in one chunk | resident MB of the process |",
        "|---|---|---|---|",
    ]
    for num_samples in MEMORY_NUM_SAMPLES:
        memory = evaluation.measure_memory(
            num_images=settings.num_images,
            num_samples=num_samples,
            chunk_size=settings.chunk_size,
        )
        columns = (memory.temporary_bytes, memory.whole_bytes, memory.resident_bytes)
        cells = ["" if column is None else f"{column / 1e6:.1f}" for column in columns]
        lines.append(f"| {num_samples:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _import_time(statement: str, num_processes: int = 9) -> Interval:
    """Seconds in fresh processes, the first of which (it may compile bytecode) does not count."""
    code = f"import time, jax; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
    seconds = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(num_processes + 1)
    ]
    return median_interval(seconds[1:])


def describe_machine() -> str:
    """Processor, versions and load, for the head of a report."""
    packages = ("jax", "jaxlib", "flax", "optax", *OPTIONAL)
    versions = [f"{name} {_version(name)}" for name in packages]
    device = jax.devices()[0]
    return (
        f"{os.cpu_count()} cores of {_processor()}, {device.device_kind} backend; Python"
        f" {platform.python_version()}, {', '.join(versions)}; load average at the start: {_load()}"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (cpuinfo.read_text().splitlines() if cpuinfo.exists() else [])
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}"


def _milliseconds(interval: Interval) -> str:
    scaled = Interval(*(1e3 * value for value in interval))
    return f"{scaled.median:.2f} [{scaled.low:.2f}, {scaled.high:.2f}]"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

"""The settings that every experiment shares, and the command line made of them."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, TypeVar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What every experiment can be told; an experiment's own settings derive from this."""

    data: str = "digits"
    """digits, mnist, fashion_mnist, binarized_mnist, dsprites, nltcs, half_moons, ring, or a .npy
    or .npz file."""
    protocol: str | None = None
    """dynamic, static, threshold, grey or real; by default what fits the data and likelihood."""
    data_dir: str | None = None
    """Folder of prepared TFDS data sets (default: TFDS's own), or that of dsprites or nltcs."""
    batch_size: int | None = 100
    """Examples a step, over all devices; None: the whole training set."""
    seed: int = 0
    """Seed of parameters, batches and estimates."""
    out: str | None = None
    """Folder of the run (default: a new one under runs/)."""
    resume: bool = False
    """Go on with the run in --out from its last checkpoint."""
    checkpoint_seconds: float = 30.0
    """Time between checkpoints."""
    distributed: bool = False
    """Join the other processes of a jax.distributed run."""

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_positive(self, "batch_size")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must be in 0..2^32 - 1, got {self.seed}")


def check_positive(settings: Settings, *names: str) -> None:
    """Raise a `ValueError` unless each of these settings is above zero and finite."""
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < float("inf"):
            wanted = "finite" if value > 0 else "above zero"
            raise ValueError(f"{name} must be {wanted}, got {value}")


def check_unused(settings: Settings, *names: str, by: str) -> None:
    """Raise a `ValueError` unless these, which have no effect there, are as they are by default."""
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    for name in names:
        if getattr(settings, name) != defaults[name]:
            raise ValueError(f"{name} has no effect with {by}, got {getattr(settings, name)}")


def check_distinct(settings: Settings, name: str) -> None:
    """Raise a `ValueError` unless numbers stay apart as `{number:g}`, as results name them."""
    numbers = getattr(settings, name)
    if len({f"{number:g}" for number in numbers}) < len(numbers):
        raise ValueError(f"{name} must differ in their first six digits, got {numbers}")


# What may change between a run and its resumption without changing the result.
NOT_PART_OF_THE_RESULT = frozenset(
    {"data_dir", "out", "resume", "checkpoint_seconds", "distributed"}
)

AnySettings = TypeVar("AnySettings", bound=Settings)


def command_line(
    run: Callable[[AnySettings], Any], settings: type[AnySettings], name: str
) -> Callable[[], None]:
    """The `main` of an experiment: parse its settings, run it, and end on bad input with one line.

    Args:
        run: `run(settings)`, the experiment.
        settings: the class of its settings; tyro makes the options from its fields.
        name: the experiment's name, for the help text.

    Returns:
        `main()`.
    """

    def main() -> None:
        import tyro

        from experiments.harness.checkpoints import CheckpointError
        from experiments.harness.loop import TrainingDivergedError
        from experiments.harness.tfds import CacheError

        damaged = (CheckpointError, CacheError, TrainingDivergedError)
        expected = (ValueError, TypeError, OSError, *damaged)
        try:
            run(tyro.cli(settings, prog=f"python -m experiments.{name}"))
        except expected as error:
            sys.exit(f"error: {error}")
        except KeyboardInterrupt:
            sys.exit("interrupted: the same command with --out FOLDER --resume goes on")

    return main

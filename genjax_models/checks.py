"""Errors of sizes and counts, by the name of the argument."""


def check_sizes(**sizes: int | tuple[int, ...]) -> None:
    """Raise a `ValueError` that names the argument unless every size is an integer of at least 1.

    Args:
        **sizes: integers, or tuples of them, by the name of the argument.
    """
    for name, value in sizes.items():
        values = value if isinstance(value, tuple) else (value,)
        if not all(hasattr(size, "__index__") for size in values):
            raise ValueError(f"{name} must be an integer, or integers, of at least 1, got {value}")
        if any(size < 1 for size in values):
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_counts(**counts: int) -> None:
    """Raise a `ValueError` that names the argument unless every count is an integer >= 0.

    Args:
        **counts: by the name of the argument.
    """
    for name, count in counts.items():
        if not hasattr(count, "__index__") or count < 0:
            raise ValueError(f"{name} must be an integer >= 0, got {count!r}")

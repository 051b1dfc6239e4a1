"""Algorithms (init, step): what turns a principle and an optimizer into a training loop's step."""

from genjax_models.training.gradient import (
    StatefulTrainingState,
    TrainingState,
    gradient_descent,
    stateful_gradient_descent,
)

__all__ = [
    "StatefulTrainingState",
    "TrainingState",
    "gradient_descent",
    "stateful_gradient_descent",
]

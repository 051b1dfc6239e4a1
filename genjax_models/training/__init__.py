"""Algorithms (init, step): what turns a principle and an optimizer into a training loop's step."""

from genjax_models.training.alternating import AlternatingState, alternating
from genjax_models.training.averaging import AveragedState, exponential_moving_average
from genjax_models.training.expectation_maximization import (
    ExpectationMaximizationState,
    StochasticExpectationMaximizationState,
    expectation_maximization,
    stochastic_expectation_maximization,
)
from genjax_models.training.gradient import (
    StatefulTrainingState,
    TrainingState,
    gradient_descent,
    stateful_gradient_descent,
)

__all__ = [
    "AlternatingState",
    "AveragedState",
    "ExpectationMaximizationState",
    "StatefulTrainingState",
    "StochasticExpectationMaximizationState",
    "TrainingState",
    "alternating",
    "expectation_maximization",
    "exponential_moving_average",
    "gradient_descent",
    "stateful_gradient_descent",
    "stochastic_expectation_maximization",
]

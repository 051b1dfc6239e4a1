"""Estimators of grad_params E_{x ~ distribution(params)}[f(x)].

Each is a `GradientEstimator`: `per_sample_gradients` gives the gradient of every sample, so that
variance is measurable, and `surrogate_loss` a loss whose `jax.grad` is their mean, so that the same
estimator drops into any training loop. Names that begin with `biased_` are biased.
"""

from genjax_models.learning.gradients import control_variates
from genjax_models.learning.gradients.arm import arm, disarm, multi_pair_disarm
from genjax_models.learning.gradients.control_variates import ControlVariate
from genjax_models.learning.gradients.core import (
    GradientEstimator,
    per_sample_gradients,
    surrogate_loss,
    surrogate_loss_and_observation,
)
from genjax_models.learning.gradients.enumeration import enumeration, rao_blackwell
from genjax_models.learning.gradients.measure_valued import measure_valued
from genjax_models.learning.gradients.pathwise import pathwise
from genjax_models.learning.gradients.rebar import rebar, relax
from genjax_models.learning.gradients.relaxations import (
    biased_gumbel_softmax,
    biased_straight_through,
    biased_straight_through_gumbel_softmax,
)
from genjax_models.learning.gradients.score_function import muprop, rloo, score_function

__all__ = [
    "ControlVariate",
    "GradientEstimator",
    "arm",
    "biased_gumbel_softmax",
    "biased_straight_through",
    "biased_straight_through_gumbel_softmax",
    "control_variates",
    "disarm",
    "enumeration",
    "measure_valued",
    "multi_pair_disarm",
    "muprop",
    "pathwise",
    "per_sample_gradients",
    "rao_blackwell",
    "rebar",
    "relax",
    "rloo",
    "score_function",
    "surrogate_loss",
    "surrogate_loss_and_observation",
]

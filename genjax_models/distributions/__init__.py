"""Distributions that distrax lacks or is slow at, and what estimators must know of a distribution.

They have distrax's methods and are named tuples of arrays, so that they cross `vmap` and `jit`.
Each is over one event, whatever its shape: `log_prob` is a sum over all dimensions, in float32 at
least.
"""

from genjax_models.distributions.autoregressive_bernoulli import AutoregressiveBernoulli
from genjax_models.distributions.bernoulli import Bernoulli
from genjax_models.distributions.chain import Chain, Reversed, has_log_prob, sample_and_log_prob
from genjax_models.distributions.discretized_gaussian import DiscretizedGaussian
from genjax_models.distributions.discretized_logistic import DiscretizedLogistic
from genjax_models.distributions.divergences import kl_divergence, kl_per_dimension
from genjax_models.distributions.factorized import log_prob_per_dimension
from genjax_models.distributions.full_covariance_gaussian import FullCovarianceGaussian
from genjax_models.distributions.gaussian import DiagonalGaussian
from genjax_models.distributions.gaussian_mixture import GaussianMixture
from genjax_models.distributions.grey_levels import CategoricalLevels, DiscretizedLogisticMixture
from genjax_models.distributions.linear_autoregressive_bernoulli import (
    LinearAutoregressiveBernoulli,
)
from genjax_models.distributions.linear_autoregressive_one_hot import (
    LinearAutoregressiveOneHot,
)
from genjax_models.distributions.nade import NeuralAutoregressiveBernoulli
from genjax_models.distributions.one_hot_categorical import OneHotCategorical
from genjax_models.distributions.pullback import Pullback
from genjax_models.distributions.rank_one_gaussian import RankOneGaussian
from genjax_models.distributions.reparameterization import is_reparameterized
from genjax_models.distributions.transformed import Marginal, Pushforward

__all__ = [
    "AutoregressiveBernoulli",
    "Bernoulli",
    "CategoricalLevels",
    "Chain",
    "DiagonalGaussian",
    "DiscretizedGaussian",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FullCovarianceGaussian",
    "GaussianMixture",
    "LinearAutoregressiveBernoulli",
    "LinearAutoregressiveOneHot",
    "Marginal",
    "NeuralAutoregressiveBernoulli",
    "OneHotCategorical",
    "Pullback",
    "Pushforward",
    "RankOneGaussian",
    "Reversed",
    "has_log_prob",
    "is_reparameterized",
    "kl_divergence",
    "kl_per_dimension",
    "log_prob_per_dimension",
    "sample_and_log_prob",
]

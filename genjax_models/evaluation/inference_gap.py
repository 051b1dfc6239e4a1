"""How much the ELBO lacks, and why: the family of posteriors, or the network that picks one."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.evaluation.likelihood import BoundEstimate, bound_estimate, log_likelihood
from genjax_models.interfaces import Array, Key, LatentVariableModel, Params, PyTree
from genjax_models.learning import bounds


class InferenceGap(NamedTuple):
    """The inference gap of one x and its two parts, in nats.

        log p(x) - ELBO(q) = [log p(x) - ELBO(q*)] + [ELBO(q*) - ELBO(q)]

    Attributes:
        log_likelihood: log p(x) by importance sampling from q*, a lower bound in expectation.
        refined_bound: ELBO(q*), q* the refined posterior.
        amortized_bound: ELBO(q).
        approximation: log p(x) - ELBO(q*): what the family of posteriors cannot represent. In
            expectation too small by what importance sampling lacks of log p(x), and too large by
            what the refinement of q* leaves: a bound in neither direction.
        amortization: ELBO(q*) - ELBO(q): what the amortised posterior leaves of the family. A
            lower bound in expectation, because no q* is better than the family's best.
        approximation_error: standard error of the approximation gap over the draws.
        amortization_error: that of the amortisation gap.
    """

    log_likelihood: Array
    refined_bound: Array
    amortized_bound: Array
    approximation: Array
    amortization: Array
    approximation_error: Array
    amortization_error: Array


def inference_gap(
    model: LatentVariableModel,
    refined: LatentVariableModel,
    params: Params,
    key: Key,
    x: PyTree,
    *,
    num_samples: int = 1000,
    importance_samples: int = 5000,
) -> InferenceGap:
    """Split the inference gap of one x into approximation gap and amortisation gap.

    The refined posterior stands for the best of its family: what its optimisation leaves counts
    as approximation. The same family has to be refined: `learning.refine(model, ...)`.

    Args:
        model: any latent-variable model.
        refined: the same model with the refined posterior.
        params: the parameters of both.
        key: PRNG key.
        x: one example.
        num_samples: draws for each of the two ELBOs, at least 2.
        importance_samples: K for log p(x).

    Returns:
        Both gaps with their errors.

    Raises:
        ValueError: fewer than two draws, or K < 1.

    Source: Cremer et al. 2018 (Inference suboptimality in variational autoencoders), section 3.
    """
    likelihood_key, refined_key, amortized_key = jax.random.split(key, 3)

    def elbo(of_model: LatentVariableModel, elbo_key: Key) -> BoundEstimate:
        return bound_estimate(
            of_model, params, elbo_key, x, bound=bounds.elbo, num_replicates=num_samples
        )

    marginal = log_likelihood(refined, params, likelihood_key, x, num_samples=importance_samples)
    best, amortized = elbo(refined, refined_key), elbo(model, amortized_key)
    return InferenceGap(
        log_likelihood=marginal.value,
        refined_bound=best.value,
        amortized_bound=amortized.value,
        approximation=marginal.value - best.value,
        amortization=best.value - amortized.value,
        approximation_error=jnp.hypot(marginal.monte_carlo_error, best.monte_carlo_error),
        amortization_error=jnp.hypot(best.monte_carlo_error, amortized.monte_carlo_error),
    )

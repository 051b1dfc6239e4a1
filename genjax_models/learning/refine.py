"""Variational parameters of each example, optimised from the amortised ones or from scratch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from genjax_models.interfaces import Array, LatentVariableModel, Params, Posterior, PyTree
from genjax_models.learning import wake_sleep
from genjax_models.learning.nvil import NVIL
from genjax_models.learning.objectives import variational

# Larger than the index of any example or step, which split and fold_in give keys of.
_SALT = 0x72656669


def refine(
    model: LatentVariableModel,
    *,
    num_steps: int,
    optimizer: optax.GradientTransformation,
    num_samples: int = 1,
    estimator: str = "pathwise",
    kl: str = "monte_carlo",
    seed: int = 0,
    differentiate: bool = False,
) -> LatentVariableModel:
    """The model whose posterior takes steps uphill on the ELBO of each example.

        lambda_0 = parameters of q(z | x),
        lambda_(t+1) = lambda_t + step of the optimizer along grad_lambda ELBO(lambda_t; x)

    The parameters lambda are the arrays of the posterior distribution itself: means and log scales
    of a diagonal Gaussian, the factor of a full covariance. From an amortised posterior that is
    semi-amortised inference, from one that ignores x (`memoryless`) it is stochastic variational
    inference of every example from scratch; training such a model is variational expectation
    maximisation. The noise of step t is a function of the seed and t alone, so that the posterior
    is one of x. The seed's key is folded with a constant of its own first, so that the noise is
    independent of the draws that the posterior is evaluated with, also where their keys are split
    from `jax.random.key(seed)`.

    A posterior may have other arrays than numbers of its own, and they are refined too, of each
    example on its own: the weights of the networks of a `Chain`; of a ladder the prior's
    conditionals that it merges; of a Hamiltonian posterior x, prior and likelihood as its dynamics
    see them; of an auxiliary-variable posterior x and the reverse model. The ELBO stays a lower
    bound, that of the model's own prior and likelihood at x, but the family is wider than the
    model's: what refinement gains there is more than what amortisation lost.

    Args:
        model: any latent-variable model whose posterior is a named tuple of arrays, as this
            library's distributions are.
        num_steps: T >= 0; none gives the same model.
        optimizer: any optax optimizer, of a loss in nats of one example; one that decreases its
            rate ends nearer the optimum.
        num_samples: K of every step.
        estimator: of the gradient, as of `learning.variational`, but for "nvil" and those of
            wake-sleep; "sticking_the_landing" has no noise where the posterior becomes exact.
        kl: as of `learning.variational`.
        seed: of the noise; all examples share it.
        differentiate: whether the gradient of what the refined posterior serves goes through its
            steps to the parameters of the amortised one and of the model (semi-amortised
            training, estimator "pathwise" only). Otherwise the refined posterior is a constant:
            prior and likelihood are trained on it, which is all where it is the optimum, and the
            amortised posterior is not.

    Returns:
        The same model but for `posterior`, to be trained and evaluated as any other.

    Raises:
        ValueError: a negative number of steps, what `learning.variational` refuses, "nvil" or an
            estimator of wake-sleep, or one that cannot be differentiated.
        TypeError: (from the posterior) a distribution that is no named tuple of floating arrays.

    Source: Hoffman et al. 2013 (Stochastic variational inference); Kim et al. 2018 (Semi-amortized
    variational autoencoders), section 3.
    """
    if not hasattr(num_steps, "__index__") or num_steps < 0:
        raise ValueError(f"num_steps must be an integer >= 0, got {num_steps!r}")
    if isinstance(estimator, NVIL) or estimator in ("nvil", *wake_sleep.ESTIMATORS):
        raise ValueError(
            "estimator must be of the gradient of the ELBO of one example, such as"
            f' "sticking_the_landing" or "rloo", got {estimator!r}'
        )
    if differentiate and estimator != "pathwise":
        raise ValueError(
            'differentiate=True needs estimator="pathwise": the gradient of'
            f" {estimator!r} is an estimator without a derivative of its own"
        )

    def improve(params: Params, x: PyTree) -> Posterior:
        start = model.posterior(params, x)
        _check_parameters(start)
        # The distribution is its own parameters, those of the model are constants.
        of_example = LatentVariableModel(
            init=lambda key: start,
            prior=lambda q: model.prior(params),
            likelihood=lambda q, z: model.likelihood(params, z),
            posterior=lambda q, x: q,
        )
        options: Any = {"estimator": estimator, "kl": kl, "num_samples": num_samples}
        gradient = jax.grad(variational(of_example, **options), has_aux=True)
        key = jax.random.fold_in(jax.random.key(seed), _SALT)

        def step(state: tuple[Any, Any], index: Array) -> tuple[tuple[Any, Any], None]:
            q, optimizer_state = state
            updates, optimizer_state = optimizer.update(
                gradient(q, jax.random.fold_in(key, index), x)[0], optimizer_state, q
            )
            return (optax.apply_updates(q, updates), optimizer_state), None

        return jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(num_steps))[0][0]

    def posterior(params: Params, x: PyTree) -> Posterior:
        if differentiate:
            return improve(params, x)
        return improve(*jax.lax.stop_gradient((params, x)))

    variational(model, estimator=estimator, kl=kl, num_samples=num_samples)  # What it refuses.
    return model._replace(posterior=posterior)


def memoryless(
    model: LatentVariableModel, initial: Callable[[Params], Posterior] | None = None
) -> LatentVariableModel:
    """The model with a posterior that ignores x: where `refine` begins from scratch.

    Args:
        model: any latent-variable model; the parameters of its posterior are no longer used.
        initial: `initial(params) -> q(z)`, e.g. `lambda params: DiagonalGaussian(...)`; by
            default the prior.

    Returns:
        The same model but for `posterior`.
    """
    start = initial or model.prior
    return model._replace(posterior=lambda params, x: start(params))


def _check_parameters(posterior: Posterior) -> None:
    """Raise a `TypeError` unless the leaves of the posterior are what it is made of."""
    leaves = jax.tree.leaves(posterior)
    is_floating = [
        hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves
    ]
    # distrax's distributions hold arrays that are derived from their parameters beside them.
    if not isinstance(posterior, tuple) or not leaves or not all(is_floating):
        raise TypeError(
            "refine needs a posterior that is a named tuple of floating arrays, such as"
            f" distributions.DiagonalGaussian, got a {type(posterior).__name__}"
        )

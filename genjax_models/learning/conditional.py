"""Objectives of conditional latent-variable models, of pairs of a context and what is modelled."""

from typing import Any

from genjax_models.interfaces import Array, Key, Metrics, Objective, Params, PyTree
from genjax_models.learning.objectives import variational
from genjax_models.models.latent.conditional import ConditionalLatentVariableModel, condition


def information_bottleneck(
    model: ConditionalLatentVariableModel, *, kl: str = "analytic", num_samples: int = 1
) -> Objective:
    """The variational information bottleneck: the negative beta-ELBO of y given x.

        loss = -E_q(z | x)[log p(y | z)] + beta KL(q(z | x) || r(z))

    Its mean over the data is an upper bound on beta I(x; z) - I(z; y) + H(y), under q. With y = x
    it is the beta-VAE. beta is the objective's scheduled keyword.

    Args:
        model: `latent.information_bottleneck`, or any conditional latent-variable model.
        kl: as of `learning.variational`.
        num_samples: K >= 1.

    Returns:
        `objective(params, key, (x, y), *, beta=1.0) -> (loss, metrics)`, with the metrics of
        `learning.variational`; "log_likelihood" is of the label.

    Raises:
        ValueError: a negative beta, K below one, an unknown KL.

    Source: Alemi et al. 2017 (Deep variational information bottleneck), equation 17.
    """
    options: dict[str, Any] = {"kl": kl, "num_samples": num_samples}

    def objective(
        params: Params, key: Key, example: tuple[PyTree, PyTree], *, beta: float | Array = 1.0
    ) -> tuple[Array, Metrics]:
        x, y = example
        return variational(condition(model, x), **options)(params, key, y, beta=beta)

    # What the options make no sense of is known before the first example.
    variational(condition(model, ()), **options)
    return objective

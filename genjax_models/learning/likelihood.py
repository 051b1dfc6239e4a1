"""Maximum likelihood, for models whose density is computed exactly."""

from genjax_models.interfaces import Array, DensityModel, Key, Metrics, Objective, Params, PyTree


def maximum_likelihood(model: DensityModel) -> Objective:
    """The negative log-likelihood of one example, as an objective for `jax.grad`.

        loss = -log p(x)

    Its gradient is exact; the mean over the data is minimal where KL(data || model) is.

    Args:
        model: any model with an exact `log_prob`.

    Returns:
        `objective(params, key, x) -> (loss, metrics)`: loss in nats, metrics "log_likelihood". The
        key is not used.
    """

    def objective(params: Params, key: Key, x: PyTree) -> tuple[Array, Metrics]:
        log_prob = model.log_prob(params, x)
        return -log_prob, {"log_likelihood": log_prob}

    return objective

"""Drawing from a latent-variable model."""

import jax

from genjax_models.interfaces import Distribution, Key, LatentVariableModel, Params, PyTree


def sample(model: LatentVariableModel, params: Params, key: Key, *, mean: bool = False) -> PyTree:
    """Draw x by ancestral sampling: z ~ p(z), x ~ p(x | z).

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key.
        mean: give E[x | z] for the drawn z instead of a draw of x, as pictures usually do.

    Returns:
        One x.
    """
    z_key, x_key = jax.random.split(key)
    z = model.prior(params).sample(seed=z_key)
    return _draw(model.likelihood(params, z), x_key, mean)


def reconstruct(
    model: LatentVariableModel, params: Params, key: Key, x: PyTree, *, mean: bool = False
) -> PyTree:
    """Draw x' through the code of x: z ~ q(z | x), x' ~ p(x' | z).

    Args:
        model: any latent-variable model.
        params: its parameters.
        key: PRNG key.
        x: one example.
        mean: give E[x' | z] for the drawn z instead of a draw of x'.

    Returns:
        One x'.
    """
    z_key, x_key = jax.random.split(key)
    z = model.posterior(params, x).sample(seed=z_key)
    return _draw(model.likelihood(params, z), x_key, mean)


def _draw(likelihood: Distribution, key: Key, mean: bool) -> PyTree:
    return likelihood.mean() if mean else likelihood.sample(seed=key)  # type: ignore[attr-defined]

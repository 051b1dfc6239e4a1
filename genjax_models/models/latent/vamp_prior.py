"""The variational mixture of posteriors as a prior (Tomczak & Welling 2018)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.checks import check_sizes
from genjax_models.distributions import GaussianMixture
from genjax_models.distributions.numerics import sigmoid
from genjax_models.interfaces import Key, LatentVariableModel, Network, Params
from genjax_models.models.latent.variational_autoencoder import vae
from genjax_models.models.likelihoods import Likelihood

# Examples at an end of the range start this share of it inside, where a sigmoid is not saturated.
_MARGIN = 0.05


def vamp_prior_vae(
    *,
    num_dims: int = 784,
    latent_dim: int = 40,
    hidden: Sequence[int] = (300, 300),
    num_pseudo_inputs: int = 500,
    data_range: tuple[float, float] = (0.0, 1.0),
    likelihood: str | Likelihood = "bernoulli",
    num_levels: int | None = None,
    encoder: Network | None = None,
    decoder: Network | None = None,
) -> LatentVariableModel:
    """A variational auto-encoder whose prior is a mixture of its own posteriors.

        p(z) = (1/K) sum_k q(z | u_k),   u_k = a + (b - a) sigmoid(v_k)
        p(x | z) = likelihood(decoder(z))
        q(z | x) = N(m(x), diag s(x)^2), with (m, log s) = encoder(x)

    The pseudo-inputs u_k are learned, and never leave the range [a, b] of the data. They start at
    random around its middle; `start_at_examples` puts them onto data. Posteriors much narrower than
    they are far apart cost float32 its precision: see `distributions.GaussianMixture`.

    Args:
        num_dims: size of the vector x.
        latent_dim: size of the vector z.
        hidden: units of the encoder's hidden tanh layers; the decoder has them in reverse.
        num_pseudo_inputs: K.
        data_range: (a, b), between which the values of x lie.
        likelihood: a name or a part of `models.likelihoods`.
        num_levels: number of grey levels, for a likelihood that needs it.
        encoder: replaces the encoder: any (init, apply) pair from [num_dims] to [2 * latent_dim].
        decoder: replaces the decoder: any pair from [latent_dim] to
            [num_outputs_per_dim * num_dims].

    Returns:
        The model; its parameters are those of `latent.vae`, with "prior" {"pseudo_inputs": v,
        [num_pseudo_inputs, num_dims]}. The prior depends on the posterior's too.

    Raises:
        ValueError: a size below one, a range that is empty or infinite, an unknown likelihood, or a
            network of the wrong output shape (found when `init` runs).

    Source: Tomczak & Welling 2018 (VAE with a VampPrior), section 2.2; their layers are gated, and
    their constraint clips, which stops the gradient of a pseudo-input at an end of the range.
    """
    check_sizes(num_pseudo_inputs=num_pseudo_inputs)
    lowest, highest = _check_range(data_range)
    model = vae(
        num_dims=num_dims,
        latent_dim=latent_dim,
        hidden=hidden,
        likelihood=likelihood,
        num_levels=num_levels,
        encoder=encoder,
        decoder=decoder,
    )

    def init(key: Key) -> Params:
        model_key, prior_key = jax.random.split(key)
        start = jax.random.normal(prior_key, (num_pseudo_inputs, num_dims))
        return model.init(model_key) | {"prior": {"pseudo_inputs": start}}

    def prior(params: Params) -> GaussianMixture:
        pseudo_inputs = lowest + (highest - lowest) * sigmoid(params["prior"]["pseudo_inputs"])
        components: Any = jax.vmap(model.posterior, (None, 0))(params, pseudo_inputs)
        logits = jnp.zeros(num_pseudo_inputs)
        return GaussianMixture(logits, components.loc, components.log_scale)

    return model._replace(init=init, prior=prior)


def start_at_examples(
    params: Params, examples: np.ndarray, *, data_range: tuple[float, float] = (0.0, 1.0)
) -> Params:
    """The parameters of a `vamp_prior_vae` with its pseudo-inputs at these examples.

    The examples are drawn in from the ends of the range by a twentieth of it, where the gradient
    of a pseudo-input would vanish.

    Args:
        params: of the model.
        examples: one for each pseudo-input, [num_pseudo_inputs, num_dims].
        data_range: as of the model.

    Returns:
        The parameters; only params["prior"] is new.

    Raises:
        ValueError: examples of another shape than the pseudo-inputs, or values outside the range.
    """
    lowest, highest = _check_range(data_range)
    examples = np.asarray(examples, np.float32)
    like = params["prior"]["pseudo_inputs"]
    if examples.shape != like.shape:
        raise ValueError(
            f"examples must have the shape of the pseudo-inputs, {like.shape}, got {examples.shape}"
        )
    # Negated, so that what is not a number is found too.
    if not ((examples >= lowest) & (examples <= highest)).all():
        raise ValueError(
            f"pseudo-inputs must lie in the range of the data, {data_range}, got values from"
            f" {examples.min():g} to {examples.max():g}"
        )
    inside = _MARGIN + (1 - 2 * _MARGIN) * (examples - lowest) / (highest - lowest)
    start = jnp.asarray(np.log(inside) - np.log1p(-inside), like.dtype)
    return params | {"prior": {"pseudo_inputs": start}}


def _check_range(data_range: tuple[float, float]) -> tuple[float, float]:
    lowest, highest = map(float, data_range)
    if not -float("inf") < lowest < highest < float("inf"):
        raise ValueError(f"data_range must be (lowest, highest), both finite, got {data_range}")
    return lowest, highest

"""The variational auto-encoder with categorical latents (Jang et al. 2017)."""

from collections.abc import Sequence

from genjax_models.checks import check_sizes
from genjax_models.interfaces import LatentVariableModel, Network
from genjax_models.models import likelihoods
from genjax_models.models.latent import categorical, parts
from genjax_models.networks import mlp


def categorical_vae(
    *,
    num_dims: int = 784,
    num_variables: int = 20,
    num_categories: int = 10,
    hidden: Sequence[int] = (200, 200),
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
    encoder: Network | None = None,
    decoder: Network | None = None,
    prior: parts.Prior | None = None,
) -> LatentVariableModel:
    """A latent-variable model whose z is a matrix of one-hot rows.

        p(z) = num_categories^-num_variables
        p(x | z) = likelihood(decoder(z))
        q(z | x) = prod_m softmax(a_m),   a = encoder(x)

    Its samples have no derivative. `learning.relaxed` trains it through Gumbel-softmax samples, the
    paper's way and that of the first stage of DALL-E; the score functions of `learning.variational`
    ("rloo", "vimco_geometric", ...) without bias.

    Args:
        num_dims: size of the vector x.
        num_variables: rows of z.
        num_categories: columns of z, K.
        hidden: units of the encoder's hidden tanh layers; the decoder has them in reverse.
        likelihood: a name or a part of `models.likelihoods`.
        num_levels: number of grey levels, for a likelihood that needs it.
        encoder: replaces the encoder: any (init, apply) pair from [num_dims] to
            [num_variables * num_categories].
        decoder: replaces the decoder: any pair from [num_variables * num_categories] to
            [num_outputs_per_dim * num_dims].
        prior: replaces p(z): `latent.categorical.independent` or `autoregressive`, or the user's.

    Returns:
        The model; its parameters are {"prior", "likelihood", "posterior"}.

    Raises:
        ValueError: a size below one, an unknown likelihood, or a network of the wrong output shape
            (found when `init` runs).

    Source: Jang et al. 2017 (Categorical reparameterization with Gumbel-softmax), section 4.2;
    Ramesh et al. 2021 (Zero-shot text-to-image generation), section 2.1.
    """
    check_sizes(num_dims=num_dims, hidden=tuple(hidden))
    check_sizes(num_variables=num_variables, num_categories=num_categories)
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)
    num_codes, num_outputs = num_variables * num_categories, observation.num_outputs_per_dim
    encoder = encoder or mlp(num_dims, hidden, num_codes)
    encoder = parts.checked("encoder", encoder, num_dims, num_codes)
    decoder = decoder or mlp(num_codes, hidden[::-1], num_outputs * num_dims)
    decoder = parts.checked("decoder", decoder, num_codes, num_outputs * num_dims)
    return parts.compose(
        prior or categorical.uniform(num_variables, num_categories),
        parts.decoder(categorical.flattening(decoder, num_variables, num_categories), observation),
        categorical.posterior(lambda num_outputs: encoder, num_variables, num_categories),
    )

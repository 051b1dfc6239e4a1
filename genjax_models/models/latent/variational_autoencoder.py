"""The variational auto-encoder (Kingma & Welling 2014; Rezende et al. 2014)."""

from collections.abc import Sequence

from genjax_models.checks import check_sizes
from genjax_models.interfaces import LatentVariableModel, Network
from genjax_models.models import likelihoods
from genjax_models.models.latent import parts
from genjax_models.networks import mlp


def vae(
    *,
    num_dims: int = 784,
    latent_dim: int = 50,
    hidden: Sequence[int] = (200, 200),
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
    encoder: Network | None = None,
    decoder: Network | None = None,
    prior: parts.Prior | None = None,
    posterior: parts.Conditional | None = None,
) -> LatentVariableModel:
    """A latent-variable model with one layer of latents, by default Gaussian.

        p(z) = N(0, I)
        p(x | z) = likelihood(decoder(z))
        q(z | x) = N(m(x), diag s(x)^2), with (m, log s) = encoder(x)

    Its parameters are {"prior", "likelihood", "posterior"}. Trained with `learning.bounds.elbo`
    it is the variational auto-encoder, with `learning.bounds.iwae` the importance-weighted one.

    Args:
        num_dims: size of the vector x.
        latent_dim: size of the vector z.
        hidden: units of the encoder's hidden tanh layers; the decoder has them in reverse.
        likelihood: "bernoulli" (x in {0, 1}), "gaussian" (real x, one learned scale),
            "discretized_logistic", "discretized_logistic_mixture" or "categorical" (x =
            k / (num_levels - 1)), or a part of `models.likelihoods`.
        num_levels: number of grey levels, for the last three.
        encoder: replaces the encoder: any (init, apply) pair from [num_dims] to [2 * latent_dim].
        decoder: replaces the decoder: any pair from [latent_dim] to
            [num_outputs_per_dim * num_dims], with num_outputs_per_dim of the likelihood.
        prior: replaces p(z): see `latent.priors`.
        posterior: replaces q(z | x) as a whole: see `latent.posteriors`.

    Returns:
        The model; x and z are vectors.

    Raises:
        ValueError: a size below one, an unknown likelihood, an encoder beside a posterior, or a
            network of the wrong output shape (found when `init` runs).

    Source: Kingma & Welling 2014 (Auto-encoding variational Bayes), section 3 and appendix C; the
    default sizes are those of Burda et al. 2016, section 5.
    """
    check_sizes(num_dims=num_dims, latent_dim=latent_dim, hidden=tuple(hidden))
    if encoder is not None and posterior is not None:
        raise ValueError("encoder is part of the default posterior: give one of the two, not both")
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)
    num_outputs = observation.num_outputs_per_dim * num_dims
    encoder = encoder or mlp(num_dims, hidden, 2 * latent_dim)
    decoder = decoder or mlp(latent_dim, hidden[::-1], num_outputs)
    return parts.compose(
        prior or parts.standard_normal(latent_dim),
        parts.decoder(parts.checked("decoder", decoder, latent_dim, num_outputs), observation),
        posterior or parts.gaussian(parts.checked("encoder", encoder, num_dims, 2 * latent_dim)),
    )

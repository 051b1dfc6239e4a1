"""The variational information bottleneck (Alemi et al. 2017)."""

from collections.abc import Sequence

import jax

from genjax_models.checks import check_sizes
from genjax_models.distributions.one_hot_categorical import OneHotCategorical
from genjax_models.interfaces import Array, Distribution, Key, Network, Params
from genjax_models.models.latent import parts
from genjax_models.models.latent.conditional import ConditionalLatentVariableModel
from genjax_models.networks import mlp


def information_bottleneck(
    *,
    num_dims: int = 784,
    num_classes: int = 10,
    latent_dim: int = 256,
    hidden: Sequence[int] = (1024, 1024),
    encoder: Network | None = None,
    classifier: Network | None = None,
    prior: parts.Prior | None = None,
) -> ConditionalLatentVariableModel:
    """Labels y given x through a stochastic code z that forgets what of x does not tell of y.

        r(z) = N(0, I)
        p(y | z) = softmax(classifier(z))
        q(z | x) = N(m(x), diag s(x)^2), with (m, log s) = encoder(x)

    As a model of y given the context x: the code's prior does not depend on x, its posterior
    depends on x alone. Its negative beta-ELBO, `learning.information_bottleneck`, is the
    variational bound on beta I(x; z) - I(z; y) up to the entropy of y.

    Args:
        num_dims: size of the vector x.
        num_classes: of the labels; y is a one-hot vector.
        latent_dim: size of the vector z.
        hidden: units of the encoder's hidden ReLU layers.
        encoder: replaces the encoder: any (init, apply) pair from [num_dims] to [2 * latent_dim].
        classifier: replaces the affine classifier: any pair from [latent_dim] to [num_classes].
        prior: replaces r(z): see `latent.priors`.

    Returns:
        The model; its parameters are {"prior", "likelihood", "posterior"}.

    Raises:
        ValueError: a size below one, fewer than two classes, or a network of the wrong output
            shape (found when `init` runs).

    Source: Alemi et al. 2017 (Deep variational information bottleneck), equation 17; default sizes
    of section 4.1.
    """
    check_sizes(num_dims=num_dims, latent_dim=latent_dim, hidden=tuple(hidden))
    if not hasattr(num_classes, "__index__") or num_classes < 2:
        raise ValueError(f"num_classes must be an integer >= 2, got {num_classes}")
    encoder = encoder or mlp(num_dims, hidden, 2 * latent_dim, activation=jax.nn.relu)
    classifier = classifier or mlp(latent_dim, (), num_classes)
    classifier = parts.checked("classifier", classifier, latent_dim, num_classes)
    code_prior = prior or parts.standard_normal(latent_dim)
    code = parts.gaussian(parts.checked("encoder", encoder, num_dims, 2 * latent_dim))

    def init(key: Key) -> Params:
        prior_key, likelihood_key, posterior_key = jax.random.split(key, 3)
        return {
            "prior": code_prior.init(prior_key),
            "likelihood": classifier.init(likelihood_key),
            "posterior": code.init(posterior_key),
        }

    def likelihood(params: Params, z: Array, x: Array) -> Distribution:
        return OneHotCategorical(classifier.apply(params["likelihood"], z))

    def prior_of_code(params: Params, x: Array) -> Distribution:
        return code_prior.distribution(params["prior"])

    def posterior(params: Params, y: Array, x: Array) -> Distribution:
        return code.distribution(params["posterior"], x)

    return ConditionalLatentVariableModel(init, prior_of_code, likelihood, posterior)

"""The auto-encoder: a code without a prior (Rumelhart et al. 1986; Hinton & Salakhutdinov 2006)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions.numerics import sigmoid
from genjax_models.interfaces import Array, AutoEncoder, Distribution, Key, Network, Params
from genjax_models.models import likelihoods
from genjax_models.models.latent import parts
from genjax_models.networks import mlp

_CODES: dict[str, Callable[[Array], Array]] = {
    "linear": lambda outputs: outputs,
    "sigmoid": sigmoid,
}


def auto_encoder(
    *,
    num_dims: int = 784,
    code_dim: int = 50,
    hidden: Sequence[int] = (200,),
    code: str = "linear",
    likelihood: str | likelihoods.Likelihood = "gaussian",
    num_levels: int | None = None,
    encoder: Network | None = None,
    decoder: Network | None = None,
) -> AutoEncoder:
    """A deterministic code of x, and a distribution over x for each code.

        c = code(encoder(x))
        p(x | c) = likelihood(decoder(c))

    With `hidden=()` and a linear code both maps are affine: at the least squared error the code
    spans the principal components (Bourlard & Kamp 1988; Baldi & Hornik 1989). How it is trained,
    plainly or as a denoising, sparse or contractive auto-encoder, is up to the objective: see
    `learning.reconstruction`. Its parameters are {"encoder", "decoder"}.

    Args:
        num_dims: size of the vector x.
        code_dim: size of the vector c.
        hidden: units of the encoder's hidden tanh layers; the decoder has them in reverse.
        code: what follows the encoder's last layer: "linear", or "sigmoid" for a code in (0, 1).
        likelihood: "gaussian" (squared error, its scale learned), "bernoulli" (cross-entropy) or
            "discretized_logistic", or a part of `models.likelihoods`.
        num_levels: number of grey levels, for "discretized_logistic".
        encoder: replaces the encoder: any (init, apply) pair from [num_dims] to [code_dim], e.g.
            `networks.convolutional_encoder`, `recurrent_encoder` or `attention_encoder`.
        decoder: replaces the decoder: any pair from [code_dim] to
            [num_outputs_per_dim * num_dims].

    Returns:
        The model; x and its code are vectors.

    Raises:
        ValueError: a size below one, an unknown code or likelihood, or a network of the wrong
            output shape (found when `init` runs).

    Source: Hinton & Salakhutdinov 2006 (Reducing the dimensionality of data with neural networks).
    """
    check_sizes(num_dims=num_dims, code_dim=code_dim, hidden=tuple(hidden))
    squash = _squash(code)
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)
    num_outputs = observation.num_outputs_per_dim * num_dims
    encoding = encoder or mlp(num_dims, hidden, code_dim)
    encoding = parts.checked("encoder", encoding, num_dims, code_dim)
    decoding = decoder or mlp(code_dim, hidden[::-1], num_outputs)
    decoding = parts.checked("decoder", decoding, code_dim, num_outputs)
    conditional = parts.decoder(decoding, observation)

    def init(key: Key) -> Params:
        encoder_key, decoder_key = jax.random.split(key)
        return {"encoder": encoding.init(encoder_key), "decoder": conditional.init(decoder_key)}

    def encode(params: Params, x: Array) -> Array:
        return squash(encoding.apply(params["encoder"], x))

    def decode(params: Params, code: Array) -> Distribution:
        return conditional.distribution(params["decoder"], code)

    return AutoEncoder(init, encode, decode)


def tied_auto_encoder(
    *,
    num_dims: int = 784,
    code_dim: int = 500,
    code: str = "sigmoid",
    likelihood: str | likelihoods.Likelihood = "gaussian",
) -> AutoEncoder:
    """One layer each way, with the same matrix.

        c = code(W x + b)
        p(x | c) = likelihood(W' c + d)

    What the encoder's scale wins here the decoder's loses, so that a penalty on the code, such as
    that of `learning.reconstruction.contractive`, cannot be had for nothing. Its parameters are
    {"encoder", "decoder"}, with W in the first.

    Args:
        num_dims: size of the vector x.
        code_dim: size of the vector c.
        code: "sigmoid" or "linear".
        likelihood: "gaussian" or "bernoulli", or any part with one output for each dimension.

    Returns:
        The model; x and its code are vectors.

    Raises:
        ValueError: a size below one, an unknown code or likelihood, or a likelihood with more
            than one output for each dimension.

    Source: Vincent et al. 2008 (Extracting and composing robust features with denoising
    autoencoders), section 2.2; Rifai et al. 2011 (Contractive auto-encoders), section 2.
    """
    check_sizes(num_dims=num_dims, code_dim=code_dim)
    squash = _squash(code)
    observation = likelihoods.resolve(likelihood)
    if observation.num_outputs_per_dim != 1:
        raise ValueError(
            "likelihood must have one output for each dimension, as the tied weights give,"
            f" got {observation.num_outputs_per_dim}"
        )
    glorot = jax.nn.initializers.glorot_uniform()

    def init(key: Key) -> Params:
        weights_key, observation_key = jax.random.split(key)
        return {
            "encoder": {
                "weights": glorot(weights_key, (code_dim, num_dims)),
                "bias": jnp.zeros(code_dim),
            },
            "decoder": {
                "bias": jnp.zeros(num_dims),
                "observation": observation.init(observation_key),
            },
        }

    def encode(params: Params, x: Array) -> Array:
        return squash(params["encoder"]["weights"] @ x + params["encoder"]["bias"])

    def decode(params: Params, code: Array) -> Distribution:
        outputs = params["encoder"]["weights"].T @ code + params["decoder"]["bias"]
        return observation.distribution(params["decoder"]["observation"], outputs)

    return AutoEncoder(init, encode, decode)


def _squash(code: str) -> Callable[[Array], Array]:
    if code not in _CODES:
        raise ValueError(f"code must be one of {list(_CODES)}, got {code!r}")
    return _CODES[code]

"""The vector-quantised variational auto-encoder (van den Oord et al. 2017)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from genjax_models.checks import check_sizes
from genjax_models.distributions import OneHotCategorical
from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import (
    Array,
    Distribution,
    Key,
    LatentVariableModel,
    Network,
    Params,
    PyTree,
)
from genjax_models.models import likelihoods
from genjax_models.models.latent import categorical, parts
from genjax_models.networks import mlp


class VectorQuantizedVAE(NamedTuple):
    """An auto-encoder whose code is a few entries of a codebook, with a prior over which.

    What lies between `encode` and `decode` is `quantize`, which has no derivative:

        decode(params, params["codebook"][quantize(params["codebook"], encode(params, x))])

    Attributes:
        init: `init(key) -> params`: {"encoder", "codebook": [codebook_size, code_dim], "decoder",
            "prior"}.
        encode: `encode(params, x) -> [num_codes, code_dim]`, before quantisation.
        decode: `decode(params, codes) -> p(x | codes)`, codes [num_codes, code_dim].
        prior: `prior(params) -> p(z)`, z one-hot rows [num_codes, codebook_size].
    """

    init: Callable[[Key], Params]
    encode: Callable[[Params, PyTree], Array]
    decode: Callable[[Params, Array], Distribution]
    prior: Callable[[Params], Distribution]


def vq_vae(
    *,
    num_dims: int = 784,
    num_codes: int = 16,
    codebook_size: int = 128,
    code_dim: int = 16,
    hidden: Sequence[int] = (200, 200),
    likelihood: str | likelihoods.Likelihood = "bernoulli",
    num_levels: int | None = None,
    encoder: Network | None = None,
    decoder: Network | None = None,
    prior: parts.Prior | None = None,
) -> VectorQuantizedVAE:
    """A vector-quantised auto-encoder of vectors.

        y = encoder(x), [num_codes, code_dim]
        k_m = argmin_k |y_m - e_k|,  z_m = onehot(k_m)
        p(x | z) = likelihood(decoder(e_k1, ..., e_kM))

    All positions m share the codebook e. `learning.vector_quantization` trains it, and
    `as_latent_variable_model` makes a latent-variable model of it, whose bound can be compared
    with log p(x) of any other model. The codebook starts small at random, as in the paper's code;
    `start_at_encodings` puts it where the encodings are.

    Args:
        num_dims: size of the vector x.
        num_codes: M, positions of the code.
        codebook_size: K, entries of the codebook.
        code_dim: size of an entry.
        hidden: units of the encoder's hidden tanh layers; the decoder has them in reverse.
        likelihood: a name or a part of `models.likelihoods`.
        num_levels: number of grey levels, for a likelihood that needs it.
        encoder: replaces the encoder: any (init, apply) pair from [num_dims] to
            [num_codes * code_dim].
        decoder: replaces the decoder: any pair from [num_codes * code_dim] to
            [num_outputs_per_dim * num_dims].
        prior: p(z) of one-hot rows [num_codes, codebook_size]: uniform unless given, or
            `latent.categorical.independent` or `autoregressive`, which learn it along the way.

    Returns:
        The model.

    Raises:
        ValueError: a size below one, an unknown likelihood, or a network of the wrong output shape
            (found when `init` runs).

    Source: van den Oord et al. 2017 (Neural discrete representation learning), section 3.
    """
    check_sizes(num_dims=num_dims, hidden=tuple(hidden))
    check_sizes(num_codes=num_codes, codebook_size=codebook_size, code_dim=code_dim)
    observation = likelihoods.resolve(likelihood, num_levels=num_levels)
    size, num_outputs = num_codes * code_dim, observation.num_outputs_per_dim * num_dims
    network = parts.checked("encoder", encoder or mlp(num_dims, hidden, size), num_dims, size)
    decoder = decoder or mlp(size, hidden[::-1], num_outputs)
    decoder = parts.checked("decoder", decoder, size, num_outputs)
    likelihood_part = parts.decoder(
        categorical.flattening(decoder, num_codes, code_dim), observation
    )
    prior_part = prior or categorical.uniform(num_codes, codebook_size)

    def init(key: Key) -> Params:
        encoder_key, codebook_key, decoder_key, prior_key = jax.random.split(key, 4)
        shape, limit = (codebook_size, code_dim), 1 / codebook_size
        return {
            "encoder": network.init(encoder_key),
            "codebook": jax.random.uniform(codebook_key, shape, minval=-limit, maxval=limit),
            "decoder": likelihood_part.init(decoder_key),
            "prior": prior_part.init(prior_key),
        }

    return VectorQuantizedVAE(
        init,
        lambda params, x: network.apply(params["encoder"], x).reshape(num_codes, code_dim),
        lambda params, codes: likelihood_part.distribution(params["decoder"], codes),
        lambda params: prior_part.distribution(params["prior"]),
    )


def quantize(codebook: Array, encodings: Array) -> Array:
    """The nearest entry of a codebook.

        k = argmin_k |y - e_k|^2 = argmin_k |e_k|^2 / 2 - y . e_k

    Args:
        codebook: e, [codebook_size, code_dim].
        encodings: y, [..., code_dim].

    Returns:
        Integers 0..codebook_size - 1, [...]; the first of several that are equally near. They have
        no derivative.

    Raises:
        ValueError: shapes that do not fit.
    """
    if jnp.ndim(codebook) != 2 or jnp.shape(encodings)[-1:] != jnp.shape(codebook)[1:]:
        raise ValueError(
            "codebook must be [codebook_size, code_dim] and encodings [..., code_dim], got shapes"
            f" {jnp.shape(codebook)} and {jnp.shape(encodings)}"
        )
    codebook, rows = at_least_float32(codebook), at_least_float32(encodings)
    rows = rows.reshape(-1, rows.shape[-1])
    # About the codebook's centre, where |e|^2 takes the least from the products' precision.
    center = jnp.mean(codebook, axis=0, keepdims=True)
    entries = codebook - center
    products = jnp.matmul(rows - center, entries.T, precision="highest")
    half_norms = jnp.sum(jnp.square(entries), axis=1)[None] / 2
    return jnp.argmin(half_norms - products, axis=1).reshape(jnp.shape(encodings)[:-1])


def code_perplexity(counts: Array) -> Array:
    """The number of entries that would carry as much if all were used equally often.

        exp(-sum_k p_k log p_k),  p = counts / sum(counts)

    Args:
        counts: how often each entry of a codebook was chosen, [codebook_size], not all zero.

    Returns:
        From 1 to codebook_size, [].
    """
    counts = at_least_float32(counts)
    frequencies = counts / jnp.sum(counts)
    return jnp.exp(jnp.sum(jax.scipy.special.entr(frequencies)))


def as_latent_variable_model(model: VectorQuantizedVAE) -> LatentVariableModel:
    """The same model with z for its latents, one-hot rows, and a posterior without randomness.

        log p(x) = log sum_z p(z) p(x | z) >= log p(z) + log p(x | z),  z = onehot(quantize(...))

    One term of the sum, and the ELBO of this posterior: a **lower bound**, the same for every
    draw, so that one sample gives it and more do not tighten it. Nothing of it reaches the
    encoder's parameters: see `learning.vector_quantization` for what trains them.

    Args:
        model: any `VectorQuantizedVAE`.

    Returns:
        The latent-variable model, with the same parameters.
    """

    def likelihood(params: Params, z: Array) -> Distribution:
        return model.decode(params, jnp.matmul(z, params["codebook"], precision="highest"))

    def posterior(params: Params, x: PyTree) -> OneHotCategorical:
        indices = quantize(params["codebook"], model.encode(params, x))
        is_chosen = indices[:, None] == jnp.arange(len(params["codebook"]))[None, :]
        return OneHotCategorical(jnp.where(is_chosen, 0.0, -jnp.inf))

    return LatentVariableModel(model.init, model.prior, likelihood, posterior)


def start_at_encodings(model: VectorQuantizedVAE, params: Params, key: Key, xs: PyTree) -> Params:
    """Parameters whose codebook is encodings of examples, drawn without replacement.

    A codebook far from the encodings has one nearest entry for all of them, and the others are
    never chosen.

    Args:
        model: whose encoder is used.
        params: its parameters.
        key: PRNG key.
        xs: examples, each leaf [N, ...], with N * num_codes >= codebook_size.

    Returns:
        The parameters; only the codebook is new.

    Raises:
        ValueError: fewer encodings than entries.
    """
    encodings = jax.vmap(model.encode, (None, 0))(params, xs)
    encodings = encodings.reshape(-1, encodings.shape[-1])
    codebook = params["codebook"]
    if len(encodings) < len(codebook):
        raise ValueError(
            f"xs must have at least as many encodings as the codebook has entries, {len(codebook)},"
            f" got {len(encodings)}"
        )
    chosen = jax.random.choice(key, len(encodings), (len(codebook),), replace=False)
    return params | {"codebook": encodings[chosen].astype(codebook.dtype)}

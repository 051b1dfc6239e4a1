"""The variational lossy auto-encoder (Chen et al. 2017)."""

import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.checks import check_sizes
from genjax_models.distributions import AutoregressiveBernoulli
from genjax_models.interfaces import Array, LatentVariableModel, Network, Params
from genjax_models.models import likelihoods
from genjax_models.models.latent import parts
from genjax_models.models.latent.variational_autoencoder import vae
from genjax_models.networks import mlp


def lossy_vae(
    *,
    image_shape: Sequence[int] = (28, 28),
    radius: int = 2,
    latent_dim: int = 50,
    hidden: Sequence[int] = (200, 200),
    num_features: int = 4,
    pixel_hidden: Sequence[int] = (32, 32),
    encoder: Network | None = None,
    decoder: Network | None = None,
    prior: parts.Prior | None = None,
    posterior: parts.Conditional | None = None,
) -> LatentVariableModel:
    """A variational auto-encoder of binary images whose decoder sees a small window of the image.

        p(z) = N(0, I), or a prior such as `priors.autoregressive_flow`
        p(x | z) = prod_i p(x_i | window_i(x), z), as `windowed_bernoulli`
        q(z | x) = N(m(x), diag s(x)^2), with (m, log s) = encoder(x)

    What a window predicts costs nothing, what the code predicts costs its divergence from the
    prior: the code is left with what no window sees. A window that covers all pixels before leaves
    it with nothing; one of radius 0 is empty, and the model the plain `latent.vae`.

    Args:
        image_shape: (height, width).
        radius: of the window, in pixels.
        latent_dim: size of the vector z.
        hidden: units of the encoder's hidden tanh layers; the decoder has them in reverse.
        num_features: numbers that the decoder gives to the conditional of each pixel, beside a
            logit.
        pixel_hidden: units of the hidden layers of that conditional.
        encoder: replaces the encoder: any (init, apply) pair from [num_dims] to [2 * latent_dim].
        decoder: replaces the decoder: any pair from [latent_dim] to
            [(1 + num_features) * num_dims], or [num_dims] where the radius is 0.
        prior: replaces p(z): see `latent.priors`.
        posterior: replaces q(z | x) as a whole.

    Returns:
        The model, of x as a vector [height * width]; its parameters are those of `latent.vae`.

    Raises:
        ValueError: a size below one, a negative radius, or a network of the wrong output shape
            (found when `init` runs).

    Warns:
        UserWarning: the window covers everything before every pixel.

    Source: Chen et al. 2017 (Variational lossy autoencoder), sections 3.1 and 3.2; theirs has a
    residual convolutional encoder, an inverse autoregressive posterior and a deeper decoder.
    """
    return vae(
        num_dims=int(np.prod(image_shape)),
        latent_dim=latent_dim,
        hidden=hidden,
        likelihood=windowed_bernoulli(
            image_shape, radius, num_features=num_features, hidden=pixel_hidden
        ),
        encoder=encoder,
        decoder=decoder,
        prior=prior,
        posterior=posterior,
    )


def windowed_bernoulli(
    image_shape: Sequence[int],
    radius: int,
    *,
    num_features: int = 4,
    hidden: Sequence[int] = (32, 32),
) -> likelihoods.Likelihood:
    """Binary images, of which each pixel sees those before it within a distance.

        p(x | z) = prod_i Bernoulli(x_i; sigmoid(l_i + g(window_i(x), f_i)))

    The window of radius r holds the 2r + 1 pixels at most r columns away in each of the r rows
    above, and the r pixels to the left: 2r (r + 1) in all, zeros beyond the edge. The outputs of
    the decoder are a block of logits l and num_features blocks f; the network g is the same for
    every pixel: one masked convolution, and 1x1 ones after it.

    Args:
        image_shape: (height, width).
        radius: r; with 0 this is `likelihoods.bernoulli`.
        num_features: numbers f_i of each pixel.
        hidden: units of the hidden layers of g, rectified.

    Returns:
        The likelihood, with 1 + num_features outputs for each dimension.

    Raises:
        ValueError: an image shape that is not (height, width), a size below one, or a negative
            radius.

    Warns:
        UserWarning: the window covers everything before every pixel.
    """
    image_shape = tuple(image_shape)
    if len(image_shape) != 2:
        raise ValueError(f"image_shape must be (height, width), got {image_shape}")
    check_sizes(image_shape=image_shape, num_features=num_features, hidden=tuple(hidden))
    if not hasattr(radius, "__index__") or radius < 0:
        raise ValueError(f"radius must be an integer of at least 0, got {radius}")
    if radius == 0:
        return likelihoods.bernoulli()
    if radius >= max(image_shape) - 1:
        warnings.warn(
            f"a window of radius {radius} covers everything before every pixel of an image of"
            f" {image_shape}: the decoder needs no code, and the code will be ignored",
            UserWarning,
            stacklevel=3,
        )
    neighbors = _windows(image_shape, radius)
    network = mlp(neighbors.shape[1] + num_features, hidden, 1, activation=jax.nn.relu)

    def correction(params: Params, window: Array, features: Array) -> Array:
        # Centred: where most pixels are zero, so would be most of the first layer's gradient.
        inputs = jnp.concatenate([window - 0.5, features])
        return network.apply(params, inputs)[0]

    def distribution(params: Params, outputs: Array) -> AutoregressiveBernoulli:
        logits, *features = outputs.reshape(1 + num_features, -1)
        partial = jax.tree_util.Partial(correction, params)
        return AutoregressiveBernoulli(
            logits, jnp.stack(features, axis=1), partial, jnp.asarray(neighbors)
        )

    return likelihoods.Likelihood(1 + num_features, network.init, distribution)


def _windows(image_shape: tuple[int, int], radius: int) -> np.ndarray:
    """Which pixels are in the window of each, [num_dims, W]; num_dims is one off the edge."""
    height, width = image_shape
    padded = np.full((height + radius, width + 2 * radius), height * width)
    padded[radius:, radius : radius + width] = np.arange(height * width).reshape(image_shape)
    offsets = list(np.ndindex(radius + 1, 2 * radius + 1))[: 2 * radius * (radius + 1)]
    shifted = [padded[i : i + height, j : j + width].ravel() for i, j in offsets]
    return np.stack(shifted, axis=1)

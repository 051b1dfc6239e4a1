"""Affine couplings with actnorm, and the masks that say what each of them keeps."""

from collections.abc import Sequence

import distrax
import jax
import jax.numpy as jnp
import numpy as np

from genjax_models.distributions.numerics import at_least_float32
from genjax_models.interfaces import Array, Key, Network, Params
from genjax_models.models.transformation.flows import Flow, Stack


def coupling_stack(
    masks: np.ndarray,
    network: Network,
    *,
    num_channels: int | None = None,
    max_log_scale: float = 2.0,
) -> Flow:
    """Couplings of one shape, each followed by its actnorm, as one flow that scans over them.

    Of every coupling, from noise to data, with the mask m (one where a dimension is kept) and the
    bound c = max_log_scale:

        (t, r) = network(m * z),  s = c tanh(r / c)
        y = m * z + (1 - m) * (z * e^s + t)        log |det| = sum_d (1 - m_d) s_d
        x = y * e^l + b                            log |det| = sum_d l_d

    Args:
        masks: boolean, [num_couplings, num_dims], True where the coupling keeps the dimension.
        network: any (init, apply) pair from [num_dims] to [2 * num_dims]: t, then r. Every
            coupling has parameters of its own.
        num_channels: dimensions d with the same remainder d mod num_channels share the (l, b) of
            an actnorm: the channels of an image whose last axis they are. None: every dimension
            has its own.
        max_log_scale: c, the largest |s|.

    Returns:
        The flow. Its parameters are {"network": ..., "actnorm": {"log_scale", "shift"}}, with a
        leading axis [num_couplings].

    Raises:
        ValueError: the masks leave a dimension out (see `check_masks`), the number of channels
            does not divide that of dimensions, c is not positive and finite, or the network is of
            the wrong output shape (found when `init` runs).

    Source: Dinh et al. 2017 (RealNVP), sections 3.3 to 3.5 (couplings); Kingma & Dhariwal 2018
    (Glow), section 3.1 (actnorm, in place of batch normalisation).
    """
    masks = check_masks(masks)
    num_couplings, num_dims = masks.shape
    channels = num_dims if num_channels is None else num_channels
    if channels < 1 or num_dims % channels:
        raise ValueError(f"num_channels must divide num_dims, {num_dims}, got {num_channels}")
    if not 0 < max_log_scale < float("inf"):
        raise ValueError(f"max_log_scale must be positive and finite, got {max_log_scale}")

    def init(key: Key) -> Params:
        params = jax.vmap(network.init)(jax.random.split(key, num_couplings))
        _check_network(network, params, num_dims)
        zeros = jnp.zeros((2, num_couplings, channels))
        return {"network": params, "actnorm": {"log_scale": zeros[0], "shift": zeros[1]}}

    def layer(mask_and_params: tuple[Array, Params]) -> distrax.Bijector:
        mask, params = mask_and_params
        coupling = affine_coupling(mask, network, params["network"], max_log_scale=max_log_scale)
        return distrax.Chain([actnorm(params["actnorm"], num_dims), coupling])

    def bijector(params: Params) -> distrax.Bijector:
        return Stack(layer, (jnp.asarray(masks), params))

    def normalize(params: Params, xs: Array) -> tuple[Params, Array]:
        def start(xs: Array, mask_and_params: tuple[Array, Params]) -> tuple[Array, Params]:
            mask, params = mask_and_params
            params = params | {"actnorm": actnorm_from_data(xs, channels)}
            return jax.vmap(layer((mask, params)).inverse)(xs), params

        zs, params = jax.lax.scan(start, xs, (jnp.asarray(masks), params), reverse=True)
        return params, zs

    return Flow(num_dims, init, bijector, normalize)


def affine_coupling(
    mask: Array, network: Network, params: Params, *, max_log_scale: float
) -> distrax.Bijector:
    """One coupling of vectors, y = m * z + (1 - m) * (z * e^s + t); see `coupling_stack`."""

    def conditioner(kept: Array) -> tuple[Array, Array]:
        # distrax gives batches of vectors where the network takes one.
        apply = jnp.vectorize(lambda x: network.apply(params, x), signature="(d)->(k)")
        shift, log_scale = jnp.split(at_least_float32(apply(kept)), 2, axis=-1)
        return shift, max_log_scale * jnp.tanh(log_scale / max_log_scale)

    def affine(parameters: tuple[Array, Array]) -> distrax.Bijector:
        shift, log_scale = parameters
        return distrax.ScalarAffine(shift, log_scale=log_scale)

    return distrax.MaskedCoupling(mask, conditioner, affine)


def actnorm(params: Params, num_dims: int) -> distrax.Bijector:
    """x = y * e^l + b, elementwise over vectors; l and b are repeated until they fill them.

    Args:
        params: {"log_scale": l, "shift": b}, each [num_channels].
        num_dims: size of the vectors, a multiple of num_channels.
    """

    def fill(values: Array) -> Array:
        return jnp.tile(at_least_float32(values), num_dims // values.shape[0])

    affine = distrax.ScalarAffine(fill(params["shift"]), log_scale=fill(params["log_scale"]))
    return distrax.Block(affine, 1)


def actnorm_from_data(xs: Array, num_channels: int) -> Params:
    """Parameters of the actnorm whose inverse gives every channel mean 0 and variance 1.

    Args:
        xs: what the actnorm is to give for noise, [N, num_dims].
        num_channels: dimensions of the same remainder share their statistics.
    """
    values = xs.reshape(-1, num_channels)
    mean, scale = jnp.mean(values, axis=0), jnp.std(values, axis=0)
    # A channel that does not vary, but for the rounding of its mean, keeps its scale.
    varies = scale > 1e-6 * jnp.abs(mean)
    return {"log_scale": jnp.log(jnp.where(varies, scale, 1)), "shift": mean}


def check_masks(masks: np.ndarray) -> np.ndarray:
    """The masks as a boolean numpy array.

    Raises:
        ValueError: they are not boolean of shape [num_couplings, num_dims >= 2], a dimension is
            kept by every coupling (its distribution would never be learned), or a coupling keeps
            or transforms none.
    """
    masks = np.asarray(masks)
    if masks.dtype != bool or masks.ndim != 2 or masks.shape[0] < 1 or masks.shape[1] < 2:
        raise ValueError(
            "masks must be boolean, of shape [num_couplings >= 1, num_dims >= 2], got"
            f" {masks.dtype} of shape {masks.shape}"
        )
    left_out = np.flatnonzero(masks.all(axis=0))
    if left_out.size:
        raise ValueError(
            "masks must have every dimension transformed (False) by a coupling, but all of them"
            f" keep {left_out[:10].tolist()}"
        )
    for trivial, verb in ((masks.all(axis=1), "transforms"), (~masks.any(axis=1), "keeps")):
        if trivial.any():
            raise ValueError(f"coupling {int(trivial.argmax())} of masks {verb} no dimension")
    return masks


def alternating_masks(num_couplings: int, num_dims: int) -> np.ndarray:
    """Even dimensions are kept by couplings 0, 2, ..., odd ones by the others.

    Returns:
        Boolean, [num_couplings, num_dims].

    Raises:
        ValueError: `num_couplings` or `num_dims` is below two.
    """
    _check_at_least_two("num_dims", num_dims)
    return _alternate(num_couplings, np.arange(num_dims))


def checkerboard_masks(num_couplings: int, image_shape: Sequence[int]) -> np.ndarray:
    """The white squares of the image are kept by couplings 0, 2, ..., the black by the others.

    Args:
        num_couplings: at least two.
        image_shape: (height, width, channels), with more than one pixel.

    Returns:
        Boolean, [num_couplings, height * width * channels].

    Raises:
        ValueError: fewer than two couplings or pixels.

    Source: Dinh et al. 2017, section 3.4.
    """
    height, width, channels = image_shape
    _check_at_least_two("pixels in image_shape", height * width)
    rows, columns, _ = np.indices((height, width, channels))
    return _alternate(num_couplings, (rows + columns).reshape(-1))


def channel_masks(num_couplings: int, image_shape: Sequence[int]) -> np.ndarray:
    """The first half of the channels is kept by couplings 0, 2, ..., the second by the others.

    Args:
        num_couplings: at least two.
        image_shape: (height, width, channels), with more than one channel.

    Returns:
        Boolean, [num_couplings, height * width * channels].

    Raises:
        ValueError: fewer than two couplings or channels.

    Source: Dinh et al. 2017, section 3.4.
    """
    height, width, channels = image_shape
    _check_at_least_two("channels in image_shape", channels)
    second_half = np.arange(channels) >= channels // 2
    return _alternate(num_couplings, np.tile(second_half, height * width))


def _alternate(num_couplings: int, colours: np.ndarray) -> np.ndarray:
    """True where coupling plus colour is even."""
    _check_at_least_two("num_couplings", num_couplings)
    return (np.arange(num_couplings)[:, None] + colours) % 2 == 0


def _check_at_least_two(name: str, value: int) -> None:
    if value < 2:
        raise ValueError(f"{name} must be at least 2 for alternating masks, got {value}")


def _check_network(network: Network, params: Params, num_dims: int) -> None:
    first = jax.tree.map(lambda leaf: leaf[0], params)
    inputs = jax.ShapeDtypeStruct((num_dims,), jnp.zeros(()).dtype)
    shape = jax.tree.map(jnp.shape, jax.eval_shape(network.apply, first, inputs))
    if shape != (2 * num_dims,):
        raise ValueError(
            f"network must map [{num_dims}] to [{2 * num_dims}], but its outputs have shape {shape}"
        )

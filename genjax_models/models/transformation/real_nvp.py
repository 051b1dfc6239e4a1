"""RealNVP: affine couplings with alternating masks (Dinh et al. 2017)."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from genjax_models.checks import check_sizes
from genjax_models.interfaces import Array, DensityModel, Network
from genjax_models.models.transformation.couplings import alternating_masks, coupling_stack
from genjax_models.models.transformation.flows import Flow, density
from genjax_models.networks import mlp


def real_nvp_flow(
    *,
    num_dims: int,
    num_couplings: int = 8,
    hidden: Sequence[int] = (256, 256),
    activation: Callable[[Array], Array] = jax.nn.relu,
    masks: np.ndarray | None = None,
    network: Network | None = None,
    max_log_scale: float = 2.0,
) -> Flow:
    """Affine couplings with multilayer perceptrons, each followed by its actnorm.

    The equations are in `coupling_stack`. The last layer of every network starts at zero, and so
    the flow at the identity; `initialize_from_data` starts the actnorms at given examples.

    Args:
        num_dims: size of the vector x, at least two.
        num_couplings: at least two; without `masks` they keep the even and odd dimensions in turn.
        hidden: units of the hidden layers of every network.
        activation: of the hidden layers.
        masks: replaces the alternating masks: boolean, [num_couplings, num_dims], True where a
            coupling keeps the dimension.
        network: replaces the networks: any (init, apply) pair from [num_dims] to [2 * num_dims],
            shifts and then unbounded log scales.
        max_log_scale: the largest |log scale| of a coupling, by tanh.

    Returns:
        The flow, from standard normal noise to x.

    Raises:
        ValueError: a size is too small, `masks` leave a dimension out or are of another number of
            couplings, or the network is of the wrong output shape (found when `init` runs).

    Source: Dinh et al. 2017 (Density estimation using Real NVP), section 3.
    """
    if masks is None:
        masks = alternating_masks(num_couplings, num_dims)
    if np.shape(masks) != (num_couplings, num_dims):
        raise ValueError(
            f"masks must have shape [num_couplings, num_dims] = {(num_couplings, num_dims)}, got"
            f" {np.shape(masks)}"
        )
    check_sizes(hidden=tuple(hidden))
    if network is None:
        network = mlp(num_dims, hidden, 2 * num_dims, activation=activation, zero_last_layer=True)
    return coupling_stack(masks, Network(*network), max_log_scale=max_log_scale)


def real_nvp(
    *,
    num_dims: int,
    num_couplings: int = 8,
    hidden: Sequence[int] = (256, 256),
    activation: Callable[[Array], Array] = jax.nn.relu,
    masks: np.ndarray | None = None,
    network: Network | None = None,
    max_log_scale: float = 2.0,
) -> DensityModel:
    """The density of x = f(z), z ~ N(0, I), with affine couplings f and alternating masks.

        log p(x) = log N(f^-1(x); 0, I) + log |det df^-1/dx|

    It is `density(real_nvp_flow(...))`, and has its parameters; whoever needs f itself, or a
    data-dependent start, makes the two. For data in [0, 1] there is `logit_transformed`, for grey
    levels `dequantized`, for images of many scales `multi_scale_flow`.

    Args:
        num_dims: size of the vector x, at least two.
        num_couplings: at least two.
        hidden: units of the hidden layers of every network.
        activation: of the hidden layers.
        masks: replaces the alternating masks: boolean, [num_couplings, num_dims], True where a
            coupling keeps the dimension.
        network: replaces the networks: any (init, apply) pair from [num_dims] to [2 * num_dims].
        max_log_scale: the largest |log scale| of a coupling.

    Returns:
        The model; x is a real vector.

    Raises:
        ValueError: a size is too small, `masks` leave a dimension out or are of another number of
            couplings, or the network is of the wrong output shape (found when `init` runs).

    Source: Dinh et al. 2017 (Density estimation using Real NVP), sections 3.1 and 3.2.
    """
    flow = real_nvp_flow(
        num_dims=num_dims,
        num_couplings=num_couplings,
        hidden=hidden,
        activation=activation,
        masks=masks,
        network=network,
        max_log_scale=max_log_scale,
    )
    return density(flow)

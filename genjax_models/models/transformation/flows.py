"""Flows: bijections with parameters, what they are composed of, and the densities they give."""

from collections.abc import Callable
from typing import Any, NamedTuple

import distrax
import jax
import jax.numpy as jnp

from genjax_models.distributions import DiagonalGaussian
from genjax_models.distributions.numerics import at_least_float32, promoted
from genjax_models.interfaces import Array, DensityModel, Key, Params


class Flow(NamedTuple):
    """A bijection x = f(z) with parameters, from noise z to data x, both of shape [num_dims].

    Attributes:
        num_dims: size of x and z.
        init: `init(key) -> params`.
        bijector: `bijector(params) -> distrax.Bijector`, whose `forward` is f, over vectors.
        normalize: `normalize(params, xs) -> (params, zs)`, from examples [N, num_dims] to
            parameters that depend on them and the noise [N, num_dims] that these give; what
            `initialize_from_data` is made of.
    """

    num_dims: int
    init: Callable[[Key], Params]
    bijector: Callable[[Params], distrax.Bijector]
    normalize: Callable[[Params, Array], tuple[Params, Array]]


def density(flow: Flow) -> DensityModel:
    """The density model of x = f(z), z ~ N(0, I).

        log p(x) = log N(f^-1(x); 0, I) + log |det df^-1/dx|

    Args:
        flow: any flow.

    Returns:
        The model; x is a vector [num_dims].

    Raises:
        ValueError: (from `log_prob`) x is not of shape [num_dims].
    """
    noise = DiagonalGaussian(jnp.zeros(flow.num_dims), jnp.zeros(()))

    def log_prob(params: Params, x: Array) -> Array:
        if jnp.shape(x) != (flow.num_dims,):
            raise ValueError(f"x must have shape [{flow.num_dims}], got {jnp.shape(x)}")
        z, log_det = flow.bijector(params).inverse_and_log_det(at_least_float32(x))
        return noise.log_prob(z) + log_det

    def sample(params: Params, key: Key) -> Array:
        return flow.bijector(params).forward(noise.sample(seed=key))

    return DensityModel(flow.init, log_prob, sample)


def initialize_from_data(flow: Flow, params: Params, xs: Array) -> Params:
    """The data-dependent start: actnorms that give every activation mean 0 and variance 1 on `xs`.

    The other parameters stay as they are. Pure, so that an algorithm's `init` may close over it:
    `lambda key: initialize_from_data(flow, flow.init(key), xs)`.

    Args:
        flow: any flow.
        params: its parameters.
        xs: examples, [N, num_dims] with N >= 2; some hundred are enough.

    Returns:
        The parameters, of the same structure.

    Raises:
        ValueError: `xs` is not of shape [N, num_dims] with N >= 2.

    Source: Kingma & Dhariwal 2018 (Glow), section 3.1.
    """
    shape = jnp.shape(xs)
    if len(shape) != 2 or shape[0] < 2 or shape[1] != flow.num_dims:
        raise ValueError(f"xs must have shape [N >= 2, {flow.num_dims}], got {shape}")
    return flow.normalize(params, at_least_float32(xs))[0]


def chain(*flows: Flow) -> Flow:
    """The composition x = f_1(f_2(... f_n(z))): the first is next to the data, as in distrax.

    Args:
        flows: at least one, all of the same number of dimensions.

    Returns:
        The flow; its parameters are a tuple of theirs.

    Raises:
        ValueError: there is none, or their numbers of dimensions differ.
    """
    sizes = [flow.num_dims for flow in flows]
    if len(set(sizes)) != 1:
        raise ValueError(f"flows must be at least one, all of one number of dims, got {sizes}")

    def init(key: Key) -> Params:
        keys = jax.random.split(key, len(flows))
        return tuple(flow.init(key) for flow, key in zip(flows, keys, strict=True))

    def bijector(params: Params) -> distrax.Bijector:
        return distrax.Chain([flow.bijector(p) for flow, p in zip(flows, params, strict=True)])

    def normalize(params: Params, xs: Array) -> tuple[Params, Array]:
        started = []
        for flow, flow_params in zip(flows, params, strict=True):
            flow_params, xs = flow.normalize(flow_params, xs)
            started.append(flow_params)
        return tuple(started), xs

    return Flow(sizes[0], init, bijector, normalize)


def fixed(bijector: distrax.Bijector, num_dims: int) -> Flow:
    """A bijection of vectors [num_dims] without parameters, as a flow."""

    def normalize(params: Params, xs: Array) -> tuple[Params, Array]:
        return params, jax.vmap(bijector.inverse)(xs)

    return Flow(num_dims, lambda key: {}, lambda params: bijector, normalize)


class Stack(distrax.Bijector):
    """Bijectors of vectors, alike but for their parameters, one after the other in one `scan`.

    Compiled once whatever their number, where `distrax.Chain` compiles each.
    """

    def __init__(self, layer: Callable[[Any], distrax.Bijector], params: Params) -> None:
        """Bind the layers.

        Args:
            layer: `layer(params) -> bijector` of vectors.
            params: of all layers, each leaf with a leading axis [num_layers]; `forward` begins
                with the first.
        """
        super().__init__(event_ndims_in=1)
        self._layer = layer
        self._params = params

    def forward_and_log_det(self, x: Array) -> tuple[Array, Array]:
        """All layers from first to last, and the sum of their log-determinants."""
        self._check_forward_input_shape(x)

        def apply(carry: tuple[Array, Array], params: Params) -> tuple[tuple[Array, Array], None]:
            y, log_det = self._layer(params).forward_and_log_det(carry[0])
            return (y, carry[1] + log_det), None

        return jax.lax.scan(apply, _start(x, self._params), self._params)[0]

    def inverse_and_log_det(self, y: Array) -> tuple[Array, Array]:
        """The inverses from last to first, and the sum of their log-determinants."""
        self._check_inverse_input_shape(y)

        def apply(carry: tuple[Array, Array], params: Params) -> tuple[tuple[Array, Array], None]:
            x, log_det = self._layer(params).inverse_and_log_det(carry[0])
            return (x, carry[1] + log_det), None

        return jax.lax.scan(apply, _start(y, self._params), self._params, reverse=True)[0]


def _start(x: Array, params: Params) -> tuple[Array, Array]:
    x = promoted(x, params)
    return x, jnp.zeros(x.shape[:-1], x.dtype)

"""Posteriors of one layer of latents that are richer than a diagonal Gaussian.

Each is a function of a network factory and the size of z, for `posterior=` of `latent.vae`. A flow
posterior draws from a diagonal Gaussian and moves the draw by invertible maps one after the other,

    z_0 ~ N(m(x), diag s(x)^2),  z_k = f_k(z_(k-1)),
    log q(z_K | x) = log q_0(z_0 | x) - sum_k log |det df_k / dz_(k-1)|.

The maps have no inverse in closed form, so that a draw comes with its log-density and other values
have none: for estimators that need `log_prob` there is a `TypeError`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from genjax_models.checks import check_counts, check_sizes
from genjax_models.distributions import DiagonalGaussian, FullCovarianceGaussian, Pushforward
from genjax_models.distributions.numerics import at_least_float32, promoted, softplus
from genjax_models.interfaces import Array, Key, Network, Params
from genjax_models.models.latent.parts import Conditional, NetworkFactory, gaussian

Step = Callable[[Array, Array, Array], tuple[Array, Array]]
"""`step(index, params, z) -> (f(z), log |det df/dz|)`, with the parameters as one vector."""

# softplus(x + this) is 1 at x = 0.
_OFFSET = 0.5413248546129181
_SMALLEST = 1e-12
# A diagonal below one in size, so that 1 + h' r_1 r_2 > 0 whatever tanh rounds to.
_LARGEST_DIAGONAL = 1 - 1e-6


def full_covariance(encoder: NetworkFactory, latent_dim: int) -> Conditional:
    """q(z | x) = N(m(x), L(x) L(x)'), with L lower triangular.

    The network gives m, the logarithms of the diagonal of L, and what is below it, which counts
    1 / sqrt(latent_dim) so that a new network is not far from a diagonal covariance.

    Args:
        encoder: gets the number of outputs, 2 D + D (D - 1) / 2.
        latent_dim: D, size of z.

    Returns:
        The posterior; its parameters are the network's.

    Raises:
        ValueError: a size below one, or (when it is used) a network of another output shape.
    """
    check_sizes(latent_dim=latent_dim)
    network = sized(encoder, 2 * latent_dim + latent_dim * (latent_dim - 1) // 2)

    def distribution(params: Params, x: Array) -> FullCovarianceGaussian:
        outputs = network.apply(params, x)
        loc, log_diagonal, below = jnp.split(outputs, [latent_dim, 2 * latent_dim])
        return FullCovarianceGaussian(loc, log_diagonal, below / latent_dim**0.5)

    return Conditional(network.init, distribution)


def planar(
    encoder: NetworkFactory, latent_dim: int, *, num_flows: int = 10, amortized: bool = True
) -> Conditional:
    """Planar flows: each moves z along u, by how far it is on one side of a plane.

        f(z) = z + u' tanh(w.z + b),   u' = u + [m(w.u) - w.u] w / |w|^2
        log |det df/dz| = log(1 + tanh'(w.z + b) w.u')

    m is increasing with values above -1, which makes f invertible; ours is softplus(a + c) - 1
    with m(0) = 0, so that u = 0 is the identity (the paper's is without the constant c).

    Args:
        encoder: gets the number of outputs, 2 D and, if amortized, K (2 D + 1).
        latent_dim: D, size of z.
        num_flows: K; zero flows are the diagonal Gaussian.
        amortized: whether u, w, b of every flow are outputs of the network, as in the paper;
            otherwise they are parameters that all x share.

    Returns:
        The posterior; its parameters are {"encoder"} and, if not amortized, {"flows"}; of zero
        flows the network's.

    Raises:
        ValueError: a size below one, a negative number of flows, or (when it is used) a network
            of another output shape.

    Source: Rezende & Mohamed 2015 (Variational inference with normalizing flows), section 4.1 and
    appendix A.1.
    """

    def step(index: Array, params: Array, z: Array) -> tuple[Array, Array]:
        u, w, (b,) = jnp.split(params, [latent_dim, 2 * latent_dim])
        squared_norm, product = jnp.sum(w * w), jnp.sum(w * u)
        # Double where: for w = 0 the map is a translation, and there is nothing to correct.
        squared_norm = jnp.where(squared_norm > 0, squared_norm, 1)
        above = softplus(product + _OFFSET)
        u = u + (above - 1 - product) / squared_norm * w
        h = jnp.tanh(jnp.sum(w * z) + b)
        # 1 + (1 - h^2) (above - 1), without the difference that could round to zero.
        return z + u * h, jnp.log(h * h + (1 - h * h) * above)

    return _flows(step, 2 * latent_dim + 1, encoder, latent_dim, num_flows, amortized)


def radial(
    encoder: NetworkFactory, latent_dim: int, *, num_flows: int = 10, amortized: bool = True
) -> Conditional:
    """Radial flows: each moves z away from a centre, or towards it.

        f(z) = z + beta h (z - c),   h = 1 / (alpha + r),   r = |z - c|
        log |det df/dz| = (D - 1) log(1 + beta h) + log(1 + beta h - beta h^2 r)

    alpha = softplus(a) and beta = alpha m(b) > -alpha, with m as for `planar`, which makes f
    invertible; b = 0 is the identity.

    Args:
        encoder: gets the number of outputs, 2 D and, if amortized, K (D + 2).
        latent_dim: D, size of z.
        num_flows: K; zero flows are the diagonal Gaussian.
        amortized: as of `planar`, for c, a, b.

    Returns:
        As of `planar`.

    Raises:
        ValueError: as of `planar`.

    Source: Rezende & Mohamed 2015, section 4.1 and appendix A.2.
    """

    def step(index: Array, params: Array, z: Array) -> tuple[Array, Array]:
        centre, (a, b) = params[:-2], params[-2:]
        distance = z - centre
        # What underflows would be zero by zero at the centre.
        alpha = jnp.maximum(softplus(a), _SMALLEST)
        above = jnp.maximum(softplus(b + _OFFSET), _SMALLEST)
        squared = jnp.sum(distance * distance)
        # Double where: the root has no derivative at zero.
        r = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1)), 0)
        near, far = alpha / (alpha + r), r / (alpha + r)
        # beta h = near (above - 1): sums of positive terms for 1 + beta h and 1 + beta h near.
        tangential, along = far + near * above, far * (1 + near) + near * near * above
        log_det = (latent_dim - 1) * jnp.log(tangential) + jnp.log(along)
        return z + near * (above - 1) * distance, log_det

    return _flows(step, latent_dim + 2, encoder, latent_dim, num_flows, amortized)


def sylvester(
    encoder: NetworkFactory,
    latent_dim: int,
    *,
    num_flows: int = 4,
    orthogonal: str = "householder",
    num_reflections: int = 4,
    amortized: bool = True,
) -> Conditional:
    """Sylvester flows: planar flows with as many hidden units as dimensions.

        f(z) = z + Q R_1 tanh(R_2 Q'z + b)
        log |det df/dz| = sum_d log(1 + tanh'(R_2 Q'z + b)_d R_1,dd R_2,dd)

    R_1 and R_2 are upper triangular with diagonals in (-1, 1), which makes f invertible. Q is
    orthogonal: a product of Householder reflections I - 2 v v' / |v|^2 ("householder"), or the
    identity and the reversal of the dimensions in turn ("triangular").

    Args:
        encoder: gets the number of outputs, 2 D and, if amortized, K (D^2 + 2 D + H D), where
            H = 0 for "triangular".
        latent_dim: D, size of z.
        num_flows: K; zero flows are the diagonal Gaussian.
        orthogonal: "householder" or "triangular".
        num_reflections: H, of each flow.
        amortized: as of `planar`, for R_1, R_2, b and the v.

    Returns:
        As of `planar`.

    Raises:
        ValueError: as of `planar`, an unknown kind of Q, or less than one reflection.

    Source: van den Berg et al. 2018 (Sylvester normalizing flows for variational inference),
    H-SNF and T-SNF.
    """
    check_sizes(latent_dim=latent_dim, num_reflections=num_reflections)
    if orthogonal not in ("householder", "triangular"):
        raise ValueError(f'orthogonal must be "householder" or "triangular", got {orthogonal!r}')
    above = np.triu_indices(latent_dim, 1)
    num_above = latent_dim * (latent_dim - 1) // 2
    num_vectors = 3 + (num_reflections if orthogonal == "householder" else 0)

    def triangular(diagonal: Array, rest: Array) -> Array:
        return jnp.diag(diagonal).at[above].set(rest)

    def step(index: Array, params: Array, z: Array) -> tuple[Array, Array]:
        upper_1, upper_2, rest = jnp.split(params, [num_above, 2 * num_above])
        vectors = rest.reshape(num_vectors, latent_dim)
        (diagonal_1, diagonal_2), bias = _LARGEST_DIAGONAL * jnp.tanh(vectors[:2]), vectors[2]
        if orthogonal == "householder":
            turned = reflect(vectors[3:], z, reverse=True)
        else:
            turned = jnp.where(index % 2 == 1, z[::-1], z)
        h = jnp.tanh(triangular(diagonal_2, upper_2) @ turned + bias)
        moved = triangular(diagonal_1, upper_1) @ h
        if orthogonal == "householder":
            moved = reflect(vectors[3:], moved)
        else:
            moved = jnp.where(index % 2 == 1, moved[::-1], moved)
        return z + moved, jnp.sum(jnp.log1p((1 - h * h) * diagonal_1 * diagonal_2))

    num_params = 2 * num_above + num_vectors * latent_dim
    return _flows(step, num_params, encoder, latent_dim, num_flows, amortized)


def reflect(vectors: Array, z: Array, *, reverse: bool = False) -> Array:
    """H_1 H_2 ... H_n z with the Householder reflections H_i = I - 2 v_i v_i' / |v_i|^2.

    Args:
        vectors: v_1, ..., v_n, [n, num_dims]; one of length zero is the identity.
        z: [num_dims].
        reverse: the transposed product, H_n ... H_1 z.

    Returns:
        [num_dims].
    """

    def reflection(z: Array, v: Array) -> tuple[Array, None]:
        squared_norm = jnp.sum(v * v)
        return z - 2 * jnp.sum(v * z) / jnp.where(squared_norm > 0, squared_norm, 1) * v, None

    return jax.lax.scan(reflection, z, vectors, reverse=not reverse)[0]


def sized(factory: NetworkFactory, num_outputs: int) -> Network:
    """The factory's network for so many outputs, whose `apply` raises unless it has them.

    Args:
        factory: from a number of outputs to a network.
        num_outputs: how many the posterior needs.

    Returns:
        The network, with the same parameters.
    """
    network = Network(*factory(num_outputs))

    def apply(params: Params, inputs: Array) -> Array:
        outputs = network.apply(params, inputs)
        if jnp.shape(outputs) != (num_outputs,):
            raise ValueError(
                f"the network must have outputs [{num_outputs}], as its factory was told, but they"
                f" have shape {jnp.shape(outputs)}"
            )
        return outputs

    return Network(network.init, apply)


def _run(step: Step, params: Array, z: Array) -> tuple[Array, Array]:
    """All flows from first to last, with parameters [num_flows, num_params]."""
    start, params = promoted(z, params), at_least_float32(params)

    def move(carry: tuple[Array, Array], flow: tuple[Array, Array]) -> tuple[tuple, None]:
        z, log_det = carry
        z, change = step(*flow, z)
        return (z, log_det + change), None

    flows = jnp.arange(len(params)), params
    (moved, log_det), _ = jax.lax.scan(move, (start, jnp.zeros((), start.dtype)), flows)
    return moved.astype(z.dtype), log_det


def _flows(
    step: Step,
    num_params: int,
    encoder: NetworkFactory,
    latent_dim: int,
    num_flows: int,
    amortized: bool,
) -> Conditional:
    """The posterior of flows with `num_params` parameters each, from a diagonal Gaussian."""
    check_sizes(latent_dim=latent_dim)
    check_counts(num_flows=num_flows)
    num_outputs = 2 * latent_dim + (num_flows * num_params if amortized else 0)
    network = sized(encoder, num_outputs)
    if num_flows == 0:
        return gaussian(network)

    # Made once: what crosses jit and vmap is compared by it.
    def transform(params: Array, z: Array) -> tuple[Array, Array]:
        return _run(step, params, z)

    def init(key: Key) -> Params:
        encoder_key, flows_key = jax.random.split(key)
        params = {"encoder": network.init(encoder_key)}
        if not amortized:
            params["flows"] = 0.1 * jax.random.normal(flows_key, (num_flows, num_params))
        return params

    def distribution(params: Params, x: Array) -> Pushforward:
        outputs = network.apply(params["encoder"], x)
        loc, log_scale, rest = jnp.split(outputs, [latent_dim, 2 * latent_dim])
        flows = rest.reshape(num_flows, num_params) if amortized else params["flows"]
        return Pushforward(DiagonalGaussian(loc, log_scale), Partial(transform, flows))

    return Conditional(init, distribution)

"""Ways to make a differentiable sample: the classical routes from base noise, and the implicit one.

All of them give samples of the same distribution. For location-scale families they also give the
same derivative at the same sample; what differs is the noise.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import special

from genjax_models.distributions import is_reparameterized
from genjax_models.distributions.numerics import at_least_float32, sigmoid, softplus
from genjax_models.interfaces import Array, Key, PyTree
from genjax_models.learning.first_order import gradient_of
from genjax_models.learning.gradients.core import held
from genjax_models.learning.gradients.families import (
    ANYWHERE,
    gaussian_parameters,
    kind,
    logits_of,
    name_of,
    unwrapped,
)

Route = Callable[[Any, Key], PyTree]
"""`route(distribution, key) -> x`, differentiable in the parameters of the distribution."""
Elementwise = Callable[[Array], Array]


class Family(NamedTuple):
    """The standard member of a location-scale family.

    Attributes:
        noise: `noise(key, shape, dtype)`, draws from it.
        quantile: F^-1(u).
        cdf: F(e).
        log_density: log F'(e).
    """

    noise: Callable[..., Array]
    quantile: Elementwise
    cdf: Elementwise
    log_density: Elementwise


def _laplace_quantile(u: Array) -> Array:
    return jnp.where(u < 0.5, jnp.log(2 * u), -jnp.log(2 * (1 - u)))


def _laplace_cdf(e: Array) -> Array:
    tail = 0.5 * jnp.exp(-jnp.abs(e))
    return jnp.where(e < 0, tail, 1 - tail)


FAMILIES = {
    "Normal": Family(
        jax.random.normal,
        special.ndtri,
        special.ndtr,
        lambda e: -0.5 * jnp.square(e) - 0.5 * math.log(2 * math.pi),
    ),
    "Laplace": Family(
        jax.random.laplace,
        _laplace_quantile,
        _laplace_cdf,
        lambda e: -jnp.abs(e) - math.log(2),
    ),
    "Logistic": Family(
        jax.random.logistic,
        lambda u: jnp.log(u) - jnp.log1p(-u),
        sigmoid,
        lambda e: -e - 2 * softplus(-e),
    ),
    "Gumbel": Family(
        jax.random.gumbel,
        lambda u: -jnp.log(-jnp.log(u)),
        lambda e: jnp.exp(-jnp.exp(-e)),
        lambda e: -e - jnp.exp(-e),
    ),
    "Uniform": Family(
        jax.random.uniform,
        lambda u: u,
        lambda e: jnp.clip(e, 0, 1),
        lambda e: jnp.where((e >= 0) & (e <= 1), 0.0, -jnp.inf),
    ),
}


def own_sample(distribution: Any, key: Key) -> PyTree:
    """The distribution's own sample: explicit, or implicit inside `jax.random` and distrax."""
    if is_reparameterized(distribution):
        return distribution.sample(seed=key)
    name, hint = kind(unwrapped(distribution)), ""
    if name == "MixtureSameFamily":
        hint = 'route="implicit" differentiates mixtures; '
    elif name in ("Bernoulli", "Categorical", "OneHotCategorical"):
        hint = "for discrete variables there are arm, disarm, rebar, relax and enumeration; "
    raise TypeError(
        f"pathwise needs samples that are differentiable in the parameters, and those of a"
        f" {name_of(distribution)} are not: {hint}{ANYWHERE}"
    )


def location_scale(distribution: Any, key: Key) -> Array:
    """x = m + s eps, eps from the standard member of the family."""
    loc, scale, family = _location_scale_parameters(distribution, "location_scale")
    return loc + scale * family.noise(key, loc.shape, loc.dtype)


def inverse_cdf(distribution: Any, key: Key) -> Array:
    """x = F^-1(u), u uniform on (0, 1)."""
    loc, scale, family = _location_scale_parameters(distribution, "inverse_cdf")
    tiny = jnp.finfo(loc.dtype).tiny
    u = jax.random.uniform(key, loc.shape, loc.dtype, minval=tiny)
    return loc + scale * family.quantile(u)


def polar(distribution: Any, key: Key) -> Array:
    """x = m + s r (cos t, sin t), r = sqrt(-2 log u), t uniform on the circle (Box-Muller).

    Two coordinates come from each pair (u, t); of an odd number the last sine is left out.
    """
    gaussian = gaussian_parameters(distribution)
    if gaussian is None:
        raise TypeError(
            f'route="polar" is for independent Gaussians, got a {name_of(distribution)}:'
            ' use route="sample"'
        )
    loc, scale = gaussian
    radius_key, angle_key = jax.random.split(key)
    shape = ((loc.size + 1) // 2,)
    tiny = jnp.finfo(loc.dtype).tiny
    radius = jnp.sqrt(-2 * jnp.log(jax.random.uniform(radius_key, shape, loc.dtype, minval=tiny)))
    angle = 2 * jnp.pi * jax.random.uniform(angle_key, shape, loc.dtype)
    pairs = jnp.concatenate([radius * jnp.cos(angle), radius * jnp.sin(angle)])
    return loc + scale * jnp.reshape(pairs[: loc.size], loc.shape)


def implicit(distribution: Any, key: Key) -> Array:
    """A sample by any means, with the derivative that keeps its uniform transform fixed.

    S(x; params) = u says what x is as a function of the parameters, with S_d(x) the conditional
    distribution function F(x_d | x_1, ..., x_{d-1}): dx = -(dS/dx)^-1 dS/dparams. No inverse of S
    is needed, only its derivatives; dS/dx is triangular.

    For mixtures (`distrax.MixtureSameFamily`) of Gaussians or other location-scale families,
    scalar or with independent dimensions, and for those families themselves; for Gamma, Beta,
    Dirichlet and von Mises `jax.random` and distrax do the same inside the sampler.
    """
    inner = unwrapped(distribution)
    name = kind(inner)
    if name in ("Gamma", "Beta", "Dirichlet", "VonMises"):
        return distribution.sample(seed=key)
    if name == "MixtureSameFamily":
        transform = _mixture_transform(inner)
        x = at_least_float32(held(distribution.sample(seed=key)))
        current = jnp.ravel(x)
        jacobian = held(jax.jacfwd(transform)(current))
        moved = gradient_of(transform(current))
        step = jax.scipy.linalg.solve_triangular(jacobian, moved, lower=True)
        return x - jnp.reshape(step, x.shape)
    loc, scale, family = _location_scale_parameters(distribution, "implicit")
    x = held(loc + scale * family.noise(key, loc.shape, loc.dtype))
    standard = (x - loc) / scale
    density = held(jnp.exp(family.log_density(standard)) / scale)
    return x - gradient_of(_cdf(family)(standard)) / density


ROUTES: dict[str, Route] = {
    "sample": own_sample,
    "location_scale": location_scale,
    "inverse_cdf": inverse_cdf,
    "polar": polar,
    "implicit": implicit,
}


def _location_scale_parameters(distribution: Any, route: str) -> tuple[Array, Array, Family]:
    """Location, scale and family of independent location-scale variables."""
    gaussian = gaussian_parameters(distribution)
    if gaussian is not None:
        return *gaussian, FAMILIES["Normal"]
    inner = unwrapped(distribution)
    name = kind(inner)
    if name in ("Laplace", "Logistic", "Gumbel"):
        loc, scale = at_least_float32(inner.loc), at_least_float32(inner.scale)
    elif name == "Uniform":
        loc = at_least_float32(inner.low)
        scale = at_least_float32(inner.high) - loc
    else:
        raise TypeError(
            f'route="{route}" is for independent Gaussian, Laplace, logistic, Gumbel or uniform'
            f' variables, got a {name_of(distribution)}: use route="sample", or'
            " score_function"
        )
    loc, scale = jnp.broadcast_arrays(loc, scale)
    return loc, scale, FAMILIES[name]


def _cdf(family: Family) -> Elementwise:
    """F, whose derivative is the very density that the implicit step divides by."""
    cdf = jax.custom_jvp(family.cdf)

    @cdf.defjvp
    def derivative(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        (e,), (tangent,) = primals, tangents
        return cdf(e), jnp.exp(family.log_density(e)) * tangent

    return cdf


def _mixture_transform(mixture: Any) -> Elementwise:
    """S(x): the conditional distribution functions of the coordinates of a mixture, [D] -> [D].

    F(x_d | x_<d) = sum_k w_k(x_<d) F_k(x_d), w_k(x_<d) proportional to w_k prod_{j<d} p_k(x_j).
    """
    components = mixture.components_distribution
    loc, scale, family = _location_scale_parameters(components, "implicit")
    log_weights = jax.nn.log_softmax(logits_of(mixture.mixture_distribution))
    if family is FAMILIES["Uniform"] or log_weights.ndim != 1:
        raise TypeError(
            'route="implicit" is for one mixture of components without edges (a density that jumps'
            f" moves no sample), got a {name_of(components)} of shape {loc.shape} with"
            f" weights of shape {log_weights.shape}: {ANYWHERE}"
        )
    loc, scale = (jnp.reshape(leaf, (log_weights.shape[0], -1)) for leaf in (loc, scale))
    cdf = _cdf(family)

    def transform(x: Array) -> Array:
        standard = (x[None] - loc) / scale  # [K, D]
        log_densities = family.log_density(standard) - jnp.log(scale)
        # What is known of the component before coordinate d: the coordinates below it.
        sums = jnp.cumsum(log_densities, axis=1)
        before = jnp.concatenate([jnp.zeros_like(sums[:, :1]), sums[:, :-1]], axis=1)
        weights = jax.nn.softmax(log_weights[:, None] + before, axis=0)
        return jnp.sum(weights * cdf(standard), axis=0)

    return transform

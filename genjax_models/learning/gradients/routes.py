"""Ways to make a differentiable sample: the classical routes from base noise, and the implicit one.

All of them give samples of the same distribution. For location-scale families they also give the
same derivative at the same sample; what differs is the noise.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy import special

from genjax_models.distributions import is_reparameterized
from genjax_models.interfaces import Array, Key, PyTree
from genjax_models.learning.gradients.core import held
from genjax_models.learning.gradients.families import ANYWHERE, gaussian_parameters, kind, unwrapped

Route = Callable[[Any, Key], PyTree]
"""`route(distribution, key) -> x`, differentiable in the parameters of the distribution."""


def own_sample(distribution: Any, key: Key) -> PyTree:
    """The distribution's own sample: explicit, or implicit inside `jax.random` and distrax."""
    if is_reparameterized(distribution):
        return distribution.sample(seed=key)
    hint = ""
    if kind(unwrapped(distribution)) == "MixtureSameFamily":
        hint = 'route="implicit" differentiates mixtures; '
    elif kind(unwrapped(distribution)) in ("Bernoulli", "Categorical", "OneHotCategorical"):
        hint = "for discrete variables there are arm, disarm, rebar, relax and enumeration; "
    raise TypeError(
        f"pathwise needs samples that are differentiable in the parameters, and those of a"
        f" {type(distribution).__name__} are not: {hint}{ANYWHERE}"
    )


def location_scale(distribution: Any, key: Key) -> Array:
    """x = m + s eps, eps from the standard member of the family."""
    loc, scale, name = _location_scale_parameters(distribution, "location_scale")
    draws = {
        "Normal": jax.random.normal,
        "Laplace": jax.random.laplace,
        "Logistic": jax.random.logistic,
        "Gumbel": jax.random.gumbel,
        "Uniform": jax.random.uniform,
    }
    return loc + scale * draws[name](key, loc.shape, loc.dtype)


def inverse_cdf(distribution: Any, key: Key) -> Array:
    """x = F^-1(u), u uniform on (0, 1)."""
    loc, scale, name = _location_scale_parameters(distribution, "inverse_cdf")
    tiny = jnp.finfo(loc.dtype).tiny
    u = jax.random.uniform(key, loc.shape, loc.dtype, minval=tiny)
    quantiles: dict[str, Callable[[Array], Array]] = {
        "Normal": special.ndtri,
        "Laplace": lambda u: jnp.where(u < 0.5, jnp.log(2 * u), -jnp.log(2 * (1 - u))),
        "Logistic": lambda u: jnp.log(u) - jnp.log1p(-u),
        "Gumbel": lambda u: -jnp.log(-jnp.log(u)),
        "Uniform": lambda u: u,
    }
    return loc + scale * quantiles[name](u)


def polar(distribution: Any, key: Key) -> Array:
    """x = m + s r (cos t, sin t), r = sqrt(-2 log u), t uniform on the circle (Box-Muller).

    Two coordinates come from each pair (u, t); of an odd number the last sine is left out.
    """
    gaussian = gaussian_parameters(distribution)
    if gaussian is None:
        raise TypeError(
            f'route="polar" is for independent Gaussians, got a {type(distribution).__name__}:'
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
    name = kind(unwrapped(distribution))
    if name in ("Gamma", "Beta", "Dirichlet", "VonMises"):
        return distribution.sample(seed=key)
    x = held(distribution.sample(seed=key))
    if name == "MixtureSameFamily":
        transform, current = _mixture_transform(unwrapped(distribution)), jnp.atleast_1d(x)
        jacobian = held(jax.jacfwd(transform)(current))
        residual = transform(current) - held(transform(current))
        step = jax.scipy.linalg.solve_triangular(jacobian, residual, lower=True)
        return x - jnp.reshape(step, x.shape)
    loc, scale, name = _location_scale_parameters(distribution, "implicit")
    cdf = _standard_cdf(name)
    u = cdf((x - loc) / scale)
    density = jax.vmap(jax.grad(cdf))(jnp.ravel((x - loc) / scale)).reshape(x.shape) / scale
    return x - (u - held(u)) / held(density)


ROUTES: dict[str, Route] = {
    "sample": own_sample,
    "location_scale": location_scale,
    "inverse_cdf": inverse_cdf,
    "polar": polar,
    "implicit": implicit,
}


def _location_scale_parameters(distribution: Any, route: str) -> tuple[Array, Array, str]:
    """Location, scale and the name of a location-scale family with independent coordinates."""
    gaussian = gaussian_parameters(distribution)
    if gaussian is not None:
        return *gaussian, "Normal"
    inner = unwrapped(distribution)
    name = kind(inner)
    if name in ("Laplace", "Logistic", "Gumbel"):
        return *jnp.broadcast_arrays(jnp.asarray(inner.loc), jnp.asarray(inner.scale)), name
    if name == "Uniform":
        low, high = jnp.broadcast_arrays(jnp.asarray(inner.low), jnp.asarray(inner.high))
        return low, high - low, name
    raise TypeError(
        f'route="{route}" is for independent Gaussian, Laplace, logistic, Gumbel or uniform'
        f' variables, got a {type(distribution).__name__}: use route="sample", or score_function'
    )


def _standard_cdf(name: str) -> Callable[[Array], Array]:
    """The distribution function of the standard member of a family."""
    cdfs: dict[str, Callable[[Array], Array]] = {
        "Normal": special.ndtr,
        "Laplace": lambda x: 0.5 + 0.5 * jnp.sign(x) * -jnp.expm1(-jnp.abs(x)),
        "Logistic": jax.nn.sigmoid,
        "Gumbel": lambda x: jnp.exp(-jnp.exp(-x)),
        "Uniform": lambda x: x,
    }
    return cdfs[name]


def _mixture_transform(mixture: Any) -> Callable[[Array], Array]:
    """S(x): the conditional distribution functions of the coordinates of a mixture, [D] -> [D].

    F(x_d | x_<d) = sum_k w_k(x_<d) F_k(x_d), w_k(x_<d) proportional to w_k prod_{j<d} p_k(x_j).
    """
    components = unwrapped(mixture.components_distribution)
    loc, scale, name = _location_scale_parameters(components, "implicit")
    log_weights = jax.nn.log_softmax(mixture.mixture_distribution.logits)
    loc, scale = (jnp.reshape(leaf, (log_weights.shape[0], -1)) for leaf in (loc, scale))
    cdf = _standard_cdf(name)
    density = jax.vmap(jax.vmap(jax.grad(cdf)))

    def transform(x: Array) -> Array:
        standard = (x[None] - loc) / scale  # [K, D]
        log_densities = jnp.log(density(standard)) - jnp.log(scale)
        # What is known of the component before coordinate d: the coordinates below it.
        before = jnp.cumsum(log_densities, axis=1) - log_densities
        weights = jax.nn.softmax(log_weights[:, None] + before, axis=0)
        return jnp.sum(weights * cdf(standard), axis=0)

    return transform

"""Which distributions have pathwise-differentiable samples."""

import sys
from typing import Any

import jax

# distrax classes whose `sample` is a differentiable function of the parameters, directly or by
# implicit differentiation in jax.random (Gamma, Beta, Dirichlet) or distrax (VonMises).
_DISTRAX_REPARAMETERIZED = (
    "Beta",
    "Dirichlet",
    "Gamma",
    "Gumbel",
    "Laplace",
    "LogStddevNormal",
    "Logistic",
    "MultivariateNormalDiag",
    "MultivariateNormalDiagPlusLowRank",
    "MultivariateNormalFullCovariance",
    "MultivariateNormalTri",
    "Normal",
    "Uniform",
    "VonMises",
)


def is_reparameterized(distribution: Any) -> bool:
    """Whether samples of `distribution` are differentiable functions of its parameters.

    Where they are not (discrete variables, mixtures, accept-reject samplers) a pathwise gradient
    is not an error but silently zero or incomplete, so an estimator must ask.

    Args:
        distribution: one of ours, distrax's (through `Independent`, `Transformed` and `Joint`),
            TFP's, or any object with an attribute `reparameterized: bool`.

    Returns:
        True if every part of a sample is.

    Raises:
        TypeError: a type that is neither known nor declares itself.
    """
    declared = getattr(distribution, "reparameterized", None)
    if isinstance(declared, bool):
        return declared
    # An object of a distrax class can only exist where distrax has been imported.
    distrax = sys.modules.get("distrax")
    if distrax is not None and isinstance(distribution, distrax.Distribution):
        # A user's subclass may draw its samples in a way of its own.
        if type(distribution).__module__.startswith("distrax."):
            return _is_distrax_reparameterized(distrax, distribution)
    elif hasattr(distribution, "reparameterization_type"):
        return _is_full(distribution.reparameterization_type)
    raise TypeError(
        f"cannot tell whether samples of a {type(distribution).__name__} are differentiable in its"
        " parameters: give the class an attribute `reparameterized = True` or `= False`"
    )


def _is_distrax_reparameterized(distrax: Any, distribution: Any) -> bool:
    if isinstance(distribution, distrax.Joint):
        is_leaf = lambda node: isinstance(node, distrax.Distribution)  # noqa: E731
        leaves = jax.tree.leaves(distribution.distributions, is_leaf=is_leaf)
        return all(map(is_reparameterized, leaves))
    if isinstance(distribution, distrax.Independent):
        return is_reparameterized(distribution.distribution)
    if type(distribution).__name__ in _DISTRAX_REPARAMETERIZED:
        return True
    if isinstance(distribution, distrax.Transformed):
        return is_reparameterized(distribution.distribution)
    return _is_full(getattr(distribution, "reparameterization_type", None))


def _is_full(reparameterization_type: Any) -> bool:
    """Whether TFP says so of every part: a joint distribution has a pytree of types."""
    parts = jax.tree.leaves(reparameterization_type)
    return bool(parts) and all("FULLY_REPARAMETERIZED" in repr(part) for part in parts)

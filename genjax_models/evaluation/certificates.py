"""Certificates: whether an estimator of a gradient is unbiased, and how much it varies."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.scipy.stats import norm

from genjax_models.evaluation.moments import Moments, merge, moments
from genjax_models.interfaces import Key, PyTree


class GradientCertificate(NamedTuple):
    """What was found out about an estimator of a gradient; pytrees are those of one estimate.

    Attributes:
        verdict: "unbiased": no component is off by more than chance allows, and the test would have
            found a bias of `detectable_bias`; "biased": some component is; "inconclusive": none is,
            but the standard errors are still too large for that to mean much.
        bias: mean of the replicates minus the exact gradient.
        standard_error: of the bias.
        z_score: bias over its standard error (or over the rounding error, where that is larger).
        threshold: |z| from which a component counts as biased, corrected for their number.
        variance: of one replicate.
        variance_error: standard error of the variance.
        signal_to_noise: |exact| / standard deviation of one replicate.
        detectable_bias: the bias that would have been found with probability 99 % or more in
            any component, as a fraction of the largest |exact| of its leaf.
        num_replicates: how many were drawn.
    """

    verdict: str
    bias: PyTree
    standard_error: PyTree
    z_score: PyTree
    threshold: float
    variance: PyTree
    variance_error: PyTree
    signal_to_noise: PyTree
    detectable_bias: float
    num_replicates: int

    @property
    def is_unbiased(self) -> bool:
        """Whether the verdict is "unbiased"."""
        return self.verdict == "unbiased"


def certify_gradient(
    estimator: Callable[[Key], PyTree],
    exact: PyTree,
    key: Key,
    *,
    resolution: float = 0.01,
    significance: float = 1e-6,
    batch_size: int = 100,
    chunk_size: int = 10_000,
    max_replicates: int = 1_000_000,
    rounding: float = 1e-5,
) -> GradientCertificate:
    """Test whether the expectation of an estimator is the exact gradient.

    Replicates are drawn in compiled chunks until the standard error of every component is at most
    `resolution` times the largest |exact| of its leaf; when to stop depends on the errors alone,
    never on the bias. A component is biased where its |z| exceeds the two-sided quantile of
    significance / number of components (Bonferroni).

    Args:
        estimator: `estimator(key) -> gradient`, one replicate, any pytree: an estimator of the
            user's own as well as the library's. It is compiled once.
        exact: the exact gradient, a pytree of the same structure and shapes, from quadrature,
            enumeration or a closed form.
        key: PRNG key.
        resolution: standard error wanted, as a fraction of the largest |exact| of a leaf (of all
            leaves, where a leaf's is zero).
        significance: probability of calling an unbiased estimator biased.
        batch_size: replicates computed together.
        chunk_size: replicates between two looks at the standard errors.
        max_replicates: where to give up.
        rounding: what counts as no bias where there is no variance, as a fraction of the same.

    Returns:
        The certificate.

    Raises:
        ValueError: another structure or shape than `exact` has, an exact gradient that is zero or
            not finite, estimates that are not finite, or a setting out of range.
    """
    _check_settings(resolution, significance, chunk_size, max_replicates)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), exact)
    _check_structure(estimator, exact, key)
    scales = _scales(exact)
    num_components = sum(leaf.size for leaf in jax.tree.leaves(exact))
    threshold = float(-norm.ppf(significance / (2 * num_components)))

    found, index = None, 0
    while True:
        part = _chunk(
            estimator, jax.random.fold_in(key, index), min(chunk_size, max_replicates), batch_size
        )
        # Merged in double precision, so that the rounding of the chunks does not add up.
        part = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), part)
        found, index = part if found is None else merge(found, part), index + 1
        _check_finite(found)
        errors = _standard_errors(found)
        relative = jax.tree.map(lambda e, scale: float(e.max(initial=0.0)) / scale, errors, scales)
        largest = max(jax.tree.leaves(relative))
        if largest <= resolution or found.num_replicates + chunk_size > max_replicates:
            break
    return _certificate(found, errors, exact, scales, threshold, largest, resolution, rounding)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _chunk(
    estimator: Callable[[Key], PyTree], key: Key, num_replicates: int, batch_size: int
) -> Moments:
    return moments(estimator, key, num_replicates=num_replicates, batch_size=batch_size)


def _certificate(
    found: Moments,
    errors: PyTree,
    exact: PyTree,
    scales: PyTree,
    threshold: float,
    largest_error: float,
    resolution: float,
    rounding: float,
) -> GradientCertificate:
    count = float(found.num_replicates)
    bias = jax.tree.map(lambda mean, target: mean - target, found.mean, exact)
    z_score = jax.tree.map(
        lambda b, e, scale: b / np.maximum(e, rounding * scale / threshold), bias, errors, scales
    )
    variance = jax.tree.map(lambda m2: m2 / (count - 1), found.second)
    largest_z = max(np.abs(leaf).max(initial=0.0) for leaf in jax.tree.leaves(z_score))
    if largest_z >= threshold:
        verdict = "biased"
    else:
        verdict = "unbiased" if largest_error <= resolution else "inconclusive"
    with np.errstate(divide="ignore", invalid="ignore"):
        signal_to_noise = jax.tree.map(lambda e, v: np.abs(e) / np.sqrt(v), exact, variance)
    return GradientCertificate(
        verdict=verdict,
        bias=bias,
        standard_error=errors,
        z_score=z_score,
        threshold=threshold,
        variance=variance,
        variance_error=jax.tree.map(
            lambda m2, m4: np.sqrt(np.maximum(m4 / count - (m2 / count) ** 2, 0) / count),
            found.second,
            found.fourth,
        ),
        signal_to_noise=signal_to_noise,
        # 2.33 standard errors beyond the threshold, 99 % of a normal deviate lies above it.
        detectable_bias=max((threshold + 2.33) * largest_error, rounding),
        num_replicates=int(count),
    )


def _standard_errors(found: Moments) -> PyTree:
    return jax.tree.map(
        lambda m2: np.sqrt(m2 / (found.num_replicates - 1) / found.num_replicates), found.second
    )


def _scales(exact: PyTree) -> PyTree:
    leaves = jax.tree.leaves(exact)
    overall = max((float(np.abs(leaf).max(initial=0.0)) for leaf in leaves), default=0.0)
    if not leaves or not math.isfinite(overall) or overall == 0:
        raise ValueError(
            "exact must be a finite gradient that is not zero everywhere: a bias is held against"
            f" its size, got the largest component {overall}"
        )
    return jax.tree.map(lambda leaf: float(np.abs(leaf).max(initial=0.0)) or overall, exact)


def _check_structure(estimator: Callable[[Key], PyTree], exact: PyTree, key: Key) -> None:
    estimate = jax.eval_shape(estimator, key)
    found, wanted = jax.tree.structure(estimate), jax.tree.structure(exact)
    if found != wanted:  # type: ignore[operator]
        raise ValueError(f"estimator and exact must have one structure, got {found} and {wanted}")
    for (path, leaf), target in zip(
        jax.tree.leaves_with_path(estimate), jax.tree.leaves(exact), strict=True
    ):
        if leaf.shape != target.shape:
            raise ValueError(
                f"the estimate{jax.tree_util.keystr(path)} has shape {leaf.shape}, exact"
                f" {target.shape}"
            )


def _check_settings(
    resolution: float, significance: float, chunk_size: int, max_replicates: int
) -> None:
    if not resolution > 0:
        raise ValueError(f"resolution must be above zero, got {resolution}")
    if not 0 < significance < 1:
        raise ValueError(f"significance must be between 0 and 1, got {significance}")
    if chunk_size < 2 or max_replicates < 2:
        raise ValueError(
            "chunk_size and max_replicates must be at least 2, got"
            f" {chunk_size} and {max_replicates}"
        )


def _check_finite(found: Moments) -> None:
    for path, leaf in jax.tree.leaves_with_path(found.mean):
        if not np.isfinite(leaf).all():
            raise ValueError(f"the estimates{jax.tree_util.keystr(path)} are not all finite")

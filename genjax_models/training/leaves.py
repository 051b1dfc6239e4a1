"""What the arrays of a training state must be."""

import jax
import jax.numpy as jnp

from genjax_models.interfaces import PyTree


def own(tree: PyTree) -> PyTree:
    """Copies of the leaves, with the dtypes that a step gives back.

    A leaf that stands twice in a state cannot be donated, and one of a weak type (what is made of
    Python numbers alone) would have every step compiled twice.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.result_type(leaf)), tree)

"""What every algorithm checks of a batch."""

import jax
import jax.numpy as jnp

from genjax_models.interfaces import PyTree


def check_batch(batch: PyTree) -> int:
    """The batch size, or a `ValueError` where the leaves have no common one."""
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ValueError(
            "every leaf of batch must have the same leading axis [batch_size >= 1], got shapes"
            f" {[jnp.shape(leaf) for leaf in jax.tree.leaves(batch)]}"
        )
    return sizes.pop()[0]

"""Small transition kernels, and what runs them."""

from genjax_models.kernels.chain import Kernel, as_state, run_chain

__all__ = ["Kernel", "as_state", "run_chain"]

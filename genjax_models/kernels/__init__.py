"""Small transition kernels, and what runs them."""

from genjax_models.kernels.chain import Kernel, as_state, run_chain
from genjax_models.kernels.leapfrog import leapfrog

__all__ = ["Kernel", "as_state", "leapfrog", "run_chain"]

"""Energy models: an unnormalised density."""

from genjax_models.models.energy import rbm

__all__ = ["rbm"]

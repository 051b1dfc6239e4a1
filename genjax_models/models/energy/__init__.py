"""Energy models: an unnormalised density."""

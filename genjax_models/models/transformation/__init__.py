"""Transformation models: a deterministic map of noise."""

"""Experiments: one small script each, run as `python -m experiments.NAME`."""

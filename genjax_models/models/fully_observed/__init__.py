"""Fully observed models: a product of conditionals over x."""

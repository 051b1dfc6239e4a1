"""Markov chain models: a learned chain towards the data."""

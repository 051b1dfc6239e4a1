"""Classical models: no deep network."""

"""The parts of the laboratory that compares estimators of gradients."""

"""How the hidden is found, and normalising constants estimated."""

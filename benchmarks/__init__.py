"""How fast the library is, beside its peers and beside the arithmetic it cannot avoid."""

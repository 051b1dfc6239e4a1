"""The contenders, a module each: `contender(sizes, num_samples, encoder, decoder, batch)`."""

"""What is assumed of the data. A model knows nothing of how it is trained."""

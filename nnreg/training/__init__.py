"""From preprocessed arrays to a trained network."""

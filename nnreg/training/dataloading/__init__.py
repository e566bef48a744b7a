"""Deterministic batches."""

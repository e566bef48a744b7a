"""Measures and pictures of registered pairs."""

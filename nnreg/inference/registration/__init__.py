"""Pairs of images registered: by networks, by the engine, or both."""

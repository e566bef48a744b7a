"""The registration task."""

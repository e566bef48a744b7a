"""The dense prediction task."""

"""Pairs of images aligned, resampled to the working grid and stored."""

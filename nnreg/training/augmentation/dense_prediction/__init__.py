"""Augmentation of patches and their labels."""

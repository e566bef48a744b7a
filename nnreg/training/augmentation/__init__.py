"""Augmentation: samplers that draw, and deterministic twins that apply."""

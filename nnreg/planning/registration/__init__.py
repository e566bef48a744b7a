"""Fingerprint, rules and plans of registration."""

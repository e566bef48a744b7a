"""Fingerprint, rules, topology, memory estimate and plans. Importing it imports no torch."""

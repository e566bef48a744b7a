"""Devices, precision and random states."""

"""Descriptions of registration runs."""

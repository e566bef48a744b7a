"""Prediction: trained networks to fields, transforms and warped images on native grids."""

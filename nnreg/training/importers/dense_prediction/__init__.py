"""Descriptions of segmentation runs, and models of nnU-Net."""

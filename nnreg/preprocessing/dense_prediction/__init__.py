"""Preprocessing for dense prediction, with nnU-Net's numbers: crop, normalise, resample, sample voxels of each label, store; and back again."""

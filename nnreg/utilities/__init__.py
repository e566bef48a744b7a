"""Import paths that users of nnU-Net know."""

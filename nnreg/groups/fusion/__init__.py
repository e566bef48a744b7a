"""Labels of atlases brought onto other images, and fused there into one label map."""

from nnreg.groups.fusion.labelling import FuseOptions, fuse

__all__ = ["FuseOptions", "fuse"]

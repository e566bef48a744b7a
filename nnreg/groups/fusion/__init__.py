"""Labels of atlases brought onto other images, and fused there into one label map."""

from nnreg.groups.fusion.labelling import fuse
from nnreg.groups.fusion.one_image import FuseOptions

__all__ = ["FuseOptions", "fuse"]

"""A file becomes ``Image(array, space)`` and back: NIfTI, MHA/MHD, NRRD, TIFF, PNG/JPG, NPY/NPZ, through one registry of endings."""

from nnreg.imageio.endings import ENDINGS, ending_for, ending_of, stem_of
from nnreg.imageio.files import READERS, WRITERS, read_channels, read_image, write_image
from nnreg.imageio.image import Image, as_stored, check_finite

__all__ = [
    "ENDINGS",
    "READERS",
    "WRITERS",
    "Image",
    "as_stored",
    "check_finite",
    "ending_for",
    "ending_of",
    "read_channels",
    "read_image",
    "stem_of",
    "write_image",
]

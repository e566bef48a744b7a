"""A file becomes ``Image(array, space)`` and back: NIfTI, MHA/MHD, NRRD, TIFF, PNG/JPG, NPY/NPZ, Zarr, through one registry of endings."""

from nnreg.imageio.endings import ENDINGS, ending_for, ending_of, is_image_file, stem_of
from nnreg.imageio.files import READERS, WRITERS, read_channels, read_image, write_image
from nnreg.imageio.image import Image, as_stored, check_finite
from nnreg.imageio.lazy import LazyImage, open_image

__all__ = [
    "ENDINGS",
    "READERS",
    "WRITERS",
    "Image",
    "LazyImage",
    "as_stored",
    "check_finite",
    "ending_for",
    "ending_of",
    "is_image_file",
    "open_image",
    "read_channels",
    "read_image",
    "stem_of",
    "write_image",
]

"""A file becomes ``Image(array, space)`` and back: NIfTI, MHA/MHD, NRRD, TIFF, PNG/JPG, NPY/NPZ, Zarr, through one open registry of formats."""

from nnreg.imageio.endings import ENDINGS, ending_for, ending_of, is_image_file, stem_of
from nnreg.imageio.files import READERS, WRITERS, is_large, open_image, read_channels, read_image, write_image
from nnreg.imageio.formats import FORMATS, Format, register_format
from nnreg.imageio.image import Image, as_stored, check_finite, check_precision, check_same_space
from nnreg.imageio.lazy import LazyImage

__all__ = [
    "ENDINGS",
    "FORMATS",
    "READERS",
    "WRITERS",
    "Format",
    "Image",
    "LazyImage",
    "as_stored",
    "check_finite",
    "check_precision",
    "check_same_space",
    "ending_for",
    "ending_of",
    "is_image_file",
    "is_large",
    "open_image",
    "read_channels",
    "read_image",
    "register_format",
    "stem_of",
    "write_image",
]

"""Images written by ITK and looked at afterwards: it does not notice that a disk is full."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import SimpleITK as sitk

from nnreg.deflate import packing
from nnreg.errors import ImageError
from nnreg.imageio.text_headers import check_text_header
from nnreg.quiet import caught

NIFTI_HEADER = 348  # bytes


def write_by_itk(image: sitk.Image, path: Path, *, compressed: bool = True) -> None:
    """Write an image; a file that is not whole is an error.

    Parameters
    ----------
    image
    path
        Its ending chooses the format; ``.gz`` is compressed here.
    compressed
        Whether formats that can are to compress by themselves.

    Raises
    ------
    OSError
        If the file is not whole: the disk is full, or a limit was reached.
    RuntimeError
        ITK's own, with what it printed: the format cannot hold the image.
    """
    with packing(path) as plain:
        failure = None
        with caught() as said:
            try:
                sitk.WriteImage(image, str(plain), useCompression=compressed)
            except RuntimeError as error:
                failure = error
        if failure is not None and not _takes_no_more(plain):
            raise RuntimeError((said or str(failure).splitlines())[-1]) from failure
        if failure is not None or not _is_whole(image, plain):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from failure


def _takes_no_more(path: Path) -> bool:
    """Whether a file cannot grow."""
    try:
        with path.open("ab", buffering=0) as file:
            return file.write(bytes(2**16)) < 2**16
    except OSError as error:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _is_whole(image: sitk.Image, path: Path) -> bool:
    """Whether a file just written holds the image: by its length, its checksum, or what it reads as."""
    values = sitk.GetArrayViewFromImage(image)
    if not path.is_file():
        return False
    if path.suffix == ".nii":
        return path.stat().st_size >= values.nbytes + NIFTI_HEADER
    if path.suffix in (".mha", ".mhd", ".nrrd", ".nhdr"):
        try:
            check_text_header(path, promised=values.nbytes)
        except ImageError:
            return False
        return True
    with caught():
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).tobytes() == values.tobytes()
        except RuntimeError:
            return False

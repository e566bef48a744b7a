"""Images in memory as other packages hold them: numpy, torch, SimpleITK, nibabel."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError
from nnreg.geometry import Space
from nnreg.imageio.files import read_image
from nnreg.imageio.image import Image, check_finite

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # nibabel counts towards right and anterior, ITK towards left and posterior


def as_image(given: Any, *, spacing: Sequence[float] | None = None, name: str = "image") -> Image:
    """Whatever holds an image as an :class:`Image`.

    Parameters
    ----------
    given
        An Image or a path; a numpy array or torch tensor; a ``SimpleITK.Image``; an image of nibabel. The last two bring their geometry along, axes after
        the third become channels.
    spacing : mm, array axis order, optional
        Of arrays and tensors, which have none of their own. As many numbers as the image has axes: (2, 1, 1) makes an array of shape (40, 64, 64) a volume
        of one channel and one of shape (3, 40, 64, 64) a volume of three.
    name
        What the image is called in an error.

    Returns
    -------
    Image
        Arrays are not copied where they need no other order of axes.

    Raises
    ------
    ImageError
        An array without spacing, a shape that does not fit, NaN or infinity, or an object that is none of these.
    """
    origin = type(given).__module__.partition(".")[0]
    if isinstance(given, (str, PathLike)):
        image, where = read_image(Path(fspath(given))), str(given)
    else:
        where = name
        if isinstance(given, Image):
            image = given
        elif origin == "SimpleITK":
            image = _from_sitk(given)
        elif origin == "nibabel":
            image = _from_nibabel(given, name)
        elif is_array(given):
            image = _from_array(given if isinstance(given, np.ndarray) else given.detach().cpu().numpy(), spacing, name)
        else:
            raise ImageError(f"{name}: found {type(given).__name__}, expected a path, an Image, a numpy array, or an image of torch, SimpleITK or nibabel.")
    check_finite(image, where)
    return image


def is_array(given: Any) -> bool:
    """Whether this is a numpy array or a torch tensor: values without geometry."""
    return isinstance(given, np.ndarray) or type(given).__module__.partition(".")[0] == "torch"


def on_grid_of(image: Image, given: Any, *, name: str) -> Image:
    """A mask or label map of an image: as :func:`as_image`, an array on the grid of the image."""
    if not is_array(given):
        return as_image(given, name=name)
    return Image(as_image(given, spacing=image.space.spacing, name=name).array, image.space)


def _from_array(array: npt.NDArray[Any], spacing: Sequence[float] | None, name: str) -> Image:
    """An array (*grid) or (C, *grid)."""
    if spacing is None:
        raise ImageError(
            f"{name}: is an array of shape {array.shape} without spacing. Give spacing=(z, y, x) in mm, or an nnreg.Image with the Space that it lies in."
        )
    ndim = len(spacing)
    if array.ndim not in (ndim, ndim + 1):
        raise ImageError(f"{name}: {ndim} spacings do not fit an array of shape {array.shape}: expected (*grid) or (C, *grid) with {ndim} axes of the grid.")
    if array.dtype.kind not in "biuf":
        raise ImageError(f"{name}: holds {array.dtype}, expected numbers.")
    channels = array if array.ndim == ndim + 1 else array[None]
    return Image(channels.astype(np.uint8) if channels.dtype == bool else channels, Space.plain(channels.shape[1:], spacing))


def _from_sitk(image: Any) -> Image:
    """Channels of a vector image come first."""
    import SimpleITK as sitk

    from nnreg.geometry.itk_space import space_of

    array = sitk.GetArrayFromImage(image)
    return Image(np.moveaxis(array, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else array[None], space_of(image))


def _from_nibabel(image: Any, name: str) -> Image:
    """Axes (x, y, z, ...) turned round; the affine from RAS to LPS. A shear cannot be held by a grid."""
    array = np.asanyarray(image.dataobj)
    if array.ndim < 3:
        raise ImageError(f"{name}: has the shape {array.shape} and a 3D affine; nibabel holds volumes. Give a 2D image as an array with spacing.")
    channels = array.reshape(*array.shape[:3], -1).T  # (C, z, y, x)
    matrix = RAS_TO_LPS @ np.asarray(image.affine, dtype=float)
    turned = matrix.copy()
    turned[:, :3] = matrix[:, 2::-1]  # of array indices (z, y, x)
    space = Space.from_matrix(channels.shape[1:], turned)
    if np.abs(space.matrix - turned).max() > 1e-4 * max(space.spacing) or not _orthogonal(space):
        raise ImageError(f"{name}: its affine has shear, which the grid of an image cannot have. Resample it to a rectangular grid.")
    return Image(channels, space)


def _orthogonal(space: Space) -> bool:
    direction = np.reshape(space.direction, (space.ndim, space.ndim))
    return bool(np.allclose(direction.T @ direction, np.eye(space.ndim), atol=1e-3))


__all__ = ["as_image", "is_array", "on_grid_of"]

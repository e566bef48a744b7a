"""NIfTI, MHA/MHD, NRRD, PNG and JPG through SimpleITK, without its silent repairs and its noise."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnreg.errors import GeometryError, ImageError
from nnreg.files import atomic_path, folder_to_write, writable_folder
from nnreg.geometry import Space
from nnreg.geometry.itk_space import place, space_of
from nnreg.imageio.endings import ending_of, is_lossy
from nnreg.imageio.formats import Format
from nnreg.imageio.image import Image
from nnreg.imageio.itk_writing import write_by_itk
from nnreg.imageio.nifti import NiftiHeader, read_nifti_voxels
from nnreg.imageio.sidecar import read_space, resolution_note, write_space
from nnreg.imageio.text_headers import check_size, check_text_header
from nnreg.quiet import STDERR, STDOUT, caught

CORNER_TOLERANCE = 0.1  # of the smallest voxel: how far a corner may move when a header is rounded to what ITK can represent
PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"  # ITK's switch: take the nearest rectangular grid instead of refusing
NOT_ORTHONORMAL = "orthonormal"  # what its refusal says


def read_itk_image(path: Path) -> Image:
    """Read MHA, MHD or NRRD."""
    check_text_header(path)
    return _image(_read(path), path)


def read_nifti(path: Path) -> Image:
    """Read NIfTI; axes after the third (time, echo, components) become channels."""
    header, voxels = read_nifti_voxels(path)
    grid = _nifti_grid(path)
    # ITK calls a slice with components 2D, and counts time as a fourth dimension
    ndim = min(grid.GetDimension(), 3)
    shape = header.shape + (1,) * (ndim - len(header.shape))
    beyond = [size for size in shape[ndim:] if size > 1]
    if ndim < 2 or len(beyond) > 1 or (beyond and header.components > 1):
        raise ImageError(f"{path}: has the dimensions {header.shape}, expected 2D or 3D with at most one axis of channels. Split it.")
    array = voxels.reshape(-1, *shape[:ndim][::-1])
    direction = np.reshape(grid.GetDirection(), (grid.GetDimension(),) * 2)[:ndim, :ndim]
    repetition = float(grid.GetSpacing()[3]) if grid.GetDimension() == 4 and len(header.shape) == 4 else None
    if repetition is not None and not 0 < header.step < np.inf:
        repetition = 0.0  # ITK makes 1 of it
    try:
        space = Space(array.shape[1:], grid.GetSpacing()[:ndim][::-1], grid.GetOrigin()[:ndim], tuple(direction.ravel().tolist()))
    except GeometryError as error:
        raise ImageError(f"{path}: {error} Mend its header.") from error
    return Image(array, space, _geometry_notes(space, header, path), repetition)


def _nifti_grid(path: Path) -> sitk.ImageFileReader:
    """ITK's reading of the header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    failure = _information(reader)
    if failure is not None and NOT_ORTHONORMAL in str(failure):
        with _permissive():
            if _information(reader) is not None:
                raise ImageError(f"{path}: the sform or qform in its header is no orientation (it has no inverse). Mend the header.") from failure
    elif failure is not None:
        raise ImageError(f"{path}: cannot be read as {ending_of(path)} ({_reason(str(failure), [])}).") from failure
    return reader


def _information(reader: sitk.ImageFileReader) -> RuntimeError | None:
    with caught():
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            return error
    return None


def read_picture(path: Path) -> Image:
    """Read PNG or JPG. Geometry is that of a JSON file beside it, else of PNG the spacing that ITK wrote (sCAL), else plain.

    Dots per inch are for printers. ITK leaves those of PNG alone and takes those of JPEG for a spacing: a note says so.
    """
    lossy = is_lossy(ending_of(path))
    if not lossy:
        check_size(path, path.stat().st_size, compressed=True)
    image = _image(_read(path), path)
    if image.ndim != 2:
        raise ImageError(f"{path}: is no 2D picture. Convert it to .nii.gz.")
    space = read_space(path, image.space.shape)
    if not lossy and space == Space.plain(space.shape):
        space = image.space
    return Image(image.array, space, resolution_note(path, space, image.space.spacing))


def _read(path: Path) -> sitk.Image:
    failure: RuntimeError | None = None
    image = None
    # libjpeg fills what is missing with grey, and says so only on stdout
    jpeg = is_lossy(ending_of(path))
    with caught((STDOUT, STDERR) if jpeg else (STDERR,)) as said:
        try:
            image = sitk.ReadImage(str(path))
        except RuntimeError as error:
            failure = error
    complaints = [line for line in said if jpeg and ("Premature end" in line or "Corrupt JPEG" in line)]
    if image is None or complaints:
        raise ImageError(f"{path}: cannot be read as {ending_of(path)} ({_reason(str(failure), complaints or said)}).") from failure
    return image


DAMAGED = "truncated or damaged: copy or make it again"


def _reason(message: str, said: list[str]) -> str:
    """The most telling of what ITK raised and printed, and what to do."""
    text = "\n".join([*said, message])
    if "Unable to determine ImageIO" in text:
        return "it has no such header: check what it really is, or convert it"
    if "Cannot open data file" in text:
        return "the data file that its header names is not there: put it back"
    if "Bad direction, determinant is 0" in text:
        return "its direction matrix is singular: mend TransformMatrix, or the directions, in its header"
    if "Refusing to change spacing" in text:
        return "its voxel spacing is zero or no number: mend it in its header"
    if "Unknown PixelType" in text:
        return "its pixel type is not supported: save it as grey or RGB without transparency"
    if "required and not defined" in text:
        return f"its header is not complete; {DAMAGED}"
    if counted := re.search(r"ideal = (\d+) : actual = (\d+)", text):
        return f"it holds {counted[2]} of {counted[1]} bytes; {DAMAGED}"
    # the last line is the innermost reason; object addresses and the file's own name say nothing to a person
    lines = [line.strip().removeprefix("ITK ERROR: ") for line in (said or message.splitlines()) if line.strip()]
    telling = [line for line in lines if "0x" not in line and "/" not in line]
    return f"{telling[-1]}; {DAMAGED}" if telling else DAMAGED


def _image(raw: sitk.Image, path: Path) -> Image:
    """Channels first, spatial axes (z, y, x)."""
    array = sitk.GetArrayFromImage(raw)
    if array.dtype.kind not in "iuf":
        raise ImageError(f"{path}: holds values of type {raw.GetPixelIDTypeAsString()}, expected real numbers. Convert it.")
    try:
        if raw.GetDimension() not in (2, 3):
            raise ImageError(f"{path}: has {raw.GetDimension()} dimensions, expected 2D or 3D, with channels. Split it.")
        space = space_of(raw)
    except GeometryError as error:
        raise ImageError(f"{path}: {error} Mend its header.") from error
    # a view with the channels first; contiguous, because every later step reads channel by channel
    array = np.ascontiguousarray(np.moveaxis(array, -1, 0)) if raw.GetNumberOfComponentsPerPixel() > 1 else array[None]
    return Image(array, space)


@contextmanager
def _permissive() -> Iterator[None]:
    before = os.environ.get(PERMISSIVE)
    os.environ[PERMISSIVE] = "yes"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PERMISSIVE]
        else:
            os.environ[PERMISSIVE] = before


def _geometry_notes(space: Space, header: NiftiHeader, path: Path) -> tuple[str, ...]:
    """Hold ITK's grid against what the header declares: small roundings are noted, large ones refused."""
    # the header's spacing counts only where it declares no matrix; ITK reads 0 or NaN as 1 mm
    declared = header.spacing[: space.ndim]
    if not header.matrices and not (np.isfinite(declared).all() and min(declared) > 0):
        raise ImageError(f"{path}: its header has the spacing {tuple(round(value, 4) for value in declared)} mm. Write the true voxel size into it.")
    if space.ndim == 2 or not header.matrices:
        return ()
    shifts = [_corner_shift(space, matrix) for matrix in header.matrices]
    smallest = float(np.min(shifts))
    allowed = CORNER_TOLERANCE * min(space.spacing)
    if smallest > allowed:
        raise ImageError(
            f"{path}: its axes are sheared or its sform and spacing disagree: on a rectangular grid a corner would move by {smallest:.3g} mm "
            f"(allowed {allowed:.2g}). Resample it onto a rectangular grid first (nibabel.processing.resample_to_output, for instance)."
        )
    notes = []
    if smallest > 1e-3 * min(space.spacing):
        notes.append(f"{path}: the axes are not quite at right angles; the nearest rectangular grid was taken, corners moved by at most {smallest:.2g} mm")
    if max(shifts) > allowed:
        used = ("sform", "qform")[int(np.argmin(shifts))]
        notes.append(f"{path}: sform and qform disagree by {max(shifts):.3g} mm; the {used} was used, as ITK does")
    return tuple(notes)


def _corner_shift(space: Space, matrix: npt.NDArray[np.float64]) -> float:
    """Largest distance (mm) between the corners under `space` and under an index (x, y, z) to world matrix."""
    if not np.isfinite(matrix).all():
        return float("inf")
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in space.shape[::-1]], indexing="ij"), axis=-1).reshape(-1, space.ndim)
    declared = corners @ matrix[:3, :3].T + matrix[:3, 3]
    return float(np.linalg.norm(space.to_world(corners[:, ::-1]) - declared, axis=1).max())


def write_itk_image(path: Path, array: npt.NDArray[np.generic], space: Space) -> None:
    """Write MHA, MHD or NRRD, compressed."""
    image = _to_sitk(path, array, space)
    if ending_of(path) in (".mhd", ".nhdr"):
        _write_with_data_file(path, image)
        return
    with atomic_path(path) as temporary:
        _write(image, temporary, path)


def write_nifti(path: Path, array: npt.NDArray[np.generic], space: Space) -> None:
    """Write NIfTI, compressed as the ending says."""
    if space.ndim == 3 and space.shape[0] == 1 and array.shape[0] > 1:
        raise ImageError(f"{path}: NIfTI cannot tell a single slice with {array.shape[0]} channels from a 2D image. Use .mha.")
    rounded = _rectangular(space)
    shift = float(np.linalg.norm(space.corners() - rounded.corners(), axis=1).max())
    if shift > CORNER_TOLERANCE * min(space.spacing):
        raise ImageError(f"{path}: NIfTI needs axes at right angles, this grid is sheared (corners would move by {shift:.3g} mm). Use .mha.")
    image = _to_sitk(path, array, rounded)
    with atomic_path(path) as temporary:
        _write(image, temporary, path)


def write_series(path: Path, array: npt.NDArray[np.generic], space: Space, repetition: float) -> None:
    """Write volumes (T, *space.shape) as NIfTI with a fourth axis of time, `repetition` apart, as scanners and FSL have them; 1 where it is 0, not known.

    Raises
    ------
    ImageError
        If the ending is not NIfTI's, or the grid is 2D.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")) or space.ndim != 3:
        raise ImageError(f"{path}: a series of volumes is written as 3D NIfTI alone. Choose the ending .nii.gz.")
    volumes = [_to_sitk(path, volume[None], _rectangular(space)) for volume in array]
    image = sitk.JoinSeries(volumes, 0.0, repetition or 1.0)
    with atomic_path(path) as temporary:
        _write(image, temporary, path)


def _rectangular(space: Space) -> Space:
    """The space with the nearest orthonormal direction (polar decomposition), about the same middle."""
    left, _, right = np.linalg.svd(np.reshape(space.direction, (space.ndim, space.ndim)))
    direction = left @ right
    if np.allclose(direction.ravel(), space.direction, rtol=0, atol=1e-7):
        return space
    turned = Space(space.shape, space.spacing, space.origin, tuple(direction.ravel().tolist()))
    return turned.centred(space.centre, space.shape, space.spacing)


def write_picture(path: Path, array: npt.NDArray[np.generic], space: Space) -> None:
    """Write PNG exactly; geometry that is not plain goes into a JSON file beside it."""
    if ending_of(path) != ".png":
        raise ImageError(f"{path}: JPEG changes the values it stores. Write .png instead.")
    channels = array.shape[0]
    if space.ndim != 2 or channels not in (1, 3, 4):
        raise ImageError(f"{path}: PNG holds 2D images of 1, 3 or 4 channels, found {channels} on a grid of shape {space.shape}. Use .tif or .nii.gz.")
    image = _to_sitk(path, _words(path, array), space)
    with atomic_path(path) as temporary:
        _write(image, temporary, path)
    write_space(path, space)


def _words(path: Path, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Integers as uint8 or uint16, whichever the array has or fits in."""
    if array.dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
        return array
    if array.dtype.kind in "iu" and array.min() >= 0 and array.max() <= np.iinfo(np.uint16).max:
        return array.astype(np.uint8 if array.max() <= np.iinfo(np.uint8).max else np.uint16)
    raise ImageError(f"{path}: PNG holds whole numbers from 0 to 65535, found {array.dtype} from {array.min()} to {array.max()}. Use .tif or .nii.gz.")


def _to_sitk(path: Path, array: npt.NDArray[np.generic], space: Space) -> sitk.Image:
    if array.dtype == np.float16:
        array = array.astype(np.float32)  # ITK has no half precision; every value is kept
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise ImageError(f"{path}: values of type {array.dtype} cannot be written. Convert them to float32 or an integer type.")
    vector = array.shape[0] > 1
    image = sitk.GetImageFromArray(np.moveaxis(array, 0, -1) if vector else array[0], isVector=vector)
    return place(image, space)


def _write(image: sitk.Image, temporary: Path, path: Path) -> None:
    writable_folder(path.parent)
    try:
        write_by_itk(image, temporary)
    except RuntimeError as error:
        raise ImageError(f"{path}: cannot be written ({error}). Check the free space and the folder's permissions.") from error


def _write_with_data_file(path: Path, image: sitk.Image) -> None:
    """Header and data file: made under their final names in a folder of their own, because the header names the data file."""
    writable_folder(path.parent)
    with folder_to_write(path) as folder:
        _write(image, folder / path.name, path)
        # the data first: a header never stands there without them
        for part in sorted(folder.iterdir(), key=lambda part: part.name == path.name):
            part.replace(path.parent / part.name)


NIFTI = Format((".nii.gz", ".nii"), read_nifti, write_nifti)
ITK = Format((".mha", ".mhd", ".nrrd", ".nhdr"), read_itk_image, write_itk_image)
PNG = Format((".png",), read_picture, write_picture, exact_types=("uint8", "uint16"))
JPEG = Format((".jpg", ".jpeg"), read_picture, write_picture, exact_types=())

"""TIFF: pages are slices of a 3D image, samples are channels; geometry in the file's own metadata."""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from nnreg.errors import ImageError
from nnreg.files import atomic_path
from nnreg.geometry import Space
from nnreg.imageio.image import Image
from nnreg.imageio.sidecar import KEYS, read_space, space_from

CHANNEL_AXES = "SC"  # samples (RGB) and channels
UNIT_MM = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "micron": 1e-3, "um": 1e-3, "µm": 1e-3, "\\u00B5m": 1e-3, "nm": 1e-6}


def read_tiff(path: Path) -> Image:
    """Read a TIFF: one page is 2D, several are 3D, RGB gives three channels.

    Spacing comes from our own or ImageJ's metadata, or from a JSON file beside the image; otherwise it is 1.
    """
    with _complaints() as complaints:
        try:
            with tifffile.TiffFile(path) as file:
                array, axes = _pixels(file, path)
                geometry = _geometry(file)
        except (tifffile.TiffFileError, zlib.error, ValueError, IndexError, KeyError, RuntimeError, OSError) as error:
            raise ImageError(
                f"{path}: cannot be read as TIFF ({_first_line(error)}). It is truncated, damaged or not what its ending says: make it again."
            ) from error
    if complaints:
        raise ImageError(f"{path}: is a damaged or truncated TIFF ({complaints[0]}). Make it again.")
    array = _channels_first(array, axes, path)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.dtype.kind not in "iuf":
        raise ImageError(f"{path}: holds values of type {array.dtype}, expected real numbers. Convert it.")
    shape = array.shape[1:]
    space = space_from(geometry, shape, str(path)) if geometry and len(geometry["spacing"]) == len(shape) else read_space(path, shape)
    return Image(np.ascontiguousarray(array), space)


def _pixels(file: tifffile.TiffFile, path: Path) -> tuple[npt.NDArray[Any], str]:
    series = file.series
    if len(series) != 1:
        shapes = ", ".join(str(one.shape) for one in series[:4])
        raise ImageError(f"{path}: holds {len(series)} images of different kinds ({shapes}). Save the one that is meant into a file of its own.")
    size = path.stat().st_size
    for page in series[0].pages:
        if page is not None and any(start + count > size for start, count in zip(page.dataoffsets, page.databytecounts)):
            raise ImageError(f"{path}: is truncated: its pages reach beyond its {size} bytes. Copy or make the file again.")
    try:
        return series[0].asarray(), series[0].axes
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return _by_itk(path, series[0].shape), series[0].axes


def _by_itk(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Pixels of a file in a compression (LZW, JPEG) that tifffile leaves to a further package and ITK knows."""
    import SimpleITK as sitk

    from nnreg.imageio.quiet import caught

    with caught():
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if array.shape != tuple(shape):
        raise ImageError(f"{path}: its compression cannot be read. Save it uncompressed or with zlib, or install the package imagecodecs.")
    return array


def _channels_first(array: npt.NDArray[Any], axes: str, path: Path) -> npt.NDArray[Any]:
    """(C, *spatial) from any order: Y and X are in the plane, one more axis (Z, pages, time) is depth."""
    channels = [i for i, axis in enumerate(axes) if axis in CHANNEL_AXES]
    depth = [i for i, axis in enumerate(axes) if axis not in CHANNEL_AXES + "YX"]
    # an axis that another program wrote with length 1 is no axis; our own files name theirs Z
    depth = [i for i in depth if array.shape[i] > 1 or axes[i] == "Z"]
    if len(depth) > 1 or len(channels) > 1 or "Y" not in axes or "X" not in axes:
        raise ImageError(
            f"{path}: has the axes {axes} of sizes {array.shape}; expected rows and columns, at most one depth and one channel axis. Split the file."
        )
    order = [*channels, *depth, axes.index("Y"), axes.index("X")]
    rest = [i for i in range(array.ndim) if i not in order]
    array = array.transpose(*order, *rest).reshape([array.shape[i] for i in order])
    return array if channels else array[None]


def _geometry(file: tifffile.TiffFile) -> dict[str, Any]:
    """Spacing (array order), origin and direction, as far as the file says; empty if it does not."""
    for entry in file.shaped_metadata or ():
        if "spacing" in entry:
            return {key: entry[key] for key in KEYS if key in entry}
    imagej = file.imagej_metadata or {}
    unit = UNIT_MM.get(str(imagej.get("unit", "")).lower())
    tags = file.pages[0].tags  # type: ignore[union-attr]
    if unit is None or "XResolution" not in tags or "YResolution" not in tags:
        return {}
    plane = [_per_pixel(tags["YResolution"].value) * unit, _per_pixel(tags["XResolution"].value) * unit]
    if not all(np.isfinite(plane)) or min(plane) <= 0:
        return {}
    depth = [float(imagej["spacing"]) * unit] if "spacing" in imagej else []
    return {"spacing": depth + plane}


def _per_pixel(resolution: tuple[int, int]) -> float:
    """TIFF stores pixels per unit as a fraction."""
    return resolution[1] / resolution[0] if resolution[0] else float("nan")


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What tifffile logs while it makes do with a damaged file."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if record.levelno >= logging.ERROR or "corrupt" in message or "invalid page offset" in message:
                found.append(message.splitlines()[0])

    logger = logging.getLogger("tifffile")
    handler, propagate = Collect(), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def write_tiff(path: Path, array: npt.NDArray[np.generic], space: Space) -> None:
    """Write a TIFF (zlib); three or four channels of bytes or words as RGB(A), others as planes."""
    metadata: dict[str, Any] = {key: list(getattr(space, key)) for key in KEYS}
    colour = array.shape[0] in (3, 4) and array.dtype in (np.dtype(np.uint8), np.dtype(np.uint16))
    spatial = "ZYX"[-space.ndim :]
    if colour:
        data, metadata["axes"] = np.moveaxis(array, 0, -1), spatial + "S"
    elif array.shape[0] > 1:
        data, metadata["axes"] = array, "C" + spatial
    else:
        data, metadata["axes"] = array[0], spatial
    alpha = ["unassalpha"] if colour and array.shape[0] == 4 else None
    with atomic_path(path) as temporary:
        tifffile.imwrite(
            temporary,
            np.ascontiguousarray(data),
            photometric="rgb" if colour else "minisblack",
            compression="zlib",
            metadata=metadata,
            bigtiff=array.nbytes > 2**31,
            extrasamples=alpha,
        )

"""TIFF: pages are slices of a 3D image, samples are channels; geometry in the file's own metadata."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from nnreg.errors import ImageError
from nnreg.files import atomic_path
from nnreg.geometry import Space
from nnreg.imageio.formats import Format
from nnreg.imageio.image import Image
from nnreg.imageio.lazy import LazyFile, LazyImage
from nnreg.imageio.promises import check_promise, damage_told
from nnreg.imageio.sidecar import KEYS, read_space, resolution_note, space_from

CHANNEL_AXES = "SC"  # samples (RGB) and channels
UNPACKED, DEFLATED = (1,), (8, 32946)  # TIFF's codes of compressions
SMALL, MOST_OF_OTHERS = 2**28, 2**14  # bytes that need no check, and what a byte of LZW, JPEG, Zstandard and the like hardly ever becomes
UNIT_OF_RESOLUTION = {2: 25.4, 3: 10.0}  # TIFF's codes of inch and centimetre
UNIT_MM = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "micron": 1e-3, "um": 1e-3, "µm": 1e-3, "\\u00B5m": 1e-3, "nm": 1e-6}


def read_tiff(path: Path) -> Image:
    """Read a TIFF: one page is 2D, several are 3D, RGB gives three channels.

    Spacing comes from our own or ImageJ's metadata, or from a JSON file beside the image; otherwise it is 1. ITK takes dots per inch instead: a note says so.
    """
    with _complaints() as complaints:
        try:
            with damage_told(), tifffile.TiffFile(path) as file:
                array, axes = _pixels(file, path)
                geometry, itk = _geometry(file), _spacing_of_itk(file)
        except ValueError as error:
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
    space = _space(geometry, array.shape[1:], path)
    return Image(np.ascontiguousarray(array), space, resolution_note(path, space, (1.0, *itk)[-space.ndim :]))


def _space(geometry: dict[str, Any], shape: tuple[int, ...], path: Path) -> Space:
    return space_from(geometry, shape, str(path)) if geometry and len(geometry["spacing"]) == len(shape) else read_space(path, shape)


@dataclass(frozen=True)
class _Mapped:
    """Uncompressed voxels, mapped only while a box is copied: pages of a lasting map would count as this program's memory."""

    path: Path
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        return np.array(np.memmap(self.path, self.dtype, "r", self.offset, self.shape)[index])


@dataclass(frozen=True, eq=False)
class _Tiled:
    """Compressed voxels, read by tiles or pages; the package for that is needed by the first that is read."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @cached_property
    def _array(self) -> Any:
        try:
            import zarr
        except ImportError as missing:
            raise ImageError(f"{self.path}: is compressed; reading it by parts needs the package zarr: pip install 'nnreg[zarr]'.") from missing
        try:
            return zarr.open_array(tifffile.imread(self.path, aszarr=True, level=0), mode="r")
        except Exception as error:  # what a compression lacks is said in many ways
            raise ImageError(
                f"{self.path}: cannot be read by parts ({_first_line(error)}). Save it uncompressed or with zlib, or convert it to .zarr."
            ) from error

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        return np.asarray(self._array[index])


def open_tiff(path: Path) -> LazyImage:
    """Open a TIFF without reading its voxels: uncompressed ones are mapped, others read by tiles or pages, which needs the package zarr.

    Raises
    ------
    ImageError
        If it is damaged, has several images, or is compressed in a way that cannot be read by parts.
    """
    try:
        with damage_told(), _complaints() as complaints, tifffile.TiffFile(path) as file:
            series, geometry = _only_series(file, path), _geometry(file)
            axes, shape, dtype = series.axes, tuple(map(int, series.shape)), series.dtype
            first = series.keyframe
            offset = series.dataoffset if first.compression == 1 else None
            tile = first.tile or (first.rowsperstrip, first.imagewidth)
            byteorder = file.byteorder
    except ValueError as error:
        raise ImageError(
            f"{path}: cannot be opened as TIFF ({_first_line(error)}). It is truncated, damaged or not what its ending says: make it again."
        ) from error
    if complaints:
        raise ImageError(f"{path}: is a damaged or truncated TIFF ({complaints[0]}). Make it again.")
    if dtype is None or dtype.kind not in "iufb":
        raise ImageError(f"{path}: holds values of type {dtype}, expected real numbers. Convert it.")
    channel, spatial = _axis_roles(axes, shape, path)
    if offset is not None:
        array: Any = _Mapped(path, int(offset), dtype.newbyteorder(byteorder), shape)
        chunks = (1,) * (len(spatial) - 2) + (max(1, min(shape[spatial[-2]], 2**20 // shape[spatial[-1]])), shape[spatial[-1]])
    else:
        array = _Tiled(path, dtype, shape)
        depth = [1] * (len(spatial) - 2)
        chunks = (*depth, *(min(int(part), shape[axis]) for part, axis in zip(tile[-2:], spatial[-2:], strict=True)))
    return LazyImage((LazyFile(path, array, channel, tuple(spatial), chunks),), _space(geometry, tuple(shape[axis] for axis in spatial), path))


def _pixels(file: tifffile.TiffFile, path: Path) -> tuple[npt.NDArray[Any], str]:
    series = _only_series(file, path)
    try:
        return series.asarray(), series.axes
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return _by_itk(path, series.shape), series.axes


def _only_series(file: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """The one image of the file, whole as far as its directory says."""
    series = file.series
    if len(series) != 1:
        shapes = ", ".join(str(one.shape) for one in series[:4])
        raise ImageError(f"{path}: holds {len(series)} images of different kinds ({shapes}). Save the one that is meant into a file of its own.")
    size = path.stat().st_size
    for page in series[0].pages:
        if page is not None and any(start + count > size for start, count in zip(page.dataoffsets, page.databytecounts)):
            raise ImageError(f"{path}: is truncated: its pages reach beyond its {size} bytes. Copy or make the file again.")
    packing = series[0].keyframe.compression
    if packing in (*UNPACKED, *DEFLATED):
        check_promise(path, series[0].nbytes, size, compressed=packing in DEFLATED)
    elif series[0].nbytes > max(SMALL, MOST_OF_OTHERS * size):
        check_promise(path, series[0].nbytes, size, compressed=True)
    return series[0]


def _by_itk(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Pixels of a file in a compression (LZW, JPEG) that tifffile leaves to a further package and ITK knows."""
    import SimpleITK as sitk

    from nnreg.quiet import caught

    with caught():
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    if array.shape != tuple(shape):
        raise ImageError(f"{path}: its compression cannot be read. Save it uncompressed or with zlib, or install the package imagecodecs.")
    return array


def _axis_roles(axes: str, shape: tuple[int, ...], path: Path) -> tuple[int | None, list[int]]:
    """Axis of the channels, and those of space: Y and X are in the plane, one more axis (Z, pages, time) is depth."""
    channels = [i for i, axis in enumerate(axes) if axis in CHANNEL_AXES]
    depth = [i for i, axis in enumerate(axes) if axis not in CHANNEL_AXES + "YX"]
    # an axis that another program wrote with length 1 is no axis; our own files name theirs Z
    depth = [i for i in depth if shape[i] > 1 or axes[i] == "Z"]
    if len(depth) > 1 or len(channels) > 1 or "Y" not in axes or "X" not in axes:
        raise ImageError(f"{path}: has the axes {axes} of sizes {shape}; expected rows and columns, at most one depth and one channel axis. Split the file.")
    return (channels[0] if channels else None), [*depth, axes.index("Y"), axes.index("X")]


def _channels_first(array: npt.NDArray[Any], axes: str, path: Path) -> npt.NDArray[Any]:
    """(C, *spatial) from any order."""
    channel, spatial = _axis_roles(axes, array.shape, path)
    order = spatial if channel is None else [channel, *spatial]
    rest = [i for i in range(array.ndim) if i not in order]
    array = array.transpose(*order, *rest).reshape([array.shape[i] for i in order])
    return array if channel is not None else array[None]


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


def _spacing_of_itk(file: tifffile.TiffFile) -> tuple[float, float]:
    """Rows and columns in mm as ITK has them: of the resolution per inch or cm, else 1."""
    tags = file.pages[0].tags  # type: ignore[union-attr]
    unit = UNIT_OF_RESOLUTION.get(int(tags["ResolutionUnit"].value)) if "ResolutionUnit" in tags else None
    if unit is None or "XResolution" not in tags or "YResolution" not in tags:
        return 1.0, 1.0
    rows, columns = (_per_pixel(tags[name].value) * unit for name in ("YResolution", "XResolution"))
    return (rows, columns) if np.isfinite([rows, columns]).all() else (1.0, 1.0)


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


TIFF = Format((".tif", ".tiff"), read_tiff, write_tiff, open_tiff)

"""Zarr, versions 2 and 3: arrays in chunks, with OME-NGFF's spacing and origin or our own attributes."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError
from nnreg.files import atomic_folder
from nnreg.geometry import Space
from nnreg.imageio.formats import Format, image_of
from nnreg.imageio.image import Image
from nnreg.imageio.lazy import Box, LazyFile, LazyImage, boxes
from nnreg.imageio.promises import damage_told
from nnreg.imageio.sidecar import KEYS, read_space, space_from

OURS = "nnreg"  # attribute that holds spacing, origin and direction
AXES = "tczyx"  # OME-NGFF's order, where a file does not name its axes
CHUNK = 128
IN_MM = {"meter": 1e3, "centimeter": 10.0, "millimeter": 1.0, "micrometer": 1e-3, "nanometer": 1e-6, "angstrom": 1e-7}


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as missing:
        raise ImageError("reading and writing .zarr needs the package zarr: pip install 'nnreg[zarr]'.") from missing
    return zarr


def open_zarr(path: Path) -> LazyImage:
    """Open an array, or a group with the levels of a multiscale image (the finest is used) or with a single array; ``brain.zarr/2`` is that level of it.

    Raises
    ------
    ImageError
        If it is no Zarr, holds several images, or has axes that are no image's.
    """
    if not image_of(path).is_dir():
        raise ImageError(f"{path}: is a file, a Zarr image is a folder. Unpack it.")
    try:
        with damage_told():  # damaged metadata fail in many ways
            return _opened(path)
    except ValueError as error:
        raise ImageError(f"{path}: cannot be opened as Zarr ({error}). Its metadata are missing or damaged: copy or make it again.") from error


def _opened(path: Path) -> LazyImage:
    zarr = _zarr()
    image = image_of(path)
    found = zarr.open(str(image), mode="r")
    attributes = dict(found.attrs)
    scales = _multiscales(attributes)
    level = path.name if image != path else None if isinstance(found, zarr.Array) else _chosen(path, found, scales)
    if image != path and (isinstance(found, zarr.Array) or path.name not in found):
        raise ImageError(f"{path}: {image} has no level {path.name!r}. It has {', '.join(level_names(image)) or 'one array'}.")
    array = found if level is None else found[level]
    attributes |= dict(array.attrs)
    if not isinstance(array, zarr.Array) or array.dtype.kind not in "iufb" or 0 in array.shape:
        raise ImageError(f"{path}: holds no array of real numbers. Convert it.")
    geometry = _own(attributes)
    names = _axis_names(path, scales, array.ndim, geometry)
    spatial = tuple(axis for axis, name in enumerate(names) if name in "zyx")
    channel = names.index("c") if "c" in names else None
    rest = [axis for axis in range(array.ndim) if axis not in (*spatial, channel)]
    if len(spatial) not in (2, 3) or len(set(names)) < len(names) or any(array.shape[axis] > 1 for axis in rest):
        raise ImageError(
            f"{path}: has the axes {' '.join(names)} of sizes {array.shape}; expected two or three of space and perhaps channels. Split the image."
        )
    shape = tuple(int(array.shape[axis]) for axis in spatial)
    if scales is not None and (not geometry or level != _paths(scales)[0]):
        geometry = _ngff(path, scales, level, spatial, array.ndim)
    space = space_from(geometry, shape, str(path)) if geometry else read_space(path, shape)
    chunks = tuple(int(array.chunks[axis]) for axis in spatial)
    checked = _Checked(array) if "blosc" in str(getattr(array, "compressors", "")).lower() else array
    return LazyImage((LazyFile(path, checked, channel, spatial, chunks),), space)


@dataclass(frozen=True, eq=False)
class _Checked:
    """An array compressed by Blosc, whose decoder reads on beyond the end of a truncated chunk: what a chunk says of its length is compared first."""

    array: Any

    @property
    def ndim(self) -> int:
        return int(self.array.ndim)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    def __getitem__(self, index: tuple[Any, ...]) -> npt.NDArray[Any]:
        ranges = []
        for part, size, step in zip(index, self.array.shape, self.array.chunks, strict=True):
            low, high, _ = (part if isinstance(part, slice) else slice(part, part + 1)).indices(size)
            ranges.append(range(low // step, -(-high // step)))
        folder = Path(str(self.array.store.root)) / self.array.path
        sharded = getattr(self.array, "shards", None) is not None
        for place in () if sharded else itertools.product(*ranges):
            chunk = folder / self.array.metadata.encode_chunk_key(place)
            if chunk.is_file() and chunk.stat().st_size < _promised(chunk):
                raise ValueError(f"{chunk.stat().st_size} bytes, {_promised(chunk)} were written")
        return np.asarray(self.array[index])


def _promised(chunk: Path) -> int:
    """Compressed length in a Blosc header: bytes 12 to 15, little-endian; a header itself has 16."""
    with chunk.open("rb") as file:
        header = file.read(16)
    return int.from_bytes(header[12:], "little") if len(header) == 16 else 16


def _multiscales(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first image of OME-NGFF 0.4 (and before), or of 0.5."""
    ome = attributes.get("ome")
    scales = (ome if isinstance(ome, Mapping) else attributes).get("multiscales")
    return scales[0] if isinstance(scales, (list, tuple)) and scales and isinstance(scales[0], dict) else None


def _paths(scales: Mapping[str, Any]) -> list[str]:
    """Of the arrays of the levels, the finest first."""
    return [str(one["path"]) for one in scales["datasets"]]


def level_names(path: Path) -> list[str]:
    """Levels of a multiscale image, the finest first, each a path below the image's; none of an image without them.

    Raises
    ------
    ImageError
        If it is no Zarr, or damaged.
    """
    try:
        with damage_told():
            scales = _multiscales(dict(_zarr().open(str(path), mode="r").attrs))
            return [] if scales is None else _paths(scales)
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"{path}: cannot be opened as Zarr ({error}). Its metadata are missing or damaged: copy or make it again.") from error


def _chosen(path: Path, group: Any, scales: dict[str, Any] | None) -> str:
    if scales is not None:
        return _paths(scales)[0]
    names = sorted(group.array_keys())
    if len(names) == 1:
        return names[0]
    # the levels of a pyramid without metadata
    if names and all(name.isdigit() for name in names):
        return min(names, key=int)
    raise ImageError(f"{path}: holds {', '.join(names) or 'no array'}; expected one array, or the levels of a multiscale image. Name the array's own folder.")


def _axis_names(path: Path, scales: dict[str, Any] | None, ndim: int, geometry: Mapping[str, Any]) -> list[str]:
    if scales is None:
        spatial = len(geometry["spacing"]) if geometry.get("spacing") is not None else min(ndim, 3)
        if ndim not in (spatial, spatial + 1):
            raise ImageError(f"{path}: has {ndim} axes; expected (H, W), (D, H, W) or (C, D, H, W), or multiscales that name the axes.")
        return [*(["c"] if ndim > spatial else []), *AXES[-spatial:]]
    axes = scales.get("axes") or AXES[-ndim:]
    names = [str(axis["name"] if isinstance(axis, Mapping) else axis).lower() for axis in axes]
    if len(names) != ndim:
        raise ImageError(f"{path}: multiscales names the axes {' '.join(names)}, the array has {ndim}. Mend the attributes.")
    return names


def _own(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Spacing (array order), origin and direction as we write them, or bare."""
    ours = attributes.get(OURS)
    source = ours if isinstance(ours, Mapping) else attributes
    return {key: source[key] for key in KEYS if key in source} if "spacing" in source else {}


def _ngff(path: Path, scales: dict[str, Any], level: str | None, spatial: Sequence[int], ndim: int) -> dict[str, Any]:
    """Spacing and origin (mm) from the transformations of a level, and of all levels after it."""
    scale, shift, number = np.ones(ndim), np.zeros(ndim), 0 if level is None else _paths(scales).index(level)
    steps = scales["datasets"][number].get("coordinateTransformations", ())
    if number and not steps:
        raise ImageError(f"{path}: multiscales says no scale for this level. Mend the attributes, or take the finest level.")
    try:
        for entry in (*steps, *scales.get("coordinateTransformations", ())):
            if entry["type"] == "scale":
                scale, shift = scale * entry["scale"], shift * entry["scale"]
            elif entry["type"] == "translation":
                shift = shift + entry["translation"]
    except (KeyError, TypeError, ValueError) as error:
        raise ImageError(f"{path}: coordinateTransformations of multiscales cannot be read ({error}). Mend the attributes.") from error
    axes = scales.get("axes") or [{}] * ndim
    units = [IN_MM.get(axes[axis].get("unit", "") if isinstance(axes[axis], Mapping) else "", 1.0) for axis in spatial]
    mm = [(scale[axis] * unit, shift[axis] * unit) for axis, unit in zip(spatial, units, strict=True)]
    return {"spacing": [size for size, _ in mm], "origin": [at for _, at in reversed(mm)]}


def read_zarr(path: Path) -> Image:
    """Read all of it."""
    return open_zarr(path).whole()


@dataclass(frozen=True, eq=False)
class ZarrWriter:
    """A Zarr image that takes its voxels box by box."""

    array: Any
    channels: int

    def write(self, box: Sequence[tuple[int, int]], values: npt.NDArray[Any]) -> None:
        """Put (C, *box) values in place."""
        inside = tuple(slice(low, high) for low, high in box)
        self.array[inside if self.channels == 1 else (slice(None), *inside)] = values[0] if self.channels == 1 else values


@contextlib.contextmanager
def create_zarr(
    path: Path, channels: int, dtype: npt.DTypeLike, space: Space, *, chunks: Sequence[int] | None = None, zarr_format: int = 2, fill: float = 0
) -> Iterator[ZarrWriter]:
    """A new image of one value (`fill`) to be filled; it takes the place of `path` when the block ends without an error.

    A multiscale image of one level after OME-NGFF 0.4 (Zarr version 2) or 0.5 (version 3). What keeps that value takes no room on disk.

    Parameters
    ----------
    chunks : voxels per spatial axis
        128 if absent.

    Raises
    ------
    NnRegError
        If the folder cannot be written, or the disk is full.
    """
    zarr = _zarr()
    several = ["c"] if channels > 1 else []
    chunks = tuple(min(int(part), size) for part, size in zip(chunks or (CHUNK,) * space.ndim, space.shape, strict=True))
    with atomic_folder(path) as folder:
        group = zarr.create_group(str(folder), zarr_format=zarr_format, attributes=_attributes(space, several, zarr_format))
        array = group.create_array(
            "0",
            shape=(*([channels] if several else []), *space.shape),
            dtype=np.dtype(dtype),
            chunks=(*([1] if several else []), *chunks),
            fill_value=fill,
            compressors=_checked_compression(zarr_format),
            chunk_key_encoding={"name": "v2" if zarr_format == 2 else "default", "separator": "/"},
        )
        yield ZarrWriter(array, channels)


def _checked_compression(zarr_format: int) -> Any:
    """Zstandard with a checksum: a damaged chunk is told, which Blosc, Zarr's own choice for version 2, does not promise."""
    if zarr_format == 2:
        from numcodecs import Zstd

        return Zstd(level=1, checksum=True)
    from zarr.codecs import ZstdCodec

    return ZstdCodec(level=1, checksum=True)


def _attributes(space: Space, several: list[str], zarr_format: int) -> dict[str, Any]:
    names = [*several, *AXES[-space.ndim :]]
    axes = [{"name": name, "type": "channel"} if name == "c" else {"name": name, "type": "space", "unit": "millimeter"} for name in names]
    steps = [
        {"type": "scale", "scale": [*(1.0 for _ in several), *space.spacing]},
        {"type": "translation", "translation": [*(0.0 for _ in several), *reversed(space.origin)]},
    ]
    scales = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}]
    ours = {OURS: {key: list(getattr(space, key)) for key in KEYS}}
    if zarr_format == 2:
        return {"multiscales": [{"version": "0.4", **scales[0]}], **ours}
    return {"ome": {"version": "0.5", "multiscales": scales}, **ours}


def write_zarr(path: Path, array: npt.NDArray[np.generic], space: Space) -> None:
    """Write a whole image."""
    with create_zarr(path, int(array.shape[0]), array.dtype, space) as writer:
        chunks = (CHUNK,) * space.ndim
        for box in boxes(space.shape, chunks):
            writer.write(box, array[(slice(None), *_slices(box))])


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in box)


ZARR = Format((".zarr", ".ome.zarr"), read_zarr, write_zarr, open_zarr, folders=True)

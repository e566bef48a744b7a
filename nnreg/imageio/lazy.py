"""Images that are read box by box: what does not fit into memory is never held whole."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.errors import ImageError
from nnreg.geometry import Space
from nnreg.imageio.image import Image

Box = tuple[tuple[int, int], ...]
"""First and one past the last index per spatial axis."""

WHOLE_VOXELS = 2**28  # images of more values than this (645^3) are read by parts
VARIABLE = "nnReg_whole_voxels"
BLOCK_VOXELS = 2**24  # values that are worked on at once
LARGEST_CHUNK = 2**30  # bytes: what is compressed as one piece must be read as one piece


@dataclass(frozen=True, eq=False)
class LazyFile:
    """The array of one file, and which of its axes are what.

    Attributes
    ----------
    path
        Of the file, for messages.
    array
        Anything that is sliced as a numpy array is.
    channel : int or None
        Axis of the channels.
    spatial : tuple of int
        Axes of space, in the order of the image. Every further axis has length 1.
    chunks : voxels per spatial axis
        What is stored as one piece.
    """

    path: Path
    array: Any
    channel: int | None
    spatial: tuple[int, ...]
    chunks: tuple[int, ...]

    def __post_init__(self) -> None:
        size = math.prod(self.chunks) * np.dtype(self.array.dtype).itemsize
        if size > LARGEST_CHUNK:
            raise ImageError(
                f"{self.path}: its chunks of {self.chunks} voxels take {size / 2**30:.1f} GiB each. Store it again in chunks of about 128 per axis."
            )

    @property
    def channels(self) -> int:
        """Number of channels."""
        return 1 if self.channel is None else int(self.array.shape[self.channel])

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels per spatial axis."""
        return tuple(int(self.array.shape[axis]) for axis in self.spatial)

    def read(self, box: Sequence[tuple[int, int]]) -> npt.NDArray[Any]:
        """Voxels (C, *box).

        Raises
        ------
        ImageError
            If a chunk is damaged; its name is in the message.
        """
        try:
            return self._read(box)
        except (MemoryError, ImageError):
            raise
        except Exception as error:  # every codec has errors of its own
            found = self._damaged(box)
            which = "" if found is None else f", chunk {found}"
            reason = (str(error).splitlines() or [""])[0] or type(error).__name__
            raise ImageError(
                f"{self.path}{which}: cannot be read ({reason}). The chunk is damaged or truncated: copy the image again or make it again."
            ) from error

    def _read(self, box: Sequence[tuple[int, int]]) -> npt.NDArray[Any]:
        index: list[Any] = [0] * self.array.ndim
        for axis, (low, high) in zip(self.spatial, box, strict=True):
            index[axis] = slice(low, high)
        if self.channel is not None:
            index[self.channel] = slice(None)
        found = np.asarray(self.array[tuple(index)])
        kept = [axis for axis in range(self.array.ndim) if isinstance(index[axis], slice)]
        order = [kept.index(axis) for axis in (*(() if self.channel is None else (self.channel,)), *self.spatial)]
        found = found.transpose(order)
        found = found if self.channel is not None else found[None]
        return found.astype(np.uint8) if found.dtype == bool else found

    def _damaged(self, box: Sequence[tuple[int, int]]) -> str | None:
        """The first chunk of `box` that cannot be read, by its place."""
        ranges = [range(low // step, -(-high // step)) for (low, high), step in zip(box, self.chunks, strict=True)]
        for place in itertools.product(*ranges):
            here = [(at * step, min((at + 1) * step, size)) for at, step, size in zip(place, self.chunks, self.shape, strict=True)]
            try:
                self._read(here)
            except Exception:
                return ".".join(map(str, place))
        return None


@dataclass(frozen=True, eq=False)
class LazyImage:
    """An image on disk, in one file or one per channel.

    Attributes
    ----------
    files : tuple of LazyFile
        On one grid.
    space : Space
    """

    files: tuple[LazyFile, ...]
    space: Space

    @property
    def path(self) -> Path:
        """The first file, for messages."""
        return self.files[0].path

    @property
    def channels(self) -> int:
        """Number of channels."""
        return sum(file.channels for file in self.files)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *spatial)."""
        return (self.channels, *self.space.shape)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds every channel exactly."""
        found = np.result_type(*(file.array.dtype for file in self.files))
        return np.dtype(np.uint8) if found.kind == "b" else found.newbyteorder("=")

    @property
    def chunks(self) -> tuple[int, ...]:
        """Voxels per spatial axis that the first file stores as one piece."""
        return self.files[0].chunks

    def read(self, box: Sequence[tuple[int, int]]) -> npt.NDArray[Any]:
        """Voxels (C, *box) of `dtype`.

        Raises
        ------
        ImageError
            If a chunk is damaged.
        """
        return np.concatenate([file.read(box).astype(self.dtype, copy=False) for file in self.files])

    def whole(self) -> Image:
        """All of it, in memory.

        Raises
        ------
        ImageError
            If its size is more than the memory of this machine.
        """
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > _memory():
            raise ImageError(f"{self.path}: its {size / 2**30:.0f} GiB do not fit into memory ({_memory() / 2**30:.0f} GiB). Check its shape, {self.shape}.")
        return Image(np.ascontiguousarray(self.read([(0, size) for size in self.space.shape])), self.space)

    def volume(self, order: Sequence[int] = (0, 1, 2)) -> Volume:
        """The image with three axes, in another order; a 2D image is one slice."""
        return Volume(self, tuple(order))


@dataclass(frozen=True, eq=False)
class Volume:
    """An image on disk as (C, D, H, W), its spatial axes in the order `order` of the file's."""

    image: LazyImage
    order: tuple[int, ...]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(C, D, H, W)."""
        return (self.image.channels, *self._ordered(self.image.space.shape))

    @cached_property
    def chunks(self) -> tuple[int, ...]:
        """Voxels per axis that are stored as one piece."""
        return self._ordered(self.image.chunks)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the values."""
        return self.image.dtype

    def read(self, box: Sequence[tuple[int, int]]) -> npt.NDArray[Any]:
        """Voxels (C, *box)."""
        native: list[tuple[int, int]] = [(0, 1)] * 3
        for axis, sides in zip(self.order, box, strict=True):
            native[axis] = sides
        flat = self.image.space.ndim == 2
        found = self.image.read(native[1:] if flat else native)
        return (found[:, None] if flat else found).transpose(0, *(axis + 1 for axis in self.order))

    def boxes(self, inside: Box | None = None, most: int = BLOCK_VOXELS) -> Iterator[Box]:
        """Boxes that cover `inside` (everything), whole chunks each, of at most `most` values unless a chunk has more."""
        return boxes(self.shape[1:], self.chunks, inside, most // max(1, self.shape[0]))

    def _ordered(self, values: Sequence[int]) -> tuple[int, ...]:
        three = (1, *values) if len(values) == 2 else tuple(values)
        return tuple(three[axis] for axis in self.order)


def boxes(shape: Sequence[int], chunks: Sequence[int], inside: Box | None = None, most: int = BLOCK_VOXELS) -> Iterator[Box]:
    """Boxes of whole chunks that cover `inside` an array, each of at most `most` voxels unless a chunk has more.

    Examples
    --------
    >>> list(boxes((5, 4), (2, 2), most=8))
    [((0, 2), (0, 4)), ((2, 4), (0, 4)), ((4, 5), (0, 4))]
    """
    inside = inside or tuple((0, size) for size in shape)
    sizes = [min(chunk, max(1, size)) for chunk, size in zip(chunks, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        others = math.prod(sizes) // sizes[axis]
        fitting = max(1, most // max(1, others) // sizes[axis])
        sizes[axis] = min(fitting * sizes[axis], -(-shape[axis] // sizes[axis]) * sizes[axis])
    ranges = [range(low // size, -(-high // size)) for (low, high), size in zip(inside, sizes, strict=True)]
    for place in itertools.product(*ranges):
        yield tuple((max(low, at * size), min(high, (at + 1) * size)) for (low, high), at, size in zip(inside, place, sizes, strict=True))


def largest_whole() -> int:
    """Values (voxels times channels) up to which an image is read whole: ``nnReg_whole_voxels`` if set, else 2^28.

    Raises
    ------
    ImageError
        If the variable is no number.
    """
    named = os.environ.get(VARIABLE)
    if named is None:
        return WHOLE_VOXELS
    if not named.isdigit() or int(named) < 1:
        raise ImageError(f"{VARIABLE}: expected a positive number of voxels, found {named!r}. Mend or unset it.")
    return int(named)


def _memory() -> int:
    """Bytes of this machine's memory; a great number where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**62


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files of a Zarr folder; 0 if there is none."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size if path.is_file() else 0

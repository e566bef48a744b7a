"""Frames of a series in time: read, refused where they are none, written with their step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.errors import ImageError, RegistrationError
from nnreg.geometry import Space
from nnreg.groups.members import case_and_channel, counted, image_files
from nnreg.imageio import check_same_space, read_image
from nnreg.imageio.itk_files import write_series


@dataclass(frozen=True, eq=False)
class Series:
    """A series.

    Attributes
    ----------
    frames : array, shape (T, *space.shape)
        As stored.
    space : Space
        Of each frame. A series of one slice lies in the plane of that slice: two axes, mm from its first voxel.
    repetition : float, s
        Step from frame to frame.
    files : tuple of Path
        What it was read from.
    stored : Space
        Of each frame as it is written: three axes.
    """

    frames: npt.NDArray[Any]
    space: Space
    repetition: float
    files: tuple[Path, ...]
    stored: Space

    @functools.cached_property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Of each frame (T,), whether it can be registered: finite and not constant."""
        return np.array([bool(np.isfinite(frame).all() and frame.min() < frame.max()) for frame in self.frames])

    def frame(self, number: int) -> Floats:
        """One frame with a channel axis: (1, *space.shape), float32."""
        return np.asarray(self.frames[number][None], dtype=np.float32)

    def write(self, path: Path, frames: npt.NDArray[np.generic]) -> None:
        """Write frames (T, *space.shape) as NIfTI of four axes."""
        write_series(path, frames.reshape(-1, *self.stored.shape), self.stored, self.repetition)


def read_series(source: Path | str, *, repetition: float | None = None) -> Series:
    """Read a series.

    Parameters
    ----------
    source
        NIfTI of four axes, or a folder with one image of one channel for each frame, in the order of their names.
    repetition
        Step in seconds, instead of the header's.

    Raises
    ------
    ImageError
        If it is no series, has one frame, frames differ in grid or channels, or no step is known.
    """
    source = Path(source)
    frames, space, step, files = _from_folder(source) if source.is_dir() else _from_file(source)
    if len(frames) < 2:
        raise ImageError(f"{source}: has one frame, a series has two at least. For a pair use nnreg_register.")
    step = step if repetition is None else repetition
    if step is None or not 0 < step < float("inf"):
        found = "no time from frame to frame is known" if step is None else f"its header has {step:g} s from frame to frame"
        raise ImageError(f"{source}: {found}. Name it: --repetition SECONDS.")
    return Series(np.squeeze(frames, axis=1) if space.ndim == 3 and space.shape[0] == 1 else frames, _in_plane(space), step, files, _volume(space))


def _from_file(path: Path) -> tuple[npt.NDArray[Any], Space, float | None, tuple[Path, ...]]:
    image = read_image(path)
    if image.repetition is None and image.channels > 1:
        raise ImageError(f"{path}: has {image.channels} channels and no axis of time. A series is NIfTI of four axes, or a folder of frames.")
    return image.array, image.space, image.repetition, (path,)


def _from_folder(folder: Path) -> tuple[npt.NDArray[Any], Space, float | None, tuple[Path, ...]]:
    files = files_of_series(folder)
    images = [read_image(path) for path in files]
    for path, image in zip(files, images, strict=True):
        check_same_space(image.space, path, images[0].space, files[0])
        if image.channels > 1:
            raise ImageError(f"{path}: has several channels, frames have one. Keep one of them.")
    return np.concatenate([image.array for image in images]), images[0].space, None, files


def files_of_series(folder: Path) -> tuple[Path, ...]:
    """Frames as people count them. Four digits at the end of all names, of one case, count frames, not channels."""
    files = sorted(image_files(folder), key=lambda path: counted(path.name))
    cases = [case_and_channel(path) for path in files]
    names = [case for case, _ in cases]
    if len(set(cases)) < len(cases):
        raise ImageError(f"{folder}: has a frame twice, under two endings. Remove one.")
    if 1 < len(set(names)) < len(names):
        twice = next(path for path, name in zip(files, names, strict=True) if names.count(name) > 1)
        raise ImageError(f"{twice}: its frame has several channels, frames have one. Keep one of them.")
    return tuple(files)


def _in_plane(space: Space) -> Space:
    """Of one slice its plane; else the grid itself."""
    return Space.plain(space.shape[1:], space.spacing[1:]) if space.ndim == 3 and space.shape[0] == 1 else space


def _volume(space: Space) -> Space:
    """A grid of three axes for frames of two."""
    if space.ndim == 3:
        return space
    direction = np.eye(3)
    direction[:2, :2] = np.reshape(space.direction, (2, 2))
    return Space((1, *space.shape), (1.0, *space.spacing), (*space.origin, 0.0), tuple(direction.ravel().tolist()))


def stop_or_note(said: str, *, stop: bool, on_note: Callable[[str], None] | None, mend: str, meanwhile: str) -> None:
    """Refuse a series of which something is wrong, with what to do; else tell it, with what becomes of it.

    Raises
    ------
    RegistrationError
        With `stop`.
    """
    if stop:
        raise RegistrationError(f"{said}. {mend}")
    if on_note is not None:
        on_note(f"{said}; {meanwhile}")


def names_of(numbers: Sequence[int], most: int = 8) -> str:
    """Frames in a message."""
    return ", ".join(map(str, numbers[:most])) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")

"""Image formats: what nnReg knows of each, and the one open registry of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.errors import ConfigurationError
from nnreg.geometry import Space
from nnreg.imageio.image import Image
from nnreg.imageio.lazy import LazyImage
from nnreg.registry import Registry, installed

ENTRY_POINTS = "nnreg.formats"
Reader = Callable[[Path], Image]
Writer = Callable[[Path, npt.NDArray[np.generic], Space], None]
Opener = Callable[[Path], LazyImage]


@dataclass(frozen=True)
class Format:
    """How the images of one format are read and written.

    Attributes
    ----------
    endings
        Lower case, each with its dot: ``(".tif", ".tiff")``.
    read
        ``read(path)``: the image in memory, or an ImageError of one line for what is no whole image.
    write
        ``write(path, array, space)`` of an array (C, *space.shape), whole or not at all, or an ImageError.
    open
        ``open(path)``: the image on disk, read by parts; None where the format is read whole only.
    exact_types
        Names of the dtypes whose values are stored exactly; None if all are, empty for a lossy format.
    folders
        Whether an image is a folder, not a file.
    """

    endings: tuple[str, ...]
    read: Reader
    write: Writer
    open: Opener | None = None
    exact_types: tuple[str, ...] | None = None
    folders: bool = False

    def __post_init__(self) -> None:
        wrong = [ending for ending in self.endings if not ending.startswith(".") or ending != ending.lower() or len(ending) < 2]
        if wrong or not self.endings:
            raise ConfigurationError(f"image format: its endings {list(self.endings)} need a dot and lower case each, such as '.tif'.")

    def holds(self, dtype: npt.DTypeLike) -> bool:
        """Whether values of `dtype` are stored exactly."""
        return self.exact_types is None or np.dtype(dtype).name in self.exact_types


FORMATS: Registry[Format] = Registry("image ending")
"""By ending: nnReg's own, and what a program registers while it runs. :func:`formats` has those of installed packages too."""


def register_format(added: Format) -> Format:
    """Make a format known under its endings."""
    for ending in added.endings:
        FORMATS[ending] = added
    return added


def formats() -> dict[str, Format]:
    """Every format by ending, those of installed packages (entry points ``nnreg.formats``) last.

    Raises
    ------
    ConfigurationError
        If a package's format cannot be imported or is no :class:`Format`, or an ending is registered twice.
    """
    outside = _installed(tuple(sys.path))
    for ending, (package, _) in outside.items():
        if ending in FORMATS:
            raise ConfigurationError(f"image ending {ending!r} of the package {package} is registered already. Remove the package, or rename its ending.")
    return {**FORMATS, **{ending: found for ending, (_, found) in outside.items()}}


@lru_cache(maxsize=4)
def _installed(search_path: tuple[str, ...]) -> dict[str, tuple[str, Format]]:
    """Package and format by ending. Asked for with every file name, while packages are looked for once per `search_path`."""
    found: dict[str, tuple[str, Format]] = {}
    for name, offered in installed("image format", ENTRY_POINTS).items():
        loaded = offered.load()
        if not isinstance(loaded, Format):
            raise ConfigurationError(f"image format {name!r} of the package {offered.package} is a {type(loaded).__name__}, expected nnreg.imageio.Format.")
        for ending in loaded.endings:
            package, _ = found.setdefault(ending, (offered.package, loaded))
            if found[ending][1] is not loaded:
                raise ConfigurationError(f"image ending {ending!r} is registered by two packages, {package} and {offered.package}. Remove one of them.")
    return found


def format_of(path: Path | str) -> Format | None:
    """The format that a file name's ending tells, None if there is none; of two endings that fit, the longer counts."""
    return _by_name(image_of(path).name)


def image_of(path: Path | str) -> Path:
    """The image in which a path names a level, as ``brain.zarr/2`` does; every other path as it is."""
    path = Path(path)
    around = _by_name(path.parent.name)
    return path.parent if around is not None and around.folders and _by_name(path.name) is None else path


def _by_name(name: str) -> Format | None:
    known = formats()
    fitting = [ending for ending in known if name.lower().endswith(ending)]
    return known[max(fitting, key=len)] if fitting else None

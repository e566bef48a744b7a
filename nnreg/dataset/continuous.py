"""Targets of continuous values: maps of numbers beside an image, NaN where nothing is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.errors import DatasetError
from nnreg.imageio import Image, read_image

if TYPE_CHECKING:
    from nnreg.dataset.labels import Label

KNOWN = 1  # beside the labels of other targets, a continuous one has this where its values are known


@dataclass(frozen=True)
class Continuous:
    """What the outputs of a regression target mean: as many values per voxel as it has channels. Stands where a ``LabelManager`` stands."""

    channels: int = 1
    ignore: ClassVar[int | None] = None
    foreground: ClassVar[tuple[Label, ...]] = ()

    @property
    def heads(self) -> int:
        """Output channels of a network."""
        return self.channels


def map_places(outputs: Mapping[str, Any]) -> dict[str, slice]:
    """Continuous targets to their channels in maps that lie one behind another.

    Examples
    --------
    >>> map_places({"a": Continuous(2), "b": Continuous()})
    {'a': slice(0, 2, None), 'b': slice(2, 3, None)}
    """
    result, first = {}, 0
    for name, output in outputs.items():
        if isinstance(output, Continuous):
            result[name] = slice(first, first + output.channels)
            first += output.channels
    return result


def read_map(path: Path, channels: int) -> Image:
    """Values (channels, *spatial) float32, NaN where the file says so.

    Raises
    ------
    DatasetError
        If the file has another number of channels, or infinite values, or nothing but NaN.
    ImageError
        If it is unreadable.
    """
    image = read_image(path)
    check_channels(image.channels, channels, path)
    values = finite_or_unknown(image.array, path)
    check_any_known(not np.isnan(values).all(), path)
    return Image(values, image.space, image.notes)


def check_channels(found: int, channels: int, path: Path) -> None:
    """Refuse a file with another number of channels than its target has."""
    if found != channels:
        raise DatasetError(f"{path}: has {found} channels, the target {channels}. Mend out_channels of the target, or the file.")


def check_any_known(known: bool, path: Path) -> None:
    """Refuse a file in which nothing is known."""
    if not known:
        raise DatasetError(f"{path}: holds nothing but NaN. Mend the file, or remove the case.")


def finite_or_unknown(values: npt.NDArray[Any], path: Path) -> Floats:
    """Values of a file as float32, NaN where unknown.

    Raises
    ------
    DatasetError
        If some are infinite.
    """
    result = values.astype(np.float32, copy=False)
    if np.isinf(result).any():
        raise DatasetError(f"{path}: holds infinite values. Mend the file; NaN says that a value is not known.")
    return result


def known(maps: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """(1, *spatial): `KNOWN` where every channel of maps (C, *spatial) has a value, else 0."""
    return np.where(np.isfinite(maps).all(axis=0, keepdims=True), np.int16(KNOWN), np.int16(0))

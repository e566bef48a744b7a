"""Geometry of formats that cannot hold it: a JSON file beside the image, as nnU-Net keeps spacings of TIFF files."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.errors import GeometryError, ImageError
from nnreg.files import read_json, write_json
from nnreg.geometry import Space
from nnreg.imageio.endings import stem_of

KEYS = ("spacing", "origin", "direction")


def read_space(path: Path, shape: Sequence[int]) -> Space:
    """The space of the image `path`: from ``CASE_0000.json`` or ``CASE.json`` beside it, else plain (spacing 1)."""
    stem = stem_of(path)
    for name in (stem, re.sub(r"_\d{4}$", "", stem)):
        beside = path.with_name(f"{name}.json")
        if beside.is_file():
            return space_from(read_json(beside, ImageError), shape, str(beside))
    return Space.plain(shape)


def resolution_note(path: Path, space: Space, itk: Sequence[float]) -> tuple[str, ...]:
    """What to do where ITK takes the resolution for the spacing `itk` (mm, array order) and nnReg counts pixels.

    Empty where both agree or `space` has a unit.
    """
    if space != Space.plain(space.shape) or np.allclose(itk, space.spacing):
        return ()
    read = " x ".join(f"{value:.4g}" for value in itk[::-1])
    ones = ", ".join("1" for _ in space.spacing)
    return (
        f"{path}: lengths are pixels, its resolution is not read; ITK and ANTs take it for a spacing of {read} mm: "
        f"there the transforms fit after image.SetSpacing(({ones})) (SimpleITK), or a PNG of it",
    )


def write_space(path: Path, space: Space) -> None:
    """Keep `space` beside the image `path`; nothing is written for the plain one, and an older file is removed."""
    beside = path.with_name(f"{stem_of(path)}.json")
    if space == Space.plain(space.shape):
        beside.unlink(missing_ok=True)
    else:
        write_json(beside, {key: getattr(space, key) for key in KEYS})


def space_from(content: Any, shape: Sequence[int], where: str) -> Space:
    """A space from any of the keys ``spacing`` (array order), ``origin``, ``direction`` (world order); the rest is plain."""
    if not isinstance(content, Mapping):
        raise ImageError(f"{where}: expected an object with the keys {', '.join(KEYS)}.")
    plain = Space.plain(shape)
    values = []
    for key in KEYS:
        try:
            value = tuple(np.asarray(content[key], dtype=float).ravel().tolist()) if content.get(key) is not None else getattr(plain, key)
        except (TypeError, ValueError, OverflowError) as error:
            raise ImageError(f"{where}: {key} is {content[key]!r}, expected numbers.") from error
        if len(value) != len(getattr(plain, key)):
            raise ImageError(f"{where}: {key} has {len(value)} values, an image of shape {tuple(shape)} needs {len(getattr(plain, key))}.")
        values.append(value)
    try:
        return Space(tuple(map(int, shape)), *values)
    except (GeometryError, ArithmeticError) as error:
        raise ImageError(f"{where}: {error} Mend the spacing, origin or direction.") from error

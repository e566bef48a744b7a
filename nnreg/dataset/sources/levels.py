"""Which level of multiscale images (OME-Zarr) a dataset is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path

from nnreg.dataset.sources.collected import Collected, listed
from nnreg.dataset.writing import NewCase
from nnreg.errors import DatasetError
from nnreg.imageio import Image
from nnreg.imageio.files import open_image
from nnreg.imageio.zarr_files import ZARR, level_names

MOST_VOXELS = {2: 2**24, 3: 2**27}  # 4096 x 4096, 512 x 512 x 512: what the engine registers within 4 GB


def at_level(found: Collected, level: int | None) -> Collected:
    """The cases with every multiscale image at one level, said among the decisions.

    Parameters
    ----------
    found
        What a source holds.
    level
        0 is the finest; by default the finest at which every image has at most MOST_VOXELS.

    Raises
    ------
    DatasetError
        If an image has no such level, or no level of a label map lies on the grid of the image's.
    """
    pyramids = {path: names for case in found.cases.values() for path in case.images if isinstance(path, Path) and len(names := _levels(path)) > 1}
    if not pyramids:
        if level is not None:
            raise DatasetError(f"--level {level}: none of the images has levels. Leave it out.")
        return found
    chosen = _finest_that_fits(pyramids) if level is None else level
    if without := [str(path) for path, names in pyramids.items() if chosen >= len(names)]:
        raise DatasetError(f"{listed(without)}: has no level {chosen}, 0 is the finest. Choose one that all images have with --level.")
    cases = {name: _of_case(case, chosen) for name, case in found.cases.items()}
    example = open_image(next(path / names[chosen] for path, names in pyramids.items())).space
    size, spacing = (" x ".join(f"{one:.4g}" for one in axis[::-1]) for axis in (example.shape, example.spacing))
    why = f"the finest of at most {MOST_VOXELS[example.ndim] // 10**6} million voxels" if level is None else "as named"
    return replace(
        found, cases=cases, decisions=(*found.decisions, f"level {chosen} of the multiscale images ({size} voxels of {spacing} mm), {why}; --level N")
    )


def _levels(path: Path) -> list[str]:
    return level_names(path) if path.name.lower().endswith(ZARR.endings) and path.is_dir() else []


def _finest_that_fits(pyramids: Mapping[Path, list[str]]) -> int:
    return max(_fitting(path, names) for path, names in pyramids.items())


def _fitting(path: Path, names: list[str]) -> int:
    spaces = [open_image(path / name).space for name in names]
    return next((number for number, space in enumerate(spaces) if prod(space.shape) <= MOST_VOXELS[space.ndim]), len(names) - 1)


def _of_case(case: NewCase, level: int) -> NewCase:
    images = [path / names[level] if isinstance(path, Path) and len(names := _levels(path)) > 1 else path for path in case.images]
    labels, mask = (_on_the_same_grid(beside, images[0]) for beside in (case.labels, case.mask))
    return replace(case, images=images, labels=labels, mask=mask)


def _on_the_same_grid(beside: Image | Path | None, image: Image | Path) -> Image | Path | None:
    """The level of a label map of the size that the image has."""
    if not isinstance(beside, Path) or not isinstance(image, Path) or len(names := _levels(beside)) < 2:
        return beside
    wanted = open_image(image).space.shape
    found = [beside / name for name in names if open_image(beside / name).space.shape == wanted]
    if not found:
        raise DatasetError(f"{beside}: none of its levels {', '.join(names)} has the size {wanted} of {image}. Choose another with --level.")
    return found[0]


__all__ = ["at_level"]

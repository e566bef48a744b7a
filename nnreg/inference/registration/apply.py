"""Apply a transform to images, labels, points and other transforms, from file to file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnreg.arrays import AnyArray
from nnreg.dataset.keypoints import read_keypoints, write_keypoints
from nnreg.errors import ConfigurationError, TransformError, did_you_mean
from nnreg.geometry import Space, Transform, index_points_to_world, resample_image, resample_labels
from nnreg.geometry.itk import FIELD_ENDINGS, TRANSFORM_ENDINGS
from nnreg.geometry.transform_files import read_transform, read_transforms, write_transform
from nnreg.imageio import ending_of, read_image, write_image
from nnreg.imageio.image import as_stored
from nnreg.imageio.itk_files import write_series

KINDS = ("auto", "image", "labels", "points", "field")


def apply_transform(
    source: Path | str,
    output: Path | str,
    transforms: Sequence[Path | str],
    *,
    reference: Path | str | None = None,
    moving: Path | str | None = None,
    kind: str = "auto",
    inverse: bool = False,
    outside: float | None = None,
) -> str:
    """Apply a chain of transforms to one file.

    Parameters
    ----------
    source, output
        Files. Images and labels are sampled once, on the grid of `reference`.
    transforms
        In the order of ``antsApplyTransforms -t``; see :func:`nnreg.geometry.transform_files.read_transforms`.
    reference
        The fixed image: the grid of the result. Points of `source` count its voxels; without it they are world mm (LPS).
    moving
        For points: the image whose voxels the result counts; without it the result is in world mm (LPS).
    kind : "auto", "image", "labels", "points" or "field"
        By ending: ``.csv`` are points, ``.h5 .tfm .txt .mat`` transforms, anything else is an image.
    inverse
        Apply the inverse of the whole chain.
    outside : float, optional
        Value beyond an image; its minimum if absent.

    Returns
    -------
    str
        The kind that was used.

    Raises
    ------
    NnRegError
        If a file cannot be read or written, or dimensions differ.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"kind {kind!r} is unknown; {did_you_mean(kind, KINDS)}")
    kind = _kind_of(Path(source)) if kind == "auto" else kind
    grid = None if reference is None else read_image(reference).space
    other = None if moving is None else read_image(moving).space
    # the grid of a Learn2Reg file is the fixed image's, whichever way it is applied
    transform = read_transforms(transforms, fixed=other if inverse else grid, moving=grid if inverse else other)
    transform = transform.inverse() if inverse else transform
    if kind == "points":
        _apply_to_points(source, output, transform, grid, other)
    elif kind == "field":
        chain = transform.then(read_transform(source, fixed=other, moving=other))
        write_transform(output, chain, fixed=_needed(grid, source) if str(output).endswith(FIELD_ENDINGS) else grid)
    else:
        _apply_to_image(source, output, transform, _needed(grid, source), labels=kind == "labels", outside=outside)
    return kind


def _kind_of(path: Path) -> str:
    if path.suffix.lower() == ".csv":
        return "points"
    return "field" if path.name.endswith(TRANSFORM_ENDINGS) else "image"


def _needed(grid: Space | None, source: Path | str) -> Space:
    if grid is None:
        raise ConfigurationError(f"{source}: the grid of the result is not known. Name the fixed image with -r.")
    return grid


def _check_axes(source: Path | str, found: int, transform: Transform) -> None:
    if found != transform.ndim:
        raise TransformError(f"{source}: has {found} axes, the transform {transform.ndim}. Apply a transform of the same number of axes.")


def _apply_to_image(source: Path | str, output: Path | str, transform: Transform, grid: Space, *, labels: bool, outside: float | None) -> None:
    image = read_image(source)
    _check_axes(source, image.ndim, transform)
    _check_axes("the reference", grid.ndim, transform)
    if labels:
        beyond = 0.0 if outside is None else outside
        warped = resample_labels(_holding(image.array, beyond), moving=image.space, fixed=grid, transform=transform, outside=int(beyond))
    else:
        values = resample_image(image.array, moving=image.space, fixed=grid, transform=transform, outside=outside)
        # formats of pictures hold no floats
        warped = as_stored(values, image.array.dtype) if ending_of(output) in (".png", ".jpg", ".jpeg") else values
    if image.repetition is None:
        write_image(output, warped, grid)
    else:
        write_series(Path(output), warped, grid, image.repetition)


def _holding(labels: AnyArray, outside: float) -> AnyArray:
    """The label map in a type that holds the value beyond it too."""
    if outside != int(outside):
        raise ConfigurationError(f"--outside {outside:g}: labels are whole numbers. Give one, or apply the transform with --kind image.")
    wide = np.promote_types(labels.dtype, np.min_scalar_type(int(outside)))
    if labels.dtype.kind in "iu" and wide.kind not in "iu":
        raise ConfigurationError(f"--outside {outside:g}: no integer type holds it and the labels of type {labels.dtype}. Choose another value.")
    return labels.astype(wide)


def _apply_to_points(source: Path | str, output: Path | str, transform: Transform, fixed: Space | None, moving: Space | None) -> None:
    points = read_keypoints(source)
    _check_axes(source, points.shape[1], transform)
    mapped = transform.map_points(points if fixed is None else index_points_to_world(points, fixed))
    write_keypoints(output, mapped if moving is None else np.asarray(moving.to_index(mapped))[:, ::-1])

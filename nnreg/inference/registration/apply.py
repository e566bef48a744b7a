"""Apply a transform to images, labels, points and other transforms, from file to file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nnreg.arrays import AnyArray
from nnreg.dataset.keypoints import check_inside, read_keypoints, write_keypoints
from nnreg.dataset.label_files import rounded_labels
from nnreg.errors import ConfigurationError, TransformError, did_you_mean
from nnreg.files import refuse_overwriting
from nnreg.geometry import Space, Transform, index_points_to_world, resample_image, resample_labels
from nnreg.geometry.itk import FIELD_ENDINGS, TRANSFORM_ENDINGS
from nnreg.geometry.transform_files import files_of, read_transform, read_transforms, write_transform
from nnreg.imageio import Image, check_precision, ending_of, read_image, write_image
from nnreg.imageio.image import as_stored
from nnreg.imageio.itk_files import write_series

AUTO = "auto"
POINTS = ".csv"
KINDS = (AUTO, "image", "labels", "points", "field")
OTHER_POINTS = (".fcsv", ".json", ".vtk", ".vtp", ".pts")
FEW_VALUES = 32  # whole numbers that differ, up to which they are taken for labels: an image of so few grey values is none
# of neighbours outside the background that have one value: .68 to .88 in label maps of eight data sets (53 to 149 labels), at most .21 in images
OFTEN_EQUAL = 0.4


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
    on_note: Callable[[str], None] = lambda note: None,
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
        By ending: ``.csv`` are points, ``.h5 .tfm .txt .mat`` transforms. Anything else is an image, or a label map if it looks like one: see
        :func:`looks_like_labels`.
    inverse
        Apply the inverse of the whole chain.
    outside : float, optional
        Value beyond an image; if absent its minimum, or its background where that is bright.
    on_note
        Hears what was mended in the header of an image, a sentence each.

    Returns
    -------
    str
        The kind that was used: "image" (interpolated linearly), "labels" (nearest neighbour), "points" or "field".

    Raises
    ------
    NnRegError
        If a file cannot be read or written, dimensions differ, points lie outside `reference` or are to go into another file than a ``.csv``, or
        `output` is one of the files that are read.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"kind {kind!r} is unknown; {did_you_mean(kind, KINDS)}")
    refuse_overwriting(output, [source, *files_of(transforms), reference, moving])
    kind = _kind_of(Path(source)) if kind == AUTO else kind
    if kind == "points" and Path(output).suffix.lower() != POINTS:
        raise ConfigurationError(f"{output}: points are written as rows of a {POINTS} file. Choose that ending.")
    grid, other = (None if path is None else _told(read_image(path), on_note).space for path in (reference, moving))
    # the grid of a Learn2Reg file is the fixed image's, whichever way it is applied
    transform = read_transforms(transforms, fixed=other if inverse else grid, moving=grid if inverse else other, inverse=inverse)
    if kind == "points":
        _apply_to_points(source, output, transform, grid, other)
    elif kind == "field":
        chain = transform.then(read_transform(source, fixed=other, moving=other))
        write_transform(output, chain, fixed=_needed(grid, source) if str(output).endswith(FIELD_ENDINGS) else grid)
    else:
        return _apply_to_image(source, output, transform, _needed(grid, source), kind=kind, outside=outside, on_note=on_note)
    return kind


def _told(image: Image, on_note: Callable[[str], None]) -> Image:
    for note in image.notes:
        on_note(note)
    return image


def _kind_of(path: Path) -> str:
    if path.suffix.lower() == POINTS:
        return "points"
    if path.name.lower().endswith(OTHER_POINTS):
        raise ConfigurationError(f"{path}: points are rows x,y,z of a .csv file, voxel indices with -r, else mm (LPS). Convert it.")
    return "field" if path.name.endswith(TRANSFORM_ENDINGS) else AUTO


def _needed(grid: Space | None, source: Path | str) -> Space:
    if grid is None:
        raise ConfigurationError(f"{source}: the grid of the result is not known. Name the fixed image with -r.")
    return grid


def _check_axes(source: Path | str, found: int, transform: Transform) -> None:
    if found != transform.ndim:
        raise TransformError(f"{source}: has {found} axes, the transform {transform.ndim}. Apply a transform of the same number of axes.")


def _apply_to_image(
    source: Path | str, output: Path | str, transform: Transform, grid: Space, *, kind: str, outside: float | None, on_note: Callable[[str], None]
) -> str:
    ending = ending_of(output)  # told before the work, not after it
    image = _told(read_image(source), on_note)
    _check_axes(source, image.ndim, transform)
    _check_axes("the reference", grid.ndim, transform)
    if kind == AUTO:
        kind = "labels" if looks_like_labels(image.array) else "image"
    if kind == "labels":
        beyond = 0.0 if outside is None else outside
        labels = _holding(rounded_labels(image, source), beyond)
        warped = resample_labels(labels, moving=image.space, fixed=grid, transform=transform, outside=int(beyond))
    else:
        check_precision(image, source)
        values = resample_image(image.array, moving=image.space, fixed=grid, transform=transform, outside=outside)
        # formats of pictures hold no floats
        warped = as_stored(values, image.array.dtype) if ending in (".png", ".jpg", ".jpeg") else values
    if image.repetition is None:
        write_image(output, warped, grid)
    else:
        write_series(Path(output), warped, grid, image.repetition)
    return kind


def looks_like_labels(array: AnyArray) -> bool:
    """Whether an image (C, *spatial) is a label map: finite whole numbers, few of them, or regions of one value each.

    Examples
    --------
    >>> looks_like_labels(np.repeat(np.arange(100), 50).reshape(1, 50, 100)), looks_like_labels(np.arange(5000).reshape(1, 50, 100))
    (True, False)
    """
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and np.array_equal(array, np.rint(array))):
        return False
    values, counts = np.unique(array, return_counts=True)
    if len(values) <= FEW_VALUES:
        return True
    common = values[counts.argmax()]
    same, all_pairs = 0, 0
    for axis in range(1, array.ndim):
        one, other = (array.take(range(*part), axis=axis) for part in ((0, array.shape[axis] - 1), (1, array.shape[axis])))
        inside = (one != common) | (other != common)
        same, all_pairs = same + int((inside & (one == other)).sum()), all_pairs + int(inside.sum())
    return same > OFTEN_EQUAL * all_pairs


def _holding(labels: AnyArray, outside: float) -> AnyArray:
    """The label map in a type that holds the value beyond it too."""
    if not np.isfinite(outside) or outside != int(outside):
        raise ConfigurationError(f"--outside {outside:g}: labels are whole numbers. Give one, or apply the transform with --kind image.")
    wide = np.promote_types(labels.dtype, np.min_scalar_type(int(outside)))
    if labels.dtype.kind in "iu" and wide.kind not in "iu":
        raise ConfigurationError(f"--outside {outside:g}: no integer type holds it and the labels of type {labels.dtype}. Choose another value.")
    return labels.astype(wide)


def _apply_to_points(source: Path | str, output: Path | str, transform: Transform, fixed: Space | None, moving: Space | None) -> None:
    points = read_keypoints(source)
    _check_axes(source, points.shape[1], transform)
    if fixed is not None:
        check_inside(points, fixed, source)
    mapped = transform.map_points(points if fixed is None else index_points_to_world(points, fixed))
    write_keypoints(output, mapped if moving is None else np.asarray(moving.to_index(mapped))[:, ::-1])

"""Strain of a displacement field: how much a piece of tissue is stretched, along directions that do not depend on where it turned to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles, Floats
from nnreg.geometry import FieldMap, Space


def green_lagrange(field: FieldMap) -> Floats:
    """Strain ``(F^T F - 1) / 2`` with F the gradient of ``x + u(x)`` in mm, along the axes of the grid.

    Returns
    -------
    array, shape (*grid, ndim, ndim)
        Central differences, one-sided on the border; an axis of one voxel is not strained.
    """
    n, spacing = field.ndim, field.space.spacing
    gradient = np.zeros((*field.space.shape, n, n), np.float32)
    for j in range(n):
        if field.space.shape[j] > 1:
            for i in range(n):
                gradient[..., i, j] = np.gradient(field.displacement[i], axis=j) * np.float32(spacing[i] / spacing[j])
    stretch = gradient + np.eye(n, dtype=np.float32)
    return (np.einsum("...ki,...kj->...ij", stretch, stretch) - np.eye(n, dtype=np.float32)) / np.float32(2)


@dataclass(frozen=True)
class RegionStrain:
    """Means over a region, percent of the length (of the volume) in the first frame.

    Attributes
    ----------
    volume : change of volume, of area for images of two axes
    largest, smallest : strain along the directions that are stretched most and least
    radial, circumferential : away from the middle of the cavity and around it; None without a cavity
    """

    volume: float
    largest: float
    smallest: float
    radial: float | None = None
    circumferential: float | None = None


def region_strain(field: FieldMap, where: npt.NDArray[np.bool_], centres: Doubles | None = None) -> RegionStrain:
    """Strain of the voxels `where` (*grid).

    Parameters
    ----------
    centres : array, shape (slices, 2), optional
        The middle of the cavity in each slice of the first axis (in the one plane of an image of two axes), indices of the last two; NaN where there is none.
    """
    volume = 100 * float(field.determinants()[where].mean() - 1) if min(field.space.shape) > 1 else float("nan")
    tensors = green_lagrange(field)[where].astype(np.float64)
    ordered = np.linalg.eigvalsh(tensors).mean(axis=0)
    largest, smallest = 100 * float(ordered[-1]), 100 * float(ordered[0])
    if centres is None:
        return RegionStrain(volume, largest, smallest)
    away, known = _away(where, centres, field.space)
    n = field.ndim
    around = np.stack([-away[:, 1], away[:, 0]], axis=1)
    plane = tensors[:, n - 2 :, n - 2 :]
    along = [np.einsum("pi,pij,pj->p", way, plane, way)[known] for way in (away, around)]
    radial, circumferential = (100 * float(values.mean()) if values.size else float("nan") for values in along)
    return RegionStrain(volume, largest, smallest, radial, circumferential)


def cavity_centres(labels: npt.NDArray[np.integer], cavity: int) -> Doubles:
    """Middle of a label in each slice, (slices, 2); NaN where it is not seen."""
    slices = labels.reshape(-1, *labels.shape[-2:])
    return np.stack([np.argwhere(plane == cavity).mean(axis=0) if (plane == cavity).any() else np.full(2, np.nan) for plane in slices])


def _away(where: npt.NDArray[np.bool_], centres: Doubles, space: Space) -> tuple[Doubles, npt.NDArray[np.bool_]]:
    """Unit vectors (N, 2) from the middle of the cavity in the slice, and whether there is one."""
    index = np.argwhere(where.reshape(-1, *where.shape[-2:]))
    offset = (index[:, 1:] - centres[index[:, 0]]) * np.asarray(space.spacing[-2:])
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    known = np.isfinite(length[:, 0]) & (length[:, 0] > 0)
    return np.where(known[:, None], offset / np.where(known[:, None], length, 1), 0.0), known

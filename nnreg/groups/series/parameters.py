"""What a head did between two frames: rotations and translations of a rigid map, framewise displacement, DVARS."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles, Floats
from nnreg.geometry import Space

SPHERE_MM = 50.0  # radius on which rotations become displacements [evidence: Power 2012]


@dataclass(frozen=True)
class Parameters:
    """A rigid map ``x -> R (x - c) + c + t`` about the middle c of the grid, from the reference to a frame.

    Attributes
    ----------
    degrees : tuple of float
        R is a turn about x, then y, then z (world axes, LPS); one angle for images of two axes.
    mm : tuple of float
        t, x first.
    """

    degrees: tuple[float, ...]
    mm: tuple[float, ...]

    @classmethod
    def of(cls, matrix: Doubles, space: Space) -> Parameters:
        """Of a world matrix (ndim+1, ndim+1); scaling and shear are left out."""
        n, c = space.ndim, space.centre
        left, _, right = np.linalg.svd(matrix[:n, :n])
        turn = left @ right
        shift = matrix[:n, :n] @ c + matrix[:n, n] - c
        if n == 2:
            return cls((float(np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))),), tuple(shift.tolist()))
        x, y, z = np.arctan2(turn[2, 1], turn[2, 2]), np.arcsin(np.clip(-turn[2, 0], -1, 1)), np.arctan2(turn[1, 0], turn[0, 0])
        return cls(tuple(np.degrees([x, y, z]).tolist()), tuple(shift.tolist()))

    def matrix(self, space: Space) -> Doubles:
        """The world matrix (ndim+1, ndim+1)."""
        n, c = space.ndim, space.centre
        angles = np.radians(self.degrees)
        turn = _turn(2, 0, 1, angles[0]) if n == 2 else _turn(3, 0, 1, angles[2]) @ _turn(3, 2, 0, angles[1]) @ _turn(3, 1, 2, angles[0])
        result = np.eye(n + 1)
        result[:n, :n], result[:n, n] = turn, c - turn @ c + np.asarray(self.mm)
        return result


def _turn(n: int, i: int, j: int, angle: float) -> Doubles:
    turn = np.eye(n)
    turn[i, i] = turn[j, j] = np.cos(angle)
    turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
    return turn


def framewise_displacement(parameters: Sequence[Parameters | None]) -> Doubles:
    """Sum of the absolute changes from the frame before, rotations on a sphere of 50 mm (Power et al. 2012), mm, (T,).

    NaN for the first frame, and where a frame or the one before has no parameters.
    """
    result = np.full(len(parameters), np.nan)
    for number, (before, after) in enumerate(itertools.pairwise(parameters), start=1):
        if before is not None and after is not None:
            turned = np.abs(np.radians(after.degrees) - np.radians(before.degrees)).sum()
            result[number] = SPHERE_MM * turned + np.abs(np.subtract(after.mm, before.mm)).sum()
    return result


def dvars(frames: npt.NDArray[np.generic], where: npt.NDArray[np.bool_], usable: npt.NDArray[np.bool_]) -> Doubles:
    """Root mean square of the change of intensity from the frame before over the voxels `where`, in percent of their median (Power et al. 2012), (T,).

    Parameters
    ----------
    frames : array, shape (T, *grid)
    where : array of bool, shape (*grid)
    usable : array of bool, shape (T,)
        NaN for other frames and those after them, and for the first.
    """
    values: list[Floats] = [frame[where].astype(np.float32) for frame in frames]
    level = abs(float(np.median(np.concatenate([each for each, good in zip(values, usable, strict=True) if good]))))
    result = np.full(len(frames), np.nan)
    for number in range(1, len(frames)):
        if usable[number] and usable[number - 1] and level > 0:
            result[number] = 100 * float(np.sqrt(np.mean(np.square(values[number] - values[number - 1], dtype=np.float64)))) / level
    return result

"""Keypoint files: voxel indices, x first, one point per row, no header, as Learn2Reg has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.errors import DatasetError
from nnreg.files import write_text
from nnreg.geometry import Space

ENDING = ".csv"


def read_keypoints(path: Path | str) -> npt.NDArray[np.float64]:
    """Read ``x,y,z`` (or ``x,y``) voxel indices, one point per row, no header.

    Raises
    ------
    DatasetError
        Names the line that is not numbers or has another count.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read as text ({error}). Keypoints are rows of x,y,z.") from error
    rows: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            row = [float(value) for value in line.split(",")]
        except ValueError as error:
            raise DatasetError(f"{path}: line {number} is {line[:60]!r}, expected numbers x,y,z. Remove headers and further columns.") from error
        if len(row) not in (2, 3) or (rows and len(row) != len(rows[0])) or not np.isfinite(row).all():
            raise DatasetError(f"{path}: line {number} is {line[:60]!r}, expected {len(rows[0]) if rows else '2 or 3'} finite numbers.")
        rows.append(row)
    if not rows:
        raise DatasetError(f"{path}: holds no keypoints. Write rows of x,y,z or remove the file.")
    return np.asarray(rows)


def check_inside(points: npt.NDArray[np.float64], space: Space, path: Path | str) -> None:
    """Refuse points (N, ndim), voxel indices, x first, that do not lie in the image of `space`.

    Raises
    ------
    DatasetError
        Names `path`, how many lie outside, and the first of them.
    """
    size = np.asarray(space.shape[::-1])
    if points.shape[1] != space.ndim:
        columns = "x,y,z"[: 2 * space.ndim - 1]
        raise DatasetError(f"{path}: has {points.shape[1]} columns, its image is {space.ndim}D. Write {columns} in each row.")
    outside = np.asarray((points < -0.5) | (points > size - 0.5)).any(axis=1)
    if outside.any():
        first = ", ".join(f"{value:g}" for value in points[int(outside.argmax())])
        raise DatasetError(
            f"{path}: {int(outside.sum())} of {len(points)} keypoints lie outside the image of {tuple(size.tolist())} voxels, such as ({first}). "
            "Keypoints are voxel indices, x first, not mm."
        )


def write_keypoints(path: Path | str, points: npt.ArrayLike) -> None:
    """Write points (N, ndim), voxel indices, x first."""
    write_text(path, "".join(",".join(map(_digits, row)) + "\n" for row in np.asarray(points, dtype=float).tolist()))


def _digits(value: float) -> str:
    """Six decimals, or ten digits where those lose something: positions in mm of images of nanometres."""
    text = f"{value:.6f}"
    return text if abs(float(text) - value) <= 1e-6 * abs(value) else f"{value:.10g}"

"""How far registrations of synthetic breathing end from the truth: one scan of a chest, and the same scan moved by known fields that slide along the ribs.

What lies inside the rib cage flows down and towards a random direction, as far as was asked for at the diaphragm and not at all at the apex, along the wall and
not through it; what lies outside hardly moves. Lungs become denser where they are compressed, and noise is added.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_fill_holes, distance_transform_edt, gaussian_filter, map_coordinates
from scipy.spatial import ConvexHull, Delaunay

from nnreg.engine import register
from nnreg.geometry import FieldMap, Space, Transform, resample_image
from nnreg.imageio import Image, read_image
from nnreg.kernels.volumes import block_means

Array = npt.NDArray[np.float64]
COARSE = 5.5  # mm: grid of the velocities
WALL = 12.0  # mm: within about so much of the ribs what flows turns along them
STEPS = 12  # of the integration
SIDEWAYS, OUTSIDE = 0.25, 0.1  # of the motion at the diaphragm
NOISE = 20.0  # HU
AIR = -1000.0  # HU


@dataclass(frozen=True, eq=False)
class Breath:
    """A chest in two states.

    Attributes
    ----------
    moving : Image
        The scan, HU.
    lungs : array of bool
        Of the scan.
    amplitude : float, mm
        Motion at the diaphragm.
    seed : int
    """

    moving: Image
    lungs: npt.NDArray[np.bool_]
    amplitude: float
    seed: int

    @cached_property
    def cage(self) -> npt.NDArray[np.bool_]:
        """What the ribs surround: the hull of both lungs in every slice, and all that lies below one above it."""
        slices = np.stack([_hull(plane) for plane in self.lungs])
        return np.asarray(np.logical_or.accumulate(slices[::-1], axis=0)[::-1])

    @cached_property
    def truth(self) -> FieldMap:
        """From the other state, on the grid of the scan, to the scan."""
        inside, outside = (self._flow(part) for part in (True, False))
        return FieldMap(np.where(self.cage, inside, outside).astype(np.float32), self.moving.space)

    @cached_property
    def fixed(self) -> Image:
        """The other state."""
        space, warp = self.moving.space, Transform((self.truth,), 3)
        array = resample_image(self.moving.array.astype(np.float32), moving=space, fixed=space, transform=warp)
        inner = FieldMap(self._flow(True).astype(np.float32), space).determinants()
        denser = AIR + (array - AIR) * np.clip(
            np.pad(inner, [(0, whole - own) for own, whole in zip(inner.shape, space.shape, strict=True)], mode="edge"), 0.3, 3
        )
        array = np.where(self.fixed_lungs, denser, array)
        return Image((array + np.random.default_rng(self.seed).normal(0, NOISE, array.shape)).astype(np.float32), space)

    @cached_property
    def fixed_lungs(self) -> npt.NDArray[np.bool_]:
        """Lungs of the other state."""
        space = self.moving.space
        return resample_image(self.lungs[None].astype(np.float32), moving=space, fixed=space, transform=Transform((self.truth,), 3))[0] > 0.5

    @property
    def masks(self) -> dict[str, Image]:
        """Of the lungs, as :func:`nnreg.engine.register` takes them."""
        space = self.moving.space
        return {
            "fixed_mask": Image(self.fixed_lungs[None].astype(np.uint8), space),
            "moving_mask": Image(self.lungs[None].astype(np.uint8), space),
        }

    def _flow(self, inner: bool) -> Array:
        """Displacement (3, D, H, W), voxels of the scan, of what flows on one side of the ribs."""
        spacing = np.asarray(self.moving.space.spacing)
        factors = np.maximum(1, np.rint(COARSE / spacing).astype(int))
        cage = block_means(self.cage[None].astype(np.float32), tuple(int(factor) for factor in factors))[0] > 0.5
        steps = spacing * factors
        velocity = self._velocity(cage, steps, inner)
        grid = np.indices(cage.shape).astype(float)
        place = grid.copy()
        for _ in range(STEPS):
            there = np.stack([map_coordinates(part, place, order=1, mode="nearest") for part in velocity])
            place = place + there / STEPS / steps.reshape(3, 1, 1, 1)
        moved = (place - grid) * factors.reshape(3, 1, 1, 1)
        index = np.indices(self.lungs.shape).reshape(3, -1)
        at = (index + 0.5) / factors.reshape(3, 1) - 0.5
        return np.stack([map_coordinates(part, at, order=1, mode="nearest").reshape(self.lungs.shape) for part in moved])

    def _velocity(self, cage: npt.NDArray[np.bool_], steps: Array, inner: bool) -> Array:
        """mm, along the ribs near them."""
        rng = np.random.default_rng(2 * self.seed + inner)
        planes = np.flatnonzero(self.lungs.any(axis=(1, 2))) / len(self.lungs) * len(cage)
        fall = np.clip((planes[-1] - np.arange(len(cage))) / (planes[-1] - planes[0]), 0, 1.0)
        random = np.stack([gaussian_filter(rng.normal(size=cage.shape), 25.0 / steps) for _ in range(3)])
        random *= self.amplitude * (SIDEWAYS if inner else OUTSIDE) / np.abs(random).max()
        velocity = random * fall[:, None, None]
        if inner:
            velocity[0] -= self.amplitude * fall[:, None, None]
        distance = distance_transform_edt(cage, sampling=steps) - distance_transform_edt(~cage, sampling=steps)
        normal = np.stack(np.gradient(gaussian_filter(distance, 1.0), *steps))
        normal /= np.maximum(np.sqrt((normal**2).sum(axis=0)), 1e-6)
        return np.asarray(velocity - np.exp(-((distance / WALL) ** 2)) * (velocity * normal).sum(axis=0) * normal)

    def errors(self, found: Transform, where: npt.NDArray[np.bool_]) -> Array:
        """Distance from the truth, mm, of voxels of the other state."""
        index = np.argwhere(where)
        space = self.moving.space
        true = space.to_world(index + np.moveaxis(self.truth.displacement, 0, -1)[where])
        return np.asarray(np.linalg.norm(found.map_points(space.to_world(index)) - true, axis=1))


def _hull(plane: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    points = np.argwhere(plane)
    if not len(points) or np.ptp(points, axis=0).min() < 2:
        return plane
    corners = points[ConvexHull(points).vertices]
    inside = Delaunay(corners).find_simplex(np.argwhere(np.ones_like(plane))) >= 0
    return np.asarray(binary_fill_holes(inside.reshape(plane.shape) | plane))


def pooled(image: Image, factors: Sequence[int]) -> Image:
    """Means over blocks, on the grid that they make."""
    array = block_means(image.array.astype(np.float32), tuple(factors))
    matrix = image.space.matrix.copy()
    matrix[:3, 3] = image.space.to_world((np.asarray(factors) - 1) / 2)
    matrix[:3, :3] = matrix[:3, :3] @ np.diag(np.asarray(factors, float))
    return Image(array, Space.from_matrix(array.shape[1:], matrix))


def measured(breath: Breath, **options: Any) -> dict[str, Any]:
    """Errors in the lungs before and after, mm."""
    found = register(fixed=breath.fixed, moving=breath.moving, **options)
    errors = breath.errors(found.transform, breath.fixed_lungs)
    before = breath.errors(Transform.identity(3), breath.fixed_lungs)
    return {
        "before": round(float(before.mean()), 2),
        "mean": round(float(errors.mean()), 3),
        "median_and_95_percent": np.percentile(errors, (50, 95)).round(3).tolist(),
    }


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", type=Path, help="CT of a chest, HU, first axis of the array from feet to head")
    parser.add_argument("lungs", type=Path, help="label map on its grid, lungs above 0")
    parser.add_argument("--amplitudes", type=float, nargs="+", default=[10, 15, 20, 25], help="mm at the diaphragm")
    parser.add_argument("--presets", nargs="+", default=["default"])
    parser.add_argument("--pool", type=int, nargs=3, default=[1, 1, 1], help="voxels of each array axis that are made one, to save time")
    options = parser.parse_args()
    scan, lungs = read_image(options.scan), read_image(options.lungs)
    scan, lungs = pooled(Image(np.maximum(scan.array, AIR), scan.space), options.pool), pooled(Image(lungs.array > 0, lungs.space), options.pool)
    for seed, amplitude in enumerate(options.amplitudes):
        breath = Breath(scan, lungs.array[0] > 0.5, amplitude, seed)
        for preset in options.presets:
            for masks in ({}, breath.masks):
                row = measured(breath, preset=preset, **masks)
                print(json.dumps({"amplitude": amplitude, "preset": preset, "masks": bool(masks), **row}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What tells a registration that worked from one that did not, measured on a coarse grid without any truth."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

from nnreg.arrays import Doubles, Floats
from nnreg.engine.affine import align_sides
from nnreg.engine.failure import Evidence
from nnreg.engine.grids import as_map, pyramid, volume_of
from nnreg.engine.mind import mind
from nnreg.engine.prepared_image import PreparedImage, foreground
from nnreg.engine.presets import PRESETS, schedule
from nnreg.engine.similarities import find_similarity
from nnreg.engine.trial import descended
from nnreg.errors import RegistrationError
from nnreg.geometry import Space, Transform, apply_matrix, resample_image

VOXELS = {2: 16_000, 3: 40_000}  # by the number of axes: of the grid it is measured on, about
ALIGNED = 32  # voxels along the longest side of the grid of the backward alignment
AWAY = 0.15  # of the size of the foreground: how far the places lie that the images are compared at besides their own
TINY = 1e-6


def gather(fixed: PreparedImage, moving: PreparedImage, transform: Transform, similarity: str | None) -> Evidence:
    """The evidence of a map between two images.

    Parameters
    ----------
    fixed, moving : PreparedImage
    transform : Transform
        From the fixed to the moving world.
    similarity : str, optional
        The one that images of this pair are compared by. Absent where nothing was deformed: the round trip is then NaN.
    """
    return _Judged(_coarse(fixed), _coarse(moving), transform, similarity).evidence()


def _coarse(side: PreparedImage) -> PreparedImage:
    n = side.space.ndim
    return side.pooled((float(np.prod(side.space.extent) / VOXELS[n]) ** (1 / n),) * n)


def _body(side: PreparedImage) -> npt.NDArray[np.bool_]:
    """The foreground; of a mask that is thinner than a voxel all that it touches."""
    weights = foreground(side)
    return np.asarray(weights > (0.5 if (weights > 0.5).any() else 0))


class _Judged:
    """One map on the coarse grid of its fixed image."""

    def __init__(self, fixed: PreparedImage, moving: PreparedImage, transform: Transform, similarity: str | None) -> None:
        self.fixed, self.moving, self.similarity = fixed, moving, similarity
        space = self.space = fixed.space
        self.body = _body(fixed)
        self.map = transform.sampled_on(space)
        index = np.moveaxis(np.indices(space.shape), 0, -1)
        self.goal = space.to_world(index + np.moveaxis(self.map.displacement, 0, -1))
        self.points, self.mapped = space.to_world(index)[self.body], self.goal[self.body]
        centre = self.points.mean(axis=0)
        self.radius = max(float(np.sqrt(((self.points - centre) ** 2).sum(axis=1).mean())), TINY)
        self.linear = _nearest_affine(self.points, self.mapped)
        self.warped = self._seen(moving.image, None)
        weights = np.stack([foreground(moving), np.ones(moving.space.shape) if moving.mask is None else moving.mask]).astype(np.float32)
        self.other, self.view = self._seen(weights, 0.0) > 0.5

    def _seen(self, image: Floats, outside: float | None) -> Floats:
        """Channels of the moving image on the fixed grid."""
        whole = Transform((self.map,), self.space.ndim)
        return resample_image(image, moving=self.moving.space, fixed=self.space, transform=whole, outside=outside)

    def evidence(self) -> Evidence:
        """All of it."""
        n = self.space.ndim
        common = (self.body | self.other) & self.view
        values = np.linalg.svd(self.linear[:n, :n], compute_uv=False)
        return Evidence(
            backward_alignment=self._backward_alignment(),
            round_trip=float("nan") if self.similarity is None else self._round_trip(self.similarity),
            stretch=float(np.abs(np.log(np.maximum(values, TINY))).max()),
            turn=_turn(self.linear[:n, :n]) if n == 3 else 0.0,
            similarity_gain=self._gain(common),
            edges=_parallel(self.fixed.image, self.warped, common, self.space),
        )

    def _backward_alignment(self) -> float:
        step = float(self.moving.space.extent.max()) / ALIGNED
        try:
            found = align_sides(self.moving, self.fixed, spacing=(step,) * self.space.ndim)
        except RegistrationError:
            return float("inf")
        back = apply_matrix(found.matrix @ self.linear, self.points)
        return float(np.sqrt(((back - self.points) ** 2).sum(axis=1).mean())) / self.radius

    def _round_trip(self, similarity: str) -> float:
        inverse = np.asarray(np.linalg.inv(self.linear), np.float64)
        plan, by = schedule(PRESETS["fast"], self.moving.space), find_similarity(similarity)
        levels = pyramid(*by.prepared_pair(self.moving, self.fixed, inverse), inverse, plan.factors)
        fitting = [level for level in levels if np.prod(level.grid) >= by.fewest_voxels] or levels[-1:]
        if by.same_axes:
            fitting = [level.resampled() for level in fitting]
        field = as_map(descended(fitting, by), fitting[-1].fixed.space)
        inside = self.body & self.view
        if not inside.any():
            return float("inf")
        back = Transform((field,), self.space.ndim).then(Transform.affine(inverse)).map_points(self.goal[inside])
        began = self.space.to_world(np.argwhere(inside))
        return float(np.linalg.norm(back - began, axis=1).mean()) / self.radius

    def _gain(self, common: npt.NDArray[np.bool_]) -> float:
        maps = mind(volume_of(self.fixed.image)), mind(volume_of(self.warped))
        inside = common.reshape(maps[0].shape[1:])
        here = _apart(*maps, inside)
        places = np.argwhere(self.body.reshape(inside.shape))
        size = places.max(axis=0) - places.min(axis=0) + 1
        aside = [_apart(*_shifted(maps, axis, shift), _meeting(inside, axis, shift)) for axis, shift in _shifts(size, inside.shape)]
        return float(np.log(max(float(np.mean(aside)), TINY) / max(here, TINY))) if aside else 0.0


def _nearest_affine(points: Doubles, mapped: Doubles) -> Doubles:
    """Matrix (n + 1, n + 1) of the affine map nearest to where points (N, n) go."""
    n = points.shape[1]
    centre = points.mean(axis=0)
    spread = points - centre
    found = np.linalg.lstsq(spread, mapped - mapped.mean(axis=0), rcond=None)[0].T
    matrix = np.eye(n + 1)
    # of points in a plane nothing across it is known
    matrix[:n, :n] = found if np.linalg.matrix_rank(spread) == n and abs(np.linalg.det(found)) > TINY else np.eye(n)
    matrix[:n, n] = mapped.mean(axis=0) - matrix[:n, :n] @ centre
    return matrix


def _turn(linear: Doubles) -> float:
    left, _, right = np.linalg.svd(linear)
    return float(1 - np.clip((np.trace(left @ right) - 1) / 2, -1, 1))


def _parallel(fixed: Floats, warped: Floats, where: npt.NDArray[np.bool_], space: Space) -> float:
    """Mean squared cosine between gradients, weighted by both lengths, from 0 for chance to 1 (after Haber and Modersitzki 2006)."""
    axes = [axis for axis, size in enumerate(space.shape) if size > 1]
    total = weight = 0.0
    for one, other in zip(fixed, warped, strict=True):
        slopes = [np.stack([np.gradient(gaussian_filter(image, 1.0), space.spacing[axis], axis=axis) for axis in axes]) for image in (one, other)]
        lengths = np.maximum(np.prod([np.sqrt((slope**2).sum(axis=0)) for slope in slopes], axis=0), 1e-12) * where
        total += float(((slopes[0] * slopes[1]).sum(axis=0) ** 2 / np.maximum(lengths, 1e-12) * where).sum())
        weight += float(lengths.sum())
    chance = 1 / len(axes)
    return (total / max(weight, 1e-12) - chance) / (1 - chance) if chance < 1 else 0.0


def _shifts(size: npt.NDArray[np.intp], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Axis and voxels of the places aside, both ways along every axis that has room."""
    away = np.maximum(2, np.rint(AWAY * size).astype(int))
    return [(axis, sign * int(step)) for axis, step in enumerate(away) if shape[axis] >= 3 * step for sign in (1, -1)]


def _ends(axis: int, shift: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What meets of two volumes, the second moved by `shift` voxels."""
    ends = slice(max(shift, 0), min(shift, 0) or None), slice(max(-shift, 0), min(-shift, 0) or None)
    return (*(slice(None),) * axis, ends[0]), (*(slice(None),) * axis, ends[1])


def _shifted(maps: tuple[Floats, Floats], axis: int, shift: int) -> tuple[Floats, Floats]:
    first, second = _ends(axis, shift)
    return maps[0][(slice(None), *first)], maps[1][(slice(None), *second)]


def _meeting(inside: npt.NDArray[np.bool_], axis: int, shift: int) -> npt.NDArray[np.bool_]:
    first, second = _ends(axis, shift)
    return np.asarray(inside[first] & inside[second])


def _apart(one: Floats, other: Floats, where: npt.NDArray[np.bool_]) -> float:
    """Mean squared difference of maps (K, D, H, W) in a region."""
    if not where.any():
        return 0.0
    return float(((one - other) ** 2).mean(axis=0)[where].mean())

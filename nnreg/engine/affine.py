"""Bringing two images together by a linear map in world mm: initialisation, rigid, affine, kept only where it helps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.engine.linear import Fit, Pair, Parameters, optimise
from nnreg.engine.names import ALIGNMENTS
from nnreg.engine.prepared_image import PreparedImage, foreground, moments, prepare_shown
from nnreg.engine.similarity import SAME_CONTRAST, LocalCorrelation, MutualInformation, Similarity, inner_correlation
from nnreg.errors import ConfigurationError, RegistrationError, did_you_mean
from nnreg.geometry import Space
from nnreg.geometry.space import apply_matrix

COARSE, FINE = 32, 64  # voxels along the longest side of the foreground
SEARCH_DEGREES = (20.0, 40.0)
STARTS = {2: 6, 3: 3}  # by the number of axes: poses that are optimised besides the headers'; in 2D the whole circle is searched, and fits are cheap
ITERATIONS = 20  # of each fit
LEAST_OVERLAP = 0.5  # of the best overlap any starting pose offers
LEAST_GAIN = 5e-3  # a freer map must raise the similarity by this much to be preferred
LEAST_SHARE, ROUNDING = 0.5, 1e-4  # or by this share of what is missing to 1: images that are nearly alike have no more to gain
SAME_PLACE = 0.5  # stored voxels: maps that differ by less at the ends of the foreground are nearly one
# there interpolation, which smooths noise, raises the similarity too, whichever way an image is moved. Moved as far the other way it falls by three times what
# an optimum gains (a parabola); by trial on a head with noise of 3 to 10 % of its maximum by at most 1.1 times what is gained by interpolation
OTHER_WAY = 1.5


@dataclass(frozen=True, eq=False)
class Alignment:
    """A linear map and why it was chosen.

    Attributes
    ----------
    matrix : array, shape (ndim+1, ndim+1)
        Pull-back in world mm, x first: the moving-world position of a fixed-world position.
    kind : str
        What was used in the end: "none", "centre", "rigid" or "affine".
    similarity_before, similarity_after : float
        Of the headers alone and of `matrix`, by the measure `because` names, at the finest grid that was used. NaN before, if the headers do not overlap.
    because : str
    """

    matrix: Doubles
    kind: str
    similarity_before: float
    similarity_after: float
    because: str


def align(
    *,
    fixed: npt.NDArray[np.generic],
    fixed_space: Space,
    moving: npt.NDArray[np.generic],
    moving_space: Space,
    kind: str = "affine",
    fixed_mask: npt.NDArray[np.generic] | None = None,
    moving_mask: npt.NDArray[np.generic] | None = None,
    spacing: Sequence[float] | None = None,
    seed: int = 0,
) -> Alignment:
    """Find the linear map from the fixed to the moving world.

    Parameters
    ----------
    fixed, moving : array, shape (C, *spatial)
        As read; any dtype. Both need the same number of channels.
    fixed_space, moving_space : Space
    kind
        The freest map that may be used: "none", "centre" (translation), "rigid" or "affine".
    fixed_mask, moving_mask : array, optional
        Where the images may be looked at.
    spacing : sequence of float, mm, optional
        Voxels of the finest grid to work on; by default the foreground is 64 voxels long.
    seed
        Kept for callers that pass one to every step; nothing here is random.

    Returns
    -------
    Alignment
        Never of a lower similarity than the headers alone.

    Raises
    ------
    RegistrationError
        If an image is constant or holds NaN, dimensions or channel counts differ, a mask is empty, both foregrounds are of one voxel, or no start brings the
        images into a common view.
    """
    check_pair(fixed_space.ndim, moving_space.ndim, len(fixed), len(moving))
    sides = prepare_shown(fixed, fixed_space, fixed_mask, "fixed"), prepare_shown(moving, moving_space, moving_mask, "moving")
    return align_sides(*sides, kind=kind, spacing=spacing)


def check_pair(fixed_axes: int, moving_axes: int, fixed_channels: int, moving_channels: int) -> None:
    """Raise a RegistrationError unless two images have the same number of axes and of channels."""
    if fixed_axes != moving_axes:
        raise RegistrationError(f"the fixed image has {fixed_axes} axes, the moving {moving_axes}. Both must be 2D or both 3D.")
    if fixed_channels != moving_channels:
        raise RegistrationError(f"the fixed image has {fixed_channels} channels, the moving {moving_channels}. Give both the same channels, in the same order.")


def align_sides(fixed: PreparedImage, moving: PreparedImage, *, kind: str = "affine", spacing: Sequence[float] | None = None) -> Alignment:
    """:func:`align` for images that are prepared already."""
    if kind not in ALIGNMENTS:
        raise ConfigurationError(f"alignment {kind!r} is unknown; {did_you_mean(kind, ALIGNMENTS)}")
    return _Search(fixed, moving, kind, spacing).run()


class _Search:
    """One alignment: grids, starts and stages."""

    def __init__(self, fixed: PreparedImage, moving: PreparedImage, kind: str, spacing: Sequence[float] | None) -> None:
        self.kind = kind
        self.native = fixed.space
        n = fixed.space.ndim
        bodies = []
        for side in (fixed, moving):
            rough = side.pooled((float(side.space.extent.max()) / FINE,) * n)
            bodies.append(moments(foreground(rough), rough.space))
        (self.fixed_centre, self.fixed_spread), (self.moving_centre, self.moving_spread) = bodies
        # a solid ball or box reaches about twice its standard deviation to each side
        self.radius = 2 * float(np.sqrt(max(np.linalg.eigvalsh(self.fixed_spread).max(), np.linalg.eigvalsh(self.moving_spread).max())))
        if self.radius == 0:
            raise RegistrationError("the foreground of both images is a single voxel each: nothing to align. Give masks or an initial transform.")
        fine = (2 * self.radius / FINE,) * n if spacing is None else tuple(spacing)
        coarse = tuple(max(step, 2 * self.radius / COARSE) for step in fine)
        self.fine = Pair(fixed.pooled(fine), moving.pooled(fine))
        self.coarse = Pair(fixed.pooled(coarse), moving.pooled(coarse))

    def run(self) -> Alignment:
        identity = np.eye(self.fine.ndim + 1)
        coarse = MutualInformation(self.coarse.fixed)
        starts = self._starts(coarse)
        least = LEAST_OVERLAP * max(fit.overlap for fit in starts)
        if least <= 0:
            raise RegistrationError("the two images have no common view from any start. Check that they show the same part of the body.")
        if self.kind in ("none", "centre"):
            kept = starts[: 1 if self.kind == "none" else 2]
            similarity, why = self._similarity(max(kept, key=lambda fit: fit.similarity).matrix)
            return self._choose(similarity, [("none", identity), *(("centre", fit.matrix) for fit in kept[1:])], why)
        kinds = ("rigid", "affine") if self.kind == "affine" else ("rigid",)
        best = sorted(starts, key=lambda fit: -fit.similarity)[: STARTS[self.coarse.ndim]]
        # the headers may be right although much is deformed: always worth a try
        poses = [fit.matrix for fit in best] + [identity] * (starts[0].overlap >= least)
        tried = self._distinct([self._stages(self.coarse, coarse, kinds[:1], [pose], least) for pose in poses])
        if len(kinds) > 1:
            tried = [[*fits, *self._stages(self.coarse, coarse, kinds[1:], [fits[0].matrix], least)] for fits in tried]
        leading = max(tried, key=lambda fits: fits[-1].similarity)
        similarity, why = self._similarity(leading[-1].matrix)
        going_on = self._distinct([leading, tried[-1]] if similarity.rises_apart else [leading])
        fine = [self._stages(self.fine, similarity, kinds, [fit.matrix for fit in fits], least) for fits in going_on]
        found = max(fine, key=lambda fits: fits[-1].similarity)
        unsettled = [name for name, fit in zip(kinds, found, strict=True) if not fit.settled]
        why += f"; still rising after {ITERATIONS} iterations: {', '.join(unsettled)}" if unsettled else ""
        return self._choose(similarity, [("none", identity), *zip(kinds, (fit.matrix for fit in found), strict=True)], why)

    def _stages(self, pair: Pair, similarity: Similarity, kinds: Sequence[str], starts: Sequence[Doubles], least: float) -> list[Fit]:
        """A fit of each kind from its start."""
        return [self._fit(pair, similarity, kind, start, least) for kind, start in zip(kinds, starts, strict=True)]

    def _distinct(self, tried: Sequence[list[Fit]]) -> list[list[Fit]]:
        """Without those that end in the pose of one after them, so that the headers', which come last, stay last."""
        kept: list[list[Fit]] = []
        for fits in reversed(tried):
            if not any(self._nearly(fits[-1].matrix, other[-1].matrix) for other in kept):
                kept.append(fits)
        return kept[::-1]

    def _fit(self, pair: Pair, similarity: Similarity, kind: str, start: Doubles, least: float) -> Fit:
        # the order of magnitude of a voxel: 1 mm for images of the body
        unit = 10.0 ** round(np.log10(min(self.native.spacing)))
        parameters = Parameters(kind, tuple(self.fixed_centre.tolist()), self.radius, unit)
        return optimise(pair, similarity, parameters, start, iterations=ITERATIONS, least_overlap=least)

    def _starts(self, similarity: Similarity) -> list[Fit]:
        """Header, centres of mass, centres with rotations, principal axes: each with its similarity on the coarse grid."""
        n = self.coarse.ndim
        rotations = [np.eye(n), *_rotations(n), *_principal(self.fixed_spread, self.moving_spread)]
        matrices = [np.eye(n + 1)] + [_around(rotation, self.fixed_centre, self.moving_centre) for rotation in rotations]
        return [Fit(matrix, *self.coarse.value(similarity, matrix)) for matrix in matrices]

    def _similarity(self, matrix: Doubles) -> tuple[Similarity, str]:
        """The measure of the fine stage, by what the pair shows once it is roughly together."""
        warped, valid = self.coarse.sample(matrix)
        both = (self.coarse.body * valid) > 0
        inner = inner_correlation(self.coarse.fixed, warped, both)
        if inner >= SAME_CONTRAST:
            return LocalCorrelation(self.fine.fixed, 3), f"compared by local correlation ({inner:.2f} inside the body on a coarse grid)"
        return MutualInformation(self.fine.fixed), f"compared by mutual information (local correlation {inner:.2f} inside the body on a coarse grid)"

    def _nearly(self, one: Doubles, other: Doubles) -> bool:
        """Whether two maps put the fixed foreground at the same place, within a fraction of a stored voxel of the fixed image."""
        n = self.fine.ndim
        reach = np.concatenate([np.eye(n), -np.eye(n)]) * self.radius + self.fixed_centre
        moved = np.linalg.inv(one) @ other
        steps = (apply_matrix(moved, reach) - reach) @ self.native.inverse_matrix[:n, :n].T
        return bool(np.abs(steps).max() < SAME_PLACE)

    def _choose(self, similarity: Similarity, found: list[tuple[str, Doubles]], why: str) -> Alignment:
        """The simplest map that is as good as the best."""
        values = [self.fine.value(similarity, matrix) for _, matrix in found]
        scores = [value if overlap > 0 else -np.inf for value, overlap in values]
        best = int(np.argmax(scores))
        gains = [scores[best] - score for score in scores]
        chosen = next(i for i in range(len(found)) if i == best or self._as_good(similarity, found[i][1], scores[i], found[best][1], gains[i]))
        before = scores[0] if np.isfinite(scores[0]) else float("nan")
        kind, matrix = found[chosen]
        tried = ", ".join(f"{name} {score:.4f}" if np.isfinite(score) else f"{name} no overlap" for (name, _), score in zip(found, scores, strict=True))
        return Alignment(matrix, kind, before, scores[chosen], f"{why}; similarity by map: {tried}")

    def _as_good(self, similarity: Similarity, simple: Doubles, score: float, best: Doubles, gain: float) -> bool:
        """Whether a simpler map scores nearly as well as the best, or what that gains comes of interpolation."""
        if gain <= min(LEAST_GAIN, LEAST_SHARE * (1 - score) + ROUNDING):
            return True
        if not self._nearly(simple, best):
            return False
        value, overlap = self.fine.value(similarity, simple @ np.linalg.inv(best) @ simple)
        return overlap > 0 and score - value < OTHER_WAY * gain


def _around(rotation: Doubles, fixed_centre: Doubles, moving_centre: Doubles) -> Doubles:
    """Map that turns around the fixed centre and puts it onto the moving one."""
    n = len(rotation)
    matrix = np.eye(n + 1)
    matrix[:n, :n] = rotation
    matrix[:n, n] = moving_centre - rotation @ fixed_centre
    return matrix


def _rotations(ndim: int) -> list[Doubles]:
    """The small search: single turns about each axis; in 2D the whole circle."""
    if ndim == 2:
        return [_turn(2, 0, 1, degrees) for degrees in range(20, 360, 20)]
    return [_turn(3, i, j, sign * degrees) for i, j in itertools.combinations(range(3), 2) for degrees in SEARCH_DEGREES for sign in (1, -1)]


def _turn(ndim: int, i: int, j: int, degrees: float) -> Doubles:
    rotation = np.eye(ndim)
    angle = np.deg2rad(degrees)
    rotation[i, i] = rotation[j, j] = np.cos(angle)
    rotation[i, j], rotation[j, i] = -np.sin(angle), np.sin(angle)
    return rotation


def _principal(fixed: Doubles, moving: Doubles) -> list[Doubles]:
    """Rotations that turn the fixed principal axes onto the moving ones (each axis either way, without mirroring)."""
    fixed_axes, moving_axes = (np.linalg.eigh(spread)[1] for spread in (fixed, moving))
    result = []
    for signs in itertools.product((1.0, -1.0), repeat=len(fixed)):
        rotation = moving_axes @ np.diag(signs) @ fixed_axes.T
        if np.linalg.det(rotation) > 0:
            result.append(rotation)
    return result

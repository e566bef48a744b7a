"""Maps between worlds: affine matrices and displacement fields, chained, and sampled once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles, Floats
from nnreg.errors import GeometryError
from nnreg.geometry.space import Space, apply_matrix
from nnreg.kernels import field_cpu, positions_cpu
from nnreg.kernels.positions_cpu import INSIDE
from nnreg.kernels.threads import in_parts
from nnreg.padding import beyond

SLAB_VOXELS = 2**17  # voxels handled at once: their positions stay in the cache of a core
MOST_PARTS = 4  # that a thick voxel is split into where a field is inverted
REFINED_VOXELS = 16_000_000
FITTED_PER_AXIS = 32  # voxels that the linear part of a field is fitted to
MOSTLY_LINEAR = 0.5  # root mean square of what the linear part leaves, as a share of the field's: above, the field is iterated on as it is
WORST_CONDITION = 1e4
FLAT = 1e12  # condition of a matrix whose inverse is rounding alone
MOST_GROWTH = 27.0  # of the grid that an inverse is found on: a border that moves by the size of the image in every direction
MOST_GROWTH_OF_LARGE = 2.5  # with eight arrays of that size at a time, twenty times the field
MOST_FADED = 8.0  # growth of the grid on which a field falls to zero; twice that is in memory at a time
AROUND = 2  # voxels that what the linear part leaves is continued by: a grid that is turned has voxels beside the border, which interpolation reads
FEW_VOXELS = 1_000_000  # of a grid that may grow more, because it takes no memory to speak of


@dataclass(frozen=True, eq=False)
class AffineMap:
    """``x -> matrix x`` in world mm, x first.

    Attributes
    ----------
    matrix : array, shape (ndim+1, ndim+1), homogeneous
    """

    matrix: Doubles

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.matrix.shape[0]) - 1

    @property
    def flattens(self) -> bool:
        """Whether the matrix has no inverse: it takes a whole line of points to one."""
        return bool(np.linalg.cond(self.matrix[:-1, :-1]) > FLAT)

    def inverse(self) -> AffineMap:
        """The exact inverse.

        Raises
        ------
        GeometryError
            If the matrix flattens space.
        """
        if self.flattens:
            raise GeometryError("its matrix cannot be inverted: it takes a whole line of points to one. Use a transform whose matrix has an inverse.")
        return AffineMap(np.asarray(np.linalg.inv(self.matrix)))

    def inverse_stages(self, grid: Space | None = None) -> tuple[Stage, ...]:
        """The exact inverse, as stages of a transform."""
        return (self.inverse(),)


@dataclass(frozen=True, eq=False)
class FieldMap:
    """``x -> x + u(x)`` in world mm, with `u` linear between voxels and zero outside the grid (as ITK has it).

    Attributes
    ----------
    displacement : array, shape (ndim, *spatial), float32, voxels of `space`, array axis order
    space : Space
    """

    displacement: npt.NDArray[np.float32]
    space: Space

    def __post_init__(self) -> None:
        if tuple(self.displacement.shape) != (self.space.ndim, *self.space.shape):
            raise GeometryError(f"a field of shape {tuple(self.displacement.shape)} does not lie on a grid of shape {self.space.shape}.")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.space.ndim

    @functools.cached_property
    def volume(self) -> Floats:
        """The displacement as a contiguous volume (ndim, D, H, W); an image of two axes is one slice."""
        return np.ascontiguousarray(self.displacement if self.ndim == 3 else self.displacement[:, None], dtype=np.float32)

    def inverse_stages(self, grid: Space | None = None) -> tuple[Stage, ...]:
        """The inverse map as one field, found by fixed point iteration; the linear part, where it is most of the field, is inverted apart.

        Beyond the grid and what the grid is carried to, the inverse is the identity, as the map is. Where voxels of `grid` are shorter, the field of the
        inverse has voxels as short, as far as REFINED_VOXELS allows.

        The iteration converges from nearby alone: of a field that holds a rotation by 90 degrees it left 6 mm, and one that carries a translation would need
        a grid as wide as the translation. ``x + u(x) = A (x + w(x))`` with the matrix A of the least squares fit leaves a small w to be iterated on.

        Raises
        ------
        GeometryError
            If the field cannot be inverted: the iteration leaves more than half a voxel at more than one voxel of a hundred.
        """
        matrix = self._linear_part()
        if matrix is None:
            return (self._ended(self._iterated_inverse(grid)),)
        inverted = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        world = self.space.matrix @ matrix @ self.space.inverse_matrix
        rest = FieldMap(_relative_to(inverted, self.displacement), self.space).continued([(AROUND, AROUND)] * self.ndim)
        return (self._identity_beyond(world, rest._iterated_inverse(grid)),)

    def _identity_beyond(self, world: Doubles, rest: FieldMap) -> FieldMap:
        """The inverse, that of the matrix and then `rest`, as one field, which ends where the map's image and its grid end.

        Beyond its grid the map is the identity, and so is its inverse beyond what the grid is carried to: a matrix as a stage of its own would move all space.
        In the part of the grid that nothing is carried to the inverse stays continued: the identity would show the fixed image a second time.
        """
        back = Transform((AffineMap(world).inverse(), rest), self.ndim).simplified()
        carried = _carried(rest.space, world)
        image, own = _box(carried, apply_matrix(world, rest.space.corners())), _box(carried, self.space.corners())
        both = [(min(low, first), max(high, end)) for (low, high), (first, end) in zip(image, own, strict=True)]
        overlap = all(low < end and first < high for (low, high), (first, end) in zip(image, own, strict=True))
        space = carried.part(both if overlap else image)
        result = back.sampled_on(space)
        result.displacement[...] *= self._reached(space, back)
        return result

    def _ended(self, inverse: FieldMap) -> FieldMap:
        """:meth:`_identity_beyond` of an inverse whose grid holds this one and is not turned: only its margins are looked at."""
        for axis, (low, high) in enumerate(_box(inverse.space, self.space.corners())):
            size = inverse.space.shape[axis]
            for first, end in ((0, low), (high, size)):
                if first >= end:
                    continue
                wider = [(0, length) for length in inverse.space.shape]
                wider[axis] = max(first - 1, 0), min(end + 1, size)  # a place that is kept keeps the voxels around it
                part = FieldMap(inverse.displacement[(slice(None), *(slice(*ends) for ends in wider))], inverse.space.part(wider))
                kept = self._reached(part.space, Transform((part,), self.ndim))
                margin = (slice(None),) * axis + (slice(first, end),)
                inverse.displacement[(slice(None), *margin)] *= kept[(slice(None),) * axis + (slice(first - wider[axis][0], end - wider[axis][0]),)]
        return inverse

    def _reached(self, space: Space, back: Transform) -> npt.NDArray[np.uint8]:
        """1 at the voxels of `space` in this grid, at those that `back` takes into it, and beside them: interpolation there reads the voxels around."""
        from scipy.ndimage import maximum_filter

        inside = functools.partial(resample_labels, np.ones((1, *self.space.shape), np.uint8), moving=self.space, fixed=space)
        found: npt.NDArray[np.uint8] = maximum_filter(np.maximum(inside(transform=back)[0], inside()[0]), size=3)
        return found

    def _linear_part(self) -> Doubles | None:
        """Matrix (ndim+1, ndim+1) of the affine map of voxel indices nearest to the map; None where it is little of the displacement, or not invertible."""
        n, step = self.ndim, [max(1, size // FITTED_PER_AXIS) for size in self.space.shape]
        axes = [np.arange(0, size, jump, dtype=np.float64) for size, jump in zip(self.space.shape, step, strict=True)]
        indices = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")] + [np.ones(int(np.prod([len(axis) for axis in axes])))])
        field = self.displacement[(slice(None), *(slice(None, None, jump) for jump in step))].reshape(n, -1).astype(np.float64)
        # a grid of one voxel along an axis tells nothing of that axis: the least norm leaves it as it is
        fitted = np.linalg.lstsq(indices.T, field.T, rcond=None)[0].T
        matrix = np.eye(n + 1)
        matrix[:n] += fitted
        rest = field - fitted @ indices
        if np.square(rest).sum() > (MOSTLY_LINEAR**2) * np.square(field).sum() or np.linalg.cond(matrix[:n, :n]) > WORST_CONDITION:
            return None
        return np.asarray(matrix)

    def _iterated_inverse(self, grid: Space | None) -> FieldMap:
        """Inverse by fixed point iteration, on a grid that reaches as far as the map does and is finer along thick axes, and where `grid` is.

        A field that is linear between slices has an inverse that is not: on hearts of 10 mm slices, kept on the same grid, the way there and back left 0.4
        voxels (95th percentile), with four times the slices 0.15.
        """
        from nnreg.kernels.inversion import LARGEST_RESIDUAL, MOST_UNSETTLED, between_voxels, exact_inverse, inverted_volume, unsettled

        wide = self._reaching()._refined()
        parts = wide._parts(grid)
        inverted = (inverted_volume if max(parts) == 1 else exact_inverse)(wide.volume)
        share, largest = unsettled(wide.volume, inverted)
        if share > MOST_UNSETTLED:
            raise GeometryError(
                f"the displacement field cannot be inverted: after the iteration {share:.0%} of its voxels are off by over {LARGEST_RESIDUAL:g} voxels "
                f"(up to {largest:.1f}). It folds or bends too much; use a transform that has its inverse beside it."
            )
        space = wide.space
        if max(parts) > 1:
            inverted, space = between_voxels(inverted, wide.volume, parts), _split(space, parts[3 - self.ndim :])
        return FieldMap(inverted if self.ndim == 3 else inverted[:, 0], space)

    def _parts(self, grid: Space | None) -> tuple[int, int, int]:
        """How many voxels of `grid` there are to one of the field along z, y and x; one each where that makes too many."""
        wanted = self.space if grid is None else grid
        found = [1] * (3 - self.ndim) + [max(1, round(own / other)) for own, other in zip(self.space.spacing, wanted.spacing, strict=True)]
        many = np.prod(found) * self.space.voxels > REFINED_VOXELS
        return (1, 1, 1) if many else (found[0], found[1], found[2])

    def continued(self, margins: Sequence[tuple[int, int]]) -> FieldMap:
        """On a grid wider by so many voxels before and after along each axis, the values at the border kept there."""
        space = self.space.part([(-low, size + high) for (low, high), size in zip(margins, self.space.shape, strict=True)])
        return FieldMap(np.pad(self.displacement, [(0, 0), *margins], mode="edge"), space)

    def _reaching(self) -> FieldMap:
        """The same map with its border continued as far as it carries points out of the grid."""
        margins, near = [], INSIDE / MOST_PARTS  # half a voxel of the finest grid that it may be split into
        for axis in range(self.ndim):
            first, last = (self.displacement[axis].take(end, axis=axis) for end in (0, -1))
            margins.append((max(0, int(np.ceil(-float(first.min()) - near))), max(0, int(np.ceil(float(last.max()) - near)))))
        if not any(low or high for low, high in margins):
            return self
        grown = np.prod([size + low + high for size, (low, high) in zip(self.space.shape, margins, strict=True)]) / np.prod(self.space.shape)
        if grown > (MOST_GROWTH if grown * self.space.voxels <= FEW_VOXELS else MOST_GROWTH_OF_LARGE):
            farthest, shape = max(max(pair) for pair in margins), " x ".join(map(str, self.space.shape))
            raise GeometryError(
                f"the displacement field cannot be inverted: it carries the border of its grid of {shape} voxels up to {farthest} voxels out of it. "
                "Use a transform that has its inverse beside it."
            )
        return self.continued(margins)

    def _refined(self) -> FieldMap:
        """The same map on a grid whose thick axes are split, four times at most and as far as the grid stays of a size that costs little."""
        finest, voxels = min(self.space.spacing), int(np.prod(self.space.shape))
        field, spacing = self.displacement, list(self.space.spacing)
        for axis, (step, size) in enumerate(zip(self.space.spacing, self.space.shape, strict=True)):
            parts = min(MOST_PARTS, round(step / finest), REFINED_VOXELS // voxels)
            if parts < 2 or size < 2:
                continue
            positions = np.arange((size - 1) * parts + 1) / parts
            below = np.minimum(positions.astype(int), size - 2)
            share = (positions - below).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(self.ndim)])
            field = field.take(below, axis=axis + 1) * (1 - share) + field.take(below + 1, axis=axis + 1) * share
            field[axis] *= parts
            spacing[axis], voxels = step / parts, voxels * parts
        return FieldMap(np.ascontiguousarray(field), Space(field.shape[1:], tuple(spacing), self.space.origin, self.space.direction))

    def thinned(self, stride: Sequence[int]) -> FieldMap:
        """Every `stride`-th voxel along each axis, the first one kept.

        Nothing is lost if the field is linear between those voxels; where the last one is none of them, the grid is continued by that slope.
        """
        field, spacing = self.displacement, []
        for axis, (step, size) in enumerate(zip(stride, self.space.shape, strict=True), start=1):
            kept = np.take(field, np.arange(0, size, step), axis=axis)
            beyond = (size - 1) % step
            if beyond:
                last = kept.take([-1], axis=axis)
                kept = np.concatenate([kept, last + (field.take([-1], axis=axis) - last) * (step / beyond)], axis=axis)
            field = kept
            spacing.append(self.space.spacing[axis - 1] * step)
        scale = np.asarray(stride, dtype=np.float32).reshape(-1, *(1,) * self.ndim)
        return FieldMap((field / scale).astype(np.float32), Space(field.shape[1:], tuple(spacing), self.space.origin, self.space.direction))

    def faded_out(self) -> tuple[Stage, ...]:
        """The same map on a wider grid, whose displacement falls to zero at its border.

        Outside its grid a field is zero. One that ends abruptly tears and folds space there, which matters where an image is larger than the
        grid the field was found on. The border's displacement is continued outwards and falls so slowly that nothing folds, corners included.
        Where that would take much memory, the mean displacement of the border is a translation of its own, after the field, and only the rest falls to zero.
        """
        if self._growth(self._fading_margin()) <= MOST_FADED or self._grown_voxels(self._fading_margin()) <= FEW_VOXELS:
            return (self._faded(self._fading_margin()),)
        n = self.ndim
        mean = np.mean([ends.reshape(n, -1).mean(axis=1, dtype=np.float64) for ends in self._ends()], axis=0)
        rest = FieldMap(self.displacement - mean.astype(np.float32).reshape(-1, *(1,) * n), self.space)
        world = np.eye(n + 1)
        world[:n, n] = self.space.matrix[:n, :n] @ mean
        # a field whose border is torn in every direction may fold beyond it, where nothing is known of the map
        widest = int((MOST_FADED ** (1 / n) - 1) / 2 * min(self.space.shape))
        return rest._faded(max(1, min(rest._fading_margin(), widest))), AffineMap(world)

    def _ends(self) -> list[npt.NDArray[np.float32]]:
        """Of each axis the displacement at its first and its last voxel, (ndim, 2, ...)."""
        return [np.moveaxis(np.take(self.displacement, [0, -1], axis=axis), axis, 1) for axis in range(1, self.ndim + 1)]

    def _fading_margin(self) -> int:
        """Voxels over which the displacement of the border falls to zero without folding."""
        return int(np.ceil((self.ndim + 1) * max(float(np.abs(end).max()) for end in self._ends()))) + 1

    def _grown_voxels(self, margin: int) -> float:
        return float(np.prod([size + 2.0 * margin for size in self.space.shape]))

    def _growth(self, margin: int) -> float:
        return self._grown_voxels(margin) / self.space.voxels

    def _faded(self, margin: int) -> FieldMap:
        field = np.pad(self.displacement, [(0, 0)] + [(margin, margin)] * self.ndim, mode="edge")
        for axis, size in enumerate(self.space.shape, start=1):
            outside = np.maximum(0, np.maximum(margin - np.arange(size + 2 * margin), np.arange(size + 2 * margin) - margin - size + 1))
            field *= (1 - outside / margin).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(self.ndim + 1)])
        origin = self.space.to_world([-margin] * self.ndim)
        return FieldMap(field, Space(field.shape[1:], self.space.spacing, tuple(origin.tolist()), self.space.direction))

    def determinants(self) -> npt.NDArray[np.float32]:
        """Jacobian determinants (*spatial) of ``x -> x + u(x)``, by central differences (one-sided on the border); below 0 where the map folds.

        On an anisotropic grid they are the same numbers as in mm: the spacings cancel between rows and columns.

        Raises
        ------
        GeometryError
            On a grid of one voxel along an axis, where there is no difference.
        """
        if min(self.space.shape) < 2:
            raise GeometryError(f"a Jacobian needs two voxels along every axis, found a field of shape {tuple(self.displacement.shape)}.")
        result = np.empty(self.volume.shape[1:], np.float32)
        in_parts(field_cpu.determinants, self.volume.shape[1] * self.volume.shape[2], result, self.volume)
        return result.reshape(self.space.shape)

    def in_mm(self, dtype: npt.DTypeLike = np.float64) -> npt.NDArray[np.floating]:
        """Displacement in world mm, shape (*spatial, ndim), components x first: ITK's form."""
        n = self.ndim
        matrix = self.space.matrix[:n, :n].astype(dtype)
        columns = self.displacement.reshape(n, -1).astype(dtype, copy=False)
        return np.ascontiguousarray((matrix @ columns).T).reshape(*self.space.shape, n)

    @classmethod
    def from_mm(cls, displacement: npt.NDArray[np.floating], space: Space) -> FieldMap:
        """From world mm, shape (*spatial, ndim), components x first."""
        n = space.ndim
        voxels = np.einsum("kw,...w->k...", space.inverse_matrix[:n, :n], np.asarray(displacement, dtype=np.float64))
        return cls(np.ascontiguousarray(voxels, dtype=np.float32), space)


Stage = AffineMap | FieldMap


def _carried(space: Space, world: Doubles) -> Space:
    """The grid that a matrix makes of `space`, its axes turned to right angles where the matrix shears."""
    n = space.ndim
    matrix = world @ space.matrix
    lengths = np.linalg.norm(matrix[:n, :n], axis=0)
    left, _, right = np.linalg.svd(matrix[:n, :n] / lengths)
    matrix[:n, :n] = left @ right * lengths
    return Space.from_matrix(space.shape, matrix)


def _box(space: Space, points: Doubles) -> list[tuple[int, int]]:
    """Along each axis of a grid the first voxel of the box around world positions (N, ndim), and the one after its last."""
    indices = space.to_index(points).round(6)
    return list(zip(np.floor(indices.min(axis=0)).astype(int).tolist(), np.ceil(indices.max(axis=0) + 1).astype(int).tolist(), strict=True))


def _split(space: Space, parts: Sequence[int]) -> Space:
    """The grid of the parts that the voxels of `space` are split into along each axis."""
    n, share = space.ndim, 1 / np.asarray(parts, dtype=float)
    matrix = space.matrix.copy()
    matrix[:n, n] = space.to_world((share - 1) / 2)
    matrix[:n, :n] = matrix[:n, :n] * share
    return Space.from_matrix(tuple(size * part for size, part in zip(space.shape, parts, strict=True)), matrix)


def _relative_to(inverted: Doubles, displacement: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The field w with ``x + w(x) = inverted (x + u(x))``, voxels, for a matrix of voxel indices."""
    n = len(displacement)
    result = np.einsum("kj,j...->k...", inverted[:n, :n], displacement.astype(np.float64))
    axes = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in displacement.shape[1:]), indexing="ij", sparse=True)
    for k in range(n):
        result[k] += inverted[k, n] - axes[k]
        for j in range(n):
            result[k] += inverted[k, j] * axes[j]
    return result.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Transform:
    """A map from the fixed world to the moving world (pull-back), the way ITK resamples images.

    Attributes
    ----------
    stages : tuple of AffineMap or FieldMap
        Applied first to last. No stage at all is the identity.
    ndim : int
    """

    stages: tuple[Stage, ...]
    ndim: int

    def __post_init__(self) -> None:
        if any(stage.ndim != self.ndim for stage in self.stages):
            raise GeometryError(f"stages of {[stage.ndim for stage in self.stages]} dimensions cannot be chained in a {self.ndim}-dimensional transform.")

    @classmethod
    def identity(cls, ndim: int) -> Transform:
        """The map that moves nothing."""
        return cls((), ndim)

    @classmethod
    def affine(cls, matrix: npt.ArrayLike) -> Transform:
        """From a homogeneous world matrix."""
        array = np.asarray(matrix, dtype=float)
        return cls((AffineMap(array),), array.shape[0] - 1)

    def then(self, other: Transform) -> Transform:
        """The map ``x -> other(self(x))``."""
        return Transform(self.stages + other.stages, self.ndim)

    def inverse(self, grid: Space | None = None) -> Transform:
        """The map from the moving to the fixed world; fields are inverted on their own grids, or on ones as fine as `grid` where that is finer."""
        return Transform(tuple(part for stage in reversed(self.stages) for part in stage.inverse_stages(grid)), self.ndim)

    def simplified(self) -> Transform:
        """The same map with neighbouring matrices multiplied and identities dropped."""
        kept: list[Stage] = []
        for stage in self.stages:
            if isinstance(stage, AffineMap) and kept and isinstance(kept[-1], AffineMap):
                stage = AffineMap(stage.matrix @ kept.pop().matrix)  # type: ignore[union-attr]
            kept.append(stage)
        keep = tuple(s for s in kept if not (isinstance(s, AffineMap) and np.allclose(s.matrix, np.eye(self.ndim + 1), atol=1e-12, rtol=0)))
        return Transform(keep, self.ndim)

    def map_points(self, points: npt.ArrayLike) -> Doubles:
        """Moving-world positions of fixed-world positions (N, ndim), mm, x first."""
        array = np.asarray(points, dtype=float).reshape(-1, self.ndim)
        given = np.zeros((3, len(array)))
        given[3 - self.ndim :] = array.T
        positions = self._mapped(functools.partial(_apply, positions=given), np.eye(self.ndim + 1), np.eye(self.ndim + 1))
        return np.ascontiguousarray(positions[3 - self.ndim :].T)

    def sampled_on(self, space: Space) -> FieldMap:
        """The whole map as one displacement field on the grid of `space`."""
        result = np.empty((self.ndim, *space.shape), dtype=np.float32)
        identity = np.eye(self.ndim + 1)
        for slab, first, count in _slabs(space.shape):
            place = functools.partial(_placed, space.shape, first, count)
            moved, indices = self._mapped(place, space.matrix, space.inverse_matrix), place(identity)
            result[:, slab] = (moved - indices)[3 - self.ndim :].reshape(self.ndim, -1, *space.shape[1:])
        return FieldMap(result, space)

    def _mapped(self, place: Callable[[Doubles], Doubles], before: Doubles, after: Doubles) -> Doubles:
        """``after(self(before(positions)))`` as columns (3, N); `place` gives the positions under a matrix. Matrices are gathered: each costs one product."""
        pending, positions = before, None
        for stage in self.stages:
            if isinstance(stage, AffineMap):
                pending = stage.matrix @ pending
                continue
            matrix = stage.space.inverse_matrix @ pending
            positions = place(matrix) if positions is None else _apply(matrix, positions)
            in_parts(positions_cpu.displace, positions.shape[1], positions, stage.volume)
            pending = stage.space.matrix
        return place(after @ pending) if positions is None else _apply(after @ pending, positions)


def _apply(matrix: Doubles, positions: Doubles) -> Doubles:
    """Positions (3, N), changed in place."""
    if not np.array_equal(matrix, np.eye(len(matrix))):
        in_parts(positions_cpu.apply, positions.shape[1], positions, _in_three(matrix))
    return positions


def _in_three(matrix: Doubles) -> Doubles:
    """A homogeneous matrix as (3, 4); one of two axes leaves z as it is."""
    n = len(matrix) - 1
    result = np.eye(3, 4)
    result[3 - n :, 3 - n :] = matrix[:n]
    return result


def _volume_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    depth, height, width = (1, *shape) if len(shape) == 2 else shape
    return int(depth), int(height), int(width)


def _slabs(shape: Sequence[int]) -> Iterator[tuple[slice, int, int]]:
    """Slices along the first axis, each with its first voxel and its number of voxels."""
    per_row = int(np.prod(shape[1:]))
    rows = max(1, SLAB_VOXELS // max(1, per_row))
    for start in range(0, shape[0], rows):
        stop = min(start + rows, shape[0])
        yield slice(start, stop), start * per_row, (stop - start) * per_row


def _placed(shape: Sequence[int], first: int, count: int, matrix: Doubles) -> Doubles:
    """Positions (3, count) of the voxels of a grid, counted from `first`, under a matrix."""
    result = np.empty((3, count))
    in_parts(positions_cpu.place, count, result, first, _volume_shape(shape), _in_three(matrix))
    return result


def resample_image(
    image: npt.NDArray[np.generic],
    *,
    moving: Space,
    fixed: Space,
    transform: Transform | None = None,
    outside: float | None = None,
    antialias: bool = False,
) -> npt.NDArray[np.float32]:
    """Sample an image once, linearly, on another grid.

    Parameters
    ----------
    image : array, shape (C, *moving.shape)
    moving, fixed : Space
        The grid the image lies on and the grid wanted.
    transform : Transform, optional
        From the fixed to the moving world; identity if absent.
    outside : float, optional
        Value beyond the image; if absent its smallest finite one (air, whatever the modality), or its background where that is bright:
        :func:`nnreg.padding.beyond`.
    antialias
        Smooth first along axes on which `fixed` is coarser, so that nothing aliases.

    Returns
    -------
    array, shape (C, *fixed.shape), float32
        Where the nearest voxel is NaN or infinite, that; elsewhere the mean goes over the finite ones alone, so that nothing spreads.
    """
    _check(image, moving)
    values = np.asarray(image, dtype=np.float32)
    # the sum of finite numbers of this size is finite: one pass, no array of truth values
    whole = bool(np.isfinite(values.sum(dtype=np.float64)))
    finite = np.isfinite(values) if not whole else None
    if outside is None and finite is None:
        around = beyond(image)
        if len(set(around)) > 1:  # channels of a background that is not grey
            further: dict[str, Any] = {"moving": moving, "fixed": fixed, "transform": transform, "antialias": antialias}
            return np.concatenate([resample_image(values[c : c + 1], outside=value, **further) for c, value in enumerate(around)])
        outside = around[0]
    if outside is None:
        outside = float(values.min(where=finite, initial=np.inf)) if finite is not None and finite.any() else float("nan")
    smooth = functools.partial(_smooth_for, moving=moving, fixed=fixed) if antialias else np.asarray
    if finite is None:
        return _linear(smooth(values), moving, fixed, transform, outside)
    nearest = _nearest(values, moving, fixed, transform, outside)
    weights = _linear(smooth(finite.astype(np.float32)), moving, fixed, transform, 0.0)
    sums = _linear(smooth(np.where(finite, values, np.float32(0))), moving, fixed, transform, 0.0)
    known = np.isfinite(nearest) & (weights > 0)  # beyond the image the weights are 0 and `nearest` is `outside`
    return np.where(known, sums / np.where(known, weights, 1), nearest)


def resample_labels(
    labels: npt.NDArray[np.generic], *, moving: Space, fixed: Space, transform: Transform | None = None, outside: int = 0
) -> npt.NDArray[np.generic]:
    """Sample integer labels (C, *moving.shape) by nearest neighbour; the values and dtype come back exactly.

    Raises
    ------
    GeometryError
        If the labels do not lie on the grid, their type does not hold `outside`, or they are beyond 2^53.
    """
    _check(labels, moving)
    if labels.dtype.kind in "iu" and not np.iinfo(labels.dtype.name).min <= outside <= np.iinfo(labels.dtype.name).max:
        raise GeometryError(f"labels of type {labels.dtype} do not hold the value {outside} beyond the image. Convert them first.")
    return _nearest(labels, moving, fixed, transform, outside)


def _linear(values: Floats, moving: Space, fixed: Space, transform: Transform | None, outside: float) -> Floats:
    """Values (C, *moving.shape) sampled linearly on the fixed grid."""
    volume = np.ascontiguousarray(values if moving.ndim == 3 else values[:, None])
    result = np.empty((len(values), *fixed.shape), dtype=np.float32)
    for slab, positions in _positions(moving, fixed, transform):
        sampled = np.empty((len(values), positions.shape[1]), np.float32)
        in_parts(positions_cpu.values, positions.shape[1], sampled, volume, positions, np.float32(outside))
        result[:, slab] = sampled.reshape(len(values), -1, *fixed.shape[1:])
    return result


def _nearest(values: npt.NDArray[np.generic], moving: Space, fixed: Space, transform: Transform | None, outside: float) -> npt.NDArray[np.generic]:
    """Values (C, *moving.shape) of any type, sampled by nearest neighbour on the fixed grid."""
    flat = values.reshape(len(values), -1)
    result = np.empty((len(values), *fixed.shape), dtype=values.dtype)
    for slab, positions in _positions(moving, fixed, transform):
        voxels = np.empty(positions.shape[1], np.int64)
        in_parts(positions_cpu.nearest, len(voxels), voxels, _volume_shape(moving.shape), positions)
        seen = voxels != positions_cpu.NOWHERE
        part = np.full((len(values), len(voxels)), outside, dtype=values.dtype)
        part[:, seen] = flat[:, voxels[seen]]
        result[:, slab] = part.reshape(len(values), -1, *fixed.shape[1:])
    return result


def _check(image: npt.NDArray[np.generic], moving: Space) -> None:
    if tuple(image.shape[1:]) != moving.shape:
        raise GeometryError(f"an image of shape {tuple(image.shape)} does not lie on a grid of shape {moving.shape}: expected (C, *grid).")


def _positions(moving: Space, fixed: Space, transform: Transform | None) -> Iterator[tuple[slice, Doubles]]:
    """Slices of the fixed grid along its first axis with the positions (3, N) of their voxels, indices of the moving grid."""
    transform = transform or Transform.identity(fixed.ndim)
    for slab, first, count in _slabs(fixed.shape):
        yield slab, transform._mapped(functools.partial(_placed, fixed.shape, first, count), fixed.matrix, moving.inverse_matrix)


def _smooth_for(values: npt.NDArray[np.float32], moving: Space, fixed: Space) -> npt.NDArray[np.float32]:
    """Gaussian of the width that turns a box of the old voxel into one of the new (variances of boxes subtract, divided by 12)."""
    from scipy.ndimage import gaussian_filter

    n = moving.ndim
    # size of a fixed voxel along each moving axis, in moving voxels: directions may differ by a rotation
    steps = np.abs(moving.inverse_matrix[:n, :n] @ fixed.matrix[:n, :n]).max(axis=1)
    sigma = np.sqrt(np.maximum(steps**2 - 1, 0) / 12)
    if not sigma.any():
        return values
    return np.stack([gaussian_filter(channel, sigma, mode="nearest") for channel in values])


def index_points_to_world(points: npt.ArrayLike, space: Space) -> Doubles:
    """World mm (x first) of voxel positions in Learn2Reg's order (x first)."""
    return space.to_world(np.asarray(points, dtype=float)[..., ::-1])


__all__ = ["AffineMap", "FieldMap", "Stage", "Transform", "apply_matrix", "index_points_to_world", "resample_image", "resample_labels"]

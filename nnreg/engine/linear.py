"""Optimising a linear map between two worlds on one pair of grids: sampling, exact gradients, L-BFGS on scaled parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import expm
from scipy.optimize import minimize

from nnreg.arrays import Doubles, Floats
from nnreg.engine.prepared_image import PreparedImage, foreground, smoothed
from nnreg.engine.similarity import Similarity
from nnreg.kernels import linear_cpu, volumes
from nnreg.kernels.threads import in_parts

NOWHERE = np.empty((0, 1, 1), np.float32)


@dataclass(frozen=True)
class Parameters:
    """Which linear maps are searched, around which centre and in which units.

    The map is ``base`` after ``exp(V)`` around `centre`, with V built of ``ndim`` translations and, by `kind`, rotations or a full matrix. Every parameter is
    a movement at `radius` from the centre, so that a step means the same for all of them.

    Attributes
    ----------
    kind : "centre", "rigid" or "affine"
    centre : tuple, world (x, y, z) mm
    radius : float, mm
    unit : float, mm
        Of the parameters. L-BFGS begins with a step of about 1: one of 1 mm throws images of micrometres far out of view.
    """

    kind: str
    centre: tuple[float, ...]
    radius: float
    unit: float = 1.0

    @property
    def count(self) -> int:
        """Number of parameters."""
        n = len(self.centre)
        return {"centre": n, "rigid": n + n * (n - 1) // 2, "affine": n + n * n}[self.kind]

    @cached_property
    def generators(self) -> Doubles:
        """(count, n+1, n+1): the velocity matrix of each parameter, about the centre."""
        n = len(self.centre)
        result = np.zeros((self.count, n + 1, n + 1))
        result[np.arange(n), np.arange(n), n] = self.unit
        if self.kind == "rigid":
            pairs = [(i, j) for i in range(n) for j in range(i)]
        else:
            pairs = [(i, j) for i in range(n) for j in range(n)] if self.kind == "affine" else []
        for k, (i, j) in enumerate(pairs):
            result[n + k, i, j] = self.unit / self.radius
            if self.kind == "rigid":
                result[n + k, j, i] = -self.unit / self.radius
        return result

    def matrix(self, values: Doubles, base: Doubles) -> tuple[Doubles, Doubles]:
        """World matrix (n+1, n+1) of parameter values (count,), and its derivatives (count, n+1, n+1)."""
        n, generators = len(self.centre), self.generators
        velocity = np.einsum("p,pij->ij", values, generators)
        # the exponential of [[V, G], [0, V]] holds the derivative of exp(V) along G in its corner (Najfeld and Havel 1995)
        blocks = np.zeros((self.count, 2 * n + 2, 2 * n + 2))
        blocks[:, : n + 1, : n + 1] = blocks[:, n + 1 :, n + 1 :] = velocity
        blocks[:, : n + 1, n + 1 :] = generators
        powers = expm(blocks)
        right, from_centre = self._to_centre
        left = base @ from_centre
        return left @ powers[0, : n + 1, : n + 1] @ right, left @ powers[:, : n + 1, n + 1 :] @ right

    @cached_property
    def _to_centre(self) -> tuple[Doubles, Doubles]:
        """The shift that brings the centre to the origin, and its inverse."""
        n = len(self.centre)
        result = np.eye(n + 1)
        result[:n, n] = -np.asarray(self.centre)
        return result, np.asarray(np.linalg.inv(result), dtype=float)


def lifted(array: Floats) -> Floats:
    """(C, *grid) as a volume: an image of two axes becomes (C, H, 1, W), so that its rows go to different threads."""
    return np.ascontiguousarray(array if array.ndim == 4 else array[:, :, None])


def _lifted_matrix(matrix: Doubles) -> Floats:
    """(3, 4) of an index matrix (n+1, n+1), in the axes of :func:`lifted`."""
    if len(matrix) == 4:
        return np.ascontiguousarray(matrix[:3], dtype=np.float32)
    result = np.zeros((3, 4), np.float32)
    result[::2, ::2], result[::2, 3] = matrix[:2, :2], matrix[:2, 2]
    return result


class Pair:
    """A fixed and a moving grid with everything that stays the same while the map between them changes."""

    def __init__(self, fixed: PreparedImage, moving: PreparedImage) -> None:
        self.ndim = fixed.space.ndim
        self.fixed_space = fixed.space
        self.to_world, self.to_index = fixed.space.matrix, moving.space.inverse_matrix
        self.fixed, self.moving = (lifted(smoothed(side.image)) for side in (fixed, moving))
        self.allowed, self.mask = (NOWHERE if side.mask is None else lifted(side.mask[None])[0] for side in (fixed, moving))
        self.grid = self.fixed.shape[1:]
        self.body = lifted(foreground(fixed)[None])[0]

    def sample(self, world: Doubles) -> tuple[Floats, Floats]:
        """Warped moving image (C, D, H, W) under a world matrix, and how far the samples (D, H, W) lie in view and in the masks."""
        matrix = self._index_matrix(world)
        valid = np.empty(self.grid, np.float32)
        in_parts(linear_cpu.in_view, self.grid[0], valid, self.mask, self.allowed, self.moving.shape[1:], matrix)
        return volumes.sample(self.moving, shape=self.grid, matrix=matrix), valid

    def on_world(self, world: Doubles, gradient: Floats) -> Doubles:
        """Derivative (n+1, n+1) with respect to the world matrix, from that with respect to the warped image."""
        sums = np.zeros((self.grid[0], 12))
        in_parts(linear_cpu.on_matrix, self.grid[0], sums, gradient, self.moving, self._index_matrix(world))
        on_index = sums.sum(axis=0).reshape(3, 4)
        full = np.zeros((self.ndim + 1, self.ndim + 1))
        if self.ndim == 3:
            full[:3] = on_index
        else:
            full[:2, :2], full[:2, 2] = on_index[::2, ::2], on_index[::2, 3]
        return self.to_index.T @ full @ self.to_world.T

    def _index_matrix(self, world: Doubles) -> Floats:
        return _lifted_matrix(self.to_index @ world @ self.to_world)

    def overlap(self, valid: Floats) -> float:
        """Share of the fixed foreground that is in view of the moving image."""
        return float((valid * self.body).sum() / max(1.0, float(self.body.sum())))

    def value(self, similarity: Similarity, matrix: Doubles) -> tuple[float, float]:
        """Similarity and overlap under a world matrix."""
        warped, valid = self.sample(matrix)
        return similarity(warped, valid)[0], self.overlap(valid)


@dataclass(frozen=True, eq=False)
class Fit:
    """A linear map with what it reached, and whether the search for it came to its end before its iterations did."""

    matrix: Doubles
    similarity: float
    overlap: float
    settled: bool = True


def optimise(pair: Pair, similarity: Similarity, parameters: Parameters, start: Doubles, *, iterations: int, least_overlap: float) -> Fit:
    """Maximise `similarity` from `start` over the maps of `parameters` by L-BFGS with exact gradients.

    Below `least_overlap` of the fixed foreground in view the similarity is scaled down with the overlap, so that the images are not driven apart.
    """
    best = Fit(start, -np.inf, 0.0)

    def cost(values: Doubles) -> tuple[float, Doubles]:
        nonlocal best
        world, slopes = parameters.matrix(values, start)
        warped, valid = pair.sample(world)
        value, gradient = similarity(warped, valid)
        overlap = pair.overlap(valid)
        guard = min(1.0, overlap / least_overlap) if least_overlap > 0 else 1.0
        if value * guard > best.similarity:
            best = Fit(world, value * guard, overlap)
        return -value * guard, -guard * np.einsum("pij,ij->p", slopes, pair.on_world(world, gradient))

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-5, "gtol": 1e-7}
    # a step between images that have nothing in common may be of any length
    with np.errstate(over="ignore", invalid="ignore"):
        found = minimize(cost, np.zeros(parameters.count), jac=True, method="L-BFGS-B", options=options)
    return replace(best, settled=found.nit < iterations and found.nfev < 2 * iterations)

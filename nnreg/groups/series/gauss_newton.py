"""Rigid maps of frames by Gauss and Newton's method: least squares of intensities, which are scaled and shifted along with it.

It reaches what L-BFGS crawls to: rotations of a round object change the similarity hundreds of times less than translations do, and least squares do not
mind. Differences from the frame to the reference are followed along the mean of both gradients, which takes fewer steps.
"""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Doubles, Floats
from nnreg.engine.linear import Fit, Pair, Parameters

SETTLED = 1e-3  # voxels, at the radius of the object: a shorter step is the last
FARTHEST = 2.0  # voxels at the radius, in a step


def fit_rigid(pair: Pair, parameters: Parameters, start: Doubles, *, iterations: int, least_overlap: float) -> Fit:
    """The map of the largest correlation near `start`; the best that was seen if it has not settled within `iterations`.

    Parameters
    ----------
    least_overlap
        Below this share of the fixed foreground in view the correlation is scaled down with the overlap.
    """
    problem, matrix, best = _Problem(pair, parameters), start, Fit(start, -np.inf, 0.0, settled=False)
    unit = min(pair.fixed_space.spacing) / parameters.unit
    for _ in range(iterations):
        similarity, overlap, values = problem.at(matrix)
        similarity *= min(1.0, overlap / least_overlap)
        if similarity > best.similarity:
            best = Fit(matrix, similarity, overlap, settled=False)
        length = float(np.abs(values).max()) / unit
        if not length > SETTLED:
            return Fit(best.matrix, best.similarity, best.overlap) if np.isfinite(best.similarity) else best
        matrix = parameters.matrix(values * min(1.0, FARTHEST / length), matrix)[0]
    return best


class _Problem:
    """What stays the same while the map changes."""

    def __init__(self, pair: Pair, parameters: Parameters) -> None:
        n = pair.ndim
        self.pair, self.shape, self.generators = pair, pair.fixed_space.shape, parameters.generators
        self.fixed = pair.fixed.reshape(-1, *self.shape)
        self.slopes = self._gradient(self.fixed)
        indices = np.indices(self.shape).reshape(n, -1)
        self.positions = (pair.fixed_space.to_world(indices.T) - np.asarray(parameters.centre)).T.astype(np.float32)

    def _gradient(self, image: Floats) -> Floats:
        """(C, ndim, N): per mm of the world, x first."""
        n = self.pair.ndim
        along = [np.zeros_like(image) if size == 1 else np.gradient(image, axis=axis) for axis, size in enumerate(self.shape, start=1)]
        flat = np.stack(along, axis=1).reshape(len(image), n, -1)
        return np.asarray(np.einsum("ckv,kw->cwv", flat, self.pair.fixed_space.inverse_matrix[:n, :n].astype(np.float32)), dtype=np.float32)

    def _moved(self, generator: Doubles, slope: Floats) -> Floats:
        """How intensities (N,) change with one parameter."""
        n, result = self.pair.ndim, np.zeros(slope.shape[1], np.float32)
        for i in range(n):
            along = sum((np.float32(generator[i, j]) * self.positions[j] for j in range(n) if generator[i, j]), np.float32(generator[i, n]))
            result += along * slope[i]
        return result

    def at(self, matrix: Doubles) -> tuple[float, float, Doubles]:
        """Correlation (mean over channels), overlap, and the step that least squares ask for, in the units of the parameters."""
        warped, valid = self.pair.sample(matrix)
        overlap, weights = self.pair.overlap(valid), valid.reshape(-1)
        moving = warped.reshape(self.fixed.shape)
        count = len(self.generators)
        normal, right, similarity = np.zeros((count, count)), np.zeros(count), 0.0
        for number, image in enumerate(moving.reshape(len(moving), -1)):
            fixed = self.fixed[number].reshape(-1)
            powers = np.stack([np.ones_like(image), image])
            mapped = np.asarray(_solved(powers, fixed, weights) @ powers, dtype=np.float32)
            slope = (self.slopes[number] + self._gradient(mapped.reshape(1, *self.shape))[0]) / np.float32(2)
            columns = np.stack([self._moved(generator, slope) for generator in self.generators])
            # intensities and movement together: one alone would take what is the other's
            found = _solved(np.concatenate([columns, powers]), fixed, weights)
            gram = (columns * weights) @ columns.T
            normal += gram
            right += gram @ found[:count]
            similarity += _correlation(fixed, mapped, weights) / len(moving)
        values = np.linalg.lstsq(normal, right, rcond=1e-10)[0]
        return similarity, overlap, np.asarray(values)


def _solved(columns: Floats, wanted: Floats, weights: Floats) -> Doubles:
    """Least squares of ``factors @ columns`` to `wanted` (N,)."""
    weighted = columns * weights
    return np.asarray(np.linalg.lstsq((weighted @ columns.T).astype(float), (weighted @ wanted).astype(float), rcond=None)[0])


def _correlation(one: Floats, other: Floats, weights: Floats) -> float:
    total = max(1e-6, float(weights.sum()))
    a, b = (image - float((image * weights).sum()) / total for image in (one, other))
    return float((a * b * weights).sum() / np.sqrt(max(1e-12, float((a * a * weights).sum()) * float((b * b * weights).sum()))))

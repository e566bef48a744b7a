"""Optimising a linear map between two worlds on one pair of grids: sampling, exact gradients, L-BFGS on scaled parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.geometry.space import FloatArray
from nnreg.registration.sides import Side, foreground, smoothed
from nnreg.registration.similarity import Similarity


@dataclass(frozen=True)
class Parameters:
    """Which linear maps are searched, around which centre and in which units.

    The map is ``base`` after ``exp(V)`` around `centre`, with V built of ``ndim`` translations and, by `kind`, rotations or a full matrix. Every parameter is in
    mm of movement at `radius` from the centre, so that a step means the same for all of them.

    Attributes
    ----------
    kind : "centre", "rigid" or "affine"
    centre : tuple, world (x, y, z) mm
    radius : float, mm
    """

    kind: str
    centre: tuple[float, ...]
    radius: float

    @property
    def count(self) -> int:
        """Number of parameters."""
        n = len(self.centre)
        return {"centre": n, "rigid": n + n * (n - 1) // 2, "affine": n + n * n}[self.kind]

    def generators(self) -> Tensor:
        """(count, n+1, n+1): the velocity matrix of each parameter, about the centre."""
        n = len(self.centre)
        result = []
        for axis in range(n):
            matrix = torch.zeros(n + 1, n + 1, dtype=torch.float64)
            matrix[axis, n] = 1
            result.append(matrix)
        if self.kind == "rigid":
            pairs = [(i, j) for i in range(n) for j in range(i)]
        else:
            pairs = [(i, j) for i in range(n) for j in range(n)] if self.kind == "affine" else []
        for i, j in pairs:
            matrix = torch.zeros(n + 1, n + 1, dtype=torch.float64)
            matrix[i, j] = 1 / self.radius
            if self.kind == "rigid":
                matrix[j, i] = -1 / self.radius
            result.append(matrix)
        return torch.stack(result)

    def matrix(self, values: Tensor, base: FloatArray) -> Tensor:
        """World matrix (n+1, n+1) of parameter values (count,), differentiable."""
        n = len(self.centre)
        to_centre = torch.eye(n + 1, dtype=torch.float64)
        to_centre[:n, n] = -torch.tensor(self.centre, dtype=torch.float64)
        velocity = torch.einsum("p,pij->ij", values, self.generators())
        return torch.from_numpy(base) @ torch.linalg.inv(to_centre) @ torch.linalg.matrix_exp(velocity) @ to_centre


class Pair:
    """A fixed and a moving grid with everything that stays the same while the map between them changes."""

    def __init__(self, fixed: Side, moving: Side) -> None:
        self.fixed, self.moving = (Side(smoothed(side.image), side.mask, side.space) for side in (fixed, moving))
        self.ndim = fixed.space.ndim
        axes = torch.meshgrid(*[torch.arange(size, dtype=torch.float32) for size in fixed.space.shape], indexing="ij")
        self.index = torch.stack([axis.reshape(-1) for axis in axes])
        self.allowed = torch.ones(1, self.index.shape[1]) if fixed.mask is None else (fixed.mask > 0.5).float().reshape(1, -1)
        weights = foreground(fixed).reshape(-1)
        self.body = weights * self.allowed[0]
        self.chunks = max(1, torch.get_num_threads())

    def index_matrix(self, world: Tensor) -> Tensor:
        """From fixed indices to moving indices, (n+1, n+1) float64."""
        return torch.from_numpy(self.moving.space.inverse_matrix) @ world @ torch.from_numpy(self.fixed.space.matrix)

    def sample(self, world: Tensor) -> tuple[Tensor, Tensor]:
        """Warped moving image (C, *grid), differentiable in `world`, and the samples (*grid) that lie in view and in the masks."""
        matrix = self.index_matrix(world).float()
        n = self.ndim
        positions = matrix[:n, :n] @ self.index + matrix[:n, n:]
        grid, valid = self._normalised(positions)
        image = self.moving.image
        warped = nnf.grid_sample(image.expand(self.chunks, *image.shape[1:]), grid, mode="bilinear", padding_mode="border", align_corners=True)
        valid = valid * self.allowed[0]
        if self.moving.mask is not None:
            mask = self.moving.mask
            valid = valid * (self._joined(nnf.grid_sample(mask.expand(self.chunks, *mask.shape[1:]), grid.detach(), align_corners=True))[0] > 0.5)
        shape = self.fixed.space.shape
        return self._joined(warped).reshape(-1, *shape), valid.reshape(shape)

    def _normalised(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """grid_sample's grid, cut into chunks along the batch axis because torch runs batches, not voxels, in parallel."""
        sizes = torch.tensor(self.moving.space.shape, dtype=torch.float32)[:, None]
        detached = positions.detach()
        # fades over one voxel: on a lattice a hard edge would let whole planes of samples appear and vanish at once
        valid = (1 - torch.maximum(-detached, detached - (sizes - 1)).clamp(min=0)).clamp(min=0).amin(dim=0)
        grid = (positions * (2 / (sizes - 1).clamp(min=1)) - 1).flip(0).T
        padded = -len(grid) % self.chunks
        if padded:
            grid = torch.cat([grid, grid[:padded]])
        return grid.reshape(self.chunks, -1, *(1,) * (self.ndim - 1), self.ndim), valid

    def _joined(self, values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:2], -1).transpose(0, 1).reshape(values.shape[1], -1)[:, : self.index.shape[1]]

    def overlap(self, valid: Tensor) -> float:
        """Share of the fixed foreground that is in view of the moving image."""
        return float((valid.reshape(-1) * self.body).sum() / self.body.sum().clamp(min=1))

    def value(self, similarity: Similarity, matrix: FloatArray) -> tuple[float, float]:
        """Similarity and overlap under a world matrix."""
        with torch.no_grad():
            warped, valid = self.sample(torch.from_numpy(matrix))
            return similarity(warped, valid)[0], self.overlap(valid)


@dataclass(frozen=True, eq=False)
class Fit:
    """A linear map with what it reached."""

    matrix: FloatArray
    similarity: float
    overlap: float


def optimise(pair: Pair, similarity: Similarity, parameters: Parameters, start: FloatArray, *, iterations: int, least_overlap: float) -> Fit:
    """Maximise `similarity` from `start` over the maps of `parameters` by L-BFGS with exact gradients.

    Below `least_overlap` of the fixed foreground in view the similarity is scaled down with the overlap, so that the images are not driven apart.
    """
    best = Fit(start, -np.inf, 0.0)

    def cost(values: FloatArray) -> tuple[float, FloatArray]:
        nonlocal best
        variables = torch.tensor(values, dtype=torch.float64, requires_grad=True)
        world = parameters.matrix(variables, start)
        warped, valid = pair.sample(world)
        value, gradient = similarity(warped.detach(), valid)
        overlap = pair.overlap(valid)
        guard = min(1.0, overlap / least_overlap) if least_overlap > 0 else 1.0
        warped.backward(gradient * guard)
        if value * guard > best.similarity:
            best = Fit(world.detach().numpy(), value * guard, overlap)
        return -value * guard, -np.asarray(variables.grad)

    minimize(
        cost, np.zeros(parameters.count), jac=True, method="L-BFGS-B", options={"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 1e-6, "gtol": 1e-7}
    )
    return best

"""Displacement and velocity fields: one warp, composition, integration, inversion, Jacobian, resampling.

A displacement field is ``(B, ndim, *spatial)`` float32 on the fixed grid, in voxels, component k along array axis k, pull-back:
``warped(x) = moving(x + u(x))``. Everything here runs in float32 whatever autocast says, because half precision cannot hold a
voxel position (at index 200 its step is an eighth of a voxel).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as nnf

from nnreg.errors import GeometryError

Padding = Literal["border", "zeros"]
Mode = Literal["linear", "nearest"]


def check_field(field: Tensor) -> int:
    """Number of spatial axes of a field.

    Raises
    ------
    GeometryError
        If it is not (B, ndim, *spatial) with ndim 2 or 3.
    """
    ndim = field.ndim - 2
    if ndim not in (2, 3) or field.shape[1] != ndim:
        raise GeometryError(f"a displacement field is (B, ndim, *spatial) with 2 or 3 components, found shape {tuple(field.shape)}.")
    return ndim


@functools.lru_cache(maxsize=8)
def _axes(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
    ndim = len(shape)
    with torch.inference_mode(False):  # what a prediction was the first to ask for serves trainings too
        return tuple(
            torch.arange(size, dtype=torch.float32, device=device).reshape([1] + [size if axis == other else 1 for other in range(ndim)])
            for axis, size in enumerate(shape)
        )


@functools.lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A few numbers (N,) on a device, sent there once: a GPU waits for every number that comes from the computer. Not to be changed in place."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Float32 whatever autocast says; the meta device, on which memory is predicted, knows no autocast."""
    return nullcontext() if device.type == "meta" else torch.autocast(device_type=device.type, enabled=False)


def is_traced() -> bool:
    """Whether TorchScript or ONNX is being made, which run without nnReg: then everything is done in torch."""
    return bool(torch.jit.is_tracing() or torch.compiler.is_exporting())  # type: ignore[attr-defined]


def identity_grid(shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Voxel indices ``(1, ndim, *shape)`` float32, component k counts along axis k."""
    axes = _axes(tuple(shape), torch.device(device))
    return torch.stack([axis.expand(1, *shape) for axis in axes], dim=1)


def warp(image: Tensor, field: Tensor, *, mode: Mode = "linear", padding: Padding = "border") -> Tensor:
    """Sample `image` at ``x + field(x)``.

    Parameters
    ----------
    image : Tensor, shape (B, C, *spatial_moving)
        Any size; positions are in its voxels.
    field : Tensor, shape (B, ndim, *spatial_fixed), voxels
    mode
        ``linear`` or ``nearest``. Nearest keeps the dtype of `image` (labels stay integers); linear gives float32.
    padding
        What lies outside: the nearest border voxel, or zero.

    Returns
    -------
    Tensor, shape (B, C, *spatial_fixed)

    Raises
    ------
    GeometryError
        If batch sizes or numbers of axes differ.
    """
    ndim = check_field(field)
    if image.ndim != ndim + 2 or image.shape[0] != field.shape[0]:
        raise GeometryError(f"an image of shape {tuple(image.shape)} cannot be warped by a field of shape {tuple(field.shape)}: batch and axes must agree.")
    dtype = image.dtype
    if ndim == 3 and mode == "linear" and field.device.type == "cpu" and not is_traced():
        from nnreg.kernels.warp_cpu import sample_volume

        return sample_volume(image.float(), field.float(), border=padding == "border")
    with without_autocast(field.device):
        # Labels beyond 2**24 would not survive float32; no atlas has that many.
        sampled = nnf.grid_sample(
            image.float(),
            _sampling_grid(field.float(), image.shape[2:]),
            mode="bilinear" if mode == "linear" else "nearest",
            padding_mode=padding,
            align_corners=True,
        )
    return sampled.to(dtype) if mode == "nearest" else sampled


def _sampling_grid(field: Tensor, moving_shape: Sequence[int]) -> Tensor:
    """Torch's grid: last axis (x, y, z), -1 and 1 at the centres of the outermost voxels."""
    shape = tuple(field.shape[2:])
    axes = _axes(shape, field.device)
    parts = []
    for axis in reversed(range(len(shape))):
        size = moving_shape[axis]
        # an axis of one voxel has no extent: its only index is 0, wherever the position says
        scale = 2.0 / (size - 1) if size > 1 else 0.0
        parts.append((field[:, axis] + axes[axis]) * scale - 1.0)
    return torch.stack(parts, dim=-1)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Field of the map that applies `inner` first, then `outer`: ``x -> outer(inner(x))``.

    Parameters
    ----------
    outer, inner : Tensor, shape (B, ndim, *spatial), voxels
        Pull-back displacement fields on the same grid.

    Returns
    -------
    Tensor, shape (B, ndim, *spatial), voxels

    Raises
    ------
    GeometryError
        If the grids differ.

    Examples
    --------
    >>> shift = torch.ones(1, 2, 4, 4)
    >>> compose(shift, shift)[0, :, 1, 1]
    tensor([2., 2.])
    """
    if outer.shape != inner.shape:
        raise GeometryError(f"fields of shape {tuple(outer.shape)} and {tuple(inner.shape)} cannot be composed: grids must be the same.")
    return inner.float() + warp(outer, inner)


def integrate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Displacement of the flow of a stationary velocity field after unit time, by scaling and squaring (Arsigny et al. 2006).

    Parameters
    ----------
    velocity : Tensor, shape (B, ndim, *spatial), voxels per unit time
    steps
        The field is divided by ``2**steps`` and composed with itself `steps` times.

    Returns
    -------
    Tensor, shape (B, ndim, *spatial), voxels
    """
    check_field(velocity)
    field = velocity.float() / 2**steps
    for _ in range(steps):
        field = field + warp(field, field)
    return field


SHORTEST_STEP = 0.1  # of the fixed point iteration: enough for maps that expand twentyfold along an axis


def inverse(field: Tensor, *, iterations: int = 50, tolerance: float = 1e-3) -> tuple[Tensor, Tensor]:
    """Inverse of a displacement field by fixed point iteration (Chen et al. 2008): ``v <- -u(x + v)``.

    Parameters
    ----------
    field : Tensor, shape (B, ndim, *spatial), voxels
    iterations
        Upper bound.
    tolerance
        Stop when the residual is nowhere larger (voxels).

    Returns
    -------
    inverse : Tensor, shape (B, ndim, *spatial), voxels
        ``compose(field, inverse)`` is near zero wherever `field` is invertible and stays inside the grid.
    residual : Tensor, shape (B, *spatial), voxels
        Length of ``compose(field, inverse)``: what the inversion left.
    """
    check_field(field)
    field = field.float()
    result = -field
    left = result + warp(field, result)
    length = left.norm(dim=1, keepdim=True)
    step = torch.ones_like(length)
    for _ in range(iterations):
        if float(length.max()) < tolerance:
            break
        result = result - step * left
        left = result + warp(field, result)
        before, length = length, left.norm(dim=1, keepdim=True)
        # where the map expands to more than twice the size the full step swings ever wider: shorter ones converge
        step = torch.where(length > 0.9 * before, (0.5 * step).clamp(min=SHORTEST_STEP), step)
    return result, length[:, 0]


def jacobian_determinant(field: Tensor) -> Tensor:
    """Determinant of the Jacobian of ``x -> x + u(x)``, by central differences (one-sided on the border).

    Parameters
    ----------
    field : Tensor, shape (B, ndim, *spatial), voxels
        Every axis needs at least two voxels.

    Returns
    -------
    Tensor, shape (B, *spatial)
        1 where volume is kept, below 0 where the map folds. On an anisotropic grid it is the same number as in mm,
        because the spacings cancel between rows and columns.
    """
    ndim = check_field(field)
    if min(field.shape[2:]) < 2:
        raise GeometryError(f"a Jacobian needs two voxels along every axis, found a field of shape {tuple(field.shape)}.")
    field = field.float()
    rows = []
    for component in range(ndim):
        gradients = torch.gradient(field[:, component], dim=tuple(range(1, ndim + 1)))
        rows.append([gradient + 1.0 if axis == component else gradient for axis, gradient in enumerate(gradients)])
    if ndim == 2:
        (a, b), (c, d) = rows
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = rows
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def resize_field(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Resample a field onto a grid of another size over the same field of view, corner voxels aligned, values in the new voxels.

    Parameters
    ----------
    field : Tensor, shape (B, ndim, *spatial), voxels
    shape
        New spatial size. Component k is multiplied by ``(new_k - 1) / (old_k - 1)``.

    Returns
    -------
    Tensor, shape (B, ndim, *shape), voxels of the new grid
    """
    ndim = check_field(field)
    old = tuple(field.shape[2:])
    if tuple(shape) == old:
        return field.float()
    resized = resize(field, shape)
    scale = constant(tuple((new - 1) / (size - 1) if size > 1 else float(new) for new, size in zip(shape, old, strict=True)), field.device)
    return resized * scale.reshape(1, ndim, *(1,) * ndim)


def resize(image: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear resize of ``(B, C, *spatial)``, corner voxels aligned (the convention of every field of the package), float32."""
    with without_autocast(image.device):
        return nnf.interpolate(image.float(), size=tuple(shape), mode="bilinear" if image.ndim == 4 else "trilinear", align_corners=True)


def sample_at(field: Tensor, positions: Tensor) -> Tensor:
    """Linear values of a field or image at scattered positions.

    Parameters
    ----------
    field : Tensor, shape (B, C, *spatial)
    positions : Tensor, shape (B, N, ndim), voxels, array axis order

    Returns
    -------
    Tensor, shape (B, N, C); border values outside
    """
    ndim = field.ndim - 2
    if positions.ndim != 3 or positions.shape[-1] != ndim:
        raise GeometryError(f"positions are (B, N, {ndim}), found shape {tuple(positions.shape)}.")
    sizes = constant(tuple(field.shape[2:]), field.device)
    grid = (positions.float() * (2.0 / (sizes - 1).clamp(min=1)) - 1.0).flip(-1)
    grid = grid.reshape(positions.shape[0], positions.shape[1], *(1,) * (ndim - 1), ndim)
    sampled = nnf.grid_sample(field.float(), grid, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.reshape(field.shape[0], field.shape[1], -1).transpose(1, 2)


def warp_points(points: Tensor, field: Tensor) -> Tensor:
    """Where fixed points lie in the moving image: ``p + u(p)``.

    Parameters
    ----------
    points : Tensor, shape (B, N, ndim), voxels of the fixed grid, array axis order
    field : Tensor, shape (B, ndim, *spatial), voxels

    Returns
    -------
    Tensor, shape (B, N, ndim), voxels
    """
    check_field(field)
    return points.float() + sample_at(field, points)

"""Local correlation and its gradient on a GPU, in float32: what :mod:`nnreg.kernels.lncc_cpu` is on the CPU.

Memory traffic is what it costs there, so a product of the images is never stored. Window sums are taken in two steps: :func:`_plane_sums` forms a product,
adds it up along x and along y, and writes one volume; :func:`_coefficients` runs along z through those volumes and turns each window into the three
coefficients of the gradient, which :func:`_plane_sums` adds up in the same way and :func:`_gradient` finishes.

Sums along y and z are running sums, begun anew by every program, in float64: what a bright voxel leaves behind in float32 is as large as the variance of
a dark window.

Importing this module needs triton, which CUDA builds of torch for Linux bring.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from nnreg.kernels.correlation import FLAT

RUN = 16  # outputs of one program along the axis it runs on: what begins a sum anew costs little beside what enters and leaves
ROW_LANES, PLANE_LANES = 64, 128  # voxels side by side in one program: of a row, and of a whole plane


@triton.jit(do_not_specialize=["depth", "height", "width"])
def _plane_sums(
    left, right, mask, left_means, right_means, result, depth, height, width,
    RADIUS_Y: tl.constexpr, RADIUS_X: tl.constexpr, PRODUCT: tl.constexpr, MASKED: tl.constexpr, RUN: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Sums over rectangles of `left`, or of `left` times `right`, both less their mean: (images, D, H, W)."""
    columns, runs = tl.cdiv(width, LANES), tl.cdiv(height, RUN)
    program = tl.program_id(0)
    x = program % columns * LANES + tl.arange(0, LANES)
    start = program // columns % runs * RUN
    plane = program // (columns * runs)
    left_mean, right_mean = tl.load(left_means + plane // depth), tl.load(right_means + plane // depth)
    base = tl.cast(plane, tl.int64) * height * width
    nothing, total = tl.zeros([LANES], tl.float32), tl.zeros([LANES], tl.float64)
    for step in range(RUN + 2 * RADIUS_Y):
        for leaves in range(2):
            y = start + step - RADIUS_Y - leaves * (2 * RADIUS_Y + 1)
            row = base + y * width
            end = tl.where((y >= 0) & (y < height) & (y >= start - RADIUS_Y), width, 0)
            around = nothing
            for aside in range(2 * RADIUS_X + 1):
                column = x + aside - RADIUS_X
                valid = (column >= 0) & (column < end)
                if MASKED:
                    valid = valid & (tl.load(mask + row + column, mask=valid, other=0) != 0)
                value = tl.load(left + row + column, mask=valid, other=0).to(tl.float32) - left_mean
                if PRODUCT:
                    value = value * (tl.load(right + row + column, mask=valid, other=0) - right_mean)
                # chosen, not multiplied: what is left out is not zero once the mean is taken off
                around += tl.where(valid, value, 0.0)
            total += (1 - 2 * leaves) * around.to(tl.float64)
        centre = start + step - 2 * RADIUS_Y
        tl.store(result + base + centre * width + x, total.to(tl.float32), mask=x < tl.where((centre >= start) & (centre < height), width, 0))


@triton.jit
def _along(at, size, RADIUS: tl.constexpr):
    """Number of voxels of a window around `at` that lie inside an axis."""
    return tl.minimum(at + RADIUS, size - 1) - tl.maximum(at - RADIUS, 0) + 1


@triton.jit(do_not_specialize=["images", "depth", "height", "width"])
def _coefficients(
    sums, mask, result, scores, images, depth, height, width, floor, other_floor, flat,
    RADIUS_Z: tl.constexpr, RADIUS_Y: tl.constexpr, RADIUS_X: tl.constexpr, MASKED: tl.constexpr, GRADIENT: tl.constexpr,
    RUN: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Score of every window, added up per program, and the coefficients of the gradient.

    `sums` (5 or 6, images, D, H, W) are those of fixed, warped, their product, their squares and, with a mask, the number of voxels. `result` (3, images, D,
    H, W) holds what multiplies the fixed image, the warped one, and nothing.
    """
    area = height * width
    blocks, runs = tl.cdiv(area, LANES), tl.cdiv(depth, RUN)
    program = tl.program_id(0)
    lanes = program % blocks * LANES + tl.arange(0, LANES)
    start = program // blocks % runs * RUN
    volume = tl.cast(depth, tl.int64) * area
    every = images * volume
    here = program // (blocks * runs) * volume
    rectangle = _along(lanes // width, height, RADIUS_Y) * _along(lanes % width, width, RADIUS_X)
    fixed = tl.zeros([LANES], tl.float64)
    warped, product, fixed_square, warped_square, number = fixed, fixed, fixed, fixed, fixed
    total = tl.zeros([LANES], tl.float32)
    for step in range(RUN + 2 * RADIUS_Z):
        for leaves in range(2):
            z = start + step - RADIUS_Z - leaves * (2 * RADIUS_Z + 1)
            moves = lanes < tl.where((z >= 0) & (z < depth) & (z >= start - RADIUS_Z), area, 0)
            sign, part = 1 - 2 * leaves, sums + here + tl.cast(z, tl.int64) * area + lanes
            fixed += sign * tl.load(part, mask=moves, other=0.0).to(tl.float64)
            warped += sign * tl.load(part + every, mask=moves, other=0.0).to(tl.float64)
            product += sign * tl.load(part + 2 * every, mask=moves, other=0.0).to(tl.float64)
            fixed_square += sign * tl.load(part + 3 * every, mask=moves, other=0.0).to(tl.float64)
            warped_square += sign * tl.load(part + 4 * every, mask=moves, other=0.0).to(tl.float64)
            if MASKED:
                number += sign * tl.load(part + 5 * every, mask=moves, other=0.0).to(tl.float64)
        centre = start + step - 2 * RADIUS_Z
        valid = lanes < tl.where((centre >= start) & (centre < depth), area, 0)
        at = here + tl.cast(centre, tl.int64) * area + lanes
        if MASKED:
            count = tl.maximum(number.to(tl.float32), 1.0)
            scored = valid & (tl.load(mask + at, mask=valid, other=0) != 0)
        else:
            count = tl.maximum(rectangle * _along(centre, depth, RADIUS_Z), 1).to(tl.float32)
            scored = valid
        one, other, powers, other_powers = fixed.to(tl.float32), warped.to(tl.float32), fixed_square.to(tl.float32), warped_square.to(tl.float32)
        mean, other_mean = one / count, other / count
        variance, other_variance = powers - one * mean, other_powers - other * other_mean
        speaks = scored & (variance > flat * powers) & (other_variance > flat * other_powers)
        floored = tl.maximum(other_variance, other_floor)
        cross = product.to(tl.float32) - one * other_mean
        on_fixed = tl.where(speaks, cross / (tl.maximum(variance, floor) * floored), 0.0)
        score = cross * on_fixed
        total += score
        if GRADIENT:
            on_warped = tl.where(other_variance > other_floor, score / floored, 0.0)
            tl.store(result + at, on_fixed, mask=valid)
            tl.store(result + every + at, -on_warped, mask=valid)
            tl.store(result + 2 * every + at, on_warped * other_mean - on_fixed * mean, mask=valid)
    tl.store(scores + program, tl.sum(total))


@triton.jit(do_not_specialize=["images", "depth", "area"])
def _gradient(
    sums, fixed, warped, mask, fixed_means, warped_means, scale, result, images, depth, area,
    RADIUS: tl.constexpr, MASKED: tl.constexpr, RUN: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Derivative of the sum of the scores, times `scale`, from the plane sums (3, images, D, H, W) of the coefficients."""
    blocks, runs = tl.cdiv(area, LANES), tl.cdiv(depth, RUN)
    program = tl.program_id(0)
    lanes = program % blocks * LANES + tl.arange(0, LANES)
    start = program // blocks % runs * RUN
    image = program // (blocks * runs)
    volume = tl.cast(depth, tl.int64) * area
    every, here = images * volume, image * volume
    factor, of_fixed, of_warped = tl.load(scale), tl.load(fixed_means + image), tl.load(warped_means + image)
    on_fixed = tl.zeros([LANES], tl.float64)
    on_warped, constant = on_fixed, on_fixed
    for step in range(RUN + 2 * RADIUS):
        for leaves in range(2):
            z = start + step - RADIUS - leaves * (2 * RADIUS + 1)
            moves = lanes < tl.where((z >= 0) & (z < depth) & (z >= start - RADIUS), area, 0)
            sign, part = 1 - 2 * leaves, sums + here + tl.cast(z, tl.int64) * area + lanes
            on_fixed += sign * tl.load(part, mask=moves, other=0.0).to(tl.float64)
            on_warped += sign * tl.load(part + every, mask=moves, other=0.0).to(tl.float64)
            constant += sign * tl.load(part + 2 * every, mask=moves, other=0.0).to(tl.float64)
        centre = start + step - 2 * RADIUS
        valid = lanes < tl.where((centre >= start) & (centre < depth), area, 0)
        at = here + tl.cast(centre, tl.int64) * area + lanes
        one, other = tl.load(fixed + at, mask=valid, other=0.0) - of_fixed, tl.load(warped + at, mask=valid, other=0.0) - of_warped
        slope = (one * on_fixed.to(tl.float32) + other * on_warped.to(tl.float32) + constant.to(tl.float32)) * factor
        if MASKED:
            slope = tl.where(tl.load(mask + at, mask=valid, other=0) != 0, slope, 0.0)
        tl.store(result + at, slope, mask=valid)


def value_and_gradient(
    fixed: Tensor,
    warped: Tensor,
    window: Sequence[int],
    *,
    mask: Tensor | None = None,
    smooth_dr: float = 1e-5,
    warped_dr: float | None = None,
    gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Mean squared local correlation of images (N, *spatial) of two or three axes, float32, and its derivative with respect to `warped`.

    The arguments are those of :func:`nnreg.losses.lncc.lncc_value_and_gradient`; nothing is added to the numerator.
    """
    images, spatial = fixed.shape[0], tuple(fixed.shape[1:])
    depth, height, width = spatial if len(spatial) == 3 else (1, *spatial)
    half = [size // 2 for size in window]
    radii = dict(zip(("RADIUS_Z", "RADIUS_Y", "RADIUS_X"), half if len(half) == 3 else [0, *half], strict=True))
    area, runs = height * width, {"y": _run(height), "z": _run(depth)}
    planes = (triton.cdiv(area, PLANE_LANES) * triton.cdiv(depth, runs["z"]) * images,)
    along_z: dict[str, Any] = {"MASKED": mask is not None, "RUN": runs["z"], "LANES": PLANE_LANES}
    fixed, warped = fixed.detach().contiguous(), warped.detach().contiguous()
    inside = fixed if mask is None else mask.contiguous().view(torch.uint8)
    means = [_means(image, mask) for image in (fixed, warped)]
    nothing = torch.zeros(3 * images, device=fixed.device)

    def plane_sums(left: Tensor, right: Tensor, of_left: Tensor, of_right: Tensor, result: Tensor, product: bool, masked: bool) -> None:
        grid = (triton.cdiv(width, ROW_LANES) * triton.cdiv(height, runs["y"]) * (left.numel() // area),)
        sizes = {"RADIUS_Y": radii["RADIUS_Y"], "RADIUS_X": radii["RADIUS_X"], "RUN": runs["y"], "LANES": ROW_LANES}
        _plane_sums[grid](left, right, inside, of_left, of_right, result, depth, height, width, PRODUCT=product, MASKED=masked, num_warps=2, **sizes)

    with torch.cuda.device(fixed.device) if fixed.is_cuda else contextlib.nullcontext():
        sums = fixed.new_empty((5 if mask is None else 6, *fixed.shape))
        pair = (fixed, warped)
        for index, (left, right) in enumerate(((0, None), (1, None), (0, 1), (0, 0), (1, 1))):
            other = 0 if right is None else right
            plane_sums(pair[left], pair[other], means[left], means[other], sums[index], right is not None, mask is not None)
        if mask is not None:
            plane_sums(inside, inside, nothing, nothing, sums[5], False, False)
        coefficients = fixed.new_empty((3 if gradient else 0, *fixed.shape))
        scores = fixed.new_empty(planes)
        limits = smooth_dr, smooth_dr if warped_dr is None else warped_dr, float(FLAT)
        _coefficients[planes](sums, inside, coefficients, scores, images, depth, height, width, *limits, GRADIENT=gradient, **radii, **along_z)
        scored = torch.full((), fixed.numel(), device=fixed.device) if mask is None else mask.sum().clamp(min=1)
        value = (scores.sum(dtype=torch.float64) / scored).float()
        if not gradient:
            return value, None
        plane_sums(coefficients, coefficients, nothing, nothing, sums[:3], False, False)
        del coefficients
        result = torch.empty_like(fixed)
        scale = (2.0 / scored).float()
        _gradient[planes](sums, fixed, warped, inside, *means, scale, result, images, depth, area, RADIUS=radii["RADIUS_Z"], **along_z)
    return value, result


def _run(size: int) -> int:
    return min(RUN, triton.next_power_of_2(size))


def _means(image: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each image (inside the mask): the sums of squares of a window cancel, and every digit spent on an offset is lost."""
    if mask is None:
        return image.flatten(1).mean(1)
    return torch.where(mask, image, 0.0).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp(min=1)

"""Compiled loops of the global search: costs of many shifts at once, and the best shift near a guess."""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats, LongIntegers
from nnreg.kernels.compiled import compiled

BESIDE = 32  # values: loops over so many use whole vectors


@compiled
def shift_costs(start: int, stop: int, costs: Floats, fixed: Floats, moving: Floats, shifts: LongIntegers) -> None:
    """Planes start to stop of the squared difference (twelve times the mean) of feature maps (D, H, W, C) for every shift (K, 3): costs (D, H, W, K).

    Positions outside are taken from the border: what lies there is not known, and must not look like a good or a bad match.
    """
    depth, height, width, channels = fixed.shape
    # as if there were twelve channels, which is what the couplings of the method are made for
    scale = np.float32(12.0 / channels)
    for z in range(start, stop):
        for y in range(height):
            for x in range(width):
                here = fixed[z, y, x]
                row = costs[z, y, x]
                for k in range(shifts.shape[0]):
                    zz = min(max(z + shifts[k, 0], 0), depth - 1)
                    yy = min(max(y + shifts[k, 1], 0), height - 1)
                    xx = min(max(x + shifts[k, 2], 0), width - 1)
                    there = moving[zz, yy, xx]
                    total = np.float32(0.0)
                    for c in range(channels):
                        difference = here[c] - there[c]
                        total += difference * difference
                    row[k] = total * scale


@compiled
def mean_of_three(start: int, stop: int, result: Floats, costs: Floats, axis: int) -> None:
    """Planes start to stop of costs (D, H, W, K) averaged over both neighbours along an axis, border values continued outside."""
    depth, height, width, count = costs.shape
    third = np.float32(1.0 / 3.0)
    flat, out = costs.reshape(-1), result.reshape(-1)
    step, size = (height * width, depth) if axis == 0 else (width, height) if axis == 1 else (1, width)
    for z in range(start, stop):
        for y in range(height):
            for x in range(width):
                at = z if axis == 0 else y if axis == 1 else x
                here = (z * height + y) * width + x
                own = np.uint64(here * count)
                before = np.uint64((here - (step if at > 0 else 0)) * count)
                after = np.uint64((here + (step if at + 1 < size else 0)) * count)
                for k in range(np.uint64(count)):
                    out[own + k] = (flat[own + k] + flat[before + k] + flat[after + k]) * third


@compiled
def nearest_minimum(start: int, stop: int, chosen: Floats, costs: Floats, guess: Floats, shifts: Floats, coupling: np.float32) -> None:
    """Planes start to stop of ``argmin_k costs[k] + coupling |shift_k - guess|^2``: chosen, guess (3, D, H, W), costs (D, H, W, K), shifts (3, K).

    The first of equal ones. Least values are kept side by side: one alone would be waited for at every shift.
    """
    _, height, width, count = costs.shape
    blocks = -(-count // BESIDE)
    values, leasts, flat = np.empty(blocks * BESIDE, np.float32), np.empty(BESIDE, np.float32), costs.reshape(-1)
    values[count:] = np.inf
    on_z, on_y, on_x = shifts[0], shifts[1], shifts[2]
    for z in range(start, stop):
        for y in range(height):
            for x in range(width):
                first = np.uint64(((z * height + y) * width + x) * count)
                gz, gy, gx = guess[0, z, y, x], guess[1, z, y, x], guess[2, z, y, x]
                for k in range(np.uint64(count)):
                    dz, dy, dx = on_z[k] - gz, on_y[k] - gy, on_x[k] - gx
                    values[k] = flat[first + k] + coupling * (dz * dz + dy * dy + dx * dx)
                for j in range(BESIDE):
                    leasts[j] = np.inf
                for block in range(blocks):
                    offset = np.uint64(block * BESIDE)
                    for j in range(np.uint64(BESIDE)):
                        leasts[j] = values[offset + j] if values[offset + j] < leasts[j] else leasts[j]
                least = leasts.min()
                best = 0
                while best < count - 1 and not values[best] <= least:
                    best += 1
                chosen[0, z, y, x], chosen[1, z, y, x], chosen[2, z, y, x] = on_z[best], on_y[best], on_x[best]

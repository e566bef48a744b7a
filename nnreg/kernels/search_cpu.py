"""Compiled loops of the global search: costs of many shifts at once, and the best shift near a guess."""

from __future__ import annotations

import numpy as np

from nnreg.arrays import Floats, LongIntegers
from nnreg.kernels.compiled import compiled


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
def nearest_minimum(start: int, stop: int, chosen: Floats, costs: Floats, guess: Floats, shifts: Floats, coupling: np.float32) -> None:
    """Planes start to stop of ``argmin_k costs[k] + coupling |shift_k - guess|^2``: chosen, guess (3, D, H, W), costs (D, H, W, K), shifts (K, 3)."""
    _, height, width, count = costs.shape
    for z in range(start, stop):
        for y in range(height):
            for x in range(width):
                row = costs[z, y, x]
                gz, gy, gx = guess[0, z, y, x], guess[1, z, y, x], guess[2, z, y, x]
                best, least = 0, np.float32(np.inf)
                for k in range(count):
                    dz, dy, dx = shifts[k, 0] - gz, shifts[k, 1] - gy, shifts[k, 2] - gx
                    value = row[k] + coupling * (dz * dz + dy * dy + dx * dx)
                    if value < least:
                        least, best = value, k
                chosen[0, z, y, x], chosen[1, z, y, x], chosen[2, z, y, x] = shifts[best, 0], shifts[best, 1], shifts[best, 2]

"""What is computed does not depend on how many threads compute it."""

from __future__ import annotations

import numpy as np
import pytest

from nnreg.kernels import lncc_cpu
from nnreg.kernels.correlation import Windows


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("radii", [(1, 1, 1), (3, 2, 2)])
def test_local_correlation_is_the_same_bit_for_bit(radii, masked, monkeypatch):
    rng = np.random.default_rng(0)
    shape = (5 * lncc_cpu.AFRESH + 3, 6, 7)
    fixed, warped = (rng.random(shape, dtype=np.float32) for _ in range(2))
    mask = rng.random(shape) < 0.7 if masked else None
    results = []
    for threads in (1, 2, 3, 5):
        monkeypatch.setattr("nnreg.kernels.threads.thread_count", lambda threads=threads: threads)
        windows = Windows.of(fixed, radii, floor=1e-6, mask=mask)
        score, gradient = windows.correlation(warped)
        results.append((score, gradient.tobytes(), windows.mean.tobytes(), windows.inverse.tobytes()))
    assert all(result == results[0] for result in results)

"""Samples of other processes pass through shared memory, which a container may have little of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

SHARED = Path("/dev/shm")
PREFETCHED = 2  # batches that each process loads ahead, torch's default
MARGIN = 1.1
MB = 2**20


def fitting_workers(sample: Mapping[str, Tensor], batch_size: int, workers: int, folder: Path = SHARED) -> tuple[int, str | None]:
    """How many processes may load data, and what the log is to say if they are fewer than asked for.

    A batch that finds no room there ends the process that loads it with a bus error, which says nothing.

    Parameters
    ----------
    sample
        One of those to be loaded.
    batch_size, workers
        As asked for.
    folder
        The shared memory; systems without one have no such limit.
    """
    try:
        state = os.statvfs(folder)
    except (OSError, AttributeError):
        return workers, None
    free = state.f_bavail * state.f_frsize
    each = PREFETCHED * batch_size * sum(value.nbytes for value in sample.values()) * MARGIN
    fitting = min(workers, int(free // max(each, 1)))
    if fitting == workers:
        return workers, None
    return fitting, (
        f"{folder} has {free / MB:.0f} MB free, {workers} processes that load batches of {each / PREFETCHED / MARGIN / MB:.0f} MB need "
        f"{workers * each / MB:.0f} MB: {fitting or 'none'} of them will load data. "
        f"In Docker, start the container with --shm-size={_gigabytes(workers * each)}g."
    )


def _gigabytes(size: float) -> int:
    """Whole ones that hold so many bytes."""
    return int(size // 2**30) + 1

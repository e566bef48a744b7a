"""What a device has, and whether a training step fits."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from nnreg.errors import TrainingError

GB = 1024**3
MIXED_PRECISION = 0.5  # of the prediction in float32 is needed at least: what is kept is half as wide
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def device_memory_gb(device: torch.device) -> float | None:
    """All the memory of a device in GB (2^30 bytes), that of the container on a CPU; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / GB
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        limit = int(CGROUP_LIMIT.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        limit = physical
    return min(physical, limit) / GB


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, or in all the memory of the computer or its container; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    total = device_memory_gb(device)
    return None if total is None else int(total * GB)


def release_memory(device: torch.device) -> str:
    """Give back what a failed attempt holds, and say what is free on a GPU, in brackets: for a message."""
    if device.type != "cuda":
        return ""
    torch.cuda.empty_cache()
    return f" ({torch.cuda.mem_get_info(device)[0] / GB:.1f} GB are free)"


def check_fits(needed_gb: float, device: torch.device, what: str) -> None:
    """Raise a TrainingError if a step predicted to need `needed_gb` (in float32) cannot fit `device`.

    Parameters
    ----------
    needed_gb
        GB (2^30 bytes).
    device
        Where it would run.
    what
        Network and grid, for the message.
    """
    available = device_memory_gb(device)
    needed = needed_gb * (MIXED_PRECISION if device.type == "cuda" else 1.0)
    if available is not None and needed > available:
        raise TrainingError(
            f"{what} needs about {needed:.1f} GB for a training step, {device} has {available:.1f} GB. "
            "Raise field_resolution (--set architecture.field_resolution=2), lower batch_size, or take a smaller network or grid."
        )

"""What this machine offers, told without torch."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path


def has_accelerator() -> bool:
    """Whether a driver of an NVIDIA or AMD GPU is there, or Apple's own chip."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")) or shutil.which("nvidia-smi") is not None


def accelerator_wanted(device: str) -> bool:
    """What ``-device`` means for planning: ``auto`` looks, ``cpu`` has none, any other name has one."""
    return has_accelerator() if device == "auto" else device != "cpu"

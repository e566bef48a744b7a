"""What this machine offers, told without torch."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

GROUP = Path("/sys/fs/cgroup")  # where containers are told what they may use
GB = 1024**3


def has_accelerator() -> bool:
    """Whether a driver of an NVIDIA or AMD GPU is there, or Apple's own chip."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd")) or shutil.which("nvidia-smi") is not None


def accelerator_wanted(device: str) -> bool:
    """What ``-device`` means for planning: ``auto`` looks, ``cpu`` has none, any other name has one."""
    return has_accelerator() if device == "auto" else device != "cpu"


def cores() -> int:
    """Cores that this process may use: its affinity, and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _told(GROUP / "cpu.max").partition(" ")
    return max(1, min(count, round(int(quota) / int(period)))) if quota.isdigit() and period.isdigit() else count


def ram_gb() -> float:
    """Memory of the machine, or what its container may take, in GB (2^30 bytes)."""
    total = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    limit = _told(GROUP / "memory.max")
    return min(total, float(limit) if limit.isdigit() else total) / GB


def machine_name() -> str:
    """Processor, cores and threads that may be used: where it differs, work takes another time."""
    lines = _told(Path("/proc/cpuinfo")).splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())
    return f"{model}, {cores()} cores, {os.environ.get('OMP_NUM_THREADS', 'all')} threads"


def _told(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""

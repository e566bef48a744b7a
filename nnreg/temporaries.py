"""Names of files that are being written, which say whose they are: what a killed process left is known as such, and swept away by the next one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import socket
from functools import lru_cache
from pathlib import Path

PREFIX = ".nnreg"
NAME = re.compile(r"\.nnreg-(?P<place>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}(?:\..*)?")
OLD = 7 * 86400.0  # seconds without a change: no write takes a week, wherever its process is

_swept: set[tuple[int, Path]] = set()


def temporary_beside(path: Path, ending: str) -> Path:
    """A new hidden name in the folder of `path`, of this process, with `ending` and nothing else of the name: writers choose their format by it.

    What dead processes left in the folder is removed first, once for a folder and process.
    """
    sweep(path.parent)
    return path.with_name(f"{PREFIX}-{_place()}-{os.getpid()}-{secrets.token_hex(4)}{ending}")


def sweep(folder: Path) -> None:
    """Remove temporary files and folders whose process on this machine is dead, or that are a week old."""
    key = (os.getpid(), folder)
    if key in _swept:
        return
    _swept.add(key)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if entry.name.startswith(PREFIX)]:
            if _is_left_behind(entry):
                _remove(Path(entry.path))


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _is_left_behind(entry: os.DirEntry[str]) -> bool:
    found = NAME.fullmatch(entry.name)
    if found is None:
        return False
    if found["place"] == _place():
        return not _is_alive(int(found["process"]))
    try:
        return _now_in(Path(entry.path).parent) - entry.stat(follow_symlinks=False).st_mtime > OLD
    except OSError:
        return False


def _now_in(folder: Path) -> float:
    """The time by the clock that dates the files of `folder`: this machine's may be another, or be set to another day."""
    probe = folder / f"{PREFIX}-{_place()}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's, or a system without signals
        return True
    return True


@lru_cache(maxsize=1)
def _place() -> str:
    """Where process numbers mean the same: a host since it was started, and in it a container."""
    told = [socket.gethostname()]
    with contextlib.suppress(OSError):
        told.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with contextlib.suppress(OSError):
        told.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("|".join(told).encode()).hexdigest()[:8]


__all__ = ["sweep", "temporary_beside"]

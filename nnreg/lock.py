"""One process at a time on a folder: a second one is told who holds it, and a dead holder does not keep it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from nnreg.errors import NnRegError

LOCK_FILE = ".lock"
UNKNOWN = "another process"


@contextlib.contextmanager
def held(folder: Path, what: str, error: type[NnRegError] = NnRegError, *, name: str = LOCK_FILE) -> Iterator[None]:
    """Hold `folder` while the block runs. The operating system lets go of it when the process ends, however it ends.

    Parameters
    ----------
    folder
        It must exist and be writable.
    what
        Is being done: ``trained``.
    error
        Class of what is raised.
    name
        Of the lock: work that shares a folder in parts holds one for each part.

    Raises
    ------
    NnRegError
        Of the given class, if another process holds it: the message names process, host and time.
    """
    path = folder / name
    descriptor = _taken(path)
    if descriptor is None:
        raise error(f"{folder}: is being {what} by {_holder(path)}. Wait until it ends, or end it.")
    try:
        content = {"process": os.getpid(), "host": socket.gethostname(), "since": datetime.now(timezone.utc).isoformat(timespec="seconds")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(content).encode(), 0)
        yield
    finally:
        # while it is still held: who opened it meanwhile finds another file, or none, under the name, and tries again
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(path: Path) -> int | None:
    """The locked file, which closes with the process; None if it is held."""
    try:
        import fcntl
    except ImportError:  # Windows: who opened it keeps it from being removed
        return _taken_exclusively(path)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)  # removed by its last holder in between


def _taken_exclusively(path: Path) -> int | None:
    """Where files cannot be locked: a file that is open cannot be removed either."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return None


def _holder(path: Path) -> str:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return f"process {content['process']} on {content['host']} since {content['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN


__all__ = ["LOCK_FILE", "held"]

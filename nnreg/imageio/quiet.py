"""What C libraries print, caught instead of shown: it is either the reason of an error or noise."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence

STDOUT, STDERR = 1, 2
_LOCK = threading.RLock()  # the descriptors belong to the whole process


@contextlib.contextmanager
def caught(descriptors: Sequence[int] = (STDERR,)) -> Iterator[list[str]]:
    """Collect the lines that are written to file descriptors within; they are in the list when the block is left."""
    lines: list[str] = []
    with _LOCK, tempfile.TemporaryFile() as file, contextlib.ExitStack() as stack:
        for descriptor in descriptors:
            stack.enter_context(_redirected(descriptor, file.fileno()))
        try:
            yield lines
        finally:
            stack.close()
            file.seek(0)
            lines.extend(line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip())


@contextlib.contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    try:
        saved = os.dup(descriptor)
    except OSError:  # a process without this stream has nothing to catch
        yield
        return
    try:
        _flush()
        os.dup2(target, descriptor)
        yield
    finally:
        _flush()
        os.dup2(saved, descriptor)
        os.close(saved)


def _flush() -> None:
    """Empty Python's and C's buffers, so that each line goes where it belongs."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)

"""What C libraries print to stderr, caught instead of shown: it is either the reason of an error or noise."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator

_LOCK = threading.RLock()  # file descriptor 2 belongs to the whole process


@contextlib.contextmanager
def caught_stderr() -> Iterator[list[str]]:
    """Collect the lines written to file descriptor 2 within; they are in the list when the block is left."""
    lines: list[str] = []
    with _LOCK, tempfile.TemporaryFile() as file:
        try:
            saved = os.dup(2)
        except OSError:  # a process without stderr has nothing to catch
            yield lines
            return
        try:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                sys.stderr.flush()
            os.dup2(file.fileno(), 2)
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            lines.extend(line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip())

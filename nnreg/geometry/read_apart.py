"""Run as a program of its own: reads a transform of HDF5 and writes it anew. ITK and HDF5 end the process on some damaged files; this one may end.

It imports nothing of the package, so that it starts fast.
"""

from __future__ import annotations

import contextlib
import math
import sys
from pathlib import Path
from typing import Any

MOST = 1032  # bytes that a stored byte becomes at most
ROOM = 2**30  # bytes of memory for libraries and what is small


def main(source: str, target: str) -> int:
    """Exit code 1 with the reason in the last line of stderr; or a signal."""
    import h5py
    import SimpleITK as sitk

    promised = 0

    def check(name: str, part: Any) -> None:
        nonlocal promised
        if isinstance(part, h5py.Dataset):
            size, stored = math.prod(part.shape or ()) * 8, part.id.get_storage_size()
            if size > stored * MOST * 2:
                raise ValueError(f"{name} promises {size} bytes, the {stored} that are stored cannot hold them")
            promised += size

    try:
        with h5py.File(source, "r") as file:
            file.visititems(check)
        limit_memory(8 * promised + ROOM)
        sitk.WriteTransform(sitk.ReadTransform(source), target)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.strip().startswith("Reason:")]
        sys.stderr.write(f"{(lines or [type(error).__name__])[-1]}\n")  # how it answers
        return 1
    return 0


def limit_memory(more: int) -> None:
    """Allow so many bytes beyond what is used now, where the system knows such a limit."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

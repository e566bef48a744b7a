"""What results say of the run that made them: the version and the exact command, and what they were made with and from."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from nnreg.files import content_digest

PACKAGES = ("numpy", "scipy", "numba", "torch", "SimpleITK")  # what computes


def run_record() -> dict[str, object]:
    """``nnreg_version`` and ``made_with``; in a command of nnReg also ``command``, what to type to make the same again, and ``folder``, where."""
    from nnreg import __version__

    typed = command_line()
    record: dict[str, object] = {"nnreg_version": __version__, "made_with": made_with()}
    return record if typed is None else record | {"command": typed, "folder": str(Path.cwd())}


def made_with() -> dict[str, str]:
    """Versions and machine, as far as figures can depend on them."""
    found = {name: version for name in PACKAGES if (version := _version(name)) is not None}
    return {"python": platform.python_version(), **found, "machine": platform.machine(), "threads": os.environ.get("OMP_NUM_THREADS", "")}


def digests(paths: Iterable[Path | str | None]) -> dict[str, str]:
    """Absolute paths of the files that were read, each with a digest of its content."""
    return {str(Path(path).absolute()): content_digest([Path(path)]) for path in paths if path is not None}


def command_line() -> str | None:
    """The command that runs, as it was typed; None in a program that only uses the package."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    return shlex.join([name, *sys.argv[1:]]) if name.startswith("nnreg") else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

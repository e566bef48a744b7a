"""What results say of the run that made them: the version and the exact command."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path


def run_record() -> dict[str, str]:
    """``nnreg_version`` and, in a command of nnReg, ``command``: what to type to make the same again."""
    from nnreg import __version__

    typed = command_line()
    return {"nnreg_version": __version__} | ({} if typed is None else {"command": typed})


def command_line() -> str | None:
    """The command that runs, as it was typed; None in a program that only uses the package."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    return shlex.join([name, *sys.argv[1:]]) if name.startswith("nnreg") else None

"""What a command tells of its run beside what it prints: one JSON object a line in a file (``--json_log``), lines on stderr (``-v``)."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from nnreg.errors import NnRegError
from nnreg.files import make_folder, plain
from nnreg.run_record import run_record

LEVELS = {"stage": 1, "figures": 1, "error": 9, "line": 9, "start": 2, "end": 2, "progress": 2}
"""From which number of ``-v`` an event is shown on stderr; errors and lines are printed anyway."""


@dataclass
class RunLog:
    """The log of one command.

    Attributes
    ----------
    command
        Such as ``nnreg_register``.
    verbosity
        How often ``-v`` was given.
    file
        Open for text, or None.
    """

    command: str
    verbosity: int = 0
    file: IO[str] | None = None
    started: float = field(default_factory=time.perf_counter)

    def tell(self, event: str, content: dict[str, Any]) -> None:
        """Write and show one event."""
        seconds = round(time.perf_counter() - self.started, 3)
        if self.file is not None:
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            entry = {"time": now, "command": self.command, "event": event, "since_start": seconds, **plain(content)}
            self.file.write(json.dumps(entry, allow_nan=False) + "\n")
            self.file.flush()
        if self.verbosity >= LEVELS.get(event, 2):
            sys.stderr.write(f"{self.command}: {seconds:8.2f} s  {event}  {_in_words(content)}\n")


_open: list[RunLog] = []


def tell(event: str, **content: Any) -> None:
    """Tell the running command's log; in a program that only uses the package, nobody hears it.

    Parameters
    ----------
    event
        ``stage`` (with `stage` and `seconds`), ``figures``, ``progress``, ...
    **content
        JSON's own types, numpy's and paths.
    """
    if _open:
        _open[-1].tell(event, content)


@contextlib.contextmanager
def logged(command: str, path: Path | None, verbosity: int) -> Iterator[RunLog]:
    """The log of a command, as long as it runs. Lines are added to the file, so that several commands can share one.

    Raises
    ------
    NnRegError
        If the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        log = RunLog(command, verbosity, None if path is None else stack.enter_context(_opened(path)))
        _open.append(log)
        stack.callback(_open.remove, log)
        if log.file is not None or verbosity >= LEVELS["start"]:  # versions take a moment to find
            log.tell("start", run_record())
        yield log


def _opened(path: Path) -> IO[str]:
    try:
        make_folder(path.absolute().parent)
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise NnRegError(f"{path}: the log cannot be written ({error.strerror}). Name a file in a folder you may write to.") from error


def _in_words(content: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_short(value)}" for name, value in content.items())


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_in_words(value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


__all__ = ["RunLog", "logged", "tell"]

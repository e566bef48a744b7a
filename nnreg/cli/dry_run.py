"""``--dry_run``: which files a command would read and write, for all commands alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.errors import NnRegError

if TYPE_CHECKING:
    import argparse

FORMS = ("text", "json")


@dataclass(frozen=True)
class Files:
    """What a command reads and writes, as far as it is known before it runs.

    Attributes
    ----------
    reads, writes
        Files or folders. What is read has to be there.
    notes
        What is decided already, and what only while it runs, a sentence each.
    more
        What programs are told besides.
    """

    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, reads: Iterable[Path | str | None], writes: Iterable[Path | str | None], *notes: str) -> Files:
        """From names as options have them; None is none."""
        return cls(_paths(reads), _paths(writes), notes)

    @property
    def missing(self) -> tuple[Path, ...]:
        """What would be read and is not there."""
        return tuple(path for path in self.reads if not path.exists())

    def text(self) -> str:
        """For people."""
        reads = [f"  {path}{'' if path.exists() else '  (missing)'}" for path in self.reads]
        writes = [f"  {path}{'  (is there, would be replaced or added to)' if path.exists() else ''}" for path in self.writes]
        return "\n".join(["would read:", *(reads or ["  nothing"]), "would write:", *(writes or ["  nothing"]), *self.notes])

    def json(self) -> str:
        """For programs."""
        content = {
            "reads": [{"path": str(path), "exists": path.exists()} for path in self.reads],
            "writes": [{"path": str(path), "exists": path.exists()} for path in self.writes],
            "notes": list(self.notes),
            **self.more,
        }
        return json.dumps(content, indent=2, default=str)


Would = Callable[["argparse.Namespace"], Files]
"""From a command's options to its files; refuses what the command would refuse before it starts."""


def show(files: Files, form: str) -> None:
    """Print what would be read and written.

    Raises
    ------
    NnRegError
        If something that would be read is not there.
    """
    print(files.json() if form == "json" else files.text(), flush=True)
    if files.missing:
        more = f" and {len(files.missing) - 1} more" if len(files.missing) > 1 else ""
        raise NnRegError(f"{files.missing[0]}: does not exist{more}, so the command would stop. Check its folder, name and ending.")


def _paths(names: Iterable[Path | str | None]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(Path(name) for name in names if name is not None))

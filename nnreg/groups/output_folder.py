"""Where the results of a group go: not among what is read, and not over the results of another command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nnreg.errors import DatasetError
from nnreg.files import read_json, writable_folder, write_json
from nnreg.groups.members import Member
from nnreg.inference.registration.cases import refuse_own_folder
from nnreg.run_record import digests, run_record

SUMMARY = "summary.json"
WRITTEN = "written"  # in a summary: the files of its run, which a later run may remove
MARK = "made_from.json"  # in a folder of what is kept of a killed run


def own_folder(output: Path | str, read: Iterable[Path | None], key: str) -> Path:
    """The output folder of a command, made and proved to be writable.

    Parameters
    ----------
    output
    read
        Files that the command reads.
    key
        What every ``summary.json`` of this command holds, and that of no other command of groups.

    Raises
    ------
    NnRegError
        If a file that is read lies in it, its ``summary.json`` is another command's, or it cannot be written.
    """
    output = Path(output)
    refuse_folders_of(read, output)
    summary = output / SUMMARY
    if summary.is_file() and key not in (found := read_json(summary)):
        made_by = found.get("command") if isinstance(found, dict) else None
        whose = f"of the command '{made_by}'" if made_by else "of another command"
        raise DatasetError(f"{summary}: is the summary {whose}, and would be replaced. Choose another output folder.")
    return writable_folder(output)


def refuse_folders_of(read: Iterable[Path | None], *outputs: Path) -> None:
    """Refuse output folders in which a file that is read lies.

    Raises
    ------
    NnRegError
        It names the first.
    """
    folders = dict.fromkeys(path.parent for path in read if path is not None)
    for output in outputs:
        refuse_own_folder(output, *folders)


def own_work(work: Path) -> Path:
    """The folder of what is kept of a run that is killed, marked as such; it is removed at the end.

    Raises
    ------
    DatasetError
        If it is there with other content: that would be removed too.
    """
    refuse_others_work(work)
    if not (work / MARK).is_file():
        write_json(work / MARK, {})
    return work


def refuse_others_work(work: Path) -> None:
    """Raise a DatasetError if there is such a folder, and no command of groups made it."""
    if work.is_dir() and any(work.iterdir()) and not (work / MARK).is_file():
        raise DatasetError(f"{work}: was not made by this command, which removes it at the end. Choose another output folder, or rename it.")


def write_record(path: Path, content: dict[str, Any], written: Iterable[Path]) -> None:
    """Write what a command says of its results, and remove those of its earlier run that were not written anew.

    Parameters
    ----------
    path
        ``summary.json``, or the report of one subject, in the folder of the results.
    content
    written
        Files of this run in that folder. Only a file that the record of the earlier run names is ever removed.
    """
    names = sorted({file.relative_to(path.parent).as_posix() for file in written})
    earlier = read_json(path) if path.is_file() else {}
    for name in set(earlier.get(WRITTEN, ())) - set(names):
        file = path.parent / name
        if file.resolve().is_relative_to(path.parent.resolve()) and file.is_file():
            file.unlink()
            with contextlib.suppress(OSError):  # other files lie in it
                file.parent.rmdir()
    write_json(path, content | {WRITTEN: names})


def group_record(read: Iterable[Path | None]) -> dict[str, Any]:
    """What every ``summary.json`` of a group says of its run: how it was made, and a digest of each file that was read, for ``nnreg_reproduce``."""
    return run_record() | {"read": digests(read)}


def files_of(members: Iterable[Member]) -> list[Path | None]:
    """All that is read of members; None for what they lack."""
    return [path for member in members for path in member.all_files()]

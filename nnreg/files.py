"""Files that are never half written: a temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnreg.documents import parse_json
from nnreg.errors import NnRegError, PredictionError, WriteError
from nnreg.temporaries import temporary_beside

# what the user can mend: permissions, a file where a folder should be, a read-only or full disk
UNWRITABLE = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
PROBE = b"\0" * 2**16
MANY = 1000  # files: more are sent to disk in one go

COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
BLOCK = 2**22  # bytes read at once

LONGEST_NAME = 200  # file systems end at 255 bytes, and endings are added

_watching: list[list[Path]] = []  # of each open block of `no_empty_folders`: the folders made since, outer ones first


@contextlib.contextmanager
def no_empty_folders() -> Iterator[None]:
    """Where the block fails, the folders that :func:`make_folder` made in it are removed again, unless there is something in them."""
    made: list[Path] = []
    _watching.append(made)
    try:
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finally:
        _watching.pop()


def make_folder(path: Path) -> None:
    """Make a folder and its parents, where they are not there yet."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in _watching:
        made.extend(reversed(missing))


def refuse_overwriting(output: Path | str, inputs: Iterable[Path | str | None]) -> None:
    """Refuse an output file that is one of the files that are read.

    Raises
    ------
    NnRegError
        It names the file.
    """
    output = Path(output)
    for path in inputs:
        if path is not None and output.exists() and Path(path).exists() and output.samefile(path):
            raise NnRegError(f"{output}: is read as {path}, the result would overwrite it. Choose another output.")


def refuse_mixture(output: Path, summary: str, command: str) -> None:
    """Refuse an output folder with the `summary` of another command: its report would be of one of them.

    Raises
    ------
    PredictionError
        It names the file.
    """
    if (output / summary).is_file():
        raise PredictionError(f"{output / summary}: is a result of {command}, which this one would be mixed with. Choose another output folder.")


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path`, on failure it is removed.

    The temporary name has the ending of `path` (``.nii.gz``) in small letters, because writers choose their format by it, and nothing else of it: ITK takes
    ``scan.img.nii.gz`` for another file than the one it was given.

    Raises
    ------
    NnRegError
        If the folder cannot be made or written.
    """
    path = Path(path)
    if path.is_dir():
        raise NnRegError(f"{path}: is a folder, a file was expected. Name a file in it.")
    with _told(path):
        make_folder(path.parent)
    temporary = temporary_beside(path, _ending(path))
    try:
        with _told(path, temporary):
            yield temporary
            _flush(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _ending(path: Path) -> str:
    """The last suffix, or the last two of a compressed file."""
    return "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:]).lower()


@contextlib.contextmanager
def _told(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Say in one line that `path` cannot be written, where that is why the block failed."""
    try:
        yield
    except NnRegError:
        raise
    except Exception as error:
        reason = _unwritable(error, temporary)
        if reason is None:
            raise
        raise WriteError(f"{path}: cannot be written ({os.strerror(reason)}). {_remedy(reason)}") from error


@contextlib.contextmanager
def _named(folder: Path, temporary: Path) -> Iterator[None]:
    """Where a file in the folder `temporary` cannot be written, name its place in `folder`, which the user knows."""
    try:
        yield
    except WriteError as error:
        raise type(error)(str(error).replace(f"{temporary}{os.sep}", f"{folder}{os.sep}", 1)) from error


def _unwritable(error: Exception, temporary: Path | None) -> int | None:
    """Why a file could not be written, as the system's number; None if that was not what failed.

    Writers of arrays, networks and HDF5 raise errors of their own: whether the disk is full is asked of it, with what was written still there.
    """
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return error.errno
    if temporary is None or not temporary.is_file():
        return None
    try:
        with temporary.open("ab", buffering=0) as file:
            return None if file.write(PROBE) == len(PROBE) else errno.ENOSPC
    except OSError as full:
        return full.errno if full.errno in FULL else None


@contextlib.contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield a new, temporary folder beside `path`; on success it takes the place of `path`, on failure it is removed.

    Raises
    ------
    NnRegError
        If the folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    with _told(path):
        make_folder(path.parent)
    temporary = temporary_beside(path, f".{path.name}")
    try:
        with _told(path), _named(path, temporary):
            temporary.mkdir()
            yield temporary
            _flush_all(temporary)
            _put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def folder_to_write(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` for what is moved from it; it is removed in the end, and what is left in it.

    Raises
    ------
    NnRegError
        If it cannot be written, or the disk is full.
    """
    temporary = temporary_beside(path, ".part")
    try:
        with _told(path), _named(path.parent, temporary):
            temporary.mkdir()
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(new: Path, path: Path) -> None:
    """Give the folder `new` the name `path`; what was there goes only when the new one stands there."""
    if not path.is_dir():
        new.rename(path)
        return
    stale = temporary_beside(path, f".{path.name}")
    path.rename(stale)
    try:
        new.rename(path)
    except BaseException:
        stale.rename(path)
        raise
    shutil.rmtree(stale, ignore_errors=True)


def _remedy(reason: int) -> str:
    if reason in FULL:
        return "Make room there and run it again, or choose a folder on another disk."
    return "Choose a folder you may write to, or change its permissions."


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file, whole or not at all."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def link(path: Path, name: Path) -> None:
    """Give a file a second name, in place of another file of that name.

    Raises
    ------
    OSError
        If the file system has no links.
    """
    temporary = temporary_beside(name, _ending(name))
    try:
        temporary.hardlink_to(path)
        temporary.replace(name)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Send a file to disk, on which there has to be room for more: some writers are silent about last bytes that found none."""
    with path.open("r+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if file.write(PROBE) != len(PROBE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.truncate(size)
        os.fsync(file.fileno())


def _flush_all(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if len(files) > MANY:  # the chunks of an image
        _flush(files[0])
        os.sync()
        return
    for path in files:
        _flush(path)


def writable_folder(path: Path | str) -> Path:
    """Make `path` and prove that files can be made in it.

    Raises
    ------
    NnRegError
        If it is a file, or may not be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NnRegError(f"{path}: is a file, a folder was expected. Choose another output folder.")
    try:
        make_folder(path)
        probe = temporary_beside(path / "probe", ".probe")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror}). Choose a folder you may write to, or change its permissions.") from error
    return path


def write_text(path: Path | str, text: str) -> None:
    """Write `text`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all. numpy scalars, arrays, tuples and paths are plain values; NaN becomes null."""
    write_text(path, json.dumps(plain(content), indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str, error: type[NnRegError] = NnRegError) -> Any:
    """Read JSON.

    Raises
    ------
    NnRegError
        Of the given class, if the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return parse_json(path.read_text(encoding="utf-8"), str(path), error)
    except FileNotFoundError as missing:
        raise error(f"{path}: does not exist.") from missing
    except UnicodeDecodeError as damaged:
        raise error(f"{path}: is not valid JSON ({damaged}). Mend it or make it again.") from damaged
    except OSError as unreadable:
        raise error(f"{path}: cannot be read ({unreadable.strerror}).") from unreadable


def content_digest(paths: Iterable[Path | None], *, names: bool = True) -> str:
    """Of names and content of files, and of folders with all that they hold (Zarr); None and absent files count for nothing.

    Content, because size and time of a file do not tell all that changes. Without `names` a renamed file has the digest it had.
    """
    found = hashlib.blake2b(digest_size=8)
    for path in paths:
        for file in _files_of(path):
            found.update(f"{file.name if names else ''} {file.stat().st_size}\n".encode())
            with file.open("rb") as stream:
                while block := stream.read(BLOCK):
                    found.update(block)
    return found.hexdigest()


def _files_of(path: Path | None) -> list[Path]:
    """A file by itself, of a folder all files; none where it is absent."""
    if path is None:
        return []
    return sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path] if path.is_file() else []


def read_object(path: Path | str, error: type[NnRegError] = NnRegError) -> dict[str, Any]:
    """Read JSON that has keys.

    Raises
    ------
    NnRegError
        Of the given class, if the file is missing, is not JSON, or is a list, a number or a text.
    """
    content = read_json(path, error)
    if not isinstance(content, dict):
        raise error(f"{path}: expected an object with keys, found {type(content).__name__} {str(content)[:40]!r}. Mend it or make it again.")
    return content


def check_component(name: str, what: str, where: Path | str, error: type[NnRegError] = NnRegError) -> str:
    """A name from a file that becomes a folder or file: one plain component of a path, letters or digits first.

    Raises
    ------
    NnRegError
        Of the given class, for separators, ``..``, signs that shells or Windows treat in their own way, and over 200 characters.

    Examples
    --------
    >>> check_component("3d_fullres", "the configuration", "plans.json")
    '3d_fullres'
    """
    if not COMPONENT.fullmatch(name) or len(name) > LONGEST_NAME:
        raise error(f"{where}: {what} is {name[:80]!r}, expected a plain name of letters, digits, '_', '-', '+' and '.'. Do not use the file, or mend it.")
    return name


def plain(value: Any) -> Any:
    """`value` as JSON's own types: mappings, lists, strings, numbers, booleans, null (also for NaN and infinity)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    return value

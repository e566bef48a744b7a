"""What every kind of source gives: cases, entries of ``dataset.json``, and what was decided on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnreg.dataset.writing import NewCase
from nnreg.errors import DatasetError
from nnreg.imageio import ENDINGS, is_image_file
from nnreg.imageio.endings import stem_of

OF_ONE_SUBJECT = re.compile(r"(.+?)[_.-]?(?:frame|phase|visit|ses|session|time|timepoint|tp|day|week|month|year|baseline|follow-?up)[_-]?\d*$", re.IGNORECASE)


@dataclass(frozen=True)
class Wanted:
    """What the user said of a source.

    Attributes
    ----------
    labels
        Folder of label maps.
    suffixes
        Of a BIDS dataset: ``T1w``, or several as channels.
    series
        Of DICOM: part of the description, or the UID, of the series that counts.
    level
        Of multiscale images, 0 is the finest; None: see :func:`nnreg.dataset.sources.levels.at_level`.
    """

    labels: Path | None = None
    suffixes: tuple[str, ...] = ()
    series: str | None = None
    level: int | None = None


@dataclass(frozen=True, eq=False)
class Collected:
    """Cases of a source.

    Attributes
    ----------
    kind
        What the source was read as.
    cases
        Name to case.
    spec
        Entries of ``dataset.json`` that the source tells; the others are the user's or the default.
    decisions
        What was decided, a sentence each.
    """

    kind: str
    cases: dict[str, NewCase]
    spec: dict[str, Any] = field(default_factory=dict)
    decisions: tuple[str, ...] = ()


def images_in(folder: Path) -> list[Path]:
    """Image files (and folders that are images, such as ``.zarr``) directly in a folder."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name.lower().endswith(tuple(ENDINGS)) and is_image_file(path))


def case_name(text: str) -> str:
    """A case's name made of any text: letters, digits, ``_``, ``-`` and ``.``, and no end that looks like a channel.

    Examples
    --------
    >>> case_name("Brain 01 (left)"), case_name("p1_0000")
    ('Brain_01_left', 'p1')
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip("_.")
    return re.sub(r"_\d{4}$", "", name) or "case"


def named(paths: Iterable[Path]) -> dict[str, Path]:
    """Case to file.

    Raises
    ------
    DatasetError
        If two files would be one case.
    """
    found: dict[str, Path] = {}
    for path in paths:
        name = case_name(stem_of(path))
        if name in found:
            raise DatasetError(f"{path}: is case {name!r} as {found[name]} is. Rename one.")
        found[name] = path
    return found


def subjects_in(cases: Iterable[str]) -> dict[str, str]:
    """Case to subject where names count frames, phases, visits or sessions of one; empty where no subject has two.

    Examples
    --------
    >>> subjects_in(["p1_frame01", "p1_frame12", "p2_frame01"])
    {'p1_frame01': 'p1', 'p1_frame12': 'p1', 'p2_frame01': 'p2'}
    >>> subjects_in(["p1_T1", "p1_T2"])
    {}
    """
    found = {case: match[1] for case in cases if (match := OF_ONE_SUBJECT.match(case))}
    return found if len(set(found.values())) < len(found) else {}


def needed(path: Path, source: Path | str) -> Path:
    """A file that `source` names.

    Raises
    ------
    DatasetError
        If it is not there.
    """
    if not path.exists():
        raise DatasetError(f"{source}: names {path}, which does not exist. Mend the path, or copy the file there.")
    return path


def listed(names: Sequence[str], most: int = 6) -> str:
    """Some names for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

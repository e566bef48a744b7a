"""Who was seen when: visits from a folder, a table or a raw dataset."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnreg.dataset import RawDataset
from nnreg.errors import DatasetError
from nnreg.files import check_component
from nnreg.groups.members import Member, counted, members_in, taken_for_channels
from nnreg.imageio import stem_of

COLUMNS = ("subject", "time", "image", "visit", "labels", "mask")
TIME_COLUMNS = ("case", "time")


@dataclass(frozen=True)
class Visit:
    """One image of a subject.

    Attributes
    ----------
    member : Member
        Named after the visit.
    time : float
        In whatever unit the user counts; the number of the visit, from 0, where no times are known.
    """

    member: Member
    time: float

    @property
    def name(self) -> str:
        """Of the visit."""
        return self.member.name


@dataclass(frozen=True)
class Subject:
    """Visits in the order of time.

    Attributes
    ----------
    timed : bool
        Whether times were given; if not they are numbers of visits.
    """

    name: str
    visits: tuple[Visit, ...]
    timed: bool

    @property
    def note(self) -> str | None:
        """What is wrong with the times, in a sentence; None if nothing is: visits at one time have no rate of change between them."""
        times = [visit.time for visit in self.visits]
        same = [visit.name for visit in self.visits if times.count(visit.time) > 1]
        if not same:
            return None
        lost = "" if len(set(times)) > 1 else ", so no rate of change per unit of time can be told"
        return f"visits {', '.join(same)} are at the same time{lost}. Correct their times (--times, or the column time), unless they are repeated scans."

    def files(self) -> list[Path | None]:
        """All that its results are made from."""
        return [path for visit in self.visits for path in (*visit.member.files, visit.member.labels, visit.member.mask)]


def subjects_in_folder(
    folder: Path | str, *, labels: Path | str | None = None, masks: Path | str | None = None, times: Path | str | None = None
) -> list[Subject]:
    """Images called ``SUBJECT_VISIT.ending`` or ``SUBJECT_VISIT_0000.ending``; the last ``_`` before VISIT parts the two.

    Parameters
    ----------
    folder, labels, masks
        As :func:`nnreg.groups.members.members_in` takes them.
    times
        A ``.csv`` with the columns case and time; without it visits are in the order of their names.

    Raises
    ------
    DatasetError
        If a name has no ``_``, or the table does not name every image with a time.
    """
    members = members_in(folder, labels=labels, masks=masks)
    for member in members:
        if not all(member.name.rpartition("_")[::2]):
            remedy = f"Rename it, or list visits in a .csv.{taken_for_channels(members)}"
            raise DatasetError(f"{member.files[0]}: is called {member.name!r}, expected SUBJECT_VISIT, such as s01_2. {remedy}")
    return _subjects(((member.name.rpartition("_")[0], member) for member in members), _times(times, members))


def subjects_of_dataset(raw: RawDataset, *, times: Path | str | None = None) -> list[Subject]:
    """Training and test cases of a raw dataset whose pairing is ``groups``: a group is a subject.

    Raises
    ------
    DatasetError
        If the pairing is another, or the table of times does not name every case.
    """
    if raw.spec.pairing != "groups":
        raise DatasetError(f"{raw.folder}: has the pairing {raw.spec.pairing!r}, expected 'groups' (case to subject). Set it in dataset.json.")
    members = [Member(case, tuple(raw.image_paths(case)), raw.label_path(case), raw.mask_path(case)) for case in (*raw.cases, *raw.test_cases)]
    return _subjects(((raw.subject(member.name), member) for member in members), _times(times, members))


def subjects_in_table(path: Path | str) -> list[Subject]:
    """Rows of a ``.csv``: subject, time, image and, where there are any, visit (a name), labels, mask. Paths count from the table's folder.

    Raises
    ------
    DatasetError
        For missing or unknown columns, empty cells, files that are not there, times that are no numbers, and visits that are there twice.
    """
    path = Path(path)
    rows = _rows(path, COLUMNS[:3], COLUMNS)
    members, times = [], {}
    for number, row in rows:
        files = {kind: _file(path, number, row.get(kind, "")) for kind in ("image", "labels", "mask")}
        image = files["image"]
        if image is None or not row["subject"]:
            raise DatasetError(f"{path}, line {number}: needs a subject and an image. Fill both columns.")
        name = check_component(row.get("visit") or stem_of(image), "a visit", f"{path}, line {number}", DatasetError)
        member = Member(name, (image,), files["labels"], files["mask"])
        members.append((check_component(row["subject"], "a subject", f"{path}, line {number}", DatasetError), member))
        times[row["subject"], name] = _number(path, number, row["time"])
    twice = [member.name for number, (subject, member) in enumerate(members) if (subject, member.name) in {(s, m.name) for s, m in members[:number]}]
    if twice:
        raise DatasetError(f"{path}: visit {twice[0]!r} of a subject is there twice. Name visits in a column 'visit'.")
    return _subjects(members, {subject: {name: times[subject, name] for s, name in times if s == subject} for subject, _ in times})


def _subjects(found: Iterable[tuple[str, Member]], times: Mapping[str, Mapping[str, float]] | None) -> list[Subject]:
    """Members by subject, in the order of time."""
    groups: dict[str, list[Member]] = {}
    for subject, member in found:
        groups.setdefault(subject, []).append(member)
    return [_subject(name, members, None if times is None else times.get(name, times.get(""))) for name, members in sorted(groups.items())]


def _subject(name: str, members: Sequence[Member], times: Mapping[str, float] | None) -> Subject:
    ordered = sorted(members, key=lambda member: counted(member.name))
    visits = [Visit(member, float(number) if times is None else times[member.name]) for number, member in enumerate(ordered)]
    short = [replace(visit, member=replace(visit.member, name=visit.name.removeprefix(f"{name}_"))) for visit in visits]
    kept = short if len({visit.name for visit in short}) == len(visits) else visits
    return Subject(name, tuple(sorted(kept, key=lambda visit: visit.time)), times is not None)


def _times(path: Path | str | None, members: Sequence[Member]) -> dict[str, dict[str, float]] | None:
    """Case to time, of all subjects under one empty name; every member has one."""
    if path is None:
        return None
    path = Path(path)
    found = {row["case"]: _number(path, number, row["time"]) for number, row in _rows(path, TIME_COLUMNS, TIME_COLUMNS)}
    missing = [member.name for member in members if member.name not in found]
    if missing:
        raise DatasetError(f"{path}: has no time for {', '.join(missing[:5])}{' and others' if len(missing) > 5 else ''}. Add a row case,time for each image.")
    return {"": found}


def _rows(path: Path, needed: Sequence[str], allowed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a table with their line numbers."""
    if not path.is_file():
        raise DatasetError(f"{path}: does not exist. Name a .csv with the columns {', '.join(needed)}.")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        rows = [{key: (value or "").strip() for key, value in row.items() if key is not None} for row in reader]
        columns = list(reader.fieldnames or [])
    if not set(needed) <= set(columns) or not set(columns) <= set(allowed):
        raise DatasetError(f"{path}: has the columns {', '.join(columns)}; expected {', '.join(needed)}, and no others than {', '.join(allowed)}.")
    if not rows:
        raise DatasetError(f"{path}: has no row. Write an image a row.")
    return list(enumerate(rows, start=2))


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{path}, line {line}: the time is {text!r}, expected a number, such as years since the first visit.")
    return value


def _file(table: Path, line: int, text: str) -> Path | None:
    if not text:
        return None
    found = table.parent / text
    if not found.exists():
        raise DatasetError(f"{table}, line {line}: {found} does not exist. Paths count from the table's folder.")
    return found

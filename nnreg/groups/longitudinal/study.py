"""Many subjects, one after the other: what is done is kept, what cannot be done is said, the rest goes on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnreg.errors import DatasetError, NnRegError, WriteError
from nnreg.files import write_json
from nnreg.groups.longitudinal.results import kept, save
from nnreg.groups.longitudinal.subject import Settings, check_visits, follow
from nnreg.groups.longitudinal.visits import Subject, Visit
from nnreg.groups.output_folder import SUMMARY, group_record, own_folder, own_work, refuse_folders_of
from nnreg.progress import Progress, part_of


@dataclass
class Summary:
    """What became of every subject.

    Attributes
    ----------
    done : subject to its report
    skipped : subject, or subject/visit, to the reason
    """

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def follow_subjects(
    subjects: Sequence[Subject],
    output: Path | str,
    settings: Settings | None = None,
    *,
    processes: int = 1,
    stop: bool = False,
    on_note: Callable[[str], None] | None = None,
    on_progress: Progress | None = None,
) -> Summary:
    """Follow every subject; results in ``OUTPUT/SUBJECT``, ``summary.json`` beside them.

    Parameters
    ----------
    subjects
        Those of one visit are skipped, and visits that cannot be read are left out.
    output
        Subjects that are there already, from the same files and settings, are kept; one that was killed goes on at the pair it had come to.
    processes
        Pairs that are registered at a time.
    stop
        Raise the first error instead of skipping.
    on_note
        Called with a line for each that is skipped, on visits at the same time, and on registrations that likely failed.

    Raises
    ------
    DatasetError
        If no subject could be followed.
    """
    read = [path for subject in subjects for path in subject.files()]
    refuse_folders_of(read, *(Path(output) / subject.name for subject in subjects))
    output, settings, summary = own_folder(output, read, "subjects"), settings or Settings(), Summary()
    notes: dict[str, str] = {}

    def skip(name: str, error: NnRegError) -> None:
        if stop:
            raise error
        summary.skipped[name] = str(error).splitlines()[0]
        if on_note is not None:
            on_note(f"{name} is skipped: {summary.skipped[name]}")

    for number, subject in enumerate(subjects):
        usable = replace(subject, visits=tuple(visit for visit in subject.visits if _is_readable(subject, visit, skip)))
        try:
            part = part_of(on_progress, number / len(subjects), (number + 1) / len(subjects))
            summary.done[subject.name] = _one(usable, output / subject.name, settings, processes, part)
            notes |= {} if usable.note is None else {subject.name: usable.note}
            if usable.note is not None and on_note is not None:
                on_note(f"{subject.name}: {usable.note}")
            if (failed := summary.done[subject.name]["likely_failed"]) and on_note is not None:
                on_note(f"{subject.name}: the registrations of {', '.join(failed)} likely failed; its changes are not to be trusted")
        except WriteError:
            raise
        except NnRegError as error:
            skip(subject.name, error)
        write_json(output / SUMMARY, group_record(read) | {"subjects": list(summary.done), "skipped": summary.skipped, "notes": notes})
    if not summary.done:
        raise DatasetError(f"no subject could be followed. The first reason, {next(iter(summary.skipped.items()), ('none', 'no subject was given'))[1]}")
    return summary


def _is_readable(subject: Subject, visit: Visit, skip: Callable[[str, NnRegError], None]) -> bool:
    try:
        image = visit.member.image()
        visit.member.label_map(image), visit.member.mask_map(image)
    except NnRegError as error:
        skip(f"{subject.name}/{visit.name}", error)
        return False
    return True


def _one(subject: Subject, folder: Path, settings: Settings, processes: int, on_progress: Progress | None) -> dict[str, Any]:
    check_visits(subject)
    report = kept(subject, folder, settings)
    if report is not None:
        return report
    found = follow(subject, own_work(folder / "work"), settings, processes=processes, on_progress=on_progress)
    report = save(found, folder, settings)
    shutil.rmtree(folder / "work")  # fields of all pairs, larger than all else; only a run that was killed needs them
    return report

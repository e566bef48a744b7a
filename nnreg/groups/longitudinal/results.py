"""A subject's results in a folder: written so that a folder with a report is complete, and kept where nothing has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nnreg.files import content_digest, plain, read_json
from nnreg.geometry.itk import write_result
from nnreg.groups.longitudinal.subject import Followed, Settings
from nnreg.groups.longitudinal.table import draw, write_table
from nnreg.groups.longitudinal.visits import Subject
from nnreg.groups.output_folder import write_record
from nnreg.imageio import write_image
from nnreg.run_record import run_record


def made_from(subject: Subject, settings: Settings) -> dict[str, Any]:
    """What tells whether results are those of these files and settings."""
    times = [(visit.name, visit.time) for visit in subject.visits]
    return {"files": content_digest(subject.files()), "settings": repr((settings, times))}


def save(found: Followed, folder: Path, settings: Settings) -> dict[str, Any]:
    """Write transforms, Jacobians, mean, labels, table and picture; ``report.json`` last, so that a folder with it is complete.

    Returns
    -------
    dict
        The report.
    """
    for number, visit in enumerate(found.subject.visits):
        write_result(folder / f"to_{visit.name}.h5", found.transform(number))
        if number:
            write_image(folder / f"log_jacobian_{visit.name}.nii.gz", found.volumes.since_first(number)[None], found.grid)
    write_image(folder / "mean.nii.gz", found.mean.astype(np.float32), found.grid)
    write_image(folder / "labels.nii.gz", found.labels[0][None], found.grid)
    write_table(folder / "volumes.csv", found)
    draw(folder / "overview.png", found)
    report: dict[str, Any] = plain(run_record() | found.report() | {"made_from": made_from(found.subject, settings)})
    write_record(folder / "report.json", report, [folder / name for name in written_names(found.subject)])
    return report


def written_names(subject: Subject) -> list[str]:
    """Names of all that :func:`save` writes."""
    return [
        *(f"to_{visit.name}.h5" for visit in subject.visits),
        *(f"log_jacobian_{visit.name}.nii.gz" for visit in subject.visits[1:]),
        *("mean.nii.gz", "labels.nii.gz", "volumes.csv", "overview.png", "report.json"),
    ]


def kept(subject: Subject, folder: Path, settings: Settings) -> dict[str, Any] | None:
    """The report of a run that is complete and of the same files and settings; None otherwise."""
    path = folder / "report.json"
    report = read_json(path) if path.is_file() else {}
    return report if report.get("made_from") == made_from(subject, settings) else None

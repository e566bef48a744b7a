"""The report: one page of a results folder that holds all it shows."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnreg.errors import EvaluationError, NnRegError
from nnreg.files import plain, read_object, write_text
from nnreg.progress import Progress
from nnreg.report.content import cards, curve_charts, dataset_rows, decisions, figure_columns, label_chart, label_names, label_table, mean_table, run_rows
from nnreg.report.folder import Results, read_results
from nnreg.report.ranking import Ranked, ranked
from nnreg.report.sources import Sources, pictures_of, sources_of
from nnreg.report.tiles import ALONE, BRIEF, DETAILED, Pictures, Size
from nnreg.task import TASKS, imported

if TYPE_CHECKING:
    from nnreg.dataset import RawDataset
    from nnreg.workspace import Workspace

REPORT_FILE = "report.html"
TEMPLATE = "report.html"
MOST_DETAILED = 10  # pairs with every slice: 100 pairs stay below 30 MB
SAME_CONTRAST = 0.4  # correlation after registration from which differences mean something, where no decision says it


def write_report(
    folder: Path | str,
    *,
    output: Path | None = None,
    summary: Path | None = None,
    images: Path | str | None = None,
    labels: Path | str | None = None,
    raw: RawDataset | None = None,
    workspace: Workspace | None = None,
    detailed: int = MOST_DETAILED,
    on_progress: Progress = lambda done, total, what: None,
) -> Path:
    """Write ``report.html``: what was registered or predicted, how well, and how it was made.

    Parameters
    ----------
    folder
        Output of nnreg_register or nnreg_predict, ``validation_raw``, or ``fold_0`` of a training.
    output
        The page; by default ``report.html`` in the folder.
    summary
        A summary that does not lie in the folder.
    images, labels
        Where the images and labels are, if not where the results say.
    raw
        The dataset, for images of its own cases.
    workspace
        Where the dataset is looked for by its name, if it is not given.
    detailed
        How many pairs, the worst ones, are shown with every slice; of the others one slice of each view.
    on_progress
        Called with (done, total, pair).

    Returns
    -------
    Path
        The page.

    Raises
    ------
    NnRegError
        If the folder holds no finished results, or files in it belong to different models. Nothing is written then.
    """
    results = _with_workspace(read_results(folder, summary=summary), workspace)
    sources = sources_of(results, images=_path(images), labels=_path(labels), raw=raw, workspace=workspace)
    order, pictures, two = _looked_at(results, sources, detailed, on_progress)
    path = Path(output) if output is not None else Path(folder) / REPORT_FILE
    write_text(path, _rendered(_context(results, order, pictures, two_contrasts=two)))
    return path


def _with_workspace(results: Results, workspace: Workspace | None) -> Results:
    """The fingerprint, and plans and dataset.json of the model, are in the workspace and not among predictions."""
    name, model = results.dataset_name, str(results.record.get("model", ""))
    if workspace is None or name is None or results.task not in TASKS:
        return results
    files = {
        "fingerprint": workspace.preprocessed / name / imported(TASKS[results.task].fingerprint_file),
        "plans": workspace.results / name / model / "plans.json",
        "dataset": workspace.results / name / model / "dataset.json",
    }
    found: dict[str, Any] = {key: read_object(path, EvaluationError) for key, path in files.items() if not getattr(results, key) and path.is_file()}
    return replace(results, **found)


def _path(place: Path | str | None) -> Path | None:
    return None if place is None else Path(place)


def _looked_at(results: Results, sources: Sources, detailed: int, on_progress: Progress) -> tuple[list[Ranked], dict[str, Pictures], bool]:
    """The order, the slices of every item, and whether its pairs are of two contrasts. Every item is read once, the worst ones again for all their slices."""
    pictures: dict[str, Pictures] = {}
    every = len(results.items) <= detailed
    again = 0 if every else min(detailed, len(results.items))
    for done, item in enumerate(results.items):
        on_progress(done, len(results.items) + again, item.name)
        pictures[item.name] = pictures_of(item, results, sources, _size(results, whole=every))
    two = _two_contrasts(results, pictures)
    order = ranked(results.items, {name: (found.before, found.after) for name, found in pictures.items()}, two_contrasts=two)
    for done, one in enumerate(order[:again]):
        on_progress(len(results.items) + done, len(results.items) + again, one.item.name)
        pictures[one.item.name] = pictures_of(one.item, results, sources, _size(results, whole=True))
    on_progress(len(results.items) + again, len(results.items) + again, "")
    return order, pictures, two


def _size(results: Results, *, whole: bool) -> Size:
    if not whole:
        return BRIEF
    return ALONE if len(results.items) == 1 else DETAILED


def _two_contrasts(results: Results, pictures: Mapping[str, Pictures]) -> bool:
    told = results.two_contrasts
    if told is not None:
        return told
    known = sorted(found.after for found in pictures.values() if found.after is not None)
    return bool(known) and known[len(known) // 2] < SAME_CONTRAST


def _context(results: Results, order: Sequence[Ranked], pictures: Mapping[str, Pictures], *, two_contrasts: bool) -> dict[str, Any]:
    """What the template is filled with."""
    from nnreg import __version__

    names = label_names(results.dataset)
    flagged = sum(bool(one.reasons) for one in order)
    return {
        "title": _title(results),
        "task": results.task,
        "registers": results.registers,
        "alone": results.alone,
        "unit": "pair" if results.registers else "case",
        "folder": results.folder.absolute().name,
        "made": datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        "version": __version__,
        "python": platform.python_version(),
        "count": len(order),
        "flagged": flagged,
        "notes": _notes(results, order, pictures),
        "cards": cards(results, order),
        "columns": figure_columns(order, results.unit),
        "rows": [_row(one, figure_columns(order, results.unit)) for one in order],
        "means": mean_table(results),
        "label_table": label_table(results, order, names),
        "label_chart": label_chart(results, order, names),
        "curves": curve_charts(results),
        "epochs": results.epochs,
        "dataset": dataset_rows(results),
        "decisions": decisions(results),
        "run": run_rows(results, order),
        "viewer": {
            "registers": results.registers,
            "twoContrasts": two_contrasts,
            "lengthUnit": results.unit,
            "labelNames": names,
            "items": [{"name": one.item.name, "reasons": list(one.reasons), "seconds": one.item.seconds} for one in order],
        },
        "pictures": [_script(pictures[one.item.name].planes) for one in order],
    }


def _title(results: Results) -> str:
    if results.alone:
        return results.items[0].name
    return results.dataset_name or results.folder.absolute().name


def _notes(results: Results, order: Sequence[Ranked], pictures: Mapping[str, Pictures]) -> list[str]:
    """What the page does not show, and how to have it shown."""
    found = []
    layers = [plane["layers"] for one in order for plane in pictures[one.item.name].planes[:1]]
    without = sum("fixed" not in one for one in layers)
    if without and results.registers:
        found.append(
            f"The fixed images of {without} of {len(order)} pairs were not found, so warped images alone are shown. Name their folder: nnreg_report -i IMAGES."
        )
    undrawn = sum(not found.planes for found in pictures.values())
    if undrawn:
        found.append(
            f"{undrawn} of {len(order)} cases are not drawn here: they are continuous values, or too large. nnreg_predict draws values into pictures/."
        )
    if order and not any(one.item.labels for one in order):
        found.append("Nothing was measured with labels: there are none, or the results were not evaluated yet (nnreg_evaluate).")
    if results.epochs is not None and results.epochs[0] < results.epochs[1]:
        found.append(f"The training is not finished: {results.epochs[0]} of {results.epochs[1]} epochs are done.")
    if results.predictions is None:
        found.append("The validation is not done yet, so no pairs are shown.")
    brief = sum(
        len(pictures[one.item.name].planes[0]["numbers"]) == 1 < pictures[one.item.name].planes[0]["total"] for one in order if pictures[one.item.name].planes
    )
    if brief:
        found.append(f"All slices are shown of the worst {len(order) - brief}; of the other {brief} one slice of each view (nnreg_report -n shows more).")
    return found


def _row(one: Ranked, columns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "name": one.item.name,
        "reasons": one.reasons,
        "cells": [{"text": column["text"](one), "sort": column["sort"](one), "worse": column["worse"](one)} for column in columns],
    }


def _script(content: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(plain(content), separators=(",", ":")).replace("</", "<\\/")


def _rendered(context: Mapping[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(loader=PackageLoader("nnreg.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["json"] = lambda content: Markup(_script(content))
    return environment.get_template(TEMPLATE).render(**context)


def report_after(folder: Path | str, say: Callable[[str], None], **options: Any) -> None:
    """Write the report of results that a command has just finished, and `say` where it is. The results stand without it: what it lacks is told, not raised."""
    try:
        say(f"report: {write_report(folder, **options)}")
    except NnRegError as error:
        say(f"no report: {str(error).splitlines()[0]}")

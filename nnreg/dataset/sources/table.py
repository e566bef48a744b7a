"""A table of pairs: a ``.csv`` with the columns ``fixed`` and ``moving``."""

from __future__ import annotations

import csv
from pathlib import Path

from nnreg.dataset.sources.collected import Collected, Wanted, case_name, listed, needed
from nnreg.dataset.writing import NewCase
from nnreg.errors import DatasetError
from nnreg.imageio.endings import stem_of

BESIDE = ("labels", "mask")
COLUMNS = ("fixed", "moving", *(f"{side}_{kind}" for side in ("fixed", "moving") for kind in BESIDE))


def is_table(source: Path) -> bool:
    """Whether it is a ``.csv``."""
    return source.is_file() and source.suffix.lower() == ".csv"


def read_table(source: Path, wanted: Wanted) -> Collected:
    """Rows of paths, relative to the table: fixed, moving, and where there are any fixed_labels, moving_labels, fixed_mask, moving_mask."""
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        found = list(rows)
        columns = list(rows.fieldnames or [])
    if not {"fixed", "moving"} <= set(columns) or not set(columns) <= set(COLUMNS):
        raise DatasetError(f"{source}: has the columns {', '.join(columns)}; expected fixed, moving and of {', '.join(COLUMNS[2:])} those that there are.")
    if not found:
        raise DatasetError(f"{source}: has no row. Write a pair a row.")
    files: dict[Path, dict[str, Path]] = {}
    pairs = []
    for number, row in enumerate(found, start=2):
        if not row["fixed"] or not row["moving"]:
            raise DatasetError(f"{source}, line {number}: names no {'moving' if row['fixed'] else 'fixed'} image. Fill both columns.")
        sides = [_side(source, row, side, files) for side in ("fixed", "moving")]
        pairs.append(sides)
    names = _names(list(files))
    cases = {names[path]: NewCase([path], beside.get("labels"), beside.get("mask")) for path, beside in files.items()}
    spec = {"pairing": "pairs", "pairs": [{"fixed": names[fixed], "moving": names[moving]} for fixed, moving in pairs]}
    return Collected("table", cases, spec, (f"{len(found)} rows are {len(pairs)} pairs of {len(cases)} images",))


def _side(source: Path, row: dict[str, str], side: str, files: dict[Path, dict[str, Path]]) -> Path:
    """The image of a side; what lies beside it is kept in `files`, where an image stands in several rows once for all."""
    path = needed(source.parent / row[side], source)
    beside = files.setdefault(path, {})
    for kind in BESIDE:
        if text := row.get(f"{side}_{kind}"):
            file = needed(source.parent / text, source)
            if beside.setdefault(kind, file) != file:
                raise DatasetError(f"{source}: {path} has the {kind} {beside[kind]} in one row and {file} in another. Mend one.")
    return path


def _names(paths: list[Path]) -> dict[Path, str]:
    """A name for every file: its own, or with its folder where two files are called alike."""
    for folders in range(4):
        names = {path: case_name("_".join([*path.parts[-1 - folders : -1], stem_of(path)])) for path in paths}
        if len(set(names.values())) == len(paths):
            return names
    raise DatasetError(f"{listed([str(path) for path in paths])}: are called alike. Rename the files.")

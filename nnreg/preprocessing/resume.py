"""What is finished and still true in a folder of preprocessed cases: work that was interrupted goes on, work on other files or other plans begins again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnreg.errors import PreprocessingError
from nnreg.files import plain, read_object, write_json

MADE_FOR = ".made_for.json"


def keep_what_is_true(folder: Path, planned: Mapping[str, Any], files: Mapping[str, str], suffixes: Sequence[str]) -> None:
    """Remove from `folder` what was made by other plans or from other files, and note what it is made for now.

    Parameters
    ----------
    folder
        Of one configuration's arrays.
    planned
        Everything of the plans that arrays depend on.
    files
        Case to what tells whether its files have changed.
    suffixes
        Of a case's arrays and its JSON.
    """
    now = {"planned": plain(planned), "files": dict(files)}
    marker = folder / MADE_FOR
    before = read_object(marker, PreprocessingError) if marker.is_file() else {}
    if before == now:
        return
    if before.get("planned") != now["planned"] or not isinstance(before.get("files"), dict):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        for case, size in before["files"].items():
            if files.get(case) != size:
                for suffix in suffixes:
                    (folder / f"{case}{suffix}").unlink(missing_ok=True)
    write_json(marker, now)

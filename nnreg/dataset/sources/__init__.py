"""Where a raw dataset can be made from: a folder of images, a table of pairs, BIDS, Learn2Reg, nnU-Net, DICOM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nnreg.dataset.sources.bids import is_bids, read_bids
from nnreg.dataset.sources.collected import Collected, Wanted
from nnreg.dataset.sources.dicom import is_dicom, read_dicom
from nnreg.dataset.sources.folder import read_folder
from nnreg.dataset.sources.levels import at_level
from nnreg.dataset.sources.listed import is_listed, read_listed
from nnreg.dataset.sources.nnunet import is_nnunet, read_nnunet
from nnreg.dataset.sources.table import is_table, read_table
from nnreg.errors import DatasetError, did_you_mean

SOURCES: dict[str, tuple[Callable[[Path], bool], Callable[[Path, Wanted], Collected]]] = {
    "table": (is_table, read_table),
    "learn2reg": (is_listed, read_listed),
    "bids": (is_bids, read_bids),
    "nnunet": (is_nnunet, read_nnunet),
    "dicom": (is_dicom, read_dicom),
    "folder": (Path.is_dir, read_folder),
}
"""Kind to whether a path is one, and how it is read; the first that fits is taken."""


def collect(source: Path, wanted: Wanted, kind: str | None = None) -> Collected:
    """The cases of a source.

    Parameters
    ----------
    source
        A file or folder.
    wanted
        What the user said of it.
    kind
        One of :data:`SOURCES`; by default the first that it is.

    Raises
    ------
    DatasetError
        If there is no such source or kind, or the source does not hold what its kind promises.
    """
    if not source.exists():
        raise DatasetError(f"{source}: does not exist. Name a folder of images, a .csv of pairs, or a dataset's .json.")
    if kind is not None and kind not in SOURCES:
        raise DatasetError(f"--kind {kind!r} is unknown; {did_you_mean(kind, SOURCES)}")
    found = kind or next((name for name, (fits, _) in SOURCES.items() if fits(source)), None)
    if found is None:
        raise DatasetError(f"{source}: is a file that is no .csv of pairs and no dataset's .json. Name the folder of the images.")
    return at_level(SOURCES[found][1](source, wanted), wanted.level)


__all__ = ["SOURCES", "Collected", "Wanted", "collect"]

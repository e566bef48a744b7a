"""DICOM: a folder of the files of one subject, or folders of subjects. Read by GDCM, through SimpleITK."""

from __future__ import annotations

from pathlib import Path

import SimpleITK as sitk

from nnreg.dataset.sources.collected import Collected, Wanted, case_name, listed
from nnreg.dataset.writing import NewCase
from nnreg.errors import DatasetError
from nnreg.imageio import Image
from nnreg.imageio.convert import as_image

PREAMBLE, MAGIC = 128, b"DICM"
DESCRIPTION, UID = "0008|103e", "0020|000e"


def is_dicom(source: Path) -> bool:
    """Whether its first file, or the first of its first folder with files, is DICOM."""
    if not source.is_dir():
        return False
    first = next((path for path in sorted(source.rglob("*")) if path.is_file() and not path.name.startswith(".") and path.name != "DICOMDIR"), None)
    return first is not None and _is_file(first)


def _is_file(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(PREAMBLE + len(MAGIC))[PREAMBLE:] == MAGIC


def read_dicom(source: Path, wanted: Wanted) -> Collected:
    """Every subfolder is a case, or the folder itself; a case with several series is refused unless one of them was named."""
    folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir())]
    series = {folder: list(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))) for folder in folders}
    by_case: dict[str, list[tuple[Path, str]]] = {}
    for folder, uids in series.items():
        case = source.name if folder == source else folder.relative_to(source).parts[0]
        by_case.setdefault(case_name(case), []).extend((folder, uid) for uid in uids)
    by_case = {case: found for case, found in by_case.items() if found}
    if not by_case:
        raise DatasetError(f"{source}: holds no DICOM series. Name the folder of the files.")
    cases, decisions = {}, []
    for case, found in by_case.items():
        chosen = _chosen(source, case, found, wanted.series)
        cases[case] = NewCase([_read(*chosen)])
        decisions.append(f"{case}: series {_described(*chosen)}")
    return Collected("DICOM", cases, {}, tuple(decisions))


def _chosen(source: Path, case: str, found: list[tuple[Path, str]], asked: str | None) -> tuple[Path, str]:
    fitting = found if asked is None else [one for one in found if asked == one[1] or asked.lower() in _described(*one).lower()]
    if len(fitting) == 1:
        return fitting[0]
    said = "; ".join(_described(*one) for one in (fitting or found))
    if not fitting:
        raise DatasetError(f"{source}: {case} has no series {asked!r}. Found {said}. Name another with --series.")
    raise DatasetError(f"{source}: {case} has {len(fitting)} series ({said}). Name one with --series: a part of its description, or its UID.")


def _files(folder: Path, uid: str) -> tuple[str, ...]:
    return tuple(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))


def _described(folder: Path, uid: str) -> str:
    files = _files(folder, uid)
    reader = sitk.ImageFileReader()
    reader.SetFileName(files[0])
    reader.ReadImageInformation()
    told = reader.GetMetaData(DESCRIPTION).strip() if reader.HasMetaDataKey(DESCRIPTION) else "without description"
    return f"{told!r} of {len(files)} files, {uid}"


def _read(folder: Path, uid: str) -> Image:
    files = _files(folder, uid)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(files)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise DatasetError(f"{folder}: the series {uid} cannot be read ({listed(str(error).splitlines()[-1:])}). Copy it again, or convert it.") from error
    gaps = _gaps(files)
    if gaps is not None:
        raise DatasetError(f"{folder}: the slices of series {uid} are {gaps}, so some are missing or doubled. Copy the whole series, or remove doubles.")
    return as_image(image, name=str(folder))


def _gaps(files: tuple[str, ...]) -> str | None:
    """How uneven the slices lie along their common normal, None if they do not."""
    import numpy as np

    positions = []
    reader = sitk.ImageFileReader()
    normal = None
    for file in files:
        reader.SetFileName(file)
        reader.ReadImageInformation()
        if reader.GetDimension() != 3:
            return None
        direction = np.reshape(reader.GetDirection(), (3, 3))
        normal = direction[:, 2] if normal is None else normal
        positions.append(float(np.dot(reader.GetOrigin(), normal)))
    if len(positions) < 3:
        return None
    steps = np.diff(sorted(positions))
    if steps.max() - steps.min() <= 0.02 * np.median(steps) + 1e-3:
        return None
    return f"{steps.min():.3g} to {steps.max():.3g} mm apart"

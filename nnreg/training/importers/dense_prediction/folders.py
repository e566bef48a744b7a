"""A folder with ``images/``, ``labels/`` and perhaps ``masks/``, as a raw dataset of dense prediction."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nnreg.dataset.spec import DatasetSpec
from nnreg.errors import DatasetError, did_you_mean
from nnreg.imageio.endings import ending_of, stem_of
from nnreg.task import DENSE_PREDICTION
from nnreg.training.importers.run import ImportedDataset
from nnreg.training.importers.values import camel_case

ONLY = "label"  # what the one target of a folder is called whose labels carry no target's name


def labelled_folder(
    folder: Path,
    *,
    name: str,
    classes: int = 2,
    targets: Mapping[str, Any] | None = None,
    auxiliary_tasks: Mapping[str, Any] | None = None,
    validation_share: float | None = None,
) -> ImportedDataset:
    """The dataset that a folder holds.

    Parameters
    ----------
    folder
        ``images/NAME.ext``; ``labels/NAME_TARGET.ext``, or ``labels/NAME.ext`` where there is one target; masks likewise.
    name
        Of the dataset.
    classes
        Label values from 0.
    targets, auxiliary_tasks
        What is predicted; None: the targets that the label files name.
    validation_share
        Share of the images, the last in order, that validates; None: nnReg's own folds.

    Raises
    ------
    DatasetError
        No image, several formats, an image without a label of some target, a configured target without any.
    """
    images = _files(folder / "images")
    if not images:
        raise DatasetError(f"{folder / 'images'}: holds no image. Expected images/NAME.ext and labels/NAME_TARGET.ext.")
    endings = {ending_of(path) for path in images.values()}
    if len(endings) > 1:
        raise DatasetError(f"{folder / 'images'}: holds {' and '.join(sorted(endings))} files. Convert them to one format.")
    labels = _by_target(_files(folder / "labels"), images, targets or {})
    wanted = dict(targets) if targets else {target: {} for target in labels}
    for target in wanted:
        missing = [case for case in images if case not in labels.get(target, {})]
        if missing:
            found = f"; {did_you_mean(target, labels)}" if target not in labels else ""
            raise DatasetError(f"{folder / 'labels'}: target {target!r} has no label of {missing[0]!r}{found}. Add {missing[0]}_{target} or remove the image.")
    ending = endings.pop()
    names: dict[str, int | tuple[int, ...]] = {"background": 0}
    names |= {f"class_{value}" if classes > 2 else "foreground": value for value in range(1, max(classes, 2))}
    spec = DatasetSpec(
        channel_names={"0": "image"},
        numTraining=len(images),
        file_ending=ending,
        labels=names,
        task=DENSE_PREDICTION,
        targets=wanted if len(wanted) > 1 or any(wanted.values()) else {},
        auxiliary_tasks=dict(auxiliary_tasks or {}),
        description=f"Imported from {folder.name}.",
    )
    masks = _by_target(_files(folder / "masks"), images, wanted)
    cases = sorted(images)
    split = None
    if validation_share is not None and len(cases) > 1:
        count = min(len(cases) - 1, max(1, round(len(cases) * validation_share)))
        split = (cases[:-count], cases[-count:])
    # a mask without a target's name, or of a dataset of one target, is that of all
    names_of_masks = {target if len(wanted) > 1 and target != ONLY else "": files for target, files in masks.items()}
    names_of_labels = {target if len(labels) > 1 else "": files for target, files in labels.items()}
    return ImportedDataset(camel_case(name), spec, partial(_copy, images, {"labelsTr": names_of_labels, "masksTr": names_of_masks}, ending), split)


def _files(folder: Path) -> dict[str, Path]:
    """Name without ending to path; a JSON file beside an image is its geometry."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return {stem_of(path): path for path in entries if not path.name.startswith(".") and path.suffix != ".json"}


def _by_target(files: Mapping[str, Path], images: Mapping[str, Path], targets: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
    """Target to case to file. A file without a target's name belongs to the one target there is."""
    result: dict[str, dict[str, Path]] = {}
    for name, path in files.items():
        if name in images:
            result.setdefault(next(iter(targets)) if len(targets) == 1 else ONLY, {})[name] = path
            continue
        # the longest: one image may be called as another and more
        case = max((case for case in images if name.startswith(f"{case}_")), key=len, default=None)
        if case is None:
            raise DatasetError(f"{path}: belongs to no image; {did_you_mean(name, images)} Expected NAME_TARGET{ending_of(path)}.")
        result.setdefault(name[len(case) + 1 :], {})[case] = path
    return result


def _copy(images: Mapping[str, Path], beside: Mapping[str, Mapping[str, Mapping[str, Path]]], ending: str, folder: Path) -> None:
    (folder / "imagesTr").mkdir(parents=True)
    for case, path in images.items():
        _copy_image(path, folder / "imagesTr" / f"{case}_0000{ending}")
    for kind, targets in beside.items():
        for target, files in targets.items():
            (folder / kind).mkdir(exist_ok=True)
            for case, path in files.items():
                name = f"{case}_{target}" if target else case
                _copy_image(path, folder / kind / f"{name}{ending_of(path)}")


def _copy_image(source: Path, target: Path) -> None:
    if source.is_dir():
        # a Zarr may be larger than the disk has room for twice
        target.symlink_to(source.resolve(), target_is_directory=True)
    else:
        shutil.copyfile(source, target)
    geometry = source.with_name(f"{stem_of(source)}.json")
    if geometry.is_file():
        shutil.copyfile(geometry, target.with_name(f"{stem_of(target)}.json"))

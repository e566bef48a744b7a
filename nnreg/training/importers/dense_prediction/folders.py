"""A folder with ``images/``, ``labels/`` and perhaps ``masks/``, as a raw dataset of dense prediction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nnreg.dataset.label_files import values_in
from nnreg.dataset.labels import LabelManager
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.target_spec import WHOLE, outputs_of
from nnreg.errors import DatasetError, did_you_mean
from nnreg.files import copy_file
from nnreg.imageio import open_image, read_image
from nnreg.imageio.endings import ending_of, stem_of
from nnreg.imageio.files import is_large
from nnreg.imageio.formats import format_of
from nnreg.task import DENSE_PREDICTION
from nnreg.training.importers.run import ImportedDataset
from nnreg.training.importers.values import camel_case

ONLY = "label"  # what the one target of a folder is called whose labels carry no target's name


@dataclass(frozen=True)
class FirstImage:
    """What the first image of a folder tells of all: number of channels, of axes, and the ending."""

    channels: int
    ndim: int
    ending: str


def first_image(folder: Path) -> FirstImage:
    """Read what is needed of the first image.

    Raises
    ------
    DatasetError
        No image, or several formats.
    ImageError
        If it cannot be read.
    """
    images = _images(folder)
    path = next(iter(images.values()))
    form = format_of(path)
    image = read_image(path) if form is None or form.open is None else open_image(path)
    return FirstImage(image.channels, image.space.ndim, ending_of(path))


def named_targets(folder: Path) -> list[str]:
    """Targets that the label files name; labels that name none belong to one that is called ``label``."""
    return list(_by_target(_files(folder / "labels"), _images(folder), {}))


def labelled_folder(
    folder: Path,
    *,
    name: str,
    classes: int = 2,
    targets: Mapping[str, Any] | None = None,
    auxiliary_tasks: Mapping[str, Any] | None = None,
    validation_share: float | None = None,
    channel_names: Sequence[str] | None = None,
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
    channel_names
        One per channel; None: as many as the first image has.

    Raises
    ------
    DatasetError
        No image, several formats, an image without a label of some target, a configured target without any, labels with more values than a target has outputs.
    """
    images = _images(folder)
    labels = _by_target(_files(folder / "labels"), images, targets or {})
    wanted = dict(targets) if targets else {target: {} for target in labels}
    for target in wanted:
        missing = [case for case in images if case not in labels.get(target, {})]
        if missing:
            found = f"; {did_you_mean(target, labels)}" if target not in labels else ""
            raise DatasetError(f"{folder / 'labels'}: target {target!r} has no label of {missing[0]!r}{found}. Add {missing[0]}_{target} or remove the image.")
    ending = ending_of(next(iter(images.values())))
    names: dict[str, int | tuple[int, ...]] = {"background": 0}
    names |= {f"class_{value}" if classes > 2 else "foreground": value for value in range(1, max(classes, 2))}
    channels = channel_names or _numbered("image", first_image(folder).channels)
    spec = DatasetSpec(
        channel_names={str(channel): channel_name for channel, channel_name in enumerate(channels)},
        numTraining=len(images),
        file_ending=ending,
        labels=names,
        task=DENSE_PREDICTION,
        targets=wanted if len(wanted) > 1 or any(wanted.values()) else {},
        auxiliary_tasks=dict(auxiliary_tasks or {}),
        description=f"Imported from {folder.name}.",
    )
    masks = _masks(folder, images, wanted, labels)
    labels = {target: labels[target] for target in wanted}
    spec = _with_values(spec, labels)
    cases = sorted(images)
    split = None
    if validation_share is not None and len(cases) > 1:
        count = min(len(cases) - 1, max(1, round(len(cases) * validation_share)))
        split = (cases[:-count], cases[-count:])
    # a mask without a target's name, or of a dataset of one target, is that of all
    names_of_masks = {target if len(wanted) > 1 and target != ONLY else "": files for target, files in masks.items()}
    names_of_labels = {target if len(labels) > 1 else "": files for target, files in labels.items()}
    beside = {"labelsTr": names_of_labels, "masksTr": names_of_masks}
    files = [path for group in (images, *labels.values(), *masks.values()) for path in group.values() if path.is_file()]
    content = {"files": {path.relative_to(folder).as_posix(): _state(path) for path in files}}
    return ImportedDataset(camel_case(name), spec, partial(_copy, images, beside, ending), split, content=content)


def _state(path: Path) -> list[int]:
    """Size and time of the last change: a file that was changed since is another."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _numbered(name: str, count: int) -> list[str]:
    return [name] if count == 1 else [f"{name}_{index}" for index in range(count)]


def _images(folder: Path) -> dict[str, Path]:
    images = _files(folder / "images")
    if not images:
        raise DatasetError(f"{folder / 'images'}: holds no image. Expected images/NAME.ext and labels/NAME_TARGET.ext.")
    endings = {ending_of(path) for path in images.values()}
    if len(endings) > 1:
        raise DatasetError(f"{folder / 'images'}: holds {' and '.join(sorted(endings))} files. Convert them to one format.")
    return images


def _masks(folder: Path, images: Mapping[str, Path], wanted: Mapping[str, Any], labelled: Mapping[str, Any]) -> dict[str, dict[str, Path]]:
    """Masks by target; those of targets that have labels but are not learnt are left out."""
    found = _by_target(_files(folder / "masks"), images, wanted)
    for target, files in found.items():
        if target not in (ONLY, *labelled):
            raise DatasetError(f"{next(iter(files.values()))}: is the mask of no target; {did_you_mean(target, labelled)}")
    return {target: files for target, files in found.items() if target in (ONLY, *wanted)}


def _with_values(spec: DatasetSpec, labels: Mapping[str, Mapping[str, Path]]) -> DatasetSpec:
    """The values that the label files hold, where they are not counted from 1."""
    if not spec.targets:
        return dataclasses.replace(spec, **_values_of(spec, WHOLE, next(iter(labels.values()))))
    return dataclasses.replace(spec, targets={target: {**said, **_values_of(spec, target, labels[target])} for target, said in spec.targets.items()})


def _values_of(spec: DatasetSpec, target: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """``labels`` of a target whose values are not more than it has outputs for, but not counted from 1 (255 in place of 1, say); nothing if they are.

    Raises
    ------
    DatasetError
        If the label files hold more values than that. Files that are read by parts are looked at when they are preprocessed.
    """
    output = outputs_of(spec)[target]
    if not isinstance(output, LabelManager):
        return {}
    foreground = output.values[1:]
    found = {path: values_in(path) - {0, *foreground, output.ignore} for path in files.values() if not is_large([path])}
    odd = next((path for path, values in found.items() if values), None)
    if odd is None:
        return {}
    every = sorted({value for path in files.values() for value in values_in(path)} - {0, output.ignore})
    if len(every) > len(foreground) or every[0] < 0:
        named = f"{', '.join(map(str, every[:6]))}{' ...' if len(every) > 6 else ''}"
        raise DatasetError(
            f"{odd}: holds the value {min(found[odd])}. Beside the background 0, the labels of {target or 'the images'} have the values {named}, "
            f"and {len(foreground)} can be told apart. Give the target a channel for each (softmax: one more), or mend the files."
        )
    every += range(every[-1] + 1, every[-1] + 1 + len(foreground) - len(every))  # outputs that nothing is labelled for
    return {"labels": {"background": 0, **{f"label_{value}": value for value in every}}}


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
        copy_file(source, target)
    geometry = source.with_name(f"{stem_of(source)}.json")
    if geometry.is_file():
        copy_file(geometry, target.with_name(f"{stem_of(target)}.json"))

"""Several label files per case: one per entry of ``targets`` in ``dataset.json``, ``CASE_TARGET.ending`` beside one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnreg.dataset.continuous import Continuous, known, read_map
from nnreg.dataset.label_files import whole_numbers
from nnreg.dataset.raw import RawDataset
from nnreg.dataset.spec import FILE_NAME
from nnreg.dataset.target_spec import WHOLE, outputs_of
from nnreg.errors import DatasetError
from nnreg.imageio import Image, read_image
from nnreg.imageio.image import check_same_space


def target_names(raw: RawDataset) -> tuple[str, ...]:
    """Targets in the order of ``dataset.json``; one without a name where it has none."""
    return tuple(raw.spec.targets) or (WHOLE,)


def target_paths(raw: RawDataset, case: str) -> dict[str, Path]:
    """Label file of each target of a case. A single target may also lie in ``CASE.ending``.

    Raises
    ------
    DatasetError
        If a target has no file.
    """
    names = target_names(raw)
    result = {}
    for name in names:
        path = label_file(raw, case, name)
        if path is None:
            wanted = case if len(names) == 1 else f"{case}_{name}"
            of = f" of the target {name!r} (targets in {FILE_NAME})" if name else ""
            raise DatasetError(f"{raw.folder / 'labelsTr'}: case {case!r} has no label file{of}. Add {wanted}{raw.spec.file_ending}, or remove the case.")
        result[name] = path
    return result


def read_targets(raw: RawDataset, case: str) -> tuple[Image, Image | None]:
    """Every target of a case, on one grid.

    Returns
    -------
    labels : (T, *spatial)
        Of a continuous target 1 where its values are known, else 0.
    maps : (M, *spatial) float32
        Channels of the continuous targets, NaN where unknown; None if there is none.

    Raises
    ------
    DatasetError
        If a target has no file, or one of labels holds values that are not whole numbers.
    ImageError
        If a file is unreadable, or two lie on different grids.
    """
    paths, outputs = target_paths(raw, case), outputs_of(raw.spec)
    images, first = {}, next(iter(paths.values()))
    for name, path in paths.items():
        output = outputs[name]
        images[name] = read_map(path, output.channels) if isinstance(output, Continuous) else whole_numbers(read_image(path), path)
        if path != first:
            check_same_space(images[name].space, path, next(iter(images.values())).space, first)
    maps = [image.array for name, image in images.items() if isinstance(outputs[name], Continuous)]
    labels = [known(image.array) if isinstance(outputs[name], Continuous) else image.array for name, image in images.items()]
    space, notes = next(iter(images.values())).space, tuple(note for image in images.values() for note in image.notes)
    return Image(np.concatenate(labels), space, notes), Image(np.concatenate(maps), space) if maps else None


def label_file(raw: RawDataset, case: str, target: str) -> Path | None:
    """Label file of a target of a case, None if it has none. That of the only target, which need not be named, may also lie in ``CASE.ending``."""
    names = target_names(raw)
    target = target or (names[0] if len(names) == 1 else WHOLE)
    found = raw.label_path(case, target) if target else None
    return found or (raw.label_path(case) if len(names) == 1 else None)


def mask_paths(raw: RawDataset, case: str) -> dict[str, Path | None]:
    """Mask file of each target of a case: its own, ``masksTr/CASE_TARGET.ending``, or that of all, ``masksTr/CASE.ending``."""
    whole = raw.mask_path(case)
    return {name: (raw.mask_path(case, name) if name else None) or whole for name in target_names(raw)}


def read_masks(raw: RawDataset, case: str, image: Image) -> Image | None:
    """Where each target is to be learnt, (T, *spatial) int16, 1 there (any value but 0); None if the case has no mask.

    Raises
    ------
    DatasetError
        If a mask has another shape than `image`, or holds values that are not whole numbers.
    ImageError
        If a file is unreadable.
    """
    paths = mask_paths(raw, case)
    if not any(paths.values()):
        return None
    parts = []
    for path in paths.values():
        if path is None:
            parts.append(np.ones((1, *image.space.shape), np.int16))
            continue
        mask = whole_numbers(read_image(path), path)
        if mask.array.shape != (1, *image.space.shape):
            raise DatasetError(f"{path}: has shape {mask.array.shape[1:]}, its image {image.space.shape}. Make the mask on the grid of the image.")
        parts.append((mask.array != 0).astype(np.int16))
    return Image(np.concatenate(parts), image.space)

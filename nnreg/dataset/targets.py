"""Several label files per case: one per entry of ``targets`` in ``dataset.json``, ``CASE_TARGET.ending`` beside one another."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nnreg.dataset.raw import RawDataset, whole_numbers
from nnreg.dataset.spec import FILE_NAME
from nnreg.errors import DatasetError
from nnreg.imageio import Image, read_image
from nnreg.imageio.files import check_same_space

WHOLE = ""  # the target of a dataset that names none: its labels


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
    names, whole = target_names(raw), raw.label_path(case)
    result = {}
    for name in names:
        path = raw.label_path(case, name) if name else None
        path = path or (whole if len(names) == 1 else None)
        if path is None:
            wanted = case if len(names) == 1 else f"{case}_{name}"
            of = f" of the target {name!r} (targets in {FILE_NAME})" if name else ""
            raise DatasetError(f"{raw.folder / 'labelsTr'}: case {case!r} has no label file{of}. Add {wanted}{raw.spec.file_ending}, or remove the case.")
        result[name] = path
    return result


def read_targets(raw: RawDataset, case: str) -> Image:
    """Labels of every target of a case, (T, *spatial), on one grid.

    Raises
    ------
    DatasetError
        If a target has no file, or holds values that are not whole numbers.
    ImageError
        If a file is unreadable, or two lie on different grids.
    """
    paths = list(target_paths(raw, case).values())
    images = [whole_numbers(read_image(path), path) for path in paths]
    for path, image in zip(paths[1:], images[1:], strict=True):
        check_same_space(image.space, path, images[0].space, paths[0])
    return Image(np.concatenate([image.array for image in images]), images[0].space, tuple(note for image in images for note in image.notes))

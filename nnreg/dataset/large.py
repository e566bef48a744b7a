"""Cases that do not fit into memory: opened, and checked block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.dataset.labels import unique
from nnreg.dataset.raw import RawDataset, whole_numbers
from nnreg.dataset.spec import FILE_NAME
from nnreg.errors import DatasetError
from nnreg.geometry import Space
from nnreg.imageio import Image, LazyImage, check_finite, open_image, read_image
from nnreg.imageio.files import check_same_space
from nnreg.imageio.lazy import Volume, is_large


@dataclass(frozen=True, eq=False)
class LargeLabels:
    """Labels on disk, one file per target.

    Attributes
    ----------
    volume : (T, D, H, W)
        On the grid of the image, in any order of its axes.
    paths : one per target
    """

    volume: Volume
    paths: tuple[Path, ...]

    def read(self, box: Sequence[tuple[int, int]]) -> npt.NDArray[np.integer]:
        """Whole numbers (T, *box).

        Raises
        ------
        DatasetError
            If values are not whole.
        """
        values = self.volume.read(box)
        if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
            return values
        space = Space.plain(values.shape[1:])
        return np.concatenate([whole_numbers(Image(target[None], space), path).array for target, path in zip(values, self.paths, strict=True)])


@dataclass(frozen=True, eq=False)
class LargeMasks:
    """Masks on disk, one per target; None where the target is learnt everywhere.

    Attributes
    ----------
    volumes
        On the grid of the image, in any order of its axes.
    """

    volumes: tuple[Volume | None, ...]

    def read(self, box: Sequence[tuple[int, int]]) -> npt.NDArray[np.int16]:
        """(T, *box), 1 where a target is learnt."""
        every = np.ones([1, *(high - low for low, high in box)], np.int16)
        return np.concatenate([every if volume is None else (volume.read(box) > 0).astype(np.int16) for volume in self.volumes])


def large(raw: RawDataset, case: str) -> bool:
    """Whether a case is read by parts: Zarr or TIFF with more values than ``nnReg_whole_voxels``."""
    return is_large(raw.image_paths(case))


def open_large(raw: RawDataset, case: str) -> LazyImage:
    """The image of a case, its channels counted.

    Raises
    ------
    DatasetError
        If the number of channels differs from ``dataset.json``.
    ImageError
        If a file is missing or damaged, or the channels lie on different grids.
    """
    paths, names = raw.image_paths(case), raw.spec.channels_of(case)
    image = open_image(paths)
    if image.channels != len(names):
        wanted = f"{len(names)} channels ({', '.join(names.values())})"
        raise DatasetError(f"{paths[0]}: case {case!r} has {image.channels} channels, but needs {wanted}. Mend channel_names in {FILE_NAME}, or the files.")
    return image


def open_large_labels(raw: RawDataset, case: str, image: LazyImage, order: Sequence[int] = (0, 1, 2)) -> LargeLabels:
    """The labels of every target, on the grid of `image`.

    Raises
    ------
    DatasetError
        If a target has no file, or one with several channels.
    ImageError
        If a file cannot be read by parts, or lies on another grid.
    """
    from nnreg.dataset.target_spec import label_targets
    from nnreg.dataset.targets import target_names, target_paths

    continuous = [name for name in target_names(raw) if name not in label_targets(raw.spec)]
    if continuous:
        raise DatasetError(f"{image.path}: is too large for the values of the target {continuous[0]!r}, which are not read by parts. Cut the image.")
    paths = tuple(target_paths(raw, case).values())
    labels = open_image(paths)
    check_same_space(labels.space, labels.path, image.space, image.path)
    if labels.channels != len(paths):
        raise DatasetError(f"{labels.path}: has several channels, labels have one. Save it as one channel.")
    return LargeLabels(labels.volume(order), paths)


def open_large_masks(raw: RawDataset, case: str, image: LazyImage, order: Sequence[int] = (0, 1, 2)) -> LargeMasks | None:
    """The masks of every target, on the grid of `image`; None if the case has none.

    Raises
    ------
    DatasetError
        If a file has several channels.
    ImageError
        If it cannot be read by parts, or lies on another grid.
    """
    from nnreg.dataset.targets import mask_paths

    paths = mask_paths(raw, case)
    opened = {path: open_image(path) for path in paths.values() if path is not None}
    for path, mask in opened.items():
        check_same_space(mask.space, path, image.space, image.path)
        if mask.channels != 1:
            raise DatasetError(f"{path}: has {mask.channels} channels, masks have one. Save it as one channel.")
    return LargeMasks(tuple(None if path is None else opened[path].volume(order) for path in paths.values())) if opened else None


def values_in(path: Path) -> set[int]:
    """Values of a label file, read by parts where it is large.

    Raises
    ------
    NnRegError
        If it cannot be read or holds values that are not whole.
    """
    if not is_large([path]):
        return set(unique(whole_numbers(read_image(path), path).array))
    image = open_image(path)
    labels = LargeLabels(image.volume(), (path,))
    return {value for box in labels.volume.boxes() for value in unique(labels.read(box))}


def refuse_unfinite(values: npt.NDArray[Any], path: Path) -> None:
    """Refuse NaN and infinity in a block of an image."""
    check_finite(Image(values, Space.plain(values.shape[1:])), path)

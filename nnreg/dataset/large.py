"""Cases that do not fit into memory: opened, and checked block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats
from nnreg.dataset.continuous import Continuous, check_channels, finite_or_unknown, known
from nnreg.dataset.label_files import whole_numbers_of_block
from nnreg.dataset.raw import RawDataset
from nnreg.dataset.spec import FILE_NAME
from nnreg.dataset.target_spec import Output, outputs_of
from nnreg.dataset.targets import mask_paths, target_paths
from nnreg.errors import DatasetError
from nnreg.geometry import Space
from nnreg.imageio import Image, LazyImage, check_finite, open_image
from nnreg.imageio.files import is_large
from nnreg.imageio.image import check_same_space
from nnreg.imageio.lazy import Volume

View = Callable[[LazyImage], Volume]


@dataclass(frozen=True, eq=False)
class LargeLabels:
    """What is known of each target on disk: a label map, or a map of values.

    Attributes
    ----------
    volumes
        One per target, (1, D, H, W), of a continuous one its channels; on the grid of the image, in any order of its axes.
    outputs
        What each target is; labels where there are no more of them.
    """

    volumes: tuple[Volume, ...]
    outputs: tuple[Output, ...] = ()
    _last: dict[Any, Floats] = field(default_factory=dict, repr=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The file of each target."""
        return tuple(volume.image.path for volume in self.volumes)

    def is_continuous(self, index: int) -> bool:
        """Whether a target has values, no labels."""
        return index < len(self.outputs) and isinstance(self.outputs[index], Continuous)

    @property
    def labelled(self) -> tuple[int, ...]:
        """Which targets have labels."""
        return tuple(index for index in range(len(self.volumes)) if not self.is_continuous(index))

    def read(self, box: Sequence[tuple[int, int]], targets: Sequence[int] | None = None) -> npt.NDArray[np.integer]:
        """Whole numbers (T, *box) of all or some targets; of a continuous one 1 where its values are known, else 0.

        Raises
        ------
        DatasetError
            If values of labels are not whole, or those of a continuous target are infinite.
        """
        chosen = range(len(self.volumes)) if targets is None else targets
        return np.concatenate([known(self.values(index, box)) if self.is_continuous(index) else self._labels(index, box) for index in chosen])

    def maps(self, box: Sequence[tuple[int, int]]) -> Floats:
        """Values (M, *box) of all continuous targets, NaN where unknown; M is 0 without such targets."""
        nothing = np.empty((0, *(high - low for low, high in box)), np.float32)
        return np.concatenate([nothing, *(self.values(index, box) for index in range(len(self.volumes)) if self.is_continuous(index))])

    def values(self, index: int, box: Sequence[tuple[int, int]]) -> Floats:
        """Values (C, *box) of a continuous target; the last box is kept, as who asks what is known asks for the values next."""
        place = (index, *map(tuple, box))
        if place not in self._last:
            for other in [other for other in self._last if other[0] == index]:
                del self._last[other]
            self._last[place] = finite_or_unknown(self.volumes[index].read(box), self.paths[index])
        return self._last[place]

    def _labels(self, index: int, box: Sequence[tuple[int, int]]) -> npt.NDArray[np.integer]:
        return whole_numbers_of_block(self.volumes[index].read(box), self.paths[index])


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
        return np.concatenate([every if volume is None else (volume.read(box) != 0).astype(np.int16) for volume in self.volumes])


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


def open_large_labels(raw: RawDataset, case: str, image: LazyImage, view: View = LazyImage.volume) -> LargeLabels:
    """Labels or values of every target, on the grid of `image`; `view` says how they are seen.

    Raises
    ------
    DatasetError
        If a target has no file, or one with another number of channels than it has.
    ImageError
        If a file cannot be read by parts, or lies on another grid.
    """
    paths, outputs = target_paths(raw, case), outputs_of(raw.spec)
    volumes = []
    for name, path in paths.items():
        found, output = open_image(path), outputs[name]
        check_same_space(found.space, path, image.space, image.path)
        if isinstance(output, Continuous):
            check_channels(found.channels, output.channels, path)
        elif found.channels != 1:
            raise DatasetError(f"{path}: has several channels, labels have one. Save it as one channel.")
        volumes.append(view(found))
    return LargeLabels(tuple(volumes), tuple(outputs[name] for name in paths))


def open_large_masks(raw: RawDataset, case: str, image: LazyImage, view: View = LazyImage.volume) -> LargeMasks | None:
    """The masks of every target, on the grid of `image`, seen as `view` says; None if the case has none.

    Raises
    ------
    DatasetError
        If a file has several channels.
    ImageError
        If it cannot be read by parts, or lies on another grid.
    """
    paths = mask_paths(raw, case)
    opened = {path: open_image(path) for path in paths.values() if path is not None}
    for path, mask in opened.items():
        check_same_space(mask.space, path, image.space, image.path)
        if mask.channels != 1:
            raise DatasetError(f"{path}: has {mask.channels} channels, masks have one. Save it as one channel.")
    return LargeMasks(tuple(None if path is None else view(opened[path]) for path in paths.values())) if opened else None


def refuse_unfinite(values: npt.NDArray[Any], path: Path) -> None:
    """Refuse NaN and infinity in a block of an image."""
    check_finite(Image(values, Space.plain(values.shape[1:])), path)

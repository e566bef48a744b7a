"""Where the cases of a dense prediction come from: a folder of new images, or a dataset's own stored arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nnreg.dataset import RawDataset
from nnreg.dataset.label_files import folder_beside
from nnreg.dataset.large import LargeLabels, large
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.target_spec import WHOLE, label_targets, stem_of_target
from nnreg.dataset.targets import label_file
from nnreg.errors import PredictionError
from nnreg.evaluation.dense_prediction.case import label_files
from nnreg.files import content_digest
from nnreg.imageio import Image, check_finite, ending_of, open_image, read_channels
from nnreg.imageio.endings import ending_for
from nnreg.imageio.files import is_large
from nnreg.imageio.image import check_same_space
from nnreg.imageio.lazy import Box
from nnreg.inference.dense_prediction.large import ENDING as LARGE_ENDING
from nnreg.inference.dense_prediction.large import LargePrepared
from nnreg.inference.registration.cases import cases_in, check_axes
from nnreg.planning.dense_prediction.plans import DensePlans
from nnreg.preprocessing.dense_prediction.case import DensePreprocessor
from nnreg.preprocessing.dense_prediction.reoriented import turn_for, turned_image, turned_lazily
from nnreg.preprocessing.dense_prediction.storage import DenseDataset, DenseProperties
from nnreg.preprocessing.dense_prediction.streamed import StreamedCase


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case on the working grid.

    Attributes
    ----------
    native : Image
    image : array, shape (C, D, H, W), float32
    properties : DenseProperties
    previous : array, shape (T, D, H, W), optional
        Labels that the stage before predicted.
    orientation
        To which the image was turned, if the plans say so: `properties` are of that grid.
    """

    native: Image
    image: npt.NDArray[np.float32]
    properties: DenseProperties
    previous: npt.NDArray[np.integer] | None = None
    orientation: str = ""

    def back(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What was predicted, (C, *grid), on the grid of the files."""
        turn = turn_for(self.native.space, self.orientation)
        return values if turn is None else np.ascontiguousarray(turn.stored(values))


class DenseSource(Protocol):
    """Cases to predict."""

    @property
    def cases(self) -> list[str]:
        """Their names, sorted."""
        ...

    def prepare(self, case: str) -> Prepared:
        """The case on the working grid."""
        ...

    def is_large(self, case: str) -> bool:
        """Whether it does not fit into memory and is prepared by :meth:`prepare_large`."""
        ...

    def prepare_large(self, case: str) -> LargePrepared:
        """The case on the working grid, read box by box."""
        ...

    def truth(self, case: str, target: str = WHOLE) -> Path | None:
        """Its labels (of a target), if they are known, for the picture."""
        ...

    def files(self, case: str) -> list[Path]:
        """Its channel files."""
        ...

    def digest(self, case: str) -> str:
        """Of the content of all that is predicted from: whether what was predicted is still true."""
        ...


class NewCases:
    """Images ``CASE_0000.ending`` of a folder, preprocessed as the training images were.

    Parameters
    ----------
    folder
        The images.
    plans, configuration_name, spec
        Of the model.
    previous
        Folder of label maps ``CASE.ending`` that the stage before predicted.

    Raises
    ------
    PredictionError
        If the folder holds no images, or the channels of a case are incomplete.
    """

    def __init__(self, folder: Path, plans: DensePlans, configuration_name: str, spec: DatasetSpec, previous: Path | None = None) -> None:
        if not folder.is_dir():
            raise PredictionError(f"{folder}: no such folder. Give the folder with the images as -i.")
        self.folder, self.channels = folder, len(spec.channel_names)
        self._files = cases_in(folder, self.channels)
        self._preprocessor = DensePreprocessor(plans, configuration_name)
        labels = folder_beside(folder, "labels")
        self._truth, self._several = label_files(labels) if labels is not None else {}, len(spec.targets) > 1
        self._previous = None if previous is None else _earlier_files(previous, self.cases, spec)

    @property
    def cases(self) -> list[str]:
        """Names of the cases."""
        return sorted(self._files)

    def prepare(self, case: str) -> Prepared:
        """Read, check and preprocess."""
        paths = self._files[case]
        image = read_channels(paths)
        check_finite(image, paths[0])
        if self._preprocessor.configuration.ndim == 3:  # those of slices take volumes too, slice by slice
            check_axes(image.ndim, 3, paths[0])
        if image.channels != self.channels:
            raise PredictionError(
                f"{paths[0]}: case {case!r} has {image.channels} channels, the model was trained with {self.channels}. Add or remove channel files."
            )
        earlier = None
        if self._previous is not None:
            earlier = read_channels(self._previous[case])
            check_same_space(earlier.space, self._previous[case][0], image.space, paths[0])
        wanted = self._preprocessor.plans.orientation
        before = None if earlier is None else turned_image(earlier, wanted)
        found = self._preprocessor.run(case, turned_image(image, wanted), before)
        return Prepared(image, found.image, found.properties, None if earlier is None else found.labels, wanted)

    def is_large(self, case: str) -> bool:
        """Zarr or TIFF of more than ``nnReg_whole_voxels``."""
        return is_large(self._files[case])

    def prepare_large(self, case: str) -> LargePrepared:
        """Open, check, and measure what normalisation needs."""
        image = open_image(self._files[case])
        if image.channels != self.channels:
            raise PredictionError(
                f"{image.path}: case {case!r} has {image.channels} channels, the model was trained with {self.channels}. Add or remove channel files."
            )
        plans, earlier = self._preprocessor.plans, None
        if self._previous is not None:
            labels = [open_image(path) for path in self._previous[case]]
            for found in labels:
                check_same_space(found.space, found.path, image.space, image.path)
            earlier = LargeLabels(tuple(turned_lazily(found, plans.orientation).volume(plans.transpose_forward) for found in labels))
        streamed = StreamedCase.of(case, turned_lazily(image, plans.orientation), plans, self._preprocessor.configuration, truth=earlier)
        return LargePrepared(streamed.image, streamed.grids.new, streamed.properties, image.space, None if earlier is None else streamed.labels)

    def truth(self, case: str, target: str = WHOLE) -> Path | None:
        """Of ``labelsTs`` beside ``imagesTs``."""
        return self._truth.get(f"{case}_{target}", None if self._several else self._truth.get(case))

    def files(self, case: str) -> list[Path]:
        """Its channel files."""
        return self._files[case]

    def digest(self, case: str) -> str:
        """Of its channels, and of what the stage before predicted of it."""
        return content_digest((*self._files[case], *([] if self._previous is None else self._previous[case])))


def _earlier_files(folder: Path, cases: Sequence[str], spec: DatasetSpec) -> dict[str, list[Path]]:
    """Case to what the stage before predicted of each target that has labels."""
    found, targets = label_files(folder), label_targets(spec)
    result: dict[str, list[Path]] = {}
    for case in cases:
        stems = [stem_of_target(case, target, len(spec.targets) > 1) for target in targets]
        missing = [stem for stem in stems if stem not in found]
        if missing:
            raise PredictionError(
                f"{folder}: has no label map of case {missing[0]!r}. Predict the stage before for every image, or leave -prev_stage_predictions out."
            )
        result[case] = [found[stem] for stem in stems]
    return result


class StoredCases:
    """Cases of the raw dataset whose preprocessed arrays exist.

    Parameters
    ----------
    raw
        The dataset.
    arrays
        Folder of the configuration's arrays.
    chosen
        Which cases.
    previous
        Case to the labels (T, D, H, W) that the stage before predicted, on this configuration's grid.
    orientation
        Of the plans: to which the images were turned.
    """

    def __init__(
        self, raw: RawDataset, arrays: Path, chosen: list[str], previous: Callable[[str], npt.NDArray[np.integer]] | None = None, *, orientation: str = ""
    ) -> None:
        self.raw, self.cases, self._data, self._previous, self._orientation = raw, sorted(chosen), DenseDataset(arrays), previous, orientation

    def prepare(self, case: str) -> Prepared:
        """The stored arrays."""
        image = np.asarray(self._data.open(case).image[:])
        previous = None if self._previous is None else self._previous(case)
        return Prepared(self.raw.read_image(case), image, self._data.properties(case), previous, self._orientation)

    def is_large(self, case: str) -> bool:
        """As when it was preprocessed."""
        return large(self.raw, case)

    def prepare_large(self, case: str) -> LargePrepared:
        """The stored arrays, read box by box."""
        stored = self._data.open(case).image
        previous = None
        if self._previous is not None:
            labels = self._previous(case)
            previous = partial(read_stored, labels)
        native = open_image(self.raw.image_paths(case)).space
        return LargePrepared(partial(read_stored, stored), tuple(map(int, stored.shape[1:])), self._data.properties(case), native, previous)

    def properties(self, case: str) -> DenseProperties:
        """Where its arrays come from."""
        return self._data.properties(case)

    def truth(self, case: str, target: str = WHOLE) -> Path | None:
        """Its training labels."""
        return label_file(self.raw, case, target)

    def files(self, case: str) -> list[Path]:
        """Its channel files."""
        return list(self.raw.image_paths(case))

    def digest(self, case: str) -> str:
        """Of all its files."""
        return self.raw.digest(case)


def read_stored(array: Any, box: Box) -> npt.NDArray[Any]:
    """(C, *box) of an array (C, *spatial) on disk."""
    return np.asarray(array[(slice(None), *(slice(low, high) for low, high in box))])


def label_ending(source: DenseSource, case: str) -> str:
    """Ending of a case's label map: that of its image, unless that format loses something, or keeps probabilities; Zarr for what is read by parts."""
    if source.is_large(case):
        return LARGE_ENDING
    ending = ending_of(source.files(case)[0])
    if ending == ".npz":
        return ".nii.gz"
    return ending_for(ending, "uint8")

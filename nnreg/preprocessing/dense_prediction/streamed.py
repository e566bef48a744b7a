"""A case that does not fit into memory, as networks see it: any box of the working grid, made from the files when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats, StoredLabels
from nnreg.dataset.labels import OUTSIDE, LabelManager
from nnreg.dataset.large import LargeLabels, LargeMasks, refuse_unfinite
from nnreg.dataset.spec import FILE_NAME
from nnreg.errors import DatasetError, PreprocessingError
from nnreg.imageio import LazyImage
from nnreg.imageio.lazy import BLOCK_VOXELS, Box, Volume, boxes
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.dense_prediction.measure_large import streamed_box
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans
from nnreg.planning.dense_prediction.resampling import new_shape
from nnreg.preprocessing.dense_prediction.maps import normalise_maps, values_of
from nnreg.preprocessing.dense_prediction.storage import DenseProperties
from nnreg.preprocessing.dense_prediction.streamed_normalization import Normaliser
from nnreg.preprocessing.dense_prediction.streamed_resample import Grids, Read

LARGEST_LABEL = int(np.iinfo(np.int16).max)


@dataclass(frozen=True, eq=False)
class StreamedCase:
    """Boxes of a case on the working grid: transposed, cropped, normalised and resampled as :class:`DensePreprocessor` does it whole.

    One thing differs: what is outside the nonzero region is every voxel that is 0, holes included, because holes are told only by the whole volume.

    Attributes
    ----------
    properties : DenseProperties
    volume : Volume
        The image, in the transposed order of axes.
    normaliser : Normaliser
    grids : Grids
        From the cropped image to the working grid.
    truth : LargeLabels, optional
        Labels and values in the order of the volume; labels are checked as they are read, where it says what they are.
    masks : LargeMasks, optional
        Where each target is learnt, in the order of the volume.
    values : tuple of MapValues
        How the continuous targets are normalised, channel by channel; none without such targets.
    """

    properties: DenseProperties
    volume: Volume
    normaliser: Normaliser
    grids: Grids
    truth: LargeLabels | None = None
    masks: LargeMasks | None = None
    values: tuple[MapValues, ...] = ()
    _last: dict[Box, npt.NDArray[Any]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        case: str,
        image: LazyImage,
        plans: DensePlans,
        configuration: DenseConfiguration,
        *,
        truth: LargeLabels | None = None,
        masks: LargeMasks | None = None,
        measured: tuple[Box, Normaliser] | None = None,
    ) -> StreamedCase:
        """Measure what has to be known of the whole image: its nonzero box and the statistics that its normalisation needs.

        Parameters
        ----------
        measured
            Both, where they are known from another configuration with the same normalisation.
        """
        volume = image.volume(plans.transpose_forward)
        box, normaliser = measured or (streamed_box(volume), None)
        normaliser = normaliser or Normaliser.of(volume, box, configuration.normalization, case)
        properties = DenseProperties(case, image.space, tuple(volume.shape[1:]), box)
        spacing = properties.spacing(plans.transpose_forward)
        # the 2d configuration leaves the distance of slices as it is
        target = (*spacing[: 3 - len(configuration.spacing)], *configuration.spacing)
        cropped = properties.shape_after_crop
        shape = tuple(max(1, size) for size in new_shape(cropped, spacing, target))
        values = () if truth is None or len(truth.labelled) == len(truth.volumes) else tuple(values_of(plans))
        return cls(properties, volume, normaliser, Grids.of(cropped, shape, spacing, target, configuration.resampling), truth, masks, values)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, D, H, W) of the working grid."""
        return (self.volume.shape[0], *self.grids.new)

    def boxes(self, chunks: Sequence[int]) -> list[Box]:
        """Boxes of the working grid of whole `chunks`, that take a bounded part of the image each."""
        ratio = float(np.prod([max(1.0, old / new) for old, new in zip(self.grids.old, self.grids.new, strict=True)]))
        return list(boxes(self.grids.new, chunks, None, int(BLOCK_VOXELS / ratio / max(1, self.shape[0], 2 * len(self.values)))))

    def is_empty(self, box: Box) -> bool:
        """Whether image and labels are 0 in a box, where that is cheap to tell: on a grid that is not resampled. Values may be any."""
        if not self.grids.same or self._raw(box).any():
            return False
        return self.truth is None or not self.truth.labelled or not self.truth.read(self._native(box), self.truth.labelled).any()

    def image(self, box: Box) -> Floats:
        """Values (C, *box).

        Raises
        ------
        ImageError
            For an unreadable chunk, NaN or infinite values.
        """
        return self.grids.image(self._normalised, box, self._limits)

    def labels(self, box: Box) -> StoredLabels:
        """Labels (T, *box); -1 where the image is 0 and nothing is labelled; without labels 0 elsewhere. Of a continuous target 1 where values are known.

        Raises
        ------
        DatasetError
            For values that ``dataset.json`` does not name.
        """
        return self.grids.labels(self._labelled, box)

    def mask(self, box: Box) -> StoredLabels | None:
        """Where each target is learnt (T, *box), 1 there; None without masks."""
        masks = self.masks
        return None if masks is None else self.grids.labels(lambda inner: masks.read(self._native(inner)), box)

    def maps(self, box: Box) -> Floats | None:
        """Normalised values (M, *box) of the continuous targets, NaN where unknown; None where there are none."""
        if not self.values:
            return None
        if self.grids.same:
            return self._valued(box)
        low, high = self._map_limits
        holed = np.isnan(low.reshape(len(low), -1)).any(axis=1)
        result = np.empty((len(low), *(last - first for first, last in box)), np.float32)
        if not holed.all():
            result[~holed] = self.grids.image(lambda inner: self._valued(inner)[~holed], box, (low[~holed], high[~holed]))
        if holed.any():
            result[holed] = self.grids.partly_known(lambda inner: self._valued(inner)[holed], box)
        return result

    @cached_property
    def _limits(self) -> tuple[Floats, Floats]:
        """Where a resampled image overshoots, it is clipped; a pass over the image, once."""
        return self._measured(self._normalised, self.shape[0])

    @cached_property
    def _map_limits(self) -> tuple[Floats, Floats]:
        """The same of the maps; NaN where something is unknown."""
        return self._measured(self._valued, len(self.values))

    def _measured(self, read: Read, channels: int) -> tuple[Floats, Floats]:
        whole = tuple((0, size) for size in self.grids.old)
        inside = boxes(self.grids.old, self.volume.chunks, whole, BLOCK_VOXELS // channels)
        return self.grids.limits(((part, read(part)) for part in inside), channels)

    def _valued(self, box: Box) -> Floats:
        return normalise_maps((self.truth or LargeLabels(())).maps(self._native(box)), self.values)

    def _native(self, box: Box) -> Box:
        return tuple((low + first, high + first) for (low, high), (first, _) in zip(box, self.properties.box, strict=True))

    def _raw(self, box: Box) -> npt.NDArray[Any]:
        """Of the cropped image; the last box is kept, because labels ask for what the image just read."""
        if box not in self._last:
            self._last.clear()
            self._last[box] = self.volume.read(self._native(box))
        return self._last[box]

    def _normalised(self, box: Box) -> Floats:
        found = self._raw(box)
        refuse_unfinite(found, self.volume.image.path)
        return self.normaliser(found)

    def _labelled(self, box: Box) -> StoredLabels:
        outside = ~(self._raw(box) != 0).any(axis=0)
        if self.truth is None:
            found = np.zeros((1, *outside.shape), np.int16)
        else:
            values = self.truth.read(self._native(box))
            self._check(values)
            found = values.astype(np.int16)
        for index, target in enumerate(found):
            target[outside & ((target == 0) | (self.truth is not None and self.truth.is_continuous(index)))] = OUTSIDE
        return found

    def _check(self, values: npt.NDArray[np.integer]) -> None:
        if self.truth is None:
            return
        for path, target, manager in zip(self.truth.paths, values, self.truth.outputs):
            if isinstance(manager, LabelManager) and (unknown := manager.unknown(target)):
                allowed = ", ".join(map(str, manager.allowed))
                raise DatasetError(f"{path}: holds the value {unknown[0]}, labels in {FILE_NAME} names {allowed}. Add it to labels, or mend the file.")
        if values.dtype.itemsize > 2 and int(values.max()) > LARGEST_LABEL:
            raise PreprocessingError(f"{self.truth.paths[0]}: holds the value {int(values.max())}, at most {LARGEST_LABEL} can be stored. Renumber the labels.")

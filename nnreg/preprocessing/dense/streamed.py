"""A case that does not fit into memory, as networks see it: any box of the working grid, made from the files when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.dataset.labels import OUTSIDE, LabelManager
from nnreg.dataset.large import LargeLabels, LargeMasks, refuse_unfinite
from nnreg.dataset.spec import FILE_NAME
from nnreg.errors import DatasetError, PreprocessingError
from nnreg.imageio import LazyImage
from nnreg.imageio.lazy import BLOCK_VOXELS, Box, Volume, boxes
from nnreg.planning.dense.measure_large import streamed_box
from nnreg.planning.dense.plans import DenseConfiguration, DensePlans
from nnreg.planning.dense.resampling import new_shape
from nnreg.preprocessing.dense.normalise import Floats
from nnreg.preprocessing.dense.storage import DenseProperties
from nnreg.preprocessing.dense.streamed_normalise import Normaliser
from nnreg.preprocessing.dense.streamed_resample import Grids

Labels = npt.NDArray[np.int16]
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
        Labels in the order of the volume, checked against `managers` as they are read.
    managers : tuple of LabelManager
        Of the targets; none where labels are not checked.
    masks : LargeMasks, optional
        Where each target is learnt, in the order of the volume.
    """

    properties: DenseProperties
    volume: Volume
    normaliser: Normaliser
    grids: Grids
    truth: LargeLabels | None = None
    managers: tuple[LabelManager, ...] = ()
    masks: LargeMasks | None = None
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
        managers: Sequence[LabelManager] = (),
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
        return cls(properties, volume, normaliser, Grids.of(cropped, shape, spacing, target, configuration.resampling), truth, tuple(managers), masks)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, D, H, W) of the working grid."""
        return (self.volume.shape[0], *self.grids.new)

    def boxes(self, chunks: Sequence[int]) -> list[Box]:
        """Boxes of the working grid of whole `chunks`, that take a bounded part of the image each."""
        ratio = float(np.prod([max(1.0, old / new) for old, new in zip(self.grids.old, self.grids.new, strict=True)]))
        return list(boxes(self.grids.new, chunks, None, int(BLOCK_VOXELS / ratio / max(1, self.shape[0]))))

    def is_empty(self, box: Box) -> bool:
        """Whether image and labels are 0 in a box, where that is cheap to tell: on a grid that is not resampled."""
        return self.grids.same and not self._raw(box).any() and (self.truth is None or not self.truth.read(self._native(box)).any())

    def image(self, box: Box) -> Floats:
        """Values (C, *box).

        Raises
        ------
        ImageError
            For an unreadable chunk, NaN or infinite values.
        """
        return self.grids.image(self._normalised, box, self._limits)

    def labels(self, box: Box) -> Labels:
        """Labels (T, *box); -1 where the image is 0 and nothing is labelled; without labels 0 elsewhere.

        Raises
        ------
        DatasetError
            For values that ``dataset.json`` does not name.
        """
        return self.grids.labels(self._labelled, box)

    def mask(self, box: Box) -> Labels | None:
        """Where each target is learnt (T, *box), 1 there; None without masks."""
        masks = self.masks
        return None if masks is None else self.grids.labels(lambda inner: masks.read(self._native(inner)), box)

    @cached_property
    def _limits(self) -> tuple[Floats, Floats]:
        """Where a resampled image overshoots, it is clipped; a pass over the image, once."""
        whole = tuple((0, size) for size in self.grids.old)
        inside = boxes(self.grids.old, self.volume.chunks, whole, BLOCK_VOXELS // self.shape[0])
        return self.grids.limits(((part, self._normalised(part)) for part in inside), self.shape[0])

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

    def _labelled(self, box: Box) -> Labels:
        outside = ~(self._raw(box) != 0).any(axis=0)
        if self.truth is None:
            found = np.zeros((1, *outside.shape), np.int16)
        else:
            values = self.truth.read(self._native(box))
            self._check(values)
            found = values.astype(np.int16)
        found[:, outside] = np.where(found[:, outside] == 0, OUTSIDE, found[:, outside])
        return found

    def _check(self, values: npt.NDArray[np.integer]) -> None:
        if self.truth is None:
            return
        for path, target, manager in zip(self.truth.paths, values, self.managers):
            if unknown := manager.unknown(target):
                allowed = ", ".join(map(str, manager.allowed))
                raise DatasetError(f"{path}: holds the value {unknown[0]}, labels in {FILE_NAME} names {allowed}. Add it to labels, or mend the file.")
        if values.dtype.itemsize > 2 and int(values.max()) > LARGEST_LABEL:
            raise PreprocessingError(f"{self.truth.paths[0]}: holds the value {int(values.max())}, at most {LARGEST_LABEL} can be stored. Renumber the labels.")

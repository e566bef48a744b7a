"""One case from its files' arrays to what networks train on, in nnU-Net's order: transpose, crop, normalise, resample, sample locations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Floats, Integers
from nnreg.dataset.continuous import KNOWN, Continuous
from nnreg.dataset.labels import OUTSIDE, Label, LabelManager
from nnreg.dataset.target_spec import Output
from nnreg.errors import PreprocessingError
from nnreg.imageio import Image
from nnreg.planning.dense_prediction.foreground import as_volume
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans
from nnreg.planning.dense_prediction.resampling import new_shape
from nnreg.preprocessing.dense_prediction.crop import crop
from nnreg.preprocessing.dense_prediction.locations import sample_locations
from nnreg.preprocessing.dense_prediction.maps import normalise_maps, resample_maps, values_of
from nnreg.preprocessing.dense_prediction.normalization import normalise
from nnreg.preprocessing.dense_prediction.resample import resample_image, resample_labels
from nnreg.preprocessing.dense_prediction.storage import DenseCase, DenseProperties

LARGEST_LABEL = int(np.iinfo(np.int16).max)
NOWHERE = np.int16(np.iinfo(np.int16).min)  # a value that no label has


@dataclass(frozen=True, eq=False)
class CroppedCase:
    """A case transposed, cropped and normalised: what all configurations with one normalisation share.

    Attributes
    ----------
    image : array, shape (C, D, H, W), float32
    labels : array, shape (T, D, H, W), int16
    labelled
        Whether the case has labels, or only what is outside is marked.
    mask : array, shape (T, D, H, W), int16, optional
        1 where a target is to be learnt.
    maps : array, shape (M, D, H, W), float32, optional
        Normalised values of the continuous targets, NaN where unknown.
    """

    image: Floats
    labels: npt.NDArray[np.int16]
    labelled: bool
    properties: DenseProperties
    mask: npt.NDArray[np.int16] | None = None
    maps: Floats | None = None

    @classmethod
    def of(
        cls,
        case: str,
        image: Image,
        labels: Image | None,
        plans: DensePlans,
        configuration: DenseConfiguration,
        mask: Image | None = None,
        maps: Image | None = None,
        outputs: Sequence[Output] = (),
    ) -> CroppedCase:
        """From what the files hold; `outputs` say what the targets in `labels` are, where some of them may be continuous.

        Raises
        ------
        PreprocessingError
            If channels are not the planned ones, labels lie on another grid, or label values need more than 16 bits.
        """
        axes = (0, *(axis + 1 for axis in plans.transpose_forward))
        array = as_volume(image)[0].transpose(axes)
        continuous = [index for index, output in enumerate(outputs) if isinstance(output, Continuous)]
        cropped, found, box = crop(array, None if labels is None else _checked(case, image, labels).transpose(axes), continuous)
        inside = (found != OUTSIDE).any(axis=0)
        normalised = normalise(cropped, inside, configuration.normalization, case=case)
        properties = DenseProperties(case, image.space, tuple(array.shape[1:]), box)
        mask_inside, maps_inside = (
            None if other is None else np.ascontiguousarray(as_volume(other)[0].transpose(axes)[(slice(None), *(slice(low, high) for low, high in box))])
            for other in (mask, maps)
        )
        values = None if maps_inside is None else normalise_maps(maps_inside, values_of(plans))
        return cls(normalised, found, labels is not None, properties, mask_inside, values)

    def onto(self, plans: DensePlans, configuration: DenseConfiguration, managers: Sequence[Output]) -> DenseCase:
        """Resampled to the spacing of a configuration, with the locations of what every target's labels name."""
        spacing = self.properties.spacing(plans.transpose_forward)
        # the 2d configuration leaves the distance of slices as it is
        target = (*spacing[: 3 - len(configuration.spacing)], *configuration.spacing)
        shape = tuple(max(1, size) for size in new_shape(self.image.shape[1:], spacing, target))
        image = resample_image(self.image, shape, spacing, target, configuration.resampling)
        labels = resample_labels(self.labels, shape, spacing, target, configuration.resampling)
        mask = None if self.mask is None else resample_labels(self.mask, shape, spacing, target, configuration.resampling)
        maps = None if self.maps is None else resample_maps(self.maps, shape, spacing, target, configuration.resampling)
        return DenseCase(image, labels, self.properties, locations_of(labels, mask, managers) if self.labelled else {}, mask, maps)


def locations_of(labels: npt.NDArray[np.int16], mask: npt.NDArray[np.int16] | None, managers: Sequence[Output]) -> dict[Label, Integers]:
    """Voxels of every label or region of any target, where they are to be learnt; with masks also of what is annotated.

    Parameters
    ----------
    labels, mask : arrays, shape (T, D, H, W)
    managers
        Of the targets, in their order.
    """
    result: dict[Label, Integers] = {}
    for index, manager in enumerate(managers):
        # of a continuous target every voxel may be learnt from, unless some are unknown or masked: then patches are drawn from the others
        everywhere = isinstance(manager, Continuous) and mask is None and bool(labels[index].all())
        wanted = () if everywhere else wanted_locations(manager, masked=mask is not None)
        shown = labels[index] if mask is None else np.where(mask[index] > 0, labels[index], NOWHERE)
        for label, voxels in sample_locations(shown, wanted).items():
            result[label] = voxels if label not in result else np.concatenate([result[label], voxels])
    return result


def wanted_locations(manager: Output, *, masked: bool) -> tuple[Label, ...]:
    """What voxels are drawn of; with masks also of what is annotated, so that patches can be placed there. Of a continuous target, where it is known."""
    if isinstance(manager, Continuous):
        return ((OUTSIDE, KNOWN),)
    return (*manager.sampled, (OUTSIDE, *manager.values)) if masked and manager.ignore is None else manager.sampled


def labels_onto(labels: Image, properties: DenseProperties, plans: DensePlans, configuration_name: str) -> npt.NDArray[np.int16]:
    """Label maps (T, *native) as (T, D, H, W) on the working grid of a configuration: what an earlier stage of a cascade predicted."""
    configuration = plans.configuration(configuration_name)
    values = _checked(properties.case, Image(labels.array[:1], properties.native), labels).transpose(0, *(axis + 1 for axis in plans.transpose_forward))
    inside = values[(slice(None), *(slice(low, high) for low, high in properties.box))].astype(np.int16)
    spacing = properties.spacing(plans.transpose_forward)
    target = (*spacing[: 3 - len(configuration.spacing)], *configuration.spacing)
    shape = tuple(max(1, size) for size in new_shape(inside.shape[1:], spacing, target))
    return resample_labels(np.ascontiguousarray(inside), shape, spacing, target, configuration.resampling)


def _checked(case: str, image: Image, labels: Image) -> npt.NDArray[Any]:
    if labels.space.shape != image.space.shape:
        raise PreprocessingError(f"{case}: labels have shape {labels.space.shape}, the image {image.space.shape}. Make labels on the grid of the image.")
    values = as_volume(labels)[0]
    if values.dtype != np.int16 and values.size and int(values.max()) > LARGEST_LABEL:
        raise PreprocessingError(f"{case}: labels hold the value {int(values.max())}, at most {LARGEST_LABEL} can be stored. Renumber them.")
    return values


class DensePreprocessor:
    """Preprocesses cases for one configuration, for training and for prediction alike.

    Parameters
    ----------
    plans
        Of the dataset.
    configuration_name
        ``2d``, ``3d_fullres``, ...
    label_manager
        Says for which labels locations are sampled; needed only for training.
    """

    def __init__(self, plans: DensePlans, configuration_name: str, label_manager: LabelManager | None = None) -> None:
        self.plans, self.label_manager = plans, label_manager
        self.configuration = plans.configuration(configuration_name)

    def run(self, case: str, image: Image, labels: Image | None = None) -> DenseCase:
        """Preprocess a case.

        Parameters
        ----------
        case
            Its name.
        image
            All channels, as read.
        labels
            On the grid of `image`.

        Returns
        -------
        DenseCase
            Arrays of the axes (C, D, H, W) transposed as the plans say; a 2D image has D = 1.

        Raises
        ------
        PreprocessingError
            If channels are not the planned ones, labels lie on another grid, or label values need more than 16 bits.
        """
        return CroppedCase.of(case, image, labels, self.plans, self.configuration).onto(
            self.plans, self.configuration, () if self.label_manager is None else (self.label_manager,)
        )

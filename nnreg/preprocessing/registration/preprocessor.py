"""One case from its native grid to the working grid: the same function for training and for new images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.errors import PreprocessingError
from nnreg.geometry.space import Space, apply_matrix
from nnreg.planning.registration.foreground import Foreground, find_foreground
from nnreg.planning.registration.plans import RegistrationConfiguration, RegistrationPlans
from nnreg.preprocessing.registration.alignment import CaseAlignment, align_case
from nnreg.preprocessing.registration.normalization import normalise
from nnreg.preprocessing.registration.reference_space import ReferenceSpace
from nnreg.preprocessing.registration.storage import PreprocessedCase, Properties

if TYPE_CHECKING:
    from nnreg.imageio import Image

LARGEST_LABEL = int(np.iinfo(np.int16).max)


class Preprocessor:
    """Aligns, resamples and normalises cases for one configuration.

    Parameters
    ----------
    plans : RegistrationPlans
    configuration_name : str
    reference : ReferenceSpace, optional
        The dataset's frame. Absent where each group has a frame of its own.

    Raises
    ------
    PreprocessingError
        If the plans align to one reference and none is given.
    """

    def __init__(self, plans: RegistrationPlans, configuration_name: str, reference: ReferenceSpace | None = None) -> None:
        self.plans, self.configuration_name, self.reference = plans, configuration_name, reference
        self.configuration: RegistrationConfiguration = plans.configuration(configuration_name)
        if reference is None and not self.by_group:
            raise PreprocessingError(f"{plans.plans_name} of {plans.dataset_name} aligns every case to {plans.reference_case}, and no reference was given.")

    @classmethod
    def from_folder(cls, plans: RegistrationPlans, configuration_name: str, folder: Path) -> Preprocessor:
        """With the reference kept in `folder` (of preprocessed data or of a model)."""
        by_group = plans.alignment_target == "group"
        return cls(plans, configuration_name, None if by_group else ReferenceSpace.read(folder))

    @property
    def by_group(self) -> bool:
        """Whether each group of images has a frame of its own, so that :meth:`run` must be told whose."""
        return self.plans.alignment_target == "group"

    def run(
        self,
        case: str,
        image: Image,
        labels: Image | None = None,
        mask: Image | None = None,
        keypoints: Doubles | None = None,
        *,
        frame_of: Image | ReferenceSpace | None = None,
    ) -> PreprocessedCase:
        """Preprocess one case.

        Parameters
        ----------
        case
            Its name.
        image : Image
            All channels.
        labels, mask : Image, optional
            On any grid of the same world.
        keypoints : array, shape (N, ndim), optional
            Voxel indices of `image`, x first.
        frame_of : Image or ReferenceSpace, optional
            Where frames are per group: the fixed image whose frame the case is brought into, or that frame; itself if absent.

        Raises
        ------
        PreprocessingError
            If the image holds NaN or infinite voxels, has other channels or axes than planned, cannot be aligned, or labels do not fit int16.
        """
        frame = self._frame(case, image, frame_of)
        normalised = NormalisedCase.of(case, image, self.configuration)
        alignment = align_case(case, normalised.array, image.space, frame, self.plans, owner=frame.owned_by(image))
        return self.place(normalised, frame, alignment, labels=labels, mask=mask, keypoints=keypoints)

    def _frame(self, case: str, image: Image, frame_of: Image | ReferenceSpace | None) -> ReferenceSpace:
        if not self.by_group:
            if self.reference is None:
                raise PreprocessingError(f"{case}: no reference to align to.")
            return self.reference
        if isinstance(frame_of, ReferenceSpace):
            return frame_of
        return ReferenceSpace.of(case, image, self.plans) if frame_of is None else ReferenceSpace.of(f"the image {case} is compared with", frame_of, self.plans)

    def place(
        self,
        case: NormalisedCase,
        frame: ReferenceSpace,
        alignment: CaseAlignment,
        *,
        labels: Image | None = None,
        mask: Image | None = None,
        keypoints: Doubles | None = None,
    ) -> PreprocessedCase:
        """Sample a normalised case once, on the working grid, through `alignment`."""
        from nnreg.geometry import Transform, resample_image

        working = frame.working_space(self.plans, self.configuration)
        transform = Transform.affine(alignment.matrix)
        channels = [
            resample_image(channel[None], moving=case.space, fixed=working, transform=transform, outside=level, antialias=True)
            for channel, level in zip(case.array, case.background, strict=True)
        ]
        to_working = working.inverse_matrix @ np.linalg.inv(alignment.matrix)
        points = None if keypoints is None else _points(keypoints, case.space, to_working)
        inside = case.foreground_inside(working, to_working)
        properties = Properties(case.name, case.space, working, alignment.matrix, alignment.summary() | {"foreground_inside": round(inside, 4)}, points)
        return PreprocessedCase(
            image=np.concatenate(channels),
            labels=None if labels is None else _labels(labels, working, transform, case.name),
            mask=None if mask is None else _mask(mask, working, transform),
            properties=properties,
        )


class NormalisedCase:
    """An image with normalised intensities on its native grid.

    Attributes
    ----------
    name : str
    array : array, shape (C, *spatial), float32
    background : float per channel
    space : Space
    foreground : Foreground
    """

    def __init__(self, name: str, array: npt.NDArray[np.float32], background: tuple[float, ...], space: Space, foreground: Foreground) -> None:
        self.name, self.array, self.background, self.space, self.foreground = name, array, background, space, foreground

    @classmethod
    def of(cls, case: str, image: Image, configuration: RegistrationConfiguration) -> NormalisedCase:
        """Normalise `image` as the configuration says.

        Intensities are normalised before resampling, by the statistics of the native image, so that they do not depend on the working grid.

        Raises
        ------
        PreprocessingError
            If it holds NaN or infinite voxels, or has other axes or channels than planned.
        """
        if image.space.ndim != configuration.ndim:
            raise PreprocessingError(
                f"{case}: the image has {image.space.ndim} axes, the plans are for {configuration.ndim}. Predict with a model of as many axes."
            )
        bad = int(np.size(image.array) - np.isfinite(image.array).sum())
        if bad:
            raise PreprocessingError(f"{case}: the image has {bad} NaN or infinite voxels. Mend the image.")
        foreground = find_foreground(image.array)
        array, background = normalise(image.array, foreground, configuration.normalization, case=case)
        return cls(case, array, background, image.space, foreground)

    def foreground_inside(self, working: Space, to_working: Doubles) -> float:
        """Share of the foreground that the working grid shows."""
        indices = self.foreground.indices()
        positions = apply_matrix(to_working, self.space.to_world(indices[:: max(1, len(indices) // 20000)]))
        within = ((positions >= -0.5) & (positions <= np.asarray(working.shape) - 0.5)).all(axis=1)
        return float(within.mean())


def _points(points: Doubles, space: Space, to_working: Doubles) -> Doubles:
    """Voxels of the working grid (z first) from voxels of the native image (x first)."""
    return apply_matrix(to_working, space.to_world(np.asarray(points, dtype=float)[:, ::-1]))


def _labels(labels: Image, working: Space, transform: object, case: str) -> npt.NDArray[np.int16]:
    from nnreg.geometry import resample_labels

    array = labels.array
    whole = np.rint(array)
    if not np.array_equal(whole, array) or whole.max(initial=0) > LARGEST_LABEL or whole.min(initial=0) < -1:
        raise PreprocessingError(f"{case}: labels must be whole numbers from 0 to {LARGEST_LABEL}, found {array.min()} to {array.max()}. Renumber them.")
    return resample_labels(whole.astype(np.int16), moving=labels.space, fixed=working, transform=transform)  # type: ignore[arg-type,return-value]


def _mask(mask: Image, working: Space, transform: object) -> npt.NDArray[np.uint8]:
    from nnreg.geometry import resample_labels

    present = (mask.array != 0).astype(np.uint8)
    return resample_labels(present, moving=mask.space, fixed=working, transform=transform)  # type: ignore[arg-type,return-value]

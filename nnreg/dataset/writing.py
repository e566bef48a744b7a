"""Write a raw dataset from images, in memory or in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnreg.dataset.keypoints import ENDING as KEYPOINT_ENDING
from nnreg.dataset.keypoints import write_keypoints
from nnreg.dataset.raw import RawDataset
from nnreg.dataset.spec import FILE_NAME, DatasetSpec
from nnreg.errors import DatasetError
from nnreg.files import atomic_folder
from nnreg.geometry import Space
from nnreg.imageio import Image, read_image, write_image
from nnreg.imageio.endings import ending_of

ENDING = ".nii.gz"
PICTURES = {".png": ".png", ".jpg": ".png", ".jpeg": ".png", ".tif": ".tif", ".tiff": ".tif"}  # stay pictures: NIfTI would make millimetres of their pixels


@dataclass(frozen=True, eq=False)
class NewCase:
    """A case that a dataset is written from.

    Attributes
    ----------
    images
        One per channel, or one of several channels; a path is read when the case is written.
    labels, mask
        On the grid of the image.
    keypoints_voxel : array (N, ndim), optional
        Voxel indices, x first.
    test
        Whether it goes into ``imagesTs``, for which nothing is trained.
    """

    images: Sequence[Image | Path]
    labels: Image | Path | None = None
    mask: Image | Path | None = None
    keypoints_voxel: npt.ArrayLike | None = None
    test: bool = False


def write_dataset(folder: Path, cases: Mapping[str, NewCase], spec: DatasetSpec) -> RawDataset:
    """Write ``imagesTr``, ``labelsTr``, ... and ``dataset.json``, all or nothing.

    Parameters
    ----------
    folder
        ``DatasetXXX_Name``; it must not exist.
    cases
        Name to case.
    spec
        What ``dataset.json`` says; the number of training cases is counted, the ending is that of :func:`ending_for_cases`.

    Returns
    -------
    RawDataset

    Raises
    ------
    DatasetError
        If the folder exists, no case is for training, or a case has another number of channels than `spec` names.
    """
    if folder.exists():
        raise DatasetError(f"{folder}: exists. Remove it, or choose another id or name.")
    training = sum(not case.test for case in cases.values())
    if not training:
        raise DatasetError(f"{folder}: none of its {len(cases)} cases is for training. Give at least one.")
    ending = ending_for_cases(cases)
    with atomic_folder(folder) as part:
        for name, case in cases.items():
            write_case(part, name, case, len(spec.channel_names), ending)
        DatasetSpec.from_dict({**spec.to_dict(), "numTraining": training, "file_ending": ending}, where=str(folder / FILE_NAME)).write(part / FILE_NAME)
    return RawDataset.open(folder)


def ending_for_cases(cases: Mapping[str, NewCase]) -> str:
    """``.png`` where all images are PNG or JPEG files, ``.tif`` where all are TIFF, else ``.nii.gz``."""
    endings = {_ending_for(image) for case in cases.values() for image in case.images}
    return endings.pop() if len(endings) == 1 else ENDING


def _ending_for(image: Image | Path) -> str:
    return ENDING if isinstance(image, Image) else PICTURES.get(ending_of(image), ENDING)


def write_case(folder: Path, name: str, case: NewCase, channels: int, ending: str = ENDING) -> None:
    """Write the files of one case into ``imagesTr`` (of a test case ``imagesTs``) and the folders beside it.

    Raises
    ------
    DatasetError
        If it has another number of channels.
    """
    suffix = "Ts" if case.test else "Tr"
    images = [_read(image) for image in case.images]
    planes = [(image.array[[channel]], image.space) for image in images for channel in range(image.channels)]
    if len(planes) != channels:
        raise DatasetError(f"case {name!r}: has {len(planes)} channels, channel_names has {channels}. Name one for each.")
    for number, (array, space) in enumerate(planes):
        _write(folder / f"images{suffix}" / f"{name}_{number:04d}{ending}", array, space)
    for kind, beside in (("labels", case.labels), ("masks", case.mask)):
        if beside is not None:
            found = _read(beside)
            _write(folder / f"{kind}{suffix}" / f"{name}{_ending_for(beside)}", found.array, found.space)
    if case.keypoints_voxel is not None:
        path = folder / f"keypoints{suffix}" / f"{name}{KEYPOINT_ENDING}"
        path.parent.mkdir(exist_ok=True)
        write_keypoints(path, np.asarray(case.keypoints_voxel, dtype=np.float64))


def _read(image: Image | Path) -> Image:
    return image if isinstance(image, Image) else read_image(image)


def _write(path: Path, array: npt.NDArray[np.generic], space: Space) -> None:
    path.parent.mkdir(exist_ok=True)
    write_image(path, array, space)


__all__ = ["NewCase", "ending_for_cases", "write_case", "write_dataset"]

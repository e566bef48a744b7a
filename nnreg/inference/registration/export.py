"""What one predicted pair leaves on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nnreg.dataset.raw import Case
from nnreg.files import atomic_folder
from nnreg.geometry import Transform, resample_image, resample_labels
from nnreg.geometry.itk import write_result
from nnreg.imageio import Image, as_stored, ending_for, write_image
from nnreg.inference.predictor import PairTransforms

DONE = "transform.h5"  # a pair's folder appears only when all of it is written


def write_pair(
    folder: Path,
    transforms: PairTransforms,
    *,
    fixed: Image,
    moving: Case,
    ending: str,
    picture: Callable[[Path, Image, Image, Image, Transform], None] | None = None,
    field: bool = False,
    inverse: bool = False,
) -> None:
    """Write transform, alignment, field, warped image and labels of a pair; the folder appears whole or not at all.

    Parameters
    ----------
    folder
        ``OUT/FIXED__MOVING``; what was there is replaced.
    transforms
        The predicted maps.
    fixed, moving
        The native fixed image; the moving case, of which image and labels are sampled once, onto the fixed grid.
    ending
        Of the warped files, such as ``.nii.gz``; ``.jpg`` becomes ``.png``, or ``.tif`` where the values are no bytes.
    picture
        Draws ``overview.png``: ``picture(path, fixed, moving, warped, transform)``.
    field
        Whether to write the whole map, which ``transform.h5`` holds, as displacements too: ``field.nii.gz``, in 2D ``field.mha``.
    inverse
        Whether to write ``inverse_transform.h5``: from the moving to the fixed world.
    """
    with atomic_folder(folder) as part:
        write_result(part / "transform.h5", transforms.transform)
        write_result(part / "alignment.h5", transforms.alignment)
        if field:
            write_result(part / "field.nii.gz" if fixed.space.ndim == 3 else part / "field.mha", transforms.transform, fixed.space)
        if inverse:
            write_result(part / "inverse_transform.h5", transforms.transform.inverse())
        warped = resample_image(moving.image.array, moving=moving.image.space, fixed=fixed.space, transform=transforms.transform)
        kind = warped.dtype if ending_for(ending, warped.dtype) == ending else moving.image.array.dtype  # pictures hold whole numbers only
        write_image(part / f"warped{ending_for(ending, kind)}", as_stored(warped, kind), fixed.space)
        if moving.labels is not None:
            labels = resample_labels(moving.labels.array, moving=moving.labels.space, fixed=fixed.space, transform=transforms.transform)
            write_image(part / f"warped_labels{ending_for(ending, labels.dtype)}", labels, fixed.space)
        if picture is not None:
            picture(part / "overview.png", fixed, moving.image, Image(warped, fixed.space), transforms.transform)


__all__ = ["DONE", "write_pair"]

"""Transforms as FSL, AFNI, FreeSurfer, SPM and X5 store them: matrices, and fields on the fixed grid.

Written from the programs' own conventions; tests read them back with nitransforms and by each program's definition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import SimpleITK as sitk

from nnreg.arrays import Doubles, Floats
from nnreg.deflate import packing
from nnreg.errors import TransformError
from nnreg.files import atomic_path, write_text
from nnreg.geometry.itk_space import place
from nnreg.geometry.space import Space
from nnreg.geometry.transform import AffineMap, Transform
from nnreg.imageio.itk_writing import write_by_itk

NIFTI: Final = (".nii.gz", ".nii")
FNIRT_INTENT: Final = 2006  # of FSL: a field of displacements
INTENT_OFFSET: Final = 68  # of intent_code in a NIfTI-1 header
FLIPPED: Final = np.diag([-1.0, -1.0, 1.0, 1.0])  # between LPS, the world here, and RAS
OBLIQUE: Final = 1e-4  # radians, about: AFNI's 0.01 degree


@dataclass(frozen=True, eq=False)
class Grids:
    """Of the fixed and the moving image."""

    fixed: Space
    moving: Space


@dataclass(frozen=True)
class Form:
    """How a program stores transforms.

    Attributes
    ----------
    name
        Of the program, for people.
    linear_endings, field_endings
        Of files with a matrix, with a field.
    write_linear
        Called with path, matrix (LPS, fixed to moving world) and grids.
    write_field
        Called with path, transform and grids.
    """

    name: str
    linear_endings: tuple[str, ...]
    field_endings: tuple[str, ...]
    write_linear: Callable[[Path, Doubles, Grids], None] | None
    write_field: Callable[[Path, Transform, Grids], None] | None


def write_other(path: Path, transform: Transform, form: str, *, fixed: Space | None, moving: Space | None) -> None:
    """Write a transform for another program, whole or not at all.

    Parameters
    ----------
    path
        By its ending a matrix or a field.
    transform : Transform
        Fixed to moving world, 3D.
    form : str
        One of :data:`OTHER_FORMS`.
    fixed, moving : Space
        Grids of the images; without the moving one that of the fixed image counts for both.

    Raises
    ------
    TransformError
        In 2D, without the fixed grid, for an ending that the program does not have, or a deformation in a file of matrices.
    """
    known = OTHER_FORMS[form]
    if transform.ndim != 3:
        raise TransformError(f"{path}: {known.name} has 3D transforms, this one has {transform.ndim} axes. Use --to itk.")
    if fixed is None:
        raise TransformError(f"{path}: {known.name} counts from the grid of the fixed image. Name it with -r, and the moving image with --moving.")
    grids = Grids(fixed, moving or fixed)
    name = path.name.lower()
    if known.write_linear is not None and name.endswith(known.linear_endings) and (matrix := _matrix(transform)) is not None:
        known.write_linear(path, matrix, grids)
    elif known.write_field is not None and name.endswith(known.field_endings):
        known.write_field(path, transform, grids)
    elif name.endswith(known.linear_endings):
        instead = (
            f"Choose one of {', '.join(known.field_endings)}." if known.field_endings else "Write the field with --to itk: mri_warp_convert --initk reads it."
        )
        raise TransformError(f"{path}: holds a matrix, the transform is a deformation. {instead}")
    else:
        raise TransformError(f"{path}: {known.name} has {', '.join(dict.fromkeys([*known.linear_endings, *known.field_endings]))}. Choose such an ending.")


def _matrix(transform: Transform) -> Doubles | None:
    """The LPS matrix of a linear transform; None for a deformation."""
    stages = transform.simplified().stages
    if not stages:
        return np.eye(4)
    return np.asarray(stages[0].matrix, dtype=float) if len(stages) == 1 and isinstance(stages[0], AffineMap) else None


def _inverted(matrix: Doubles, path: Path) -> Doubles:
    """For programs whose matrices go from the moving to the fixed image."""
    affine = AffineMap(matrix)
    if affine.flattens:
        raise TransformError(f"{path}: holds the inverse, and the matrix of the transform has none: it maps a volume onto a plane, a line or a point.")
    return affine.inverse().matrix


def _voxel_matrix(space: Space) -> Doubles:
    """From voxel (i, j, k) to LPS world."""
    matrix = space.matrix.copy()
    matrix[:3, :3] = matrix[:3, 2::-1]
    return matrix


def _world(space: Space) -> Doubles:
    """LPS positions (Z, Y, X, 3) of all voxels."""
    return space.to_world(np.stack(np.meshgrid(*(np.arange(size, dtype=float) for size in space.shape), indexing="ij"), axis=-1))


def _moved(transform: Transform, space: Space) -> Doubles:
    """Where the voxels (Z, Y, X, 3) of the fixed grid lie in the moving world, LPS."""
    return _world(space) + transform.sampled_on(space).in_mm(np.float32)


def _apply(matrix: Doubles, points: Doubles) -> Doubles:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _write_vectors(path: Path, vectors: Doubles, space: Space) -> None:
    """Vectors (Z, Y, X, 3) as NIfTI of five axes, the fifth of components, intent 1007."""
    image = place(sitk.GetImageFromArray(vectors.astype(np.float32), isVector=True), space)
    with atomic_path(path) as temporary:
        write_by_itk(image, temporary)


# -- FSL ----------------------------------------------------------------------------------------------------------------


def _fsl_matrix(space: Space) -> Doubles:
    """From voxel (i, j, k) to FSL's coordinates: voxels times spacing, the first axis turned round in images that are stored neurologically."""
    scaled = np.diag([*space.spacing[::-1], 1.0])
    if np.linalg.det(_voxel_matrix(space)[:3, :3]) > 0:
        scaled[0, 3] = (space.shape[2] - 1) * scaled[0, 0]
        scaled[0, 0] *= -1
    return scaled


def _to_fsl(space: Space) -> Doubles:
    """From the LPS world to FSL's coordinates of an image."""
    return np.asarray(_fsl_matrix(space) @ np.linalg.inv(_voxel_matrix(space)))


def _write_flirt(path: Path, matrix: Doubles, grids: Grids) -> None:
    """FLIRT's matrix goes from the moving image to the fixed one."""
    flirt = _to_fsl(grids.fixed) @ _inverted(matrix, path) @ np.linalg.inv(_to_fsl(grids.moving))
    write_text(path, "".join("  ".join(f"{value:.10g}" for value in row) + "\n" for row in flirt))


def _write_fnirt(path: Path, transform: Transform, grids: Grids) -> None:
    """A relative warp: what is added to FSL's coordinates of the fixed image to come to those of the moving image; affine part included."""
    vectors = _apply(_to_fsl(grids.moving), _moved(transform, grids.fixed)) - _apply(_to_fsl(grids.fixed), _world(grids.fixed))
    image = sitk.JoinSeries([place(sitk.GetImageFromArray(vectors[..., axis].astype(np.float32)), grids.fixed) for axis in range(3)])
    with atomic_path(path) as temporary, packing(temporary) as plain:
        write_by_itk(image, plain)
        with plain.open("r+b") as file:
            file.seek(INTENT_OFFSET)
            file.write(FNIRT_INTENT.to_bytes(2, "little"))


# -- AFNI ---------------------------------------------------------------------------------------------------------------


def _cardinal(space: Space) -> Doubles:
    """From the LPS world to the one in which AFNI sees an oblique image: axes along the nearest cardinal ones, the first voxel where it was."""
    real = _voxel_matrix(space)
    directions = real[:3, :3] / np.linalg.norm(real[:3, :3], axis=0)
    nearest = np.where(np.abs(directions) == np.abs(directions).max(axis=0), np.sign(directions), 0.0)
    if np.abs(directions - nearest).max() < OBLIQUE:
        return np.eye(4)
    straight = real.copy()
    straight[:3, :3] = nearest * np.linalg.norm(real[:3, :3], axis=0)
    return np.asarray(straight @ np.linalg.inv(real))


def _write_aff12(path: Path, matrix: Doubles, grids: Grids) -> None:
    """3dAllineate's matrix goes from the base to the source, in DICOM's order (LPS), in one row."""
    afni = _cardinal(grids.moving) @ matrix @ np.linalg.inv(_cardinal(grids.fixed))
    write_text(path, "# 3dAllineate matrices (DICOM-to-DICOM, row-by-row):\n" + " ".join(f"{value:.10g}" for value in afni[:3].ravel()) + "\n")


def _write_afni_warp(path: Path, transform: Transform, grids: Grids) -> None:
    """3dQwarp's warp: displacements in DICOM's order (LPS) on the base grid."""
    to_fixed, to_moving = _cardinal(grids.fixed), _cardinal(grids.moving)
    vectors = _apply(to_moving, _moved(transform, grids.fixed)) - _apply(to_fixed, _world(grids.fixed))
    _write_vectors(path, vectors, grids.fixed)


# -- FreeSurfer, SPM ----------------------------------------------------------------------------------------------------


def _write_lta(path: Path, matrix: Doubles, grids: Grids) -> None:
    """LINEAR_RAS_TO_RAS from the moving image (src) to the fixed one (dst)."""
    ras = FLIPPED @ _inverted(matrix, path) @ FLIPPED
    rows = [" ".join(f"{value: .15e}" for value in row) for row in ras]
    head = ["type      = 1 # LINEAR_RAS_TO_RAS", "nxforms   = 1", "mean      = 0.0000 0.0000 0.0000", "sigma     = 1.0000", "1 4 4"]
    volumes = ["src volume info", *_lta_volume("moving", grids.moving), "dst volume info", *_lta_volume("fixed", grids.fixed)]
    write_text(path, "\n".join([*head, *rows, *volumes, "subject unset", "fscale 0.100000", ""]))


def _lta_volume(name: str, space: Space) -> list[str]:
    """A grid in FreeSurfer's words; its centre is that of size / 2, half a voxel beyond the middle of the voxels' centres."""
    ras = FLIPPED @ _voxel_matrix(space)
    sizes, spacing = np.asarray(space.shape[::-1]), np.asarray(space.spacing[::-1])
    centre = ras[:3, :3] @ (sizes / 2) + ras[:3, 3]
    vectors = {f"{axis}ras": column for axis, column in zip("xyz", (ras[:3, :3] / spacing).T, strict=True)}
    lines = [f"{key}   = {' '.join(f'{value:.15e}' for value in vector)}" for key, vector in {**vectors, "cras": centre}.items()]
    volume, voxels = " ".join(map(str, sizes)), " ".join(f"{value:.15e}" for value in spacing)
    return ["valid = 1  # volume info valid", f"filename = {name}", f"volume = {volume}", f"voxelsize = {voxels}", *lines]


def _write_spm(path: Path, transform: Transform, grids: Grids) -> None:
    """SPM's y_ file: at every voxel of the fixed grid the position in the moving world, mm, RAS."""
    _write_vectors(path, _apply(FLIPPED, _moved(transform, grids.fixed)), grids.fixed)


# -- X5 -----------------------------------------------------------------------------------------------------------------


def _write_x5(path: Path, node: Mapping[str, Any], data: Doubles | Floats, kinds: tuple[str, ...], space: Space) -> None:
    from nnreg.geometry.itk_hdf5 import written_hdf5

    with atomic_path(path) as temporary, written_hdf5(temporary) as file:
        file.attrs["Format"], file.attrs["Version"] = "X5", np.uint16(1)
        group = file.create_group("TransformGroup/0")
        group.attrs.update({"ArrayLength": 1, **node})
        group.create_dataset("Transform", data=data)
        group.create_dataset("DimensionKinds", data=np.asarray(kinds, dtype="S"))
        domain = group.create_group("Domain")
        domain.create_dataset("Grid", data=np.uint8(1))
        domain.create_dataset("Size", data=np.asarray(space.shape[::-1]))
        domain.create_dataset("Mapping", data=FLIPPED @ _voxel_matrix(space))
        domain.attrs["Coordinates"] = "cartesian"


def _write_x5_linear(path: Path, matrix: Doubles, grids: Grids) -> None:
    """A matrix from the fixed to the moving world, RAS."""
    ras = FLIPPED @ matrix @ FLIPPED
    _write_x5(path, {"Type": "linear", "SubType": "affine"}, ras, ("space", "space", "space", "vector"), grids.fixed)


def _write_x5_field(path: Path, transform: Transform, grids: Grids) -> None:
    """Displacements (X, Y, Z, 3) in mm, RAS, on the fixed grid."""
    vectors = (_moved(transform, grids.fixed) - _world(grids.fixed)) * np.diag(FLIPPED)[:3]
    data = vectors.astype(np.float32).transpose(2, 1, 0, 3)
    _write_x5(path, {"Type": "nonlinear", "SubType": "densefield", "Representation": "displacements"}, data, ("space", "space", "space", "vector"), grids.fixed)


OTHER_FORMS: Final[Mapping[str, Form]] = MappingProxyType(
    {
        "fsl": Form("FSL", (".mat",), NIFTI, _write_flirt, _write_fnirt),
        "afni": Form("AFNI", (".aff12.1d",), NIFTI, _write_aff12, _write_afni_warp),
        "freesurfer": Form("FreeSurfer", (".lta",), (), _write_lta, None),
        "spm": Form("SPM", (), NIFTI, None, _write_spm),
        "x5": Form("X5", (".x5",), (".x5",), _write_x5_linear, _write_x5_field),
    }
)
"""Name after ``--to`` to how the program stores transforms."""

__all__ = ["OTHER_FORMS", "Form", "write_other"]

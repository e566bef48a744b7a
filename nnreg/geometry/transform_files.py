"""Transforms in files: ITK, ANTs and Learn2Reg, single or chained, forward or inverted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnreg.arrays import AnyArray, Reals
from nnreg.errors import GeometryError, ImageError, TransformError
from nnreg.files import atomic_path, folder_to_write, make_folder
from nnreg.geometry.itk import FIELD_ENDINGS, NOT_FINITE, VECTOR_INTENTS, read_itk, write_itk
from nnreg.geometry.learn2reg import from_learn2reg, to_learn2reg
from nnreg.geometry.other_programs import OTHER_FORMS, write_other
from nnreg.geometry.space import Space
from nnreg.geometry.transform import AffineMap, FieldMap, Transform
from nnreg.imageio.itk_writing import write_by_itk
from nnreg.imageio.nifti import read_nifti_header, read_nifti_voxels
from nnreg.imageio.promises import damage_told, load_member, load_npy, opened_archive

FORMATS = ("itk", "learn2reg", "ants", *OTHER_FORMS)
ANTS_AFFINE, ANTS_FIELD, ANTS_INVERSE = "0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz"


def read_transforms(paths: Sequence[Path | str], *, fixed: Space | None = None, moving: Space | None = None, inverse: bool = False) -> Transform:
    """Read and chain transforms in the order of ``antsApplyTransforms -t``: a point of the fixed image goes through the first, then through the second.

    Parameters
    ----------
    paths
        Files of ITK, ANTs, 3D Slicer or Learn2Reg. ``[FILE,1]`` stands for the inverse, as in ANTs.
    fixed, moving : Space, optional
        Grids of the images; needed for Learn2Reg's files, which hold voxels and no geometry.
    inverse
        Whether the inverse of the chain is wanted.

    Raises
    ------
    TransformError
        If a file is missing, damaged, of a kind that is not supported or without the inverse that is wanted, or dimensions differ.
    """
    if not paths:
        raise TransformError("no transform was named. Give at least one file.")
    parts = [read_transform(path, fixed=fixed, moving=moving, inverse=inverse) for path in (reversed(paths) if inverse else paths)]
    if len({part.ndim for part in parts}) > 1:
        raise TransformError(f"transforms of {', '.join(str(part.ndim) for part in parts)} axes cannot be chained. All must be 2D or all 3D.")
    return Transform(tuple(stage for part in parts for stage in part.stages), parts[0].ndim)


def read_transform(path: Path | str, *, fixed: Space | None = None, moving: Space | None = None, inverse: bool = False) -> Transform:
    """One transform; see :func:`read_transforms`."""
    text = str(path)
    if text.startswith("[") and text.endswith((",1]", ",0]")):
        return read_transform(text[1:-3], fixed=fixed, moving=moving, inverse=inverse != text.endswith(",1]"))
    path = Path(path)
    found = _read_learn2reg(path, fixed, moving) if is_learn2reg(path) else read_itk(path)
    try:
        return found.inverse() if inverse else found
    except GeometryError as error:
        raise TransformError(f"{path}: {error}") from error


def files_of(paths: Sequence[Path | str]) -> list[str]:
    """The files that :func:`read_transforms` reads.

    Examples
    --------
    >>> files_of(["a.h5", "[b.mat,1]"])
    ['a.h5', 'b.mat']
    """
    return [text[1:-3] if (text := str(path)).startswith("[") and text.endswith((",1]", ",0]")) else text for path in paths]


def is_learn2reg(path: Path) -> bool:
    """Whether a file holds a Learn2Reg displacement: four plain axes, where ITK has voxels that are vectors."""
    if path.name.endswith((".npz", ".npy")):
        return True
    if not path.name.endswith((".nii", ".nii.gz")) or not path.is_file():
        return False
    try:
        header = read_nifti_header(path)
    except ImageError as error:
        raise TransformError(str(error)) from error
    plain = len(header.shape) == 4
    if plain and header.intent in VECTOR_INTENTS:
        raise TransformError(
            f"{path}: has four axes, as Learn2Reg's voxel displacements have, but its intent code {header.intent} says vectors in mm, "
            "which ITK has on five axes. Write it again as one or the other."
        )
    return plain


def _read_learn2reg(path: Path, fixed: Space | None, moving: Space | None) -> Transform:
    if fixed is None:
        raise TransformError(
            f"{path}: is a Learn2Reg displacement, which holds voxels and no geometry. Name the fixed image (and the moving one, if its grid differs)."
        )
    if not path.is_file():
        raise TransformError(f"{path}: does not exist.")
    try:
        with damage_told():
            array = _learn2reg_array(path)
    except (ImageError, ValueError) as error:
        reason = str(error).strip().removeprefix(f"{path}: ").splitlines() or [type(error).__name__]
        raise TransformError(f"{path}: is not a Learn2Reg displacement that can be read ({reason[-1]}).") from error
    if not np.isfinite(array).all():
        raise TransformError(f"{path}: {NOT_FINITE}")
    try:
        return from_learn2reg(array, fixed=fixed, moving=moving or fixed)
    except GeometryError as error:
        raise TransformError(f"{path}: {error} Name a field of this image.") from error


def _learn2reg_array(path: Path) -> Reals:
    """Displacement (X, Y, Z, 3) as the file has it."""
    if path.name.endswith((".nii", ".nii.gz")):
        return np.asarray(read_nifti_voxels(path)[1][0].transpose(3, 2, 1, 0))
    if path.name.endswith(".npy"):
        loaded = load_npy(path)
        if isinstance(loaded, np.ndarray):
            return _numbers(loaded)
        raise ValueError("is an archive, not an array: rename it to .npz")
    with opened_archive(path) as archive:
        if len(archive.files) != 1:
            raise ValueError(f"holds {len(archive.files)} arrays ({', '.join(archive.files) or 'none'}), expected one")
        return _numbers(load_member(archive, archive.files[0], path))


def _numbers(array: AnyArray) -> Reals:
    if array.dtype.kind not in "fiu":
        raise ValueError(f"holds values of type {array.dtype}, expected numbers")
    return array.astype(np.float32) if array.dtype.kind != "f" else array


def write_transform(path: Path | str, transform: Transform, *, form: str = "itk", fixed: Space | None = None, moving: Space | None = None) -> list[Path]:
    """Write a transform, whole or not at all.

    Parameters
    ----------
    path
        ITK: ``.h5 .tfm .txt`` (composite), ``.mat`` (one matrix) or an image ending (displacement in mm on the grid of `fixed`). Learn2Reg: ``.nii.gz``.
        ANTs: a prefix, to which ``0GenericAffine.mat``, ``1Warp.nii.gz`` and ``1InverseWarp.nii.gz`` are added. Others: see
        :func:`nnreg.geometry.other_programs.write_other`.
    transform : Transform
        Fixed to moving world.
    form
        One of FORMATS.
    fixed, moving : Space, optional
        Grids of the images; a displacement field needs the fixed one.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    TransformError
        If the form cannot hold the transform, a grid it needs is missing, or files of an earlier transform would stay beside it.
    """
    if form == "ants":
        return _write_ants(str(path), transform, fixed)
    path = Path(path)
    if form in OTHER_FORMS:
        write_other(path, transform, form, fixed=fixed, moving=moving)
    elif form == "learn2reg":
        write_learn2reg(path, transform, fixed=fixed, moving=moving)
    else:
        write_itk(path, transform, fixed)
    return [path]


def files_written(path: str, form: str) -> list[Path]:
    """The files that :func:`write_transform` may write."""
    return [Path(path + name) for name in (ANTS_AFFINE, ANTS_FIELD, ANTS_INVERSE)] if form == "ants" else [Path(path)]


def write_learn2reg(path: Path, transform: Transform, *, fixed: Space | None, moving: Space | None = None) -> None:
    """Displacement as Learn2Reg's evaluation reads it: ``.nii.gz`` of shape (X, Y, Z, 3), voxels.

    Raises
    ------
    TransformError
        In 2D, which the challenge does not have, for another ending, or without the fixed grid.
    """
    if fixed is None:
        raise TransformError(f"{path}: a Learn2Reg displacement lies on the fixed grid. Name the fixed image.")
    if fixed.ndim != 3:
        raise TransformError(f"{path}: Learn2Reg's field format is three-dimensional, the images are {fixed.ndim}D. Choose another form.")
    if not path.name.endswith((".nii.gz", ".nii")):
        raise TransformError(f"{path}: a Learn2Reg displacement ends in .nii.gz. Choose that ending.")
    displacement = to_learn2reg(transform, fixed=fixed, moving=moving or fixed)
    # a plain 4D array, not an image of vectors, whose axes would be (x, y, z, 1, 3)
    image = sitk.GetImageFromArray(np.ascontiguousarray(displacement.transpose(3, 2, 1, 0)), isVector=False)
    with atomic_path(path) as temporary:
        write_by_itk(image, temporary)


def _write_ants(prefix: str, transform: Transform, fixed: Space | None) -> list[Path]:
    """The files antsRegistration writes: a matrix, and the field before it with its inverse."""
    stages = transform.simplified().stages
    affine = stages[-1] if stages and isinstance(stages[-1], AffineMap) else AffineMap(np.eye(transform.ndim + 1))
    rest = stages[:-1] if stages and isinstance(stages[-1], AffineMap) else stages
    parts: dict[str, tuple[Transform, Space | None]] = {ANTS_AFFINE: (Transform((affine,), transform.ndim), None)}
    if rest:
        whole = Transform(rest, transform.ndim)
        grid = rest[0].space if len(rest) == 1 and isinstance(rest[0], FieldMap) else fixed
        if grid is None:
            raise TransformError(f"{prefix}: several fields become one on the fixed grid. Name the fixed image.")
        try:
            parts |= {ANTS_FIELD: (whole, grid), ANTS_INVERSE: (whole.inverse(), grid)}
        except GeometryError as error:
            raise TransformError(f"{prefix}{ANTS_INVERSE}: {error}") from error
    paths = {name: Path(prefix + name) for name in (ANTS_AFFINE, ANTS_FIELD, ANTS_INVERSE)}
    for name, path in paths.items():
        if path.is_dir():
            raise TransformError(f"{path}: is a folder, a file was expected. Choose another prefix.")
        if name not in parts and path.exists():
            raise TransformError(
                f"{path}: is of another transform, and this one is linear: with the new {ANTS_AFFINE} beside it the two would be taken for one. "
                "Remove it, or choose another prefix."
            )
    make_folder(paths[ANTS_AFFINE].parent)
    with folder_to_write(paths[ANTS_AFFINE]) as folder:
        for name, (part, on) in parts.items():
            write_itk(folder / paths[name].name, part, on)
        for name in parts:
            (folder / paths[name].name).replace(paths[name])
    return [paths[name] for name in parts]


__all__ = ["FIELD_ENDINGS", "FORMATS", "files_of", "files_written", "read_transform", "read_transforms", "write_learn2reg", "write_transform"]

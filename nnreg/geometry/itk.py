"""ITK, ANTs and 3D Slicer: transforms in mm, left-posterior-superior, through SimpleITK."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnreg.deflate import DamagedError
from nnreg.errors import ImageError, TransformError
from nnreg.files import atomic_path
from nnreg.geometry.itk_space import place, space_of
from nnreg.geometry.space import Space
from nnreg.geometry.transform import AffineMap, FieldMap, Stage, Transform
from nnreg.imageio.itk_writing import write_by_itk
from nnreg.imageio.nifti import read_nifti_voxels, without_scale
from nnreg.imageio.text_headers import check_text_header
from nnreg.quiet import caught
from nnreg.seal import is_sealed, seal

NIFTI_ENDINGS = (".nii.gz", ".nii")
FIELD_ENDINGS = (*NIFTI_ENDINGS, ".mha", ".mhd", ".nrrd")
VECTOR_INTENTS = (1006, 1007)  # of nifti1.h: displacements, vectors
NOT_FINITE = "holds values that are not finite (NaN or infinity), which move nothing anywhere. Replace them, by 0 where nothing is known."
COARSEST_STEP = 1 / 512  # of the smallest voxel, that displacements of results are rounded to: none is off by more than 1/1000 voxel
HDF5_ENDINGS = (".h5", ".hdf5")
LONGEST_READ, SLOWEST_READ = 60.0, 2**20  # seconds for a file, and bytes a second beyond that
MATLAB_BYTES = {0: 8, 1: 4, 2: 4, 3: 2, 4: 2, 5: 1}  # of a number, by the third digit of its type: MATLAB's description of level 4
TRANSFORM_ENDINGS = (".h5", ".hdf5", ".tfm", ".txt", ".mat")


def to_itk(transform: Transform) -> sitk.Transform:
    """The same map as one ITK composite (ITK applies what was added last first)."""
    composite = sitk.CompositeTransform(transform.ndim)
    for stage in reversed(transform.simplified().stages):
        composite.AddTransform(_stage_to_itk(stage))
    return composite


def _stage_to_itk(stage: Stage) -> sitk.Transform:
    n = stage.ndim
    if isinstance(stage, AffineMap):
        affine = sitk.AffineTransform(n)
        affine.SetMatrix(stage.matrix[:n, :n].ravel().tolist())
        affine.SetTranslation(stage.matrix[:n, n].tolist())
        return affine
    return sitk.DisplacementFieldTransform(field_image(stage))


def field_image(field: FieldMap) -> sitk.Image:
    """The displacement in mm as a SimpleITK vector image (float64, components x first): what ANTs and Slicer read."""
    return place(sitk.GetImageFromArray(field.in_mm(), isVector=True), field.space)


def stored(field: FieldMap, step: float | None = None) -> npt.NDArray[np.float32]:
    """The displacement (*spatial, ndim) in mm as files have it, components x first; with `step` (mm) rounded to multiples of it."""
    return np.concatenate([*stored_parts(field, field.space.voxels, step)]).reshape(*field.space.shape, field.ndim)


def result_step(space: Space) -> float:
    """What displacements of results are rounded to, mm: the power of two, which rounds nothing twice, that is at most 1/512 of the smallest voxel."""
    return float(2.0 ** np.floor(np.log2(min(space.spacing) * COARSEST_STEP)))


def stored_parts(field: FieldMap, voxels: int, step: float | None = None) -> Iterator[npt.NDArray[np.float32]]:
    """The same by parts of `voxels` voxels: (voxels, ndim), the last one shorter."""
    n = field.ndim
    matrix = field.space.matrix[:n, :n].astype(np.float32)
    columns = field.displacement.reshape(n, -1)
    for start in range(0, columns.shape[1], voxels):
        values = matrix @ columns[:, start : start + voxels]
        if step is not None:
            values /= np.float32(step)
            np.rint(values, out=values)
            values *= np.float32(step)
        yield np.ascontiguousarray(values.T)


def from_itk(transform: sitk.Transform) -> Transform:
    """Our transform from any ITK linear transform, displacement field, B-spline-free composite of them.

    Raises
    ------
    TransformError
        For a kind that is neither linear nor a displacement field.
    """
    n = transform.GetDimension()
    name = transform.GetName()
    if name == "CompositeTransform":
        composite = sitk.CompositeTransform(transform)
        parts = [from_itk(composite.GetNthTransform(i)) for i in range(composite.GetNumberOfTransforms())]
        return Transform(tuple(stage for part in reversed(parts) for stage in part.stages), n)
    if name == "DisplacementFieldTransform":
        return Transform((from_field_image(sitk.DisplacementFieldTransform(transform).GetDisplacementField()),), n)
    if transform.IsLinear() or name == "IdentityTransform":
        # the columns of a linear map are the images of the unit vectors
        origin = np.asarray(transform.TransformPoint((0.0,) * n))
        columns = [np.asarray(transform.TransformPoint(tuple(row))) - origin for row in np.eye(n).tolist()]
        matrix = np.eye(n + 1)
        matrix[:n, :n] = np.stack(columns, axis=1)
        matrix[:n, n] = origin
        return Transform.affine(matrix)
    raise TransformError(f"an ITK {name} is neither linear nor a displacement field. Convert it to a displacement field first.")


def _field(image: sitk.Image) -> Transform:
    return Transform((from_field_image(image),), image.GetDimension())


def from_field_image(image: sitk.Image) -> FieldMap:
    """Our field from a vector image in mm, components x first."""
    if image.GetNumberOfComponentsPerPixel() != image.GetDimension():
        raise TransformError(f"a displacement field has {image.GetDimension()} components per voxel, found {image.GetNumberOfComponentsPerPixel()}.")
    return FieldMap.from_mm(sitk.GetArrayFromImage(image), space_of(image))


def write_itk(path: Path | str, transform: Transform, reference: Space | None = None) -> None:
    """Write a transform for ITK, ANTs and 3D Slicer, whole or not at all.

    Parameters
    ----------
    path
        ``.h5`` or ``.tfm`` (composite), ``.mat`` (one matrix), or ``.nii.gz``, ``.mha``, ``.nrrd`` (one displacement field in mm).
    transform
        Fixed to moving world.
    reference
        Grid of the displacement field; needed for the image endings only: the fixed image's.
    """
    _write(Path(path), transform, reference, lambda space: None)


def write_result(path: Path | str, transform: Transform, reference: Space | None = None) -> None:
    """As :func:`write_itk`, with displacements within 1/1000 of the smallest voxel: files of half the size.

    A map and its inverse leave sixty times as much of each other. Conversions and known truths are written exactly instead.
    """
    _write(Path(path), transform, reference, result_step)


def _write(path: Path, transform: Transform, reference: Space | None, step: Callable[[Space], float | None]) -> None:
    with atomic_path(path) as temporary:
        if path.name.endswith(FIELD_ENDINGS):
            if reference is None:
                raise TransformError(f"{path}: a displacement field needs a reference grid, none was given. Name the fixed image.")
            field = transform.sampled_on(reference)
            image = place(sitk.GetImageFromArray(stored(field, step(reference)), isVector=True), field.space)
            if ".nii" in path.name:
                image.SetMetaData("intent_code", "1007")
            write_by_itk(image, temporary)
        elif path.name.endswith(".mat"):
            _write_transform(temporary, _single_matrix(path, transform))
        elif path.name.endswith((".h5", ".hdf5")):
            from nnreg.geometry.itk_hdf5 import FIELD_CHUNK, write_composite

            stages = reversed(transform.simplified().stages)
            parts = [(stored_parts(part, FIELD_CHUNK, step(part.space)), part.space) if isinstance(part, FieldMap) else _stage_to_itk(part) for part in stages]
            write_composite(temporary, parts, transform.ndim)
            seal(temporary)
        elif path.name.endswith(TRANSFORM_ENDINGS):
            _write_transform(temporary, to_itk(transform))
        else:
            raise TransformError(f"{path}: unknown ending. Use one of {', '.join(TRANSFORM_ENDINGS + FIELD_ENDINGS)}.")


def _write_transform(path: Path, transform: sitk.Transform) -> None:
    """Write text or a matrix, and read it again: ITK does not notice that a disk is full.

    Raises
    ------
    OSError
        If the file does not hold the transform.
    """
    with caught():
        try:
            sitk.WriteTransform(transform, str(path))
            if _parts(sitk.ReadTransform(str(path))) == _parts(transform):
                return
        except RuntimeError as error:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _parts(transform: sitk.Transform) -> list[tuple[str, tuple[float, ...], bytes]]:
    """What tells transforms apart."""
    if transform.GetName() == "CompositeTransform":
        composite = sitk.CompositeTransform(transform)
        return [part for i in range(composite.GetNumberOfTransforms()) for part in _parts(composite.GetNthTransform(i))]
    # text has no zero below zero
    return [(transform.GetName(), transform.GetFixedParameters(), (np.asarray(transform.GetParameters()) + 0.0).tobytes())]


def _single_matrix(path: Path, transform: Transform) -> sitk.Transform:
    stages = transform.simplified().stages
    if len(stages) > 1 or any(isinstance(stage, FieldMap) for stage in stages):
        raise TransformError(f"{path}: a .mat file holds one matrix, the transform has a displacement field. Choose .h5 or .nii.gz.")
    return _stage_to_itk(stages[0] if stages else AffineMap(np.eye(transform.ndim + 1)))


def read_itk(path: Path | str) -> Transform:
    """Read a transform or displacement field written by ITK, ANTs, 3D Slicer or us.

    Raises
    ------
    TransformError
        If the file is missing, damaged or of a kind that is not supported.
    """
    path = Path(path)
    if not path.is_file():
        raise TransformError(f"{path}: does not exist.")
    is_field = path.name.endswith(FIELD_ENDINGS)
    try:
        with caught(), _readable(path) as readable:  # HDF5 prints pages about a damaged file
            result = _field(sitk.ReadImage(str(readable))) if is_field else from_itk(sitk.ReadTransform(str(readable)))
    except TransformError as error:
        raise TransformError(f"{path}: {error}") from error
    except (RuntimeError, ValueError) as error:
        kind = "displacement field" if is_field else "transform"
        raise TransformError(f"{path}: is not a {kind} that ITK can read ({_reason(str(error))}).") from error
    check_finite(path, result)
    return result


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Path]:
    """The file as ITK reads it rightly: NIfTI is checked for its length and freed of a scale, neither of which ITK does for vectors."""
    try:
        if path.name.endswith(FIELD_ENDINGS) and not path.name.endswith(NIFTI_ENDINGS):
            check_text_header(path)
        if path.name.endswith(HDF5_ENDINGS) and not _is_ours(path):
            with _read_apart(path) as copy:
                yield copy
            return
        if path.name.endswith(".mat"):
            check_matlab(path)
        if not path.name.endswith(NIFTI_ENDINGS):
            yield path
            return
        header, voxels = read_nifti_voxels(path)
    except ImageError as error:
        raise TransformError(str(error).removeprefix(f"{path}: ")) from error
    if len(header.shape) == 5 and header.intent not in VECTOR_INTENTS:
        told = "none" if header.intent == 0 else str(header.intent)
        raise TransformError(
            f"its header does not say that its voxels are displacements (intent code: {told}, expected 1007). Set it, or write the field again."
        )
    if not np.isfinite(voxels).all():
        raise TransformError(NOT_FINITE)
    if not header.rescales:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="nnreg_") as folder:
        plain = Path(folder) / "field.nii"
        plain.write_bytes(without_scale(path, header, voxels))
        yield plain


def _is_ours(path: Path) -> bool:
    """Whether a file is one that this package wrote, and whole."""
    try:
        return is_sealed(path)
    except DamagedError as error:
        raise TransformError(f"is damaged ({error}). Copy or make the file again.") from error


@contextlib.contextmanager
def _read_apart(path: Path) -> Iterator[Path]:
    """What another process made of a transform in HDF5: ITK's reader ends its process on some damaged files."""
    with tempfile.TemporaryDirectory(prefix="nnreg_") as folder:
        copy = Path(folder) / "transform.h5"
        command = [sys.executable, "-I", str(Path(__file__).with_name("read_apart.py")), str(path.resolve()), str(copy)]
        try:
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=LONGEST_READ + path.stat().st_size / SLOWEST_READ)
        except subprocess.TimeoutExpired as error:
            raise TransformError("is not a transform that ITK can read (it found no end).") from error
        if done.returncode != 0:
            reason = done.stderr.decode(errors="replace").strip().splitlines() if done.returncode > 0 else []
            told = reason[-1].rstrip(".")[:200] if reason else "it is damaged: the reader breaks off"
            raise TransformError(f"is not a transform that ITK can read ({told}).")
        yield copy


def check_matlab(path: Path) -> None:
    """Refuse a file of MATLAB 4 whose matrices have other sizes than it holds: ITK allocates what is promised.

    Raises
    ------
    TransformError
        It names no file.
    """
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(20)
            kind = struct.unpack_from("<i", head)[0] if len(head) == 20 else -1
            order = "<" if 0 <= kind < 5000 else ">"
            kind, rows, columns, imaginary, name = struct.unpack(f"{order}5i", head) if len(head) == 20 else (-1, 0, 0, 0, 0)
            if min(kind, rows, columns, imaginary) < 0 or name < 1 or imaginary > 1:
                raise TransformError("is not a whole file of matrices. Copy or make it again.")
            at += 20 + name + rows * columns * (1 + imaginary) * MATLAB_BYTES.get(kind // 10 % 10, 8)
    if at != size:
        raise TransformError(f"is truncated or damaged: its matrices need {at} bytes, it has {size}. Copy or make it again.")


def check_finite(path: Path, transform: Transform) -> None:
    """Refuse a transform that holds NaN or infinity.

    Raises
    ------
    TransformError
        It names the file.
    """
    for stage in transform.stages:
        if not np.isfinite(stage.matrix if isinstance(stage, AffineMap) else stage.displacement).all():
            raise TransformError(f"{path}: {NOT_FINITE}")


def _reason(message: str) -> str:
    """The line of ITK's message that says what is wrong: not the system's last error, which is mostly none of the file."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Reason:")]
    return (told or lines)[-1].rstrip(".")

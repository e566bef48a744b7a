"""Every form of transform file, written and read back: the largest difference in mm from what SimpleITK makes of the map in memory.

    python benchmarks/round_trips.py

prints the table of documentation/transforms.md. SimpleITK reads its own forms; FSL, AFNI, SPM, FreeSurfer, X5 and Learn2Reg are read by
each program's definition, from the bytes and the headers alone.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from nnreg.arrays import Doubles
from nnreg.geometry import AffineMap, FieldMap, Space, Transform
from nnreg.geometry.itk import to_itk, write_itk, write_result
from nnreg.geometry.transform_files import write_transform
from nnreg.imageio import write_image

TURN = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
DIRECTIONS = {
    3: {
        "LPS": np.eye(3),
        "RAS": np.diag([-1.0, -1.0, 1.0]),
        "PSR": np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
        "oblique": TURN @ np.array([[1.0, 0.0, 0.0], [0.0, 0.8, -0.6], [0.0, 0.6, 0.8]]),
    },
    2: {"LP": np.eye(2), "RA": np.diag([-1.0, -1.0]), "oblique": TURN[:2, :2]},
}
BAR = 0.01  # mm
FLIP = np.array([-1.0, -1.0, 1.0])
Reader = Callable[[Path, Doubles, Space, Space], Doubles]


def scene(ndim: int, direction: Doubles) -> tuple[Space, Space, Transform, Transform]:
    """Fixed and moving grid, a deformation with its affine part, and the affine part alone."""
    rng = np.random.default_rng(ndim)
    fixed = Space((14, 18, 16)[-ndim:], (2.0, 1.5, 1.2)[-ndim:], (5.0, -7.0, 30.0)[:ndim], tuple(direction.ravel().tolist()))
    moving = Space((15, 13, 17)[-ndim:], (1.8, 1.1, 1.6)[-ndim:], (-2.0, 4.0, 9.0)[:ndim], tuple(np.diag(FLIP[:ndim]).ravel().tolist()))
    matrix = np.eye(ndim + 1)
    matrix[:ndim] += rng.normal(0, 0.05, (ndim, ndim + 1))
    matrix[:ndim, ndim] = (4.0, -3.0, 2.0)[:ndim]
    field = np.stack([gaussian_filter(rng.normal(0, 8, fixed.shape), 2) for _ in range(ndim)]).astype(np.float32)
    affine = AffineMap(matrix)
    return fixed, moving, Transform((FieldMap(field, fixed), affine), ndim), Transform((affine,), ndim)


def mapped(transform: sitk.Transform, points: Doubles) -> Doubles:
    """World positions by SimpleITK."""
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def by_itk(path: Path, points: Doubles, fixed: Space, moving: Space) -> Doubles:
    """A file that SimpleITK reads."""
    if path.name.endswith((".nii.gz", ".mha", ".nrrd")):
        return mapped(sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64)), points)
    return mapped(sitk.ReadTransform(str(path)), points)


def by_ants(path: Path, points: Doubles, fixed: Space, moving: Space) -> Doubles:
    """``antsApplyTransforms -t PREFIX1Warp.nii.gz -t PREFIX0GenericAffine.mat``: the last one is applied first to the image, so last to the point."""
    bent = sitk.DisplacementFieldTransform(sitk.ReadImage(f"{path}1Warp.nii.gz", sitk.sitkVectorFloat64))
    return mapped(sitk.ReadTransform(f"{path}0GenericAffine.mat"), mapped(bent, points))


def vectors(path: Path) -> Doubles:
    """Components (voxels, 3) of a field on the fixed grid, last axis fastest."""
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image).astype(float)
    return array.reshape(-1, 3) if image.GetNumberOfComponentsPerPixel() == 3 else array.reshape(3, -1).T


def ras_matrix(space: Space) -> Doubles:
    """From voxel (i, j, k) to RAS mm, as a NIfTI header says it."""
    matrix = np.eye(4)
    matrix[:3, :3] = FLIP[:, None] * (np.reshape(space.direction, (3, 3)) * space.spacing[::-1])
    matrix[:3, 3] = FLIP * space.origin
    return matrix


def applied(matrix: Doubles, points: Doubles) -> Doubles:
    """A homogeneous matrix to points (N, 3)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def to_fsl(space: Space) -> Doubles:
    """From RAS to FSL's coordinates: voxels times spacing, the first axis turned round in images stored neurologically."""
    scaled = np.diag([*space.spacing[::-1], 1.0])
    if np.linalg.det(ras_matrix(space)) > 0:
        scaled[0] = [-scaled[0, 0], 0, 0, (space.shape[-1] - 1) * scaled[0, 0]]
    return scaled @ np.linalg.inv(ras_matrix(space))


def by_fsl(path: Path, points: Doubles, fixed: Space, moving: Space) -> Doubles:
    """FLIRT's matrix (moving to fixed), or a relative warp in FSL's coordinates."""
    there = applied(to_fsl(fixed), points * FLIP)
    there = applied(np.linalg.inv(np.loadtxt(path)), there) if path.suffix == ".mat" else there + vectors(path)
    return applied(np.linalg.inv(to_fsl(moving)), there) * FLIP


def by_afni(path: Path, points: Doubles, fixed: Space, moving: Space) -> Doubles:
    """3dAllineate's row (base to source), or displacements, both LPS; of grids that are not oblique."""
    if path.name.endswith(".1D"):
        return applied(np.vstack([np.loadtxt(path).reshape(3, 4), [0, 0, 0, 1]]), points)
    return points + vectors(path)


def by_freesurfer(path: Path, points: Doubles, fixed: Space, moving: Space) -> Doubles:
    """RAS to RAS, from the moving image to the fixed one."""
    lines = path.read_text().splitlines()
    first = lines.index("1 4 4") + 1
    matrix = np.array([[float(value) for value in line.split()] for line in lines[first : first + 4]])
    return applied(np.linalg.inv(matrix), points * FLIP) * FLIP


def by_spm(path: Path, points: Doubles, fixed: Space, moving: Space) -> Doubles:
    """Positions, RAS."""
    return vectors(path) * FLIP


def by_x5(path: Path, points: Doubles, fixed: Space, moving: Space) -> Doubles:
    """A matrix or displacements, RAS."""
    with h5py.File(path) as file:
        data = np.asarray(file["TransformGroup/0/Transform"], dtype=float)
    return applied(data, points * FLIP) * FLIP if data.shape == (4, 4) else (points * FLIP + data.transpose(2, 1, 0, 3).reshape(-1, 3)) * FLIP


def by_learn2reg(path: Path, points: Doubles, fixed: Space, moving: Space) -> Doubles:
    """Voxels (x first) from an index of the fixed image to one of the moving image."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in fixed.shape), indexing="ij"), axis=-1).reshape(-1, 3)[:, ::-1]
    data = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))  # (3, Z, Y, X)
    return applied(ras_matrix(moving), index + data.reshape(3, -1).T) * FLIP


FORMS: tuple[tuple[str, str, str, bool, Reader, tuple[int, ...]], ...] = (
    ("results: `transform.h5`", "result", "t.h5", False, by_itk, (2, 3)),
    ("ITK composite `.h5`", "itk", "t.h5", False, by_itk, (2, 3)),
    ("ITK composite `.tfm`", "itk", "t.tfm", False, by_itk, (2, 3)),
    ("ITK matrix `.mat`", "itk", "t.mat", True, by_itk, (2, 3)),
    ("ITK field `.nii.gz`", "itk", "t.nii.gz", False, by_itk, (3,)),
    ("ITK field `.mha`", "itk", "t.mha", False, by_itk, (2, 3)),
    ("ITK field `.nrrd`", "itk", "t.nrrd", False, by_itk, (2, 3)),
    ("ANTs `0GenericAffine.mat`, `1Warp.nii.gz`", "ants", "t", False, by_ants, (3,)),
    ("Learn2Reg", "learn2reg", "t.nii.gz", False, by_learn2reg, (3,)),
    ("FSL matrix", "fsl", "t.mat", True, by_fsl, (3,)),
    ("FSL field", "fsl", "t.nii.gz", False, by_fsl, (3,)),
    ("AFNI matrix", "afni", "t.aff12.1D", True, by_afni, (3,)),
    ("AFNI field", "afni", "t.nii.gz", False, by_afni, (3,)),
    ("FreeSurfer `.lta`", "freesurfer", "t.lta", True, by_freesurfer, (3,)),
    ("SPM `y_`", "spm", "y_t.nii", False, by_spm, (3,)),
    ("X5 matrix", "x5", "t.x5", True, by_x5, (3,)),
    ("X5 field", "x5", "t.x5", False, by_x5, (3,)),
)


def difference(form: str, name: str, linear: bool, read: Reader, ndim: int, direction: Doubles, folder: Path) -> float:
    """Largest distance in mm over all voxels of the fixed grid."""
    fixed, moving, bent, affine = scene(ndim, direction)
    transform = affine if linear else bent
    points = fixed.to_world(np.stack(np.meshgrid(*(np.arange(size, dtype=float) for size in fixed.shape), indexing="ij"), axis=-1)).reshape(-1, ndim)
    if form == "result":
        write_result(folder / name, transform)
    elif form == "itk":
        write_itk(folder / name, transform, fixed)
    else:
        write_transform(folder / name, transform, form=form, fixed=fixed, moving=moving)
    found = read(folder / name, points, fixed, moving)
    return float(np.linalg.norm(found - mapped(to_itk(transform), points), axis=1).max())


def image_difference(ndim: int, direction: Doubles, folder: Path) -> float:
    """How far the header of a written image places its voxels from where they are, mm."""
    fixed = scene(ndim, direction)[0]
    write_image(folder / "i.nii.gz", np.zeros((1, *fixed.shape), np.float32), fixed)
    image = sitk.ReadImage(str(folder / "i.nii.gz"))
    corners = [tuple((size - 1) * at for size, at in zip(fixed.shape[::-1], index)) for index in np.ndindex(*(2,) * ndim)]
    return max(float(np.linalg.norm(np.array(image.TransformIndexToPhysicalPoint(c)) - fixed.to_world(c[::-1]))) for c in corners)


def main() -> int:
    """Print the table; 1 if a difference is above the bar."""
    worst = 0.0
    columns = [(ndim, name) for ndim in (3, 2) for name in DIRECTIONS[ndim]]
    print("| form | " + " | ".join(f"{ndim}D {name}" for ndim, name in columns) + " |")
    print("|---|" + "---|" * len(columns))
    with tempfile.TemporaryDirectory() as name:
        for title, form, file, linear, read, dimensions in FORMS:
            cells = []
            for ndim, turned in columns:
                apart = form == "afni" and turned == "oblique"  # AFNI's own view of oblique grids: see the tests
                known = ndim in dimensions and not apart
                found = difference(form, file, linear, read, ndim, DIRECTIONS[ndim][turned], Path(name)) if known else 0.0
                worst = max(worst, found)
                cells.append(f"{found:.0e}" if known else "–")
            print(f"| {title} | " + " | ".join(cells) + " |")
        print(
            "| image header `.nii.gz` | " + " | ".join(f"{image_difference(ndim, DIRECTIONS[ndim][turned], Path(name)):.0e}" for ndim, turned in columns) + " |"
        )

    return int(worst > BAR)


if __name__ == "__main__":
    sys.exit(main())

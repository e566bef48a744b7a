"""Transforms for FSL, AFNI, FreeSurfer, SPM and X5, read back by nitransforms where it is installed, and by each program's own definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnreg.errors import TransformError
from nnreg.geometry import AffineMap, FieldMap, Space, Transform
from nnreg.geometry.transform_files import write_transform
from nnreg.imageio import write_image
from nnreg.imageio.nifti import read_nifti_voxels

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
DIRECTIONS = {  # rows of the direction matrix, as SimpleITK gives it
    "LPS": np.eye(3),
    "RAS": np.diag([-1.0, -1.0, 1.0]),
    "PSR": np.array([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "oblique": np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]]),
    "left-handed": np.diag([1.0, 1.0, -1.0]),
}


def grid(name: str, shape: tuple[int, int, int] = (9, 10, 12), origin: tuple[float, float, float] = (5.0, -7.0, 3.0)) -> Space:
    return Space(shape, (2.0, 1.5, 1.2), origin, tuple(DIRECTIONS[name].ravel().tolist()))


@pytest.fixture(params=DIRECTIONS)
def grids(request: pytest.FixtureRequest) -> tuple[Space, Space]:
    return grid(request.param), Space((8, 12, 9), (1.8, 1.1, 1.6), (-2.0, 4.0, 9.0), tuple(DIRECTIONS["RAS"].ravel().tolist()))


@pytest.fixture
def affine() -> Transform:
    rng = np.random.default_rng(1)
    matrix = np.eye(4)
    matrix[:3] += 0.1 * rng.normal(size=(3, 4))
    matrix[:3, 3] = (4.0, -3.0, 2.0)
    return Transform((AffineMap(matrix),), 3)


def deformed(fixed: Space, affine: Transform) -> Transform:
    field = 0.8 * np.random.default_rng(2).normal(size=(3, *fixed.shape))
    return Transform((FieldMap(field.astype(np.float32), fixed), *affine.stages), 3)


def nifti(space: Space, path: Path):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    write_image(path, np.zeros((1, *space.shape), np.float32), space)
    return nibabel.load(path)


def ras(points: np.ndarray) -> np.ndarray:
    return points @ LPS_TO_RAS


def voxels(space: Space) -> tuple[np.ndarray, np.ndarray]:
    """Indices (i, j, k) of all voxels, and their LPS positions."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in space.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    return index[:, ::-1], space.to_world(index)


@pytest.mark.parametrize(("form", "ending"), [("fsl", ".mat"), ("afni", ".aff12.1D"), ("freesurfer", ".lta"), ("x5", ".x5")])
def test_nitransforms_reads_our_matrices(grids, affine, tmp_path, form, ending):
    linear = pytest.importorskip("nitransforms.linear", reason="nitransforms is not installed")
    fixed, moving = grids
    path = tmp_path / f"t{ending}"
    write_transform(path, affine, form=form, fixed=fixed, moving=moving)
    images = nifti(fixed, tmp_path / "f.nii.gz"), nifti(moving, tmp_path / "m.nii.gz")
    known = {"fsl": "fsl", "afni": "afni", "freesurfer": "fs", "x5": "X5"}
    found = linear.load(path, fmt=known[form], reference=images[0], moving=images[1])
    points = fixed.corners()
    read = found.map(ras(points)) if form != "x5" else ras(points) @ found.matrix[..., :3, :3].reshape(3, 3).T + found.matrix.reshape(4, 4)[:3, 3]
    assert np.abs(ras(np.asarray(read)) - affine.map_points(points)).max() < 1e-3


def _fsl(space: Space, path: Path) -> np.ndarray:
    """From RAS to FSL's coordinates, by nibabel's affine."""
    matrix = nifti(space, path).affine
    zooms = np.linalg.norm(matrix[:3, :3], axis=0)
    scaled = np.diag([*zooms, 1.0])
    if np.linalg.det(matrix) > 0:
        scaled = np.array([[-1.0, 0, 0, (space.shape[2] - 1) * zooms[0]], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ scaled
    return scaled @ np.linalg.inv(matrix)


def test_a_field_for_fsl_leads_from_its_coordinates_of_one_image_to_those_of_the_other(grids, affine, tmp_path):
    fixed, moving = grids
    transform = deformed(fixed, affine)
    write_transform(tmp_path / "warp.nii.gz", transform, form="fsl", fixed=fixed, moving=moving)
    header, data = read_nifti_voxels(tmp_path / "warp.nii.gz")
    assert header.intent == 2006
    assert header.shape == (*fixed.shape[::-1], 3)
    _, world = voxels(fixed)
    to_fixed, to_moving = _fsl(fixed, tmp_path / "f.nii.gz"), _fsl(moving, tmp_path / "m.nii.gz")
    there = ras(world) @ to_fixed[:3, :3].T + to_fixed[:3, 3] + np.asarray(data).reshape(3, -1).T
    back = (there - to_moving[:3, 3]) @ np.linalg.inv(to_moving[:3, :3]).T
    assert np.abs(ras(back) - transform.map_points(world)).max() < 1e-3


def test_a_field_for_spm_holds_positions_in_ras(grids, affine, tmp_path):
    fixed, moving = grids
    transform = deformed(fixed, affine)
    write_transform(tmp_path / "y_pair.nii", transform, form="spm", fixed=fixed, moving=moving)
    header, data = read_nifti_voxels(tmp_path / "y_pair.nii")
    assert header.shape[3:] in ((1, 3), ()) or header.components == 3
    _, world = voxels(fixed)
    found = np.asarray(data).reshape(3, -1).T
    assert np.abs(ras(found) - transform.map_points(world)).max() < 1e-3


@pytest.mark.parametrize("name", ["LPS", "RAS", "PSR", "left-handed"])
def test_a_field_for_afni_is_in_lps(affine, tmp_path, name):
    fixed = moving = grid(name)
    transform = deformed(fixed, affine)
    write_transform(tmp_path / "warp.nii.gz", transform, form="afni", fixed=fixed, moving=moving)
    _, world = voxels(fixed)
    found = np.asarray(read_nifti_voxels(tmp_path / "warp.nii.gz")[1]).reshape(3, -1).T
    assert np.abs(world + found - transform.map_points(world)).max() < 1e-3


def test_a_field_in_x5_is_what_nitransforms_maps_by(grids, affine, tmp_path):
    nonlinear = pytest.importorskip("nitransforms.nonlinear", reason="nitransforms is not installed")
    fixed, moving = grids
    transform = deformed(fixed, affine)
    write_transform(tmp_path / "t.x5", transform, form="x5", fixed=fixed, moving=moving)
    found = nonlinear.load(tmp_path / "t.x5", fmt="X5")
    _, world = voxels(fixed)
    assert np.abs(ras(np.asarray(found.map(ras(world)))) - transform.map_points(world)).max() < 1e-3


def test_what_a_form_cannot_hold_is_told_and_not_written(affine, tmp_path):
    fixed = grid("LPS")
    bent = deformed(fixed, affine)
    flat = Transform((AffineMap(np.eye(3)),), 2)
    singular = Transform((AffineMap(np.diag([1.0, 1.0, 0.0, 1.0])),), 3)
    for transform, form, name, grid_of, words in (
        (bent, "fsl", "t.mat", fixed, "holds a matrix, the transform is a deformation. Choose one of .nii.gz, .nii"),
        (bent, "freesurfer", "t.lta", fixed, "mri_warp_convert --initk"),
        (singular, "fsl", "t.mat", fixed, "the matrix of the transform has none"),
        (singular, "freesurfer", "t.lta", fixed, "the matrix of the transform has none"),
        (affine, "freesurfer", "t.nii.gz", fixed, "FreeSurfer has .lta"),
        (affine, "spm", "t.mat", fixed, "SPM has .nii.gz, .nii"),
        (affine, "fsl", "t.mat", None, "Name it with -r"),
        (flat, "x5", "t.x5", fixed, "X5 has 3D transforms"),
    ):
        with pytest.raises(TransformError) as told:
            write_transform(tmp_path / name, transform, form=form, fixed=grid_of)
        assert words in str(told.value)
    assert not list(tmp_path.iterdir())

"""``nnreg_apply_transform``, ``nnreg_compose`` and ``nnreg_convert_transform`` on tiny files; ITK is the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.cli import apply_transform, compose, convert_transform
from nnreg.dataset.keypoints import read_keypoints, write_keypoints
from nnreg.geometry import FieldMap, Transform
from nnreg.geometry.itk import read_itk, write_itk
from nnreg.geometry.transform_files import read_transforms
from nnreg.imageio import read_image, write_image
from tests.engine.pairs import grids, known_pair


@pytest.fixture(scope="module", params=[2, 3])
def files(request, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp(f"pair{request.param}")
    fixed, moving, _, labels, truth = known_pair(request.param)
    paths = {name: folder / f"{name}.nii.gz" for name in ("fixed", "moving", "labels")}
    for name, image in (("fixed", fixed), ("moving", moving), ("labels", labels)):
        write_image(paths[name], image.array, image.space)
    for name, part in (("transform", truth), ("field", Transform(truth.stages[:1], truth.ndim)), ("affine", Transform(truth.stages[1:], truth.ndim))):
        paths[name] = folder / f"{name}.h5"
        write_itk(paths[name], part)
    paths["folder"] = folder
    return paths


def points_of(files: dict[str, Path]) -> np.ndarray:
    """World positions inside the fixed body."""
    fixed = read_image(files["fixed"])
    return fixed.space.to_world(np.argwhere(fixed.array[0] > 100)[::23])


def same(one: Transform, other: Transform, files: dict[str, Path], tolerance: float) -> bool:
    return bool(np.abs(one.map_points(points_of(files)) - other.map_points(points_of(files))).max() < tolerance)


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_images_and_labels_equal_itk(files, tmp_path, kind):
    source, result = files["moving" if kind == "image" else "labels"], tmp_path / "warped.nii.gz"
    arguments = [str(source), "-t", str(files["field"]), str(files["affine"]), "-r", str(files["fixed"]), "-o", str(result), "--kind", kind, "--outside", "0"]
    assert apply_transform.main(arguments) == 0
    moving, fixed = sitk.ReadImage(str(source)), sitk.ReadImage(str(files["fixed"]))
    how = sitk.sitkLinear if kind == "image" else sitk.sitkNearestNeighbor
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.ReadTransform(str(files["transform"])), how, 0.0))
    found = sitk.GetArrayFromImage(sitk.ReadImage(str(result)))
    assert (np.abs(found - expected) < 0.05).mean() > 0.999


def test_points_go_with_the_transform_and_come_back(files, tmp_path):
    fixed = read_image(files["fixed"]).space
    write_keypoints(tmp_path / "fixed.csv", fixed.to_index(points_of(files))[:, ::-1])
    there = [str(tmp_path / "fixed.csv"), "-t", str(files["transform"]), "-r", str(files["fixed"]), "--moving", str(files["moving"])]
    assert apply_transform.main([*there, "-o", str(tmp_path / "moving.csv")]) == 0
    moving = read_image(files["moving"]).space
    expected = np.array([sitk.ReadTransform(str(files["transform"])).TransformPoint(tuple(point)) for point in points_of(files).tolist()])
    assert np.abs(moving.to_world(read_keypoints(tmp_path / "moving.csv")[:, ::-1]) - expected).max() < 1e-3
    back = [str(tmp_path / "moving.csv"), "-t", str(files["transform"]), "--inverse", "-r", str(files["moving"]), "--moving", str(files["fixed"])]
    assert apply_transform.main([*back, "-o", str(tmp_path / "back.csv")]) == 0
    assert np.percentile(np.abs(read_keypoints(tmp_path / "back.csv") - read_keypoints(tmp_path / "fixed.csv")), 95) < 0.05  # voxels


def test_points_in_millimetres_need_no_image(files, tmp_path):
    write_keypoints(tmp_path / "mm.csv", points_of(files))
    assert apply_transform.main([str(tmp_path / "mm.csv"), "-t", str(files["transform"]), "-o", str(tmp_path / "out.csv")]) == 0
    assert np.abs(read_keypoints(tmp_path / "out.csv") - read_itk(files["transform"]).map_points(points_of(files))).max() < 1e-4


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".nii.gz", ".mha"])
def test_composition_applies_the_first_first(files, tmp_path, ending):
    result = tmp_path / f"whole{ending}"
    assert compose.main([str(files["field"]), str(files["affine"]), "-o", str(result), "-r", str(files["fixed"])]) == 0
    assert same(read_itk(result), read_itk(files["transform"]), files, 1e-3)


def test_a_transform_and_its_inverse_cancel(files, tmp_path):
    whole = str(files["transform"])
    assert compose.main([whole, f"[{whole},1]", "-o", str(tmp_path / "none.h5")]) == 0
    moved = read_itk(tmp_path / "none.h5").map_points(points_of(files)) - points_of(files)
    assert np.percentile(np.linalg.norm(moved, axis=1), 95) < 0.1
    assert compose.main([whole, "--inverse", "-o", str(tmp_path / "inverse.h5")]) == 0
    assert same(read_itk(tmp_path / "inverse.h5"), read_transforms([f"[{whole},1]"]), files, 1e-6)


def test_a_field_applied_to_a_transform_is_the_composition(files, tmp_path):
    arguments = [str(files["affine"]), "-t", str(files["field"]), "-r", str(files["fixed"]), "-o", str(tmp_path / "whole.nii.gz")]
    assert apply_transform.main(arguments) == 0
    assert same(read_itk(tmp_path / "whole.nii.gz"), read_itk(files["transform"]), files, 1e-3)


def test_ants_there_and_back_is_exact(files, tmp_path):
    assert convert_transform.main([str(files["transform"]), "-o", str(tmp_path / "pair_"), "--to", "ants"]) == 0
    parts = [str(tmp_path / "pair_1Warp.nii.gz"), str(tmp_path / "pair_0GenericAffine.mat")]
    assert (tmp_path / "pair_1InverseWarp.nii.gz").is_file()
    assert convert_transform.main([*parts, "-o", str(tmp_path / "back.h5")]) == 0
    assert same(read_itk(tmp_path / "back.h5"), read_itk(files["transform"]), files, 1e-4)


def test_learn2reg_there_and_back_is_exact(files, tmp_path):
    arguments = ["-r", str(files["fixed"]), "--moving", str(files["moving"])]
    code = convert_transform.main([str(files["transform"]), "-o", str(tmp_path / "disp.nii.gz"), "--to", "learn2reg", *arguments])
    if read_image(files["fixed"]).ndim == 2:
        assert code == 2
        return
    assert code == 0
    assert sitk.ReadImage(str(tmp_path / "disp.nii.gz")).GetSize() == (*read_image(files["fixed"]).space.shape[::-1], 3)
    assert convert_transform.main([str(tmp_path / "disp.nii.gz"), "-o", str(tmp_path / "back.h5"), *arguments]) == 0
    assert same(read_itk(tmp_path / "back.h5"), read_itk(files["transform"]), files, 1e-4)


def test_one_matrix_goes_into_a_mat_file_and_a_field_does_not(files, tmp_path, capsys):
    assert convert_transform.main([str(files["affine"]), "-o", str(tmp_path / "one.mat")]) == 0
    assert same(read_itk(tmp_path / "one.mat"), read_itk(files["affine"]), files, 1e-9)
    assert convert_transform.main([str(files["transform"]), "-o", str(tmp_path / "two.mat")]) == 2
    assert "one matrix" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["missing", "damaged", "axes", "reference", "form", "learn2reg"])
def test_mistakes_are_one_line_and_leave_nothing(what, tmp_path, capsys, files):
    other_axes = tmp_path / "other.h5"
    write_itk(other_axes, known_pair(5 - grids(read_image(files["fixed"]).ndim)[0].ndim)[4])
    (tmp_path / "damaged.h5").write_text("nothing")
    np.savez(tmp_path / "disp.npz", np.zeros((3, 4, 5, 3)))
    out = tmp_path / "result.nii.gz"
    image, whole = str(files["moving"]), str(files["transform"])
    command, arguments = {
        "missing": (compose, [str(tmp_path / "absent.h5"), "-o", str(out)]),
        "damaged": (compose, [str(tmp_path / "damaged.h5"), "-o", str(out)]),
        "axes": (apply_transform, [image, "-t", str(other_axes), "-r", image, "-o", str(out)]),
        "reference": (apply_transform, [image, "-t", whole, "-o", str(out)]),
        "form": (convert_transform, [whole, "-o", str(out), "--to", "elastix"]),
        "learn2reg": (convert_transform, [str(tmp_path / "disp.npz"), "-o", str(out)]),
    }[what]
    assert command.main(arguments) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not out.exists()


def test_points_go_into_a_csv_file_only(files, tmp_path, capsys):
    write_keypoints(tmp_path / "mm.csv", points_of(files))
    assert apply_transform.main([str(tmp_path / "mm.csv"), "-t", str(files["transform"]), "-o", str(tmp_path / "out.nii.gz")]) == 2
    assert "out.nii.gz: points are written as rows of a .csv file" in capsys.readouterr().err
    assert not (tmp_path / "out.nii.gz").exists()


def test_ants_files_are_of_one_transform(files, tmp_path, capsys):
    """A conversion that fails leaves those of the transform before, and a linear one is not written beside a field."""
    space = read_image(files["fixed"]).space
    folds = np.zeros((space.ndim, *space.shape), np.float32)
    folds[-1] = 6 * np.sin(np.arange(space.shape[-1]))
    write_itk(tmp_path / "folds.h5", Transform((FieldMap(folds, space),), space.ndim))
    prefix = str(tmp_path / "pair_")
    assert convert_transform.main([str(files["transform"]), "-o", prefix, "--to", "ants"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for given, words in (
        ([tmp_path / "folds.h5"], "pair_1InverseWarp.nii.gz: the displacement field cannot be inverted"),
        ([files["field"], files["transform"]], "Name the fixed image"),
        ([files["affine"]], "pair_1Warp.nii.gz: is of another transform"),
    ):
        assert convert_transform.main([*map(str, given), "-o", prefix, "--to", "ants"]) == 2
        assert words in capsys.readouterr().err
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("inverse", ["[flat.tfm,1]", "--inverse"])
def test_a_matrix_without_an_inverse_is_named(inverse, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_itk("flat.tfm", Transform.affine(np.diag([1.0, 1.0, 0.0, 1.0])))
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")
    chain = [inverse] if inverse.startswith("[") else ["flat.tfm", inverse]
    assert compose.main([*chain, "-o", "back.h5"]) == 2
    assert apply_transform.main(["points.csv", "-o", "back.csv", "-t", *chain]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all("flat.tfm: its matrix cannot be inverted" in line for line in told)
    assert not list(tmp_path.glob("back*"))

"""What nnreg_predict writes means to SimpleITK, without nnReg, what the documentation says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

SHARE_OF_RANGE = 1e-3
SCRAMBLED = "checkpoint_scrambled.pth"


@pytest.fixture(scope="module", params=["flat", "solid"])
def predicted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions of a network that moves things by more than a voxel."""
    tiny = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(f"predicted_{request.param}")
    more = ["--fixed", "x", "--moving", "y", "--learn2reg"] if request.param == "solid" else []
    tiny.predict(folder, "-chk", SCRAMBLED, *more)
    return folder


def pairs(folder: Path) -> list[tuple[Path, sitk.Image, sitk.Image]]:
    """Folder of a pair, its fixed and its moving image."""
    content = json.loads((folder / "prediction.json").read_text())
    return [(folder / pair["name"], *(sitk.ReadImage(pair[f"{role}_images"][0]) for role in ("fixed", "moving"))) for pair in content["pairs"]]


def displacement_in_voxels(path: Path) -> float:
    """Longest displacement of the deformable part of a composite, in voxels of its own grid."""
    composite = sitk.CompositeTransform(sitk.ReadTransform(str(path)))
    parts = [composite.GetNthTransform(i) for i in range(composite.GetNumberOfTransforms())]
    fields = [sitk.DisplacementFieldTransform(part).GetDisplacementField() for part in parts if part.GetName() == "DisplacementFieldTransform"]
    assert len(fields) == 1
    return float(np.linalg.norm(sitk.GetArrayFromImage(fields[0]), axis=-1).max() / max(fields[0].GetSpacing()))


def test_the_images_differ_in_everything(predicted):
    for _, fixed, moving in pairs(predicted):
        assert fixed.GetSize() != moving.GetSize()
        assert not np.allclose(fixed.GetSpacing(), moving.GetSpacing(), rtol=0.01)
        assert not np.allclose(fixed.GetDirection(), moving.GetDirection(), atol=0.01)


def test_simpleitk_alone_gives_the_same_warped_image_and_labels(predicted):
    for folder, fixed, moving in pairs(predicted):
        assert displacement_in_voxels(folder / "transform.h5") > 1.0
        transform = sitk.ReadTransform(str(folder / "transform.h5"))
        values = sitk.GetArrayViewFromImage(moving)
        resampled = sitk.Resample(moving, fixed, transform, sitk.sitkLinear, float(values.min()))
        warped = sitk.ReadImage(str(folder / "warped.nii.gz"))
        difference = np.abs(sitk.GetArrayFromImage(resampled).astype(float) - sitk.GetArrayFromImage(warped)).mean()
        assert difference < SHARE_OF_RANGE * np.ptp(values)
        # and it is not the moving image through the header, nor through the alignment
        for other in (sitk.Transform(fixed.GetDimension(), sitk.sitkIdentity), sitk.ReadTransform(str(folder / "alignment.h5"))):
            plain = sitk.Resample(moving, fixed, other, sitk.sitkLinear, float(values.min()))
            assert np.abs(sitk.GetArrayFromImage(plain).astype(float) - sitk.GetArrayFromImage(warped)).mean() > 10 * SHARE_OF_RANGE * np.ptp(values)


def test_warped_labels_are_what_simpleitk_makes_of_them(predicted):
    seen = 0
    for folder, fixed, _ in pairs(predicted):
        written = folder / "warped_labels.nii.gz"
        assert written.is_file()
        case = folder.name.partition("__")[2]
        content = json.loads((predicted / "prediction.json").read_text())["pairs"]
        images = Path(next(pair["moving_images"][0] for pair in content if pair["name"] == folder.name)).parent
        labels = sitk.ReadImage(str(images.with_name(images.name.replace("images", "labels")) / f"{case}.nii.gz"))
        resampled = sitk.Resample(labels, fixed, sitk.ReadTransform(str(folder / "transform.h5")), sitk.sitkNearestNeighbor, 0)
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(written)))
        # a voxel that lies exactly between two may go either way
        assert np.mean(sitk.GetArrayFromImage(resampled) != ours) < 1e-3
        seen += int((ours > 0).sum())
    assert seen > 0


def test_the_written_field_maps_points_like_the_transform(predicted):
    for folder, fixed, _ in pairs(predicted):
        path = next(path for path in (folder / "field.nii.gz", folder / "field.mha") if path.exists())
        field = sitk.ReadImage(str(path), sitk.sitkVectorFloat64)
        assert field.GetSize() == fixed.GetSize()
        np.testing.assert_allclose(field.GetOrigin(), fixed.GetOrigin(), atol=1e-3)
        transform, as_field = sitk.ReadTransform(str(folder / "transform.h5")), sitk.DisplacementFieldTransform(field)
        rng = np.random.default_rng(0)
        for _ in range(50):
            index = [int(rng.integers(size)) for size in fixed.GetSize()]
            point = fixed.TransformIndexToPhysicalPoint(index)
            # on the voxels themselves both are exact, up to the single precision of the file
            np.testing.assert_allclose(as_field.TransformPoint(point), transform.TransformPoint(point), atol=2e-3)


def test_learn2reg_files_give_the_moving_index_of_every_fixed_index(predicted):
    if not (predicted / "learn2reg").is_dir():
        pytest.skip("Learn2Reg's format is three-dimensional")
    for folder, fixed, moving in pairs(predicted):
        path = predicted / "learn2reg" / f"disp_{folder.name.replace('__', '_')}.nii.gz"
        displacement = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(3, 2, 1, 0)  # (X, Y, Z, 3)
        assert displacement.shape == (*fixed.GetSize(), 3)
        transform = sitk.ReadTransform(str(folder / "transform.h5"))
        rng = np.random.default_rng(0)
        for _ in range(50):
            index = tuple(int(rng.integers(size)) for size in fixed.GetSize())
            expected = moving.TransformPhysicalPointToContinuousIndex(transform.TransformPoint(fixed.TransformIndexToPhysicalPoint(index)))
            np.testing.assert_allclose(np.asarray(index) + displacement[index], expected, atol=2e-3)

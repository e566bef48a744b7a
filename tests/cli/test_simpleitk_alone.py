"""What nnreg_predict writes means to SimpleITK, without nnReg, what the documentation says."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import SimpleITK as sitk

SHARE_OF_RANGE = 1e-3
SCRAMBLED = "checkpoint_scrambled.pth"


class Predicted(NamedTuple):
    """A pair's folder and the images it was made from."""

    folder: Path
    fixed: sitk.Image
    moving: sitk.Image
    moving_labels: sitk.Image


@pytest.fixture(scope="module", params=["flat", "solid"])
def predicted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Predicted]:
    """Predictions of a network that moves things by more than a voxel."""
    tiny = request.getfixturevalue(request.param)
    folder = tmp_path_factory.mktemp(f"predicted_{request.param}")
    more = ["--fixed", "x", "--moving", "y", "--learn2reg", "--field"] if request.param == "solid" else ["--field"]
    content = tiny.predict(folder, "-chk", SCRAMBLED, *more)
    paths = [(pair["name"], tiny.image(pair["fixed"]), tiny.image(pair["moving"]), tiny.label(pair["moving"])) for pair in content["pairs"]]
    return [Predicted(folder / name, *(sitk.ReadImage(str(path)) for path in images)) for name, *images in paths]


def displacement_in_voxels(path: Path) -> float:
    """Longest displacement of the deformable part of a composite, in voxels of its own grid."""
    composite = sitk.CompositeTransform(sitk.ReadTransform(str(path)))
    parts = [composite.GetNthTransform(i) for i in range(composite.GetNumberOfTransforms())]
    fields = [sitk.DisplacementFieldTransform(part).GetDisplacementField() for part in parts if part.GetName() == "DisplacementFieldTransform"]
    assert len(fields) == 1
    return float(np.linalg.norm(sitk.GetArrayFromImage(fields[0]), axis=-1).max() / max(fields[0].GetSpacing()))


def test_the_images_differ_in_everything(predicted):
    for _, fixed, moving, _ in predicted:
        assert fixed.GetSize() != moving.GetSize()
        assert not np.allclose(fixed.GetSpacing(), moving.GetSpacing(), rtol=0.01)
        assert not np.allclose(fixed.GetDirection(), moving.GetDirection(), atol=0.01)


def test_simpleitk_alone_gives_the_same_warped_image_and_labels(predicted):
    for folder, fixed, moving, _ in predicted:
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
    for folder, fixed, _, labels in predicted:
        resampled = sitk.Resample(labels, fixed, sitk.ReadTransform(str(folder / "transform.h5")), sitk.sitkNearestNeighbor, 0)
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "warped_labels.nii.gz")))
        assert ours.any()
        # a voxel that lies exactly between two may go either way
        assert np.mean(sitk.GetArrayFromImage(resampled) != ours) < 1e-3


def test_the_written_field_maps_points_like_the_transform(predicted):
    for folder, fixed, _, _ in predicted:
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
    if predicted[0].fixed.GetDimension() == 2:
        pytest.skip("Learn2Reg's format is three-dimensional")
    for folder, fixed, moving, _ in predicted:
        path = folder.parent / "learn2reg" / f"disp_{folder.name.replace('__', '_')}.nii.gz"
        displacement = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(3, 2, 1, 0)  # (X, Y, Z, 3)
        assert displacement.shape == (*fixed.GetSize(), 3)
        transform = sitk.ReadTransform(str(folder / "transform.h5"))
        rng = np.random.default_rng(0)
        for _ in range(50):
            index = tuple(int(rng.integers(size)) for size in fixed.GetSize())
            expected = moving.TransformPhysicalPointToContinuousIndex(transform.TransformPoint(fixed.TransformIndexToPhysicalPoint(index)))
            np.testing.assert_allclose(np.asarray(index) + displacement[index], expected, atol=2e-3)

"""Images as other packages hold them."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.errors import ImageError
from nnreg.geometry import Space
from nnreg.imageio import Image, read_image, write_image
from nnreg.imageio.convert import as_image

SPACE = Space((4, 5, 6), (2.5, 0.8, 1.1), (3.0, -4.0, 7.0), (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
ARRAY = np.random.default_rng(0).random((1, *SPACE.shape)).astype(np.float32)


def test_an_image_is_itself_and_a_path_is_read(tmp_path):
    image = Image(ARRAY, SPACE)
    assert as_image(image) is image
    write_image(tmp_path / "a.nii.gz", ARRAY, SPACE)
    for path in (tmp_path / "a.nii.gz", str(tmp_path / "a.nii.gz")):
        assert np.array_equal(as_image(path).array, ARRAY)


def test_sitk_brings_geometry_and_channels(tmp_path):
    write_image(tmp_path / "a.mha", np.concatenate([ARRAY, 2 * ARRAY]), SPACE)
    found = as_image(sitk.ReadImage(str(tmp_path / "a.mha")))
    assert found.space.same_as(SPACE)
    assert np.array_equal(found.array, np.concatenate([ARRAY, 2 * ARRAY]))


def test_nibabel_is_the_same_image_as_its_file(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    write_image(tmp_path / "a.nii.gz", ARRAY, SPACE)
    found, read = as_image(nibabel.load(tmp_path / "a.nii.gz")), read_image(tmp_path / "a.nii.gz")
    assert np.array_equal(found.array, read.array)
    assert np.abs(found.space.corners() - read.space.corners()).max() < 1e-4
    sheared = nibabel.Nifti1Image(ARRAY[0].T, np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    with pytest.raises(ImageError, match="fixed: its affine has shear"):
        as_image(sheared, name="fixed")


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_arrays_take_their_spacing_from_the_caller(kind):
    torch = pytest.importorskip("torch")
    given = torch.from_numpy(ARRAY) if kind == "torch" else ARRAY
    for one in (given, given[0]):
        found = as_image(one, spacing=(2.5, 0.8, 1.1))
        assert found.space == Space.plain(SPACE.shape, SPACE.spacing)
        assert np.array_equal(found.array, ARRAY)
    assert as_image(given[0, 0], spacing=(1, 1)).space.shape == (5, 6)
    assert as_image(given[0] > 0.5, spacing=(1, 1, 1)).array.dtype == np.uint8


@pytest.mark.parametrize(
    ("given", "spacing", "words"),
    [
        (ARRAY[0], None, r"moving: is an array of shape \(4, 5, 6\) without spacing"),
        (ARRAY[0, 0], (1, 1, 1), "3 spacings do not fit"),
        (ARRAY[0].astype(complex), (1, 1, 1), "complex128, expected numbers"),
        (np.full((4, 5, 6), np.nan), (1, 1, 1), "moving: has 120 NaN"),
        ([[1, 2]], (1, 1), "found list, expected a path"),
    ],
)
def test_what_is_no_image_is_told(given, spacing, words):
    with pytest.raises(ImageError, match=words):
        as_image(given, spacing=spacing, name="moving")

"""nnreg.register: images of any package in, a result that applies, saves and shows itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

import nnreg
from nnreg.api.pair import RegisteredPair
from nnreg.errors import ImageError, NnRegError, RegistrationError
from nnreg.geometry import Space, index_points_to_world
from nnreg.geometry.itk import read_itk
from nnreg.imageio import Image, read_image, write_image
from tests.engine.pairs import known_pair

QUICK = {"preset": "fast", "alignment": "none", "similarity": "lncc"}


@pytest.fixture(scope="module")
def pair() -> tuple[Image, Image]:
    found = known_pair(2)
    return found[0], found[1]


@pytest.fixture(scope="module")
def registered(pair) -> RegisteredPair:
    labels = [(image.array > np.median(image.array)).astype(np.uint8) for image in pair]
    return nnreg.register(*pair, fixed_labels=labels[0], moving_labels=labels[1], **QUICK)


def test_every_form_of_an_image_gives_the_same_map(pair, registered, tmp_path):
    paths = []
    for name, image in zip(("f.mha", "m.mha"), pair, strict=True):
        write_image(tmp_path / name, image.array, image.space)
        paths.append(tmp_path / name)
    alone = nnreg.register(*pair, **QUICK)
    for given in (paths, [str(path) for path in paths], [sitk.ReadImage(str(path)) for path in paths]):
        found = nnreg.register(*given, **QUICK)
        assert np.array_equal(found.field.displacement, alone.field.displacement)


def test_arrays_and_tensors_take_one_spacing():
    torch = pytest.importorskip("torch")
    image = known_pair(2)[0].array[0]
    arrays = image, np.roll(image, 2, axis=1)
    by_array = nnreg.register(*arrays, spacing=(1, 1), **QUICK)
    by_tensor = nnreg.register(*(torch.from_numpy(array) for array in arrays), spacing=(1, 1), **QUICK)
    assert np.array_equal(by_array.field.displacement, by_tensor.field.displacement)
    with pytest.raises(ImageError, match=r"fixed: is an array of shape .* without spacing"):
        nnreg.register(*arrays, **QUICK)


def test_the_result_applies_itself_to_images_labels_and_points(pair, registered):
    fixed, moving = pair
    again = registered.apply(moving)
    assert again.space == fixed.space
    assert np.array_equal(again.array, registered.warped.array)
    assert np.array_equal(registered.apply(moving.array).array, registered.warped.array)  # an array of the moving shape lies where it does
    labels = (moving.array > np.median(moving.array)).astype(np.uint8)
    assert set(np.unique(registered.apply(labels, labels=True).array)) <= {0, 1}
    points = index_points_to_world([[5.0, 6.0]], fixed.space)
    assert np.allclose(registered.inverse.map_points(registered.apply_points(points)), points, atol=0.1)


def test_the_result_is_saved_as_the_command_saves_it(registered, tmp_path):
    folder = registered.save(tmp_path / "out", field=True)
    names = {path.name for path in folder.iterdir()}
    assert names == {"transform.h5", "inverse_transform.h5", "field.nii.gz", "warped.nii.gz", "warped_labels.nii.gz", "measures.json", "overview.png"}
    points = registered.fixed.space.corners()
    assert np.allclose(read_itk(folder / "transform.h5").map_points(points), registered.apply_points(points), atol=1e-3)
    measures = json.loads((folder / "measures.json").read_text())
    assert measures["fixed"] == ["in memory"]
    assert measures["guided_by"] == ["labels"]
    assert np.allclose(read_image(folder / "warped.nii.gz").array, registered.warped.array)


def test_the_result_shows_itself(registered):
    assert repr(registered).startswith("RegisteredPair(succeeded, fixed grid ")
    page = registered._repr_html_()
    assert 'alt="' in page.replace("'", '"')
    assert "data:image/png;base64," in page
    assert "<th style='text-align:left'>dice</th><td>header 0." in page


def test_what_lies_beside_an_image_must_fit(pair):
    wrong = np.zeros((3, 3), np.uint8)
    with pytest.raises(NnRegError, match="does not lie on a grid"):
        nnreg.register(*pair, fixed_mask=wrong, **QUICK)
    with pytest.raises(NnRegError, match="moving_labels"):
        nnreg.register(*pair, fixed_labels=pair[0].array > 1, moving_labels=pair[1].array + 0.5, **QUICK)
    with pytest.raises(NnRegError, match="fixed_points"):
        nnreg.register(*pair, fixed_points=[[1e4, 0.0]], moving_points=[[1.0, 0.0]], **QUICK)
    with pytest.raises(RegistrationError):
        nnreg.register(pair[0], Image(np.zeros((1, 4, 4, 4), np.float32), Space.plain((4, 4, 4))), **QUICK)

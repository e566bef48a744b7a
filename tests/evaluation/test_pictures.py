"""Pictures: which way up, and that every kind of image gives one."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.image import imread
from scipy.ndimage import gaussian_filter

from nnreg.errors import NnRegError
from nnreg.evaluation.registration.pictures import overview, overview_of_transform
from nnreg.evaluation.slices import affine_part, page, planes, views
from nnreg.geometry import FieldMap, Space, Transform, resample_image
from nnreg.imageio import Image

LEFT, POSTERIOR, SUPERIOR = range(3)


def textured(space: Space, channels: int = 1, seed: int = 0) -> Image:
    rng = np.random.default_rng(seed)
    return Image(np.stack([gaussian_filter(rng.normal(size=space.shape), 1.5) for _ in range(channels)]).astype(np.float32), space)


def world_coordinate(space: Space, axis: int) -> Image:
    return Image(space.to_world(np.moveaxis(np.indices(space.shape), 0, -1))[..., axis][None].astype(np.float32), space)


def views_of(image: Image, transform: Transform | None = None) -> dict:
    transform = transform or Transform.identity(image.space.ndim)
    return {view.name: view for view in views(fixed=image, moving=image, warped=image, transform=transform)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (1, -1, 1)])
def test_views_stand_as_in_radiology(rotated_space, seed, flips):
    """However the axes are stored: the patient's left is on the right, posterior is down, superior is up."""
    oblique = rotated_space((11, 14, 9), seed)
    order = np.random.default_rng(seed).permutation(3)
    matrix = oblique.matrix @ np.block([[(np.diag(flips) * 1.0)[:, order], np.zeros((3, 1))], [np.zeros((1, 3)), 1]])
    space = Space.from_matrix(tuple(np.array(oblique.shape)[order]), matrix)

    def slopes(axis: int, name: str) -> tuple[float, float]:
        page = views_of(world_coordinate(space, axis))[name].fixed[0]
        return float(np.diff(page, axis=0).mean()), float(np.diff(page, axis=1).mean())

    assert slopes(POSTERIOR, "axial")[0] > 0
    assert slopes(LEFT, "axial")[1] > 0
    assert slopes(SUPERIOR, "coronal")[0] < 0
    assert slopes(LEFT, "coronal")[1] > 0
    assert slopes(SUPERIOR, "sagittal")[0] < 0
    assert slopes(POSTERIOR, "sagittal")[1] > 0


def test_slices_are_cut_out_of_what_the_whole_images_show(shape, rotated_space):
    fixed, moving = textured(rotated_space(shape), 2), textured(rotated_space(tuple(size + 3 for size in shape), 5), 2, seed=1)
    matrix = np.eye(len(shape) + 1)
    matrix[0, 1], matrix[0, -1] = 0.2, 4.0
    affine = Transform.affine(matrix)
    shown = {view.name: view for view in views(fixed=fixed, moving=moving, warped=fixed, transform=affine)}
    for name, space in planes(fixed):
        for image, transform, found in ((fixed, None, shown[name].fixed), (moving, affine, shown[name].moving)):
            assert np.allclose(found, page(resample_image(image.array, moving=image.space, fixed=space, transform=transform)), atol=1e-4)


def test_an_affine_map_has_no_deformation_left(shape, rotated_space):
    image, matrix = textured(rotated_space(shape)), np.eye(len(shape) + 1)
    matrix[0, 1], matrix[0, -1] = 0.1, 7.0
    transform = Transform.affine(matrix)
    assert np.allclose(affine_part(transform, image).matrix, matrix, atol=1e-6)
    for view in views_of(image, transform).values():
        assert np.abs(view.field).max() < 1e-3
        assert np.allclose(view.determinant, 1, atol=1e-3)


def test_in_plane_vectors_and_folds_of_a_view(rotated_space):
    """A displacement of two pixels down the page in the middle of a 2D image, and a fold where it jumps."""
    space = Space.plain((30, 40))
    field = np.zeros((2, 30, 40), np.float32)
    field[0, 10:13, 15:25] = 3
    view = views_of(textured(space), Transform((FieldMap(field, space),), 2))[""]
    remainder = view.field - np.median(view.field, axis=(1, 2), keepdims=True)
    assert remainder[0, 11, 20] == pytest.approx(3, abs=0.3)
    assert abs(remainder[1, 11, 20]) < 0.3
    assert (view.determinant[11:15, 18:22] <= 0).any()


@pytest.mark.parametrize(("shape", "channels"), [((17, 24), 1), ((17, 24), 2), ((17, 24), 3), ((11, 14, 9), 1), ((1, 17, 24), 1), ((17, 2, 24), 3)])
def test_every_kind_of_pair_gives_a_picture(tmp_path, rotated_space, shape, channels):
    fixed, moving = textured(rotated_space(shape, 0), channels), textured(rotated_space(shape, 1), channels, seed=1)
    if channels == 3:
        fixed, moving = (Image((np.clip(image.array, 0, 1) * 255).astype(np.uint8), image.space) for image in (fixed, moving))
    transform = Transform.affine(np.diag([1.05] + [1.0] * len(shape)))
    warped = Image(resample_image(moving.array, moving=moving.space, fixed=fixed.space, transform=transform), fixed.space)
    overview_of_transform(tmp_path / "overview.png", fixed, moving, warped, transform)
    picture = imread(tmp_path / "overview.png")
    assert min(picture.shape[:2]) > 50
    assert picture[..., :3].std() > 0.05
    assert [path.name for path in tmp_path.iterdir()] == ["overview.png"]


def test_flat_images_and_fewer_moving_channels_give_a_picture(tmp_path):
    space = Space.plain((12, 15))
    fixed, moving = textured(space, 2), Image(np.zeros((1, 12, 15), np.float32), space)
    overview_of_transform(tmp_path / "flat.png", fixed, moving, moving, Transform.identity(2))
    assert (tmp_path / "flat.png").stat().st_size > 0


def test_arrays_and_a_field_give_a_picture(tmp_path, smooth_field):
    image = textured(Space.plain((17, 24))).array
    overview(tmp_path / "a.png", image, image, image, smooth_field((17, 24))[0].numpy(), spacing=(2.0, 1.0))
    assert imread(tmp_path / "a.png").ndim == 3


def test_a_picture_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    image = textured(Space.plain((12, 15)))
    with pytest.raises(NnRegError, match="cannot be written"):
        overview_of_transform(tmp_path / "file" / "a.png", image, image, image, Transform.identity(2))

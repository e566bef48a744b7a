"""What is written comes back: values, dtype, channels, geometry; and other programs read the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile

from nnreg.errors import ImageError, WriteError
from nnreg.geometry import Space
from nnreg.imageio import ENDINGS, READERS, WRITERS, Image, as_stored, ending_for, ending_of, read_channels, read_image, write_image

ITK_ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".nhdr")
FULL_GEOMETRY = (*ITK_ENDINGS, ".tif", ".tiff", ".npz")
DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64")


def values(shape, dtype="float32", seed=0):
    return (np.random.default_rng(seed).random(shape) * 100).astype(dtype)


def same_geometry(found: Space, expected: Space, relative=1e-6):
    assert found.shape == expected.shape
    for key in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(found, key), getattr(expected, key), rtol=relative, atol=1e-6)


@pytest.mark.parametrize("ending", FULL_GEOMETRY)
def test_values_and_oblique_geometry_come_back(tmp_path, rotated_space, shape, ending):
    space, array = rotated_space(shape, seed=len(shape)), values((1, *shape))
    write_image(tmp_path / f"a{ending}", array, space)
    image = read_image(tmp_path / f"a{ending}")
    assert np.array_equal(image.array, array)
    assert image.array.dtype == array.dtype
    assert image.notes == ()
    same_geometry(image.space, space)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ".tif", ".npz", ".npy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtype_is_kept(tmp_path, ending, dtype):
    array = values((1, 4, 5, 6), dtype)
    write_image(tmp_path / f"a{ending}", array, Space.plain((4, 5, 6)))
    image = read_image(tmp_path / f"a{ending}")
    assert image.array.dtype == array.dtype
    assert np.array_equal(image.array, array)


@pytest.mark.parametrize("ending", [*FULL_GEOMETRY, ".npy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinity_are_not_mended(tmp_path, ending, dtype):
    array = values((1, 4, 5, 6), dtype)
    array[0, 0, 0, :3] = np.nan, np.inf, -np.inf
    write_image(tmp_path / f"a{ending}", array, Space.plain((4, 5, 6)))
    np.testing.assert_array_equal(read_image(tmp_path / f"a{ending}").array, array)


@pytest.mark.parametrize("ending", FULL_GEOMETRY)
@pytest.mark.parametrize(("channels", "dtype"), [(2, "float32"), (3, "uint8"), (4, "uint16"), (5, "int16")])
def test_channels_come_back(tmp_path, rotated_space, shape, ending, channels, dtype):
    space, array = rotated_space(shape), values((channels, *shape), dtype)
    write_image(tmp_path / f"a{ending}", array, space)
    image = read_image(tmp_path / f"a{ending}")
    assert np.array_equal(image.array, array)
    same_geometry(image.space, space)


@pytest.mark.parametrize("ending", [*FULL_GEOMETRY, ".npy"])
def test_a_single_slice_is_not_a_2d_image(tmp_path, ending):
    for shape in ((1, 7, 9), (7, 9)):
        write_image(tmp_path / f"a{ending}", values((1, *shape)), Space.plain(shape))
        assert read_image(tmp_path / f"a{ending}").space.shape == shape


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (1, "uint16"), (3, "uint8"), (3, "uint16"), (4, "uint8")])
def test_png_is_exact(tmp_path, channels, dtype):
    array = (np.random.default_rng(0).random((channels, 13, 8)) * np.iinfo(dtype).max).astype(dtype)
    space = Space((13, 8), (0.7, 0.4), (3.0, -2.0), (1.0, 0.0, 0.0, 1.0))
    write_image(tmp_path / "a.png", array, space)
    image = read_image(tmp_path / "a.png")
    assert np.array_equal(image.array, array)
    assert image.array.dtype == array.dtype
    assert image.space == space  # from a.json
    write_image(tmp_path / "a.png", array, Space.plain((13, 8)))
    assert read_image(tmp_path / "a.png").space == Space.plain((13, 8))


def test_png_labels_of_any_integer_type_are_exact(tmp_path):
    labels = np.arange(300, dtype=np.int32).reshape(1, 15, 20)
    write_image(tmp_path / "a.png", labels, Space.plain((15, 20)))
    assert np.array_equal(read_image(tmp_path / "a.png").array, labels)


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("a.png", np.full((1, 4, 5), 0.5), "float64"),
        ("a.png", np.full((1, 4, 5), -1), "-1"),
        ("a.png", np.zeros((2, 4, 5), np.uint8), "found 2"),
        ("a.png", np.zeros((1, 4, 5, 6), np.uint8), "(4, 5, 6)"),
        ("a.jpg", np.zeros((1, 4, 5), np.uint8), "Write .png instead"),
        ("a.npy", np.zeros((2, 4, 5), np.uint8), "Use .npz"),
        ("a.nii.gz", np.zeros((2, 1, 4, 5), np.uint8), "Use .mha"),
        ("a.bmp", np.zeros((1, 4, 5), np.uint8), "'.bmp'"),
        ("a.mha", np.zeros((1, 4, 5), np.complex64), "complex64"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_nothing_is_left(tmp_path, name, array, said):
    with pytest.raises(ImageError) as error:
        write_image(tmp_path / name, array, Space.plain(array.shape[1:]))
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_does_not_fit_its_grid_is_refused(tmp_path):
    with pytest.raises(ImageError, match="does not lie on a grid"):
        write_image(tmp_path / "a.nii.gz", np.zeros((4, 5)), Space.plain((4, 5)))


def test_writing_into_a_file_or_a_closed_folder_says_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ImageError, match="file") as told:
        write_image(tmp_path / "file" / "a.nii.gz", np.zeros((1, 4, 5)), Space.plain((4, 5)))
    assert isinstance(told.value, WriteError)  # no fault of the image


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd"])
def test_simpleitk_reads_the_same_image(tmp_path, rotated_space, ending):
    shape = (4, 5, 6)
    space, array = rotated_space(shape), values((1, *shape), "int16")
    write_image(tmp_path / f"a{ending}", array, space)
    image = sitk.ReadImage(str(tmp_path / f"a{ending}"))
    assert np.array_equal(sitk.GetArrayFromImage(image), array[0])
    np.testing.assert_allclose(image.GetSpacing(), space.spacing[::-1], rtol=1e-6)
    np.testing.assert_allclose(image.GetOrigin(), space.origin, rtol=1e-6)
    np.testing.assert_allclose(image.GetDirection(), space.direction, atol=1e-6)


def test_four_dimensional_scalars_become_channels(tmp_path):
    frames = values((3, 4, 5, 6))
    image = sitk.JoinSeries([sitk.GetImageFromArray(frame) for frame in frames])
    image.SetSpacing((2.0, 3.0, 4.0, 1.0))
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    found = read_image(tmp_path / "a.nii.gz")
    assert np.array_equal(found.array, frames)
    assert found.space.spacing == (4.0, 3.0, 2.0)


def test_npz_by_key_and_without_geometry(tmp_path):
    first, second = values((4, 5, 6)), values((4, 5, 6), seed=1)
    np.savez(tmp_path / "a.npz", first=first, second=second)
    assert np.array_equal(read_image(tmp_path / "a.npz", npz_key="second").array[0], second)
    for key in (None, "third"):
        with pytest.raises(ImageError, match="first, second"):
            read_image(tmp_path / "a.npz", npz_key=key)
    np.savez(tmp_path / "b.npz", values=first, spacing=(1.0, 2.0, 3.0))
    found = read_image(tmp_path / "b.npz")
    assert found.space.spacing == (1.0, 2.0, 3.0)
    assert np.array_equal(found.array[0], first)
    np.savez(tmp_path / "c.npz", values=first, spacing=(2.0, 3.0))  # two spacings: the first axis holds channels
    assert read_image(tmp_path / "c.npz").array.shape == (4, 5, 6)
    np.savez(tmp_path / "d.npz", values=first, spacing=(2.0,))
    with pytest.raises(ImageError, match="spatial axes"):
        read_image(tmp_path / "d.npz")


def test_npy_uses_the_json_beside_it(tmp_path):
    np.save(tmp_path / "case_0000.npy", values((4, 5, 6)))
    assert read_image(tmp_path / "case_0000.npy").space == Space.plain((4, 5, 6))
    (tmp_path / "case.json").write_text(json.dumps({"spacing": [3, 2, 1]}))
    assert read_image(tmp_path / "case_0000.npy").space.spacing == (3.0, 2.0, 1.0)
    (tmp_path / "case.json").write_text(json.dumps({"spacing": [3, 2]}))
    with pytest.raises(ImageError, match=r"spacing has 2 values"):
        read_image(tmp_path / "case_0000.npy")


def test_tiff_of_other_programs(tmp_path):
    stack = values((4, 5, 6))
    resolution, unit = (1 / 0.25, 1 / 0.5), {"spacing": 2.0, "unit": "mm", "axes": "ZYX"}
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True, resolution=resolution, metadata=unit)
    image = read_image(tmp_path / "imagej.tif")
    assert np.array_equal(image.array[0], stack)
    np.testing.assert_allclose(image.space.spacing, (2.0, 0.5, 0.25))
    tifffile.imwrite(tmp_path / "pages.tif", stack, metadata=None, photometric="minisblack")
    assert read_image(tmp_path / "pages.tif").space == Space.plain((4, 5, 6))
    rgb = values((5, 6, 3), "uint8")
    tifffile.imwrite(tmp_path / "rgb.tif", rgb, photometric="rgb", metadata=None)
    assert np.array_equal(read_image(tmp_path / "rgb.tif").array, rgb.transpose(2, 0, 1))
    sitk.WriteImage(sitk.GetImageFromArray(values((9, 7), "uint8")), str(tmp_path / "lzw.tif"), useCompression=True, compressor="LZW")
    assert np.array_equal(read_image(tmp_path / "lzw.tif").array[0], values((9, 7), "uint8"))


def test_tiff_of_several_kinds_of_pages_is_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(values((5, 6)), metadata=None)
        writer.write(values((9, 7)), metadata=None)
    with pytest.raises(ImageError, match="2 images of different kinds"):
        read_image(tmp_path / "a.tif")


def test_channel_files_are_joined_and_must_agree(tmp_path, rotated_space):
    shape = (4, 5, 6)
    space = rotated_space(shape)
    first, second = values((1, *shape), "int16"), values((1, *shape), "float32", seed=1)
    write_image(tmp_path / "a_0000.nii.gz", first, space)
    write_image(tmp_path / "a_0001.nii.gz", second, space)
    joined = read_channels([tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"])
    assert np.array_equal(joined.array, np.concatenate([first, second]))
    write_image(tmp_path / "b_0001.nii.gz", values((1, 4, 5, 7)), Space.plain((4, 5, 7)))
    moved = Space(shape, space.spacing, tuple(value + 1 for value in space.origin), space.direction)
    write_image(tmp_path / "c_0001.nii.gz", second, moved)
    for other, what in (("b_0001.nii.gz", "shape"), ("c_0001.nii.gz", "origin")):
        with pytest.raises(ImageError, match=what) as error:
            read_channels([tmp_path / "a_0000.nii.gz", tmp_path / other])
        assert "a_0000.nii.gz" in str(error.value)
        assert other in str(error.value)


def test_dots_per_inch_are_told_where_itk_takes_them_for_a_spacing(tmp_path):
    picture = sitk.GetImageFromArray(values((6, 5), "uint8"))
    for ending in (".jpg", ".tif", ".png"):
        sitk.WriteImage(picture, str(tmp_path / f"a{ending}"))
        assert read_image(tmp_path / f"a{ending}").notes == ()
    header = bytearray((tmp_path / "a.jpg").read_bytes())
    density = header.index(b"JFIF\0") + 7
    header[density : density + 5] = (1, 0, 72, 0, 144)  # dots per inch: columns, rows
    (tmp_path / "a.jpg").write_bytes(header)
    tifffile.imwrite(tmp_path / "a.tif", values((6, 5), "uint8"), resolution=(72, 144), resolutionunit=2)
    for ending in (".jpg", ".tif"):
        assert sitk.ReadImage(str(tmp_path / f"a{ending}")).GetSpacing() == pytest.approx((25.4 / 72, 25.4 / 144))
        found = read_image(tmp_path / f"a{ending}")
        assert found.space == Space.plain((6, 5))
        assert "spacing of 0.3528 x 0.1764 mm" in found.notes[0]
        assert "image.SetSpacing((1, 1))" in found.notes[0]


def test_the_spacing_that_itk_wrote_into_png_is_read(tmp_path):
    picture = sitk.GetImageFromArray(values((6, 5), "uint8"))
    picture.SetSpacing((0.5, 0.25))
    sitk.WriteImage(picture, str(tmp_path / "a.png"))
    assert read_image(tmp_path / "a.png").space.spacing == (0.25, 0.5)


def test_every_ending_has_a_reader_and_a_writer():
    assert set(READERS) == set(WRITERS) == set(ENDINGS)
    for ending in ENDINGS:
        assert ending_of(f"a.b{ending.upper()}") == ending


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_there_is_an_ending_for_computed_images_of_every_dataset(tmp_path, ending, dtype):
    array = values((3, 6, 5), dtype)
    path = tmp_path / f"a{ending_for(ending, dtype)}"
    if path.suffix == ".npy":
        array = array[:1]
    write_image(path, array, Space.plain((6, 5)))
    assert np.array_equal(read_image(path).array, array)


def test_computed_values_are_rounded_and_clipped_to_the_stored_type():
    assert as_stored(np.array([-1.2, 0.5, 2.5, 254.6, 1e9]), "uint8").tolist() == [0, 0, 2, 255, 255]
    assert as_stored(np.array([1.25]), "float32").dtype == np.float32


def test_an_image_lies_on_its_grid():
    with pytest.raises(ImageError, match="does not lie on a grid"):
        Image(np.zeros((1, 4, 5)), Space.plain((5, 4)))

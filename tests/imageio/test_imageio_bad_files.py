"""Files that are not what they seem: one line that names the file, nothing else on the terminal, never a made-up image."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from nnreg.errors import ImageError
from nnreg.geometry import Space
from nnreg.imageio import ENDINGS, Image, check_finite, read_image, write_image

COMPRESSED = (".nii.gz", ".nii", ".mha", ".nrrd", ".tif", ".npz", ".npy")


def one_line(path):
    with pytest.raises(ImageError) as error:
        read_image(path)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(str(path))
    return message


def write(path, seed=0):
    array = np.random.default_rng(seed).integers(0, 255, (1, 30, 40)).astype(np.uint8)
    if path.suffix in (".jpg", ".jpeg"):
        sitk.WriteImage(sitk.GetImageFromArray(array[0]), str(path))
    else:
        write_image(path, array, Space.plain((30, 40)))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.95])
def test_truncated_files_are_refused_without_noise(tmp_path, capfd, ending, keep):
    path = tmp_path / f"a{ending}"
    write(path)
    # the pixels of these two lie in a file of their own
    part = next((other for other in tmp_path.iterdir() if other.suffix in (".raw", ".zraw", ".gz") and other != path), path)
    if part.is_dir():
        part = path / "0" / "0" / "0"  # of a Zarr, the only chunk
    content = part.read_bytes()
    part.write_bytes(content[: int(keep * len(content))])
    one_line(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", ENDINGS)
def test_text_under_an_image_name_is_refused(tmp_path, capfd, ending):
    path = tmp_path / f"a{ending}"
    path.write_text("this is no image\n" * 100)
    one_line(path)
    assert capfd.readouterr() == ("", "")


def test_missing_folder_and_unknown_ending(tmp_path):
    (tmp_path / "folder.nii.gz").mkdir()
    assert "is a folder" in one_line(tmp_path / "folder.nii.gz")
    assert "does not exist" in one_line(tmp_path / "a.nii.gz")
    (tmp_path / "a.dcm").write_text("x")
    assert ".nii.gz" in one_line(tmp_path / "a.dcm")


def test_a_header_without_its_data_file(tmp_path, capfd):
    write(tmp_path / "a.mhd")
    next(path for path in tmp_path.iterdir() if "raw" in path.suffix).unlink()
    assert "put it back" in one_line(tmp_path / "a.mhd")
    assert capfd.readouterr() == ("", "")


def test_a_flipped_bit_in_a_gz_is_found(tmp_path):
    write(tmp_path / "a.nii.gz")
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    content[-6] ^= 1  # in the checksum
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert "CRC" in one_line(tmp_path / "a.nii.gz")


def test_a_nifti_whose_data_end_early_inside_a_sound_gz(tmp_path):
    write(tmp_path / "a.nii")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()[:-100]))
    assert "promises" in one_line(tmp_path / "a.nii.gz")


def test_an_uncompressed_nifti_under_a_gz_name_is_read(tmp_path):
    write(tmp_path / "a.nii")
    (tmp_path / "b.nii.gz").write_bytes((tmp_path / "a.nii").read_bytes())
    assert np.array_equal(read_image(tmp_path / "b.nii.gz").array, read_image(tmp_path / "a.nii").array)


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", data=np.array([{"a": 1}], dtype=object))
    for name in ("a.npy", "a.npz"):
        one_line(tmp_path / name)


def test_nan_and_infinity_are_counted_by_name():
    array = np.zeros((1, 4, 5), dtype=np.float32)
    check_finite(Image(array, Space.plain((4, 5))), "case.nii.gz")
    array[0, 0, :3], array[0, 1, 0] = np.nan, np.inf
    with pytest.raises(ImageError, match=r"case.nii.gz: has 3 NaN and 1 infinite of 20 voxel values"):
        check_finite(Image(array, Space.plain((4, 5))), "case.nii.gz")
    check_finite(Image(np.zeros((1, 4, 5), dtype=np.int16), Space.plain((4, 5))), "case.nii.gz")


# -- NIfTI geometry ---------------------------------------------------------------------------------------------------


@pytest.fixture
def nifti(tmp_path):
    """``nifti(sform rows, spacing=..., codes=(qform, sform), slope=...)``: a file with this header, path."""

    def make(rows=None, *, spacing=(1.0, 1.0, 1.0), codes=(0, 1), slope=(0.0, 0.0), units=2):
        path = tmp_path / "a.nii"
        write_image(path, np.arange(720, dtype=np.int16).reshape(1, 8, 9, 10), Space.plain((8, 9, 10)))
        data = bytearray(path.read_bytes())
        struct.pack_into("<3f", data, 80, *spacing)
        struct.pack_into("<2f", data, 112, *slope)
        data[123] = units
        struct.pack_into("<2h", data, 252, *codes)
        if rows is not None:
            struct.pack_into("<12f", data, 280, *np.ravel(rows))
        path.write_bytes(data)
        return path

    return make


def sheared(amount):
    rows = np.hstack([np.eye(3), np.zeros((3, 1))])
    rows[0, 1] = amount
    return rows


def test_a_hair_of_shear_is_rounded_and_said(nifti, capfd):
    image = read_image(nifti(sheared(2e-3)))
    direction = np.reshape(image.space.direction, (3, 3))
    np.testing.assert_allclose(direction @ direction.T, np.eye(3), atol=1e-6)
    assert "right angles" in image.notes[0]
    true = np.diag([-1.0, -1.0, 1.0]) @ sheared(2e-3)[:, :3]  # RAS to LPS
    corner = np.array([9, 8, 7])
    assert np.linalg.norm(image.space.to_world(corner[::-1]) - true @ corner) < 0.1
    assert capfd.readouterr() == ("", "")


def test_real_shear_is_refused(nifti):
    assert "sheared" in one_line(nifti(sheared(0.2)))


def test_an_orientation_without_an_inverse_is_refused(nifti, capfd):
    rows = sheared(0.0)
    rows[0] = 0
    assert "Mend the header" in one_line(nifti(rows))
    assert capfd.readouterr() == ("", "")


def test_a_spacing_that_contradicts_the_sform_is_refused(nifti):
    assert "sform and spacing disagree" in one_line(nifti(3 * sheared(0.0), spacing=(0.0, 0.0, 0.0)))


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
def test_a_spacing_that_is_none_is_refused(nifti, spacing):
    assert "true voxel size" in one_line(nifti(spacing=spacing, codes=(0, 0)))


def test_disagreeing_forms_are_noted_and_read_as_itk_does(nifti):
    rows = np.hstack([np.diag([-1.0, -1.0, 1.0]), [[50.0], [0.0], [0.0]]])  # the qform's, moved by 50 mm
    path = nifti(rows, codes=(1, 1))
    image = read_image(path)
    assert "sform and qform disagree by 50 mm" in image.notes[0]
    assert image.space.origin == sitk.ReadImage(str(path)).GetOrigin()


@pytest.mark.parametrize(("units", "millimetres"), [(1, 1e3), (2, 1.0), (3, 1e-3), (0, 1.0)])
def test_units_are_honoured(nifti, units, millimetres):
    np.testing.assert_allclose(read_image(nifti(units=units)).space.spacing, np.full(3, millimetres), rtol=1e-6)


def test_the_scale_slope_is_applied(nifti):
    path = nifti(slope=(2.5, -3.0))
    image, expected = read_image(path), sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_allclose(image.array.ravel(), 2.5 * np.arange(720) - 3.0, rtol=1e-6)
    assert np.array_equal(image.array[0], expected)
    assert image.array.dtype == expected.dtype


@pytest.mark.parametrize("slope", [(0.0, 5.0), (float("nan"), 0.0), (1.0, 0.0)])
def test_a_slope_that_is_none_leaves_integers(nifti, slope):
    """nifti1.h: a slope of 0 means that the values are not scaled, whatever the intercept (ITK would add it)."""
    image = read_image(nifti(slope=slope))
    assert np.array_equal(image.array.ravel(), np.arange(720))
    assert image.array.dtype == np.int16


def test_the_other_byte_order_is_read(nifti):
    """All fields and voxels swapped, as files of old workstations are."""
    path = nifti()
    expected, data = read_image(path), path.read_bytes()
    swapped = bytearray(data)
    fields = "i10s18sihcB8h3f4h8f3fhBB2f2f2i80s24s2h6f12f16s4s"
    struct.pack_into(">" + fields, swapped, 0, *struct.unpack_from("<" + fields, data))
    swapped[352:] = np.frombuffer(data[352:], "<i2").astype(">i2").tobytes()
    path.write_bytes(swapped)
    image = read_image(path)
    assert np.array_equal(image.array, expected.array)
    assert image.array.dtype == expected.array.dtype
    assert image.space == expected.space


@pytest.mark.parametrize("amount", [0.001, 0.3])
def test_a_sheared_grid_is_not_written_as_nifti_unless_it_hardly_is(tmp_path, amount):
    direction = np.eye(3)
    direction[0, 1] = amount
    space = Space((8, 9, 10), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), tuple(direction.ravel().tolist()))
    array = np.zeros((1, 8, 9, 10), np.uint8)
    write_image(tmp_path / "a.mha", array, space)
    assert read_image(tmp_path / "a.mha").space.same_as(space)
    if amount > 0.1:
        with pytest.raises(ImageError, match=r"Use \.mha"):
            write_image(tmp_path / "a.nii.gz", array, space)
    else:
        write_image(tmp_path / "a.nii.gz", array, space)
        assert np.abs(read_image(tmp_path / "a.nii.gz").space.corners() - space.corners()).max() < 0.1


def test_uint8_with_a_slope_of_real_images(shared_data):
    path = sorted((shared_data / "ixi2mm" / "T1").glob("*.nii.gz"))[0]
    image = read_image(path)
    content = gzip.decompress(path.read_bytes())
    slope, intercept = struct.unpack_from("<2f", content, 112)
    stored = np.frombuffer(content, dtype=np.uint8, offset=int(struct.unpack_from("<f", content, 108)[0])).reshape(image.array.shape)
    np.testing.assert_allclose(image.array, stored * slope + intercept, rtol=1e-6)


@pytest.mark.parametrize(
    "pattern",
    [
        "oasis35/*_SS.nii.gz",
        "acdc_ed_es/*_gt.nii.gz",
        "elastix_lung_pair/*.mha",
        "tcia_brain_multimodal/*.nii.gz",
        "oasis_trt20_2d/*/*.nii.gz",
        "oasis2d_unlabelled/*.nrrd",
        "spinal_t1_t2/*.nii.gz",
        "isbi2012_em/image/*.png",
    ],
)
def test_real_images_read_as_simpleitk_reads_them(shared_data, pattern):
    path = sorted(shared_data.glob(pattern))[0]
    image, expected = read_image(path), sitk.ReadImage(str(path))
    assert np.array_equal(image.array[0], sitk.GetArrayFromImage(expected))
    assert image.ndim == expected.GetDimension()
    assert image.space.origin == expected.GetOrigin()
    assert image.space.spacing == expected.GetSpacing()[::-1]
    assert image.space.direction == expected.GetDirection()

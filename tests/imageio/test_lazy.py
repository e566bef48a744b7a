"""Zarr of both versions, and images that are read box by box."""

import itertools
import shutil
import sys

import numpy as np
import pytest
import tifffile

from nnreg.errors import NnRegError
from nnreg.geometry import Space
from nnreg.geometry.axis_permutation import AxisPermutation
from nnreg.imageio import open_image, read_image, write_image
from nnreg.imageio.files import is_large
from nnreg.imageio.lazy import boxes
from nnreg.imageio.reoriented import TurnedImage, TurnedWriter
from nnreg.imageio.zarr_files import create_zarr, open_zarr

zarr = pytest.importorskip("zarr")
numcodecs = pytest.importorskip("numcodecs")

SHAPES = [(7, 9), (5, 8, 11)]


def some(shape, dtype=np.uint8, channels=1):
    return np.random.default_rng(len(shape)).integers(0, 200, (channels, *shape)).astype(dtype)


def a_space(shape):
    turned = np.eye(len(shape))[::-1].ravel().tolist()
    return Space(shape, tuple(0.5 + axis for axis in range(len(shape))), tuple(-3.0 * axis for axis in range(len(shape))), tuple(turned))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 2])
def test_both_versions_return_what_was_written(tmp_path, version, shape, channels):
    array, space = some(shape, np.int16, channels), a_space(shape)
    path = tmp_path / "a.zarr"
    with create_zarr(path, channels, array.dtype, space, chunks=(4,) * len(shape), zarr_format=version) as writer:
        for box in boxes(shape, (3,) * len(shape), most=20):
            writer.write(box, array[(slice(None), *(slice(low, high) for low, high in box))])
    found = read_image(path)
    assert found.space == space
    assert found.array.dtype == array.dtype
    np.testing.assert_array_equal(found.array, array)
    assert zarr.open(str(path), mode="r").metadata.zarr_format == version


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["zarr", "tif", "plain tif", "tiled tif"])
def test_a_box_is_what_the_whole_image_has_there(tmp_path, shape, kind):
    array, space = some(shape, np.uint16, 2), Space.plain(shape)
    path = tmp_path / f"a.{kind.split()[-1]}"
    if kind in ("zarr", "tif"):
        write_image(path, array, space)
    elif kind == "plain tif":
        tifffile.imwrite(path, array, metadata={"axes": "CZYX"[:1] + "ZYX"[-len(shape) :]}, photometric="minisblack")
    else:
        tifffile.imwrite(path, array, metadata={"axes": "C" + "ZYX"[-len(shape) :]}, photometric="minisblack", tile=(16, 16), compression="zlib")
    image = open_image(path)
    assert image.shape == array.shape
    np.testing.assert_array_equal(image.whole().array, read_image(path).array)
    for box in itertools.islice(boxes(shape, (2, 3, 4)[-len(shape) :], most=30), 8):
        np.testing.assert_array_equal(image.read(box), array[(slice(None), *(slice(low, high) for low, high in box))])


def test_axes_in_another_order_and_channel_files_read_alike(tmp_path):
    shape = (5, 8, 11)
    array, space = some(shape, channels=2), Space.plain(shape)
    paths = [tmp_path / f"a_{channel:04d}.zarr" for channel in range(2)]
    for path, channel in zip(paths, array, strict=True):
        write_image(path, channel[None], space)
    volume = open_image(paths).volume((2, 0, 1))
    turned = array.transpose(0, 3, 1, 2)
    assert volume.shape == turned.shape
    for box in volume.boxes(((1, 10), (0, 5), (2, 7)), most=60):
        np.testing.assert_array_equal(volume.read(box), turned[(slice(None), *(slice(low, high) for low, high in box))])
    plane = tmp_path / "plane.zarr"
    write_image(plane, array[:1, 0], Space.plain(shape[1:]))
    np.testing.assert_array_equal(open_image(plane).volume().read(((0, 1), (2, 5), (1, 4))), array[:1, :1, 2:5, 1:4])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("backwards", [(), (0,), (1, 2), (0, 1, 2)])
def test_boxes_of_a_turned_image_are_those_of_the_whole_turned(tmp_path, order, backwards):
    """And what is written turned is stored as it was; where nothing is written, the file has its fill."""
    shape = (5, 8, 11)
    array, turn = some(shape, channels=2), AxisPermutation(order, backwards)
    with create_zarr(tmp_path / "a.zarr", 2, array.dtype, Space.plain(shape), chunks=(2, 3, 4)) as writer:
        writer.write([(0, size) for size in shape], array)
    stored, whole = open_zarr(tmp_path / "a.zarr"), turn.seen(array)
    image = TurnedImage(stored.files, Space.plain(whole.shape[1:]), turn)
    assert image.shape == whole.shape
    assert sorted(image.chunks) == [2, 3, 4]
    np.testing.assert_array_equal(turn.stored(whole), array)
    with create_zarr(tmp_path / "b.zarr", 2, array.dtype, Space.plain(shape), fill=201) as writer:
        for number, box in enumerate(boxes(whole.shape[1:], (2, 5, 3), most=20)):
            inside = (slice(None), *(slice(low, high) for low, high in box))
            np.testing.assert_array_equal(image.read(box), whole[inside])
            if number % 2:
                TurnedWriter(writer, turn, whole.shape[1:]).write(box, whole[inside])
    written = read_image(tmp_path / "b.zarr").array
    np.testing.assert_array_equal(np.where(written == 201, array, written), array)
    assert 0 < (written == 201).mean() < 1


@pytest.mark.parametrize(("shape", "chunks", "most"), [((5, 8, 11), (2, 3, 4), 30), ((9,), (4,), 3), ((6, 7), (10, 10), 1)])
def test_boxes_cover_every_voxel_once(shape, chunks, most):
    for inside in (None, tuple((1, size - 1) for size in shape)):
        count = np.zeros(shape, int)
        for box in boxes(shape, chunks, inside, most):
            count[tuple(slice(low, high) for low, high in box)] += 1
        wanted = np.zeros(shape, int)
        wanted[tuple(slice(low, high) for low, high in inside or tuple((0, size) for size in shape))] = 1
        np.testing.assert_array_equal(count, wanted)


def test_attributes_of_others_are_understood(tmp_path):
    """Spacing and origin in mm from the finest level of a pyramid in micrometres; a bare array with ours; a pyramid without metadata."""
    array = some((4, 6, 5))[0]
    group = zarr.create_group(str(tmp_path / "p.zarr"), zarr_format=2)
    for level, part in enumerate((array, array[::2, ::2, ::2])):
        group.create_array(str(level), data=part[None, None])
    axes = [{"name": "t"}, {"name": "c"}, *({"name": name, "unit": "micrometer"} for name in "zyx")]
    steps = [{"type": "scale", "scale": [1, 1, 20, 5, 4]}, {"type": "translation", "translation": [0, 0, 1000, 0, 3000]}]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}, {"path": "1"}]}]
    found = read_image(tmp_path / "p.zarr")
    np.testing.assert_array_equal(found.array, array[None])
    assert found.space.spacing == pytest.approx((0.02, 0.005, 0.004))
    assert found.space.origin == pytest.approx((3.0, 0.0, 1.0))
    bare = zarr.create_array(str(tmp_path / "b.zarr"), data=array)
    bare.attrs["spacing"] = [3, 2, 1]
    assert read_image(tmp_path / "b.zarr").space.spacing == (3, 2, 1)
    levels = zarr.create_group(str(tmp_path / "l.zarr"))
    for level, part in enumerate((array, array[::2])):
        levels.create_array(str(level), data=part)
    np.testing.assert_array_equal(read_image(tmp_path / "l.zarr").array[0], array)


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    path = tmp_path / "a.zarr"
    array = some((9, 10, 12))
    with create_zarr(path, 1, array.dtype, Space.plain(array.shape[1:]), chunks=(5, 5, 5)) as writer:
        writer.write(((0, 9), (0, 10), (0, 12)), array)
    chunk = path / "0" / "1" / "0" / "2"
    chunk.write_bytes(chunk.read_bytes()[:7])
    np.testing.assert_array_equal(open_zarr(path).read(((0, 9), (0, 10), (0, 9))), array[..., :9])
    with pytest.raises(NnRegError, match=r"a.zarr, chunk 1.0.2: cannot be read .* damaged") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_group(str(tmp_path / "two.zarr")).create_array("x", data=array)
    zarr.open_group(str(tmp_path / "two.zarr")).create_array("y", data=array)
    zarr.create_array(str(tmp_path / "six.zarr"), data=array[None, None])
    for name, said in (("empty", "cannot be opened as Zarr"), ("two", "holds x, y"), ("six", "has 6 axes")):
        with pytest.raises(NnRegError, match=said):
            read_image(tmp_path / f"{name}.zarr")
    write_image(tmp_path / "a.nrrd", array, Space.plain(array.shape[1:]))
    with pytest.raises(NnRegError, match="read whole only"):
        open_image(tmp_path / "a.nrrd")


def test_an_image_that_fails_half_way_leaves_the_one_before(tmp_path):
    path, array = tmp_path / "a.zarr", some((4, 5, 6))
    write_image(path, array, Space.plain((4, 5, 6)))
    with pytest.raises(ZeroDivisionError), create_zarr(path, 1, "uint8", Space.plain((3, 3, 3))):
        raise ZeroDivisionError
    np.testing.assert_array_equal(read_image(path).array, array)
    write_image(path, array[:, :2], Space.plain((2, 5, 6)))
    np.testing.assert_array_equal(read_image(path).array, array[:, :2])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


def test_what_counts_as_large_is_for_the_user_to_say(tmp_path, monkeypatch):
    path, array = tmp_path / "a.zarr", some((4, 5, 6))
    write_image(path, array, Space.plain((4, 5, 6)))
    assert not is_large([path])
    monkeypatch.setenv("nnReg_whole_voxels", "119")
    assert is_large([path])
    shutil.rmtree(path)
    assert not is_large([path])
    monkeypatch.setenv("nnReg_whole_voxels", "many")
    write_image(path, array, Space.plain((4, 5, 6)))
    with pytest.raises(NnRegError, match="nnReg_whole_voxels"):
        is_large([path])


def test_without_the_package_only_zarr_itself_is_missed(tmp_path, monkeypatch):
    array = some((4, 25, 26))
    for name in ("a.tif", "a.zarr"):
        write_image(tmp_path / name, array, Space.plain((4, 25, 26)))
    monkeypatch.setitem(sys.modules, "zarr", None)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").array, array)
    assert not is_large([tmp_path / "a.tif"])
    for attempt in (lambda: read_image(tmp_path / "a.zarr"), open_image(tmp_path / "a.tif").whole):
        with pytest.raises(NnRegError, match=r"zarr: pip install 'nnreg\[zarr\]'"):
            attempt()


def test_a_truncated_tiff_is_refused_when_it_is_opened(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.arange(9000, dtype=np.uint16).reshape(9, 20, 50), photometric="minisblack")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(NnRegError, match="truncated"):
        open_image(path)


@pytest.mark.parametrize("version", [2, 3])
def test_a_truncated_chunk_of_blosc_is_told(tmp_path, version):
    """Its decoder would return whatever lies behind the end."""
    array = some((30, 40))[0]
    compressor = numcodecs.Blosc() if version == 2 else zarr.codecs.BloscCodec()
    zarr.create_array(str(tmp_path / "a.zarr"), data=array, chunks=(16, 16), compressors=compressor, zarr_format=version)
    np.testing.assert_array_equal(read_image(tmp_path / "a.zarr").array[0], array)
    chunk = tmp_path / "a.zarr" / ("1.2" if version == 2 else "c/1/2")
    chunk.write_bytes(chunk.read_bytes()[:-5])
    with pytest.raises(NnRegError, match=r"chunk 1\.2: cannot be read"):
        read_image(tmp_path / "a.zarr")

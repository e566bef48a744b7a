"""Compressed voxels with a bit changed, streams that never end, data that lie elsewhere: refused."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest

from nnreg.errors import ImageError, NnRegError
from nnreg.geometry import Space
from nnreg.geometry.transform_files import read_transform
from nnreg.imageio import read_image, write_image

SPACE = Space.plain((6, 7, 8))
VALUES = np.random.default_rng(0).normal(size=(1, *SPACE.shape)).astype(np.float32)


def flipped(path: Path, where: int) -> None:
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("ending", [".mha", ".nrrd", ".mhd", ".nhdr", ".nii.gz"])
@pytest.mark.parametrize("from_end", [5, 40, 300, 700])
def test_a_flipped_bit_of_the_voxels_is_told(tmp_path, ending, from_end):
    path = tmp_path / f"a{ending}"
    write_image(path, VALUES, SPACE)
    assert np.array_equal(read_image(path).array, VALUES)
    data = max(tmp_path.iterdir(), key=lambda part: part.stat().st_size)
    flipped(data, -from_end)
    with pytest.raises(ImageError, match=r"damaged"):
        read_image(path)


def header(shape) -> bytes:
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 16, 32)
    struct.pack_into("<8f", head, 76, *[1.0] * 8)
    struct.pack_into("<f", head, 108, 352.0)
    head[344:348] = b"n+1\0"
    return bytes(head)


def test_no_more_is_inflated_than_the_header_promises(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(2**20)
    path.write_bytes(packer.compress(header((4, 4, 4))) + b"".join(packer.compress(zeros) for _ in range(64)) + packer.flush())
    tracemalloc.start()
    with pytest.raises(ImageError, match="far more bytes than"):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    path.write_bytes(gzip.compress(header((1000, 1000, 1000)) + bytes(256)))
    with pytest.raises(ImageError, match="promises"):
        read_image(path)


@pytest.mark.parametrize("elsewhere", ["{parent}/secret.raw", "../secret.raw", "sub/../../secret.raw", "LIST\n{parent}/secret.raw\n"])
@pytest.mark.parametrize("kind", ["mhd", "nhdr"])
def test_a_header_names_no_data_outside_of_its_folder(tmp_path, elsewhere, kind):
    (tmp_path / "secret.raw").write_bytes(bytes(64))
    folder = tmp_path / "given"
    folder.mkdir()
    name = elsewhere.format(parent=tmp_path)
    text = {
        "mhd": f"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\nElementDataFile = {name}\n",
        "nhdr": f"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: {name}\n",
    }[kind]
    path = folder / f"a.{kind}"
    path.write_text(text)
    with pytest.raises(ImageError, match="expected one in its own folder"):
        read_image(path)
    with pytest.raises(NnRegError, match="own folder"):
        read_transform(path.rename(folder / "a.mhd")) if kind == "mhd" else read_image(path)


def test_data_of_a_header_are_no_link_out_of_its_folder(tmp_path):
    (tmp_path / "given").mkdir()
    store = tmp_path / "store"
    write_image(store / "a.nhdr", VALUES, SPACE)
    for data in (path for path in store.iterdir() if path.suffix != ".nhdr"):
        (tmp_path / "given" / data.name).symlink_to(data)
    path = tmp_path / "given" / "a.nhdr"
    path.write_bytes((store / "a.nhdr").read_bytes())
    with pytest.raises(ImageError, match="is a link out of its folder"):
        read_image(path)
    path.unlink()
    path.symlink_to(store / "a.nhdr")  # header and data are links into one folder: a dataset that lies elsewhere
    np.testing.assert_array_equal(read_image(path).array, VALUES)


@pytest.mark.parametrize("line", ["NDims = 2147483648", "NDims = 3\nNDims = 9", "DimSize = 6 5", "DimSize = -6 5 4", "TransformMatrix = 1 0 0", "HeaderSize ="])
def test_counts_of_a_metaimage_are_looked_at_before_itk_believes_them(tmp_path, line):
    path = tmp_path / "a.mha"
    write_image(path, VALUES, SPACE)
    key = line.split()[0].encode()
    content = path.read_bytes()
    start = content.find(key)
    end = content.index(b"\n", start) if start >= 0 else content.index(b"DimSize")
    start = start if start >= 0 else end
    path.write_bytes(content[:start] + line.encode() + (b"\n" if start == end else b"") + content[end:])
    with pytest.raises(ImageError, match="Mend its header"):
        read_image(path)


@pytest.mark.parametrize("line", ["dimension: 2147483648", "dimension: 3 3", "sizes: 8 7", "sizes: 8 -7 6", "sizes: 8 7 " + "1" * 5000])
def test_sizes_of_an_nrrd_are_looked_at_before_itk_believes_them(tmp_path, line):
    path = tmp_path / "a.nrrd"
    write_image(path, VALUES, SPACE)
    key = line.split()[0].encode()
    content = path.read_bytes()
    start = content.index(key)
    path.write_bytes(content[:start] + line.encode() + content[content.index(b"\n", start) :])
    with pytest.raises(ImageError, match="Mend its header"):
        read_image(path)

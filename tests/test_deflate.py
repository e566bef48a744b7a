"""Streams that every program reads, and those that are none."""

import gzip
import io
import zlib

import pytest

from nnreg.deflate import DamagedError, check_stream, packing, unpacked, zlib_stream

CONTENT = bytes(range(256)) * 999


def test_zlib_reads_a_stream():
    stream = zlib_stream(CONTENT)
    assert zlib.decompress(stream) == CONTENT
    assert len(stream) < len(CONTENT) / 50


def test_a_file_under_gz_is_packed_and_others_are_not(tmp_path):
    for name in ("a.bin.gz", "a.bin"):
        with packing(tmp_path / name) as plain:
            plain.write_bytes(CONTENT)
    assert gzip.decompress((tmp_path / "a.bin.gz").read_bytes()) == (tmp_path / "a.bin").read_bytes() == CONTENT


def test_the_same_content_is_the_same_file(tmp_path, monkeypatch):
    for name, now in (("a.bin.gz", 1e9), ("b.bin.gz", 2e9)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        with packing(tmp_path / name) as plain:
            plain.write_bytes(CONTENT)
    assert (tmp_path / "a.bin.gz").read_bytes() == (tmp_path / "b.bin.gz").read_bytes()


def test_what_failed_leaves_nothing(tmp_path):
    def half() -> None:
        with packing(tmp_path / "a.gz") as plain:
            plain.write_bytes(CONTENT)
            raise ValueError("half written")

    with pytest.raises(ValueError, match="half"):
        half()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-6], lambda whole: whole[:-8] + b"12345678", lambda whole: whole[:2] + b"no gzip at all", lambda whole: whole + b"junk"]
)
def test_a_damaged_stream_is_refused(tmp_path, damage):
    whole = gzip.compress(CONTENT)
    path = tmp_path / "a.gz"
    path.write_bytes(whole + whole)
    with unpacked(path) as file:
        assert file.read() == CONTENT * 2
    path.write_bytes(damage(whole))
    with pytest.raises(DamagedError), unpacked(path) as file:
        file.read()


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_stream_is_counted_and_its_checksum_compared(pack):
    whole = pack(CONTENT)
    check_stream(io.BytesIO(whole), len(CONTENT))
    for damaged in (whole[:-6], whole[:-1] + bytes([whole[-1] ^ 1]), b""):
        with pytest.raises(DamagedError):
            check_stream(io.BytesIO(damaged), len(CONTENT))
    for wrong in (len(CONTENT) - 1, len(CONTENT) + 1):
        with pytest.raises(DamagedError, match="promised"):
            check_stream(io.BytesIO(whole), wrong)

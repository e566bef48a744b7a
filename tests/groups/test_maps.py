"""Maps of a group: made once, kept, made again where a file has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import anatomy, oblique_space

from nnreg.engine.options import EngineOptions
from nnreg.errors import DatasetError, RegistrationError, TransformError
from nnreg.geometry import Space
from nnreg.groups.maps import Maps
from nnreg.groups.members import Member, members_in
from nnreg.imageio import write_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("a", "b")):
        space = oblique_space((20, 22), seed)
        image, labels = anatomy(space, seed)
        write_image(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", image, space)
        write_image(tmp_path / "labelsTr" / f"{name}.nii.gz", labels, space)
    return tmp_path / "imagesTr"


@pytest.fixture
def maps(tmp_path: Path) -> Maps:
    return Maps(tmp_path / "maps", EngineOptions(preset="fast", similarity="lncc"))


def test_members_have_their_labels(folder: Path) -> None:
    a, b = members_in(folder)
    assert (a.name, b.name) == ("a", "b")
    found = a.label_map(a.image())
    assert found is not None
    assert set(np.unique(found.array)) == {0, 3, 7}
    assert a.mask_map(a.image()) is None


def test_plain_names_and_channel_numbers(folder: Path) -> None:
    (folder / "b_0000.nii.gz").rename(folder / "b.nii.gz")
    assert [member.name for member in members_in(folder)] == ["a", "b"]


@pytest.mark.parametrize(("name", "message"), [("a.nii.gz", "is there as"), ("a_0001.nii.gz", "has channels")])
def test_unclear_files_are_refused(folder: Path, name: str, message: str) -> None:
    (folder / name).write_bytes((folder / "a_0000.nii.gz").read_bytes())
    with pytest.raises(DatasetError, match=message):
        members_in(folder)


def test_a_map_is_made_once(folder: Path, maps: Maps) -> None:
    a, b = members_in(folder)
    with pytest.raises(TransformError, match="does not exist"):
        maps.transform(a, b)
    maps.make([(a, b)])
    path = maps.folder / "a__b.h5"
    first = path.stat().st_mtime_ns
    maps.make([(a, b)])
    assert path.stat().st_mtime_ns == first
    assert maps.transform(a, b).ndim == 2
    assert 0 <= maps.failure(a, b) <= 1


def test_a_changed_file_is_registered_again(folder: Path, maps: Maps) -> None:
    a, b = members_in(folder)
    maps.make([(a, b)])
    before = maps.transform(a, b).map_points(np.array([[0.0, 0.0]]))
    image = b.image()
    write_image(b.files[0], np.roll(image.array, 3, axis=2), image.space)
    maps.make([(a, b)])
    assert not np.allclose(maps.transform(a, b).map_points(np.array([[0.0, 0.0]])), before, atol=1e-3)


def test_a_member_without_files_beside_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such folder"):
        members_in(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no images"):
        members_in(tmp_path / "empty")
    assert Member("x", ()).labels is None


def test_a_pair_that_cannot_be_registered_is_named(folder: Path, maps: Maps) -> None:
    a, b = members_in(folder)
    image = b.image()
    write_image(b.files[0], image.array, Space.plain(image.space.shape, (1e-3, 1e-3)))
    with pytest.raises(RegistrationError, match=r"^b to a: .*no common view"):
        maps.make([(a, b)])

"""A dataset folder: its cases, their files and what they hold."""

from __future__ import annotations

import json
import os
import pickle

import numpy as np
import pytest

from nnreg.dataset import Pair, load_or_make_splits
from nnreg.errors import DatasetError, ImageError, NnRegError
from nnreg.geometry import Space
from nnreg.imageio import read_image, write_image


def test_cases_files_and_pairs(tiny):
    raw = tiny.open()
    assert (raw.name, raw.cases, raw.test_cases) == ("Dataset007_Tiny", ("a", "b", "c"), ("t",))
    assert raw.image_paths("a") == (tiny.folder / "imagesTr" / "a_0000.nii.gz",)
    assert raw.image_paths("t") == (tiny.folder / "imagesTs" / "t_0000.nii.gz",)
    assert raw.label_path("a") == tiny.folder / "labelsTr" / "a.nii.gz"
    assert raw.label_path("t") is None
    assert raw.read_labels("t") is None
    assert raw.mask_path("a") is None
    assert raw.keypoints_path("a") is None
    assert raw.label_values == (1, 2)
    assert len(raw.pairs()) == 6
    assert raw.test_pairs() == ()
    labels = raw.read_labels("a")
    assert labels.array.dtype == np.int16
    assert labels.space == raw.read_image("a").space
    with pytest.raises(DatasetError, match="no case 'd'"):
        raw.image_paths("d")
    assert pickle.loads(pickle.dumps(raw)).cases == raw.cases


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ".tif", ".png", ".npz"])
def test_every_ending_and_2d(builder, ending):
    for name in "ab":
        builder.case(name, channels=2, shape=(9, 8), labels=(0, 3, 7), ending=ending, dtype="uint8")
    builder.spec(channel_names={"0": "T1", "1": "T2"}, file_ending=ending, numTraining=2)
    raw = builder.open()
    assert raw.read_image("a").array.shape == (2, 9, 8)
    assert raw.label_values == (3, 7)


def test_an_rgb_file_is_three_channels(builder):
    write_image(builder.folder / "imagesTr" / "a_0000.png", np.zeros((3, 9, 8), np.uint8), Space.plain((9, 8)))
    builder.spec(channel_names={"0": "R", "1": "G", "2": "B"}, file_ending=".png", numTraining=1)
    assert builder.open().read_image("a").channels == 3


def test_a_missing_channel_is_named(builder):
    builder.case("a", channels=2)
    builder.case("b", channels=2)
    (builder.folder / "imagesTr" / "b_0001.nii.gz").unlink()
    builder.spec(channel_names={"0": "T1", "1": "T2"}, numTraining=2)
    with pytest.raises(DatasetError, match=r"b_0001.nii.gz: does not exist, but case 'b' needs 2 channels \(T1, T2\)"):
        builder.open().read_image("b")


def test_labels_and_masks_of_several_types(tiny):
    path = tiny.folder / "labelsTr" / "a.nii.gz"
    space = read_image(path).space
    big = np.zeros((1, *space.shape), np.float32)
    big.flat[:3] = (7.0, 40000.0, 1.0)
    write_image(path, big, space)
    labels = tiny.open().read_labels("a")
    assert (labels.array.dtype, labels.array.max()) == (np.int32, 40000)
    write_image(path, big + 0.25, space)
    with pytest.raises(DatasetError, match="labels are whole numbers"):
        tiny.open().read_labels("a")
    write_image(path, np.zeros((2, *space.shape), np.uint8), space)
    with pytest.raises(DatasetError, match="has 2 channels"):
        tiny.open().read_labels("a")
    big.flat[3] = -1  # 255 read as int8
    write_image(tiny.folder / "masksTr" / "a.nii.gz", big, space)
    mask = tiny.open().read_mask("a")
    assert (mask.array.dtype, mask.array.sum()) == (np.uint8, 4)


def test_values_are_read_from_the_files_where_the_json_names_none(tiny):
    tiny.spec(ignore_label=2)
    assert tiny.open().label_values == (1,)


def test_keypoints_are_read_as_learn2reg_writes_them(tiny):
    path = tiny.folder / "keypointsTr" / "a.csv"
    path.parent.mkdir()
    path.write_text("21.000,88.000,73.000\n1.5,2,3\n\n")
    np.testing.assert_array_equal(tiny.open().read_keypoints("a"), [[21, 88, 73], [1.5, 2, 3]])
    for text, said in [("x,y,z\n1,2,3\n", "line 1 is 'x,y,z'"), ("1,2,3\n1,2\n", "line 2"), ("1,2,nan\n", "finite"), ("\n", "no keypoints"), ("1\n", "line 1")]:
        path.write_text(text)
        with pytest.raises(DatasetError, match=r"a\.csv") as error:
            tiny.open().read_keypoints("a")
        assert said in str(error.value)
    path.write_text("1,2\n")
    with pytest.raises(DatasetError, match="Write x,y,z in each row"):
        tiny.open().read_case("a")


def test_a_case_is_checked_as_a_whole(tiny):
    case = tiny.open().read_case("a")
    assert case.image.space == case.labels.space
    assert case.mask is None
    write_image(tiny.folder / "labelsTr" / "a.nii.gz", np.zeros((1, 5, 6, 8), np.uint8), Space.plain((5, 6, 8)))
    with pytest.raises(ImageError, match=r"has shape \(5, 6, 8\)") as error:
        tiny.open().read_case("a")
    assert "labelsTr" in str(error.value)
    assert "imagesTr" in str(error.value)


def test_files_that_lie_elsewhere(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", str(tiny.folder / "imagesTr"))
    other = tmp_path / "other" / "Dataset008_Listed"
    other.mkdir(parents=True)
    relative = os.path.relpath(tiny.folder / "labelsTr" / "a.nii.gz", other)
    files = {
        "one": {"images": ["$ELSEWHERE/a_0000.nii.gz"], "label": relative},
        "two": {"images": [str(tiny.folder / "imagesTr" / "b_0000.nii.gz")]},
    }
    content = {"channel_names": {"0": "T1"}, "labels": {}, "numTraining": 2, "file_ending": ".nii.gz", "dataset": files}
    (other / "dataset.json").write_text(json.dumps(content))
    raw = type(tiny)(other).open()
    assert raw.cases == ("one", "two")
    assert np.array_equal(raw.read_image("one").array, tiny.open().read_image("a").array)
    assert np.array_equal(raw.read_labels("one").array, tiny.open().read_labels("a").array)
    assert raw.label_path("two") is None


def test_modalities_with_other_channels(builder):
    builder.case("a_ct", channels=1)
    builder.case("a_mr", channels=2)
    builder.spec(
        channel_names={"0": "T1", "1": "T2"},
        numTraining=2,
        pairing="groups",
        groups={"a_ct": "a", "a_mr": "a"},
        modalities={"ct": {"channel_names": {"0": "CT"}, "cases": ["*_ct"]}},
    )
    raw = builder.open()
    assert [raw.read_image(case).channels for case in raw.cases] == [1, 2]
    assert raw.pairs() == (Pair("a_ct", "a_mr"), Pair("a_mr", "a_ct"))


def test_test_pairs_follow_the_policy(tiny):
    tiny.case("u", suffix="Ts")
    tiny.spec(pairing="atlas", atlas="b")
    assert tiny.open().test_pairs() == (Pair("b", "t"), Pair("b", "u"))
    tiny.spec(pairing="pairs", pairs=[{"fixed": "a", "moving": "b"}, {"fixed": "t", "moving": "u"}])
    assert tiny.open().pairs() == (Pair("a", "b"),)
    assert tiny.open().test_pairs() == (Pair("t", "u"),)


def test_splits_that_come_with_the_dataset_are_used(tiny, tmp_path):
    mine = [{"train": ["a"], "val": ["b", "c"]}]
    (tiny.folder / "splits_final.json").write_text(json.dumps(mine))
    assert load_or_make_splits(tmp_path / "splits_final.json", tiny.open()) == mine
    assert json.loads((tmp_path / "splits_final.json").read_text()) == mine


def test_folders_that_are_no_dataset(tmp_path, tiny):
    raw = type(tiny)(tmp_path / "nothing")
    with pytest.raises(DatasetError, match="no such dataset folder"):
        raw.open()
    (tiny.folder / "imagesTr" / "d.nii.gz").write_bytes(b"")
    with pytest.raises(DatasetError, match="CASE_0000"):
        tiny.open()
    (tiny.folder / "imagesTr" / "d.nii.gz").unlink()
    tiny.case("a", suffix="Ts")
    with pytest.raises(DatasetError, match="'a' is in imagesTr and in imagesTs"):
        tiny.open()
    tiny.spec(file_ending=".mha")
    with pytest.raises(NnRegError, match="holds no case"):
        tiny.open()


@pytest.mark.parametrize("name", ["a_seg", "a_mask", "a_0003", "a_locations"])
def test_a_case_whose_files_would_be_taken_for_those_of_another_is_refused(tiny, name):
    for case in ("a", name):
        (tiny.folder / "imagesTr" / f"{case}_0000.nii.gz").touch()
    with pytest.raises(DatasetError, match=f"files of case '{name}' would be taken for such of case 'a'"):
        tiny.open()


def test_a_case_that_is_a_path_is_refused(tiny):
    path = tiny.folder / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"dataset": {"../a": {"images": ["imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}}}))
    with pytest.raises(DatasetError, match=r"case '\.\./a' is no name of a file"):
        tiny.open()


@pytest.mark.parametrize("name", ["two words", "a.b.c", "größe", "B"])
def test_odd_names_are_names(tiny, name):
    (tiny.folder / "imagesTr" / f"{name}_0000.nii.gz").touch()
    assert name in tiny.open().cases


def test_two_label_files_of_one_case_are_refused(tiny):
    (tiny.folder / "labelsTr" / "a.mha").touch()
    with pytest.raises(DatasetError, match=r"labelsTr/a\.nii\.gz: is there as a\.mha too"):
        tiny.open().label_path("a")

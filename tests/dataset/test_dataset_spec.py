"""dataset.json: what is accepted, what is refused and how it is said."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from nnreg.dataset import DatasetSpec, Modality, Pair
from nnreg.errors import DatasetError

PLAIN = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}, "numTraining": 2, "file_ending": ".nii.gz"}


def read(tmp_path, **changes):
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(PLAIN | changes))
    return DatasetSpec.read(path)


def test_what_is_written_is_read(tmp_path):
    spec = DatasetSpec(
        channel_names={"0": "T1", "1": "T2"},
        numTraining=4,
        file_ending=".mha",
        labels={"background": 0, "whole": (1, 2), "core": 2, "ignore": 3},
        pairing="pairs",
        pairs=(Pair("a", "b"),),
        groups={"a": "s1", "b": "s1"},
        modalities={"ct": Modality({"0": "CT"}, ("*_ct",))},
        targets={"segmentation": {"channels": 2}},
        regions_class_order=(1, 2),
    )
    spec.write(tmp_path / "dataset.json")
    assert DatasetSpec.read(tmp_path / "dataset.json") == spec


def test_nnunets_file_is_enough(tmp_path):
    spec = read(tmp_path)
    assert (spec.task, spec.pairing, spec.pairs, spec.foreground, spec.ignore) == ("registration", "all", (), (1,), None)


def test_old_names_are_understood(tmp_path):
    content = {key: value for key, value in PLAIN.items() if key != "channel_names"} | {"modality": {"0": "CT"}, "license": "CC0"}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    spec = DatasetSpec.read(tmp_path / "dataset.json")
    assert (spec.channel_names, spec.licence) == ({"0": "CT"}, "CC0")


def test_ignore_by_label_or_by_key(tmp_path):
    assert read(tmp_path, labels={"background": 0, "a": 1, "ignore": 2}).ignore == 2
    spec = read(tmp_path, labels={"background": 0, "a": 1, "ignore": 255}, ignore_label=255)
    assert (spec.ignore, spec.foreground) == (255, (1,))
    assert read(tmp_path, ignore_label=9).ignore == 9


def test_regions_give_their_values(tmp_path):
    assert read(tmp_path, labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "centre": 3}).foreground == (1, 2, 3)


def test_modalities_choose_channels_by_name_or_pattern(tmp_path):
    spec = read(tmp_path, modalities={"ct": {"channel_names": {"0": "CT"}, "cases": ["*_ct", "b"]}})
    assert [spec.modality_of(case) for case in ("a_ct", "b", "a_mr")] == ["ct", "ct", None]
    assert spec.channels_of("a_ct") == {"0": "CT"}
    assert spec.channels_of("a_mr") == {"0": "T1"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pairng": "all"}, "unknown key 'pairng'; did you mean 'pairing'?"),
        ({"pairing": "atlass"}, "did you mean 'atlas'?"),
        ({"task": "segmentation"}, "task: found 'segmentation'"),
        ({"numTraining": "2"}, "numTraining: expected int"),
        ({"channel_names": {"0": "T1", "2": "T2"}}, "without gaps"),
        ({"channel_names": {}}, "without gaps"),
        ({"file_ending": ".nii.bz2"}, "file_ending is '.nii.bz2'"),
        ({"labels": {"background": 1}}, "Background must be 0"),
        ({"labels": {"0": "background"}}, "labels.0: expected int"),
        ({"labels": {"ignore": [2, 3]}}, "one value"),
        ({"labels": {"ignore": 2}, "ignore_label": 3}, "Keep one of them"),
        ({"labels": {"a": -1}}, "negative value -1"),
        ({"pairing": "atlas"}, "'atlas' is missing"),
        ({"pairing": "pairs"}, "'pairs' is empty"),
        ({"pairing": "groups"}, "'groups' is empty"),
        ({"pairs": [{"fixed": "a", "moving": "a"}]}, "with itself"),
        ({"pairs": [{"fixed": "a", "moving": "b"}] * 2}, "twice"),
        ({"pairs": [{"fixed": "a", "movin": "b"}]}, "pairs[0]: unknown key 'movin'"),
        ({"modalities": {"ct": {"channel_names": {"1": "CT"}, "cases": ["a"]}}}, "modalities.ct.channel_names"),
    ],
)
def test_mistakes_are_told_in_one_line_with_file_and_key(tmp_path, changes, said):
    with pytest.raises(DatasetError) as error:
        read(tmp_path, **changes)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "dataset.json"))
    assert said in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("key", ["channel_names", "numTraining", "file_ending"])
def test_a_missing_key_is_named(tmp_path, key):
    (tmp_path / "dataset.json").write_text(json.dumps({name: value for name, value in PLAIN.items() if name != key}))
    with pytest.raises(DatasetError, match=f"key '{key}' is missing"):
        DatasetSpec.read(tmp_path / "dataset.json")


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        DatasetSpec.read(tmp_path / "dataset.json")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match="not valid JSON"):
        DatasetSpec.read(tmp_path / "dataset.json")


def test_the_room_imports_no_torch():
    code = "import sys, nnreg.dataset, nnreg.imageio; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("more", "task"),
    [
        ({}, "registration"),
        ({"regions_class_order": [1]}, "dense_prediction"),
        ({"targets": {"ink": {}}}, "dense_prediction"),
        ({"targets": {"ink": {}}, "pairing": "all"}, "registration"),
        ({"targets": {"ink": {}}, "task": "registration"}, "registration"),
        ({"task": "dense_prediction"}, "dense_prediction"),
    ],
)
def test_the_task_is_the_one_named_else_the_one_that_keys_tell(more, task):
    content = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "a": 1}, "numTraining": 1, "file_ending": ".nii.gz"}
    assert DatasetSpec.from_dict({**content, **more}).task == task

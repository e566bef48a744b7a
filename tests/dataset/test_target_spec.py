"""Entries of ``targets`` in dataset.json."""

from __future__ import annotations

from typing import Any

import pytest

from nnreg.dataset.continuous import Continuous
from nnreg.dataset.spec import DatasetSpec
from nnreg.dataset.target_spec import label_managers, names_of_labels, outputs_of, target_of, targets_of
from nnreg.errors import DatasetError


def spec(targets: dict[str, Any], **more: Any) -> DatasetSpec:
    content = {"channel_names": {"0": "T1"}, "numTraining": 1, "file_ending": ".nii.gz", "labels": {"background": 0, "a": 2, "b": 5}, "targets": targets}
    return DatasetSpec.from_dict({**content, **more})


@pytest.mark.parametrize("targets", [{}, {"ink": {}}, {"ink": {"loss_weight": 1.0}}])
def test_one_target_has_the_labels_of_the_dataset(targets: dict[str, Any]) -> None:
    (labels,) = label_managers(spec(targets)).values()
    assert (labels.values, labels.heads, labels.has_regions) == ((0, 2, 5), 3, False)


def test_each_target_has_labels_of_its_own_or_those_of_the_dataset() -> None:
    two = spec({"organs": {}, "ink": {"labels": {"background": 0, "ink": 1}, "ignore_label": 9}}, ignore_label=7)
    found = label_managers(two)
    assert list(found) == ["organs", "ink"]
    assert (found["organs"].allowed, found["ink"].allowed) == ((0, 2, 5, 7), (0, 1, 9))
    assert names_of_labels(two, "ink") == {"background": 0, "ink": 1}
    assert [target_of(stem, found) for stem in ("a_organs", "a_ink", "a_b")] == ["organs", "ink", None]


def test_activation_says_whether_labels_exclude_each_other() -> None:
    soft, sigmoid = (label_managers(spec({"t": {"activation": kind}}))["t"] for kind in ("softmax", "sigmoid"))
    assert (soft.heads, soft.has_regions) == (3, False)
    assert (sigmoid.heads, sigmoid.has_regions, sigmoid.head_values) == (2, True, (2, 5))


@pytest.mark.parametrize(
    ("activation", "channels", "values"), [("sigmoid", 1, (0, 1)), ("softmax", 5, (0, 1, 2, 3, 4)), (None, 2, (0, 1)), (None, 3, (0, 2, 5))]
)
def test_channels_of_files_made_elsewhere_say_how_many_labels_there_are(activation: str | None, channels: int, values: tuple[int, ...]) -> None:
    found = label_managers(spec({"t": {"out_channels": channels} | ({"activation": activation} if activation else {})}))["t"]
    assert (found.heads, found.values) == (channels, values)


def test_old_names_of_keys_are_understood() -> None:
    assert targets_of(spec({"t": {"weight": 0.5, "channels": 3}}))["t"].loss_weight == 0.5


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"los": []}, "losses"),
        ({"activation": "tanh"}, "activation"),
        ({"loss_weight": -1}, "0 or more"),
        ({"labels": {"background": 0}}, r"targets\.t: labels names nothing"),
        ({"labels": {"background": 0, "x": 1}, "out_channels": 4}, "out_channels is 4"),
        ({"out_channels": 1}, "softmax needs 2"),
        ({"labels": {"x": [1, 2], "y": 2}, "regions_class_order": [1, 2], "activation": "softmax"}, "overlap"),
    ],
)
def test_nonsense_is_refused_by_key(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        label_managers(spec({"t": entry}))


def test_a_name_becomes_a_part_of_files() -> None:
    with pytest.raises(DatasetError, match="letters, digits"):
        targets_of(spec({"a/b": {}}))
    with pytest.raises(DatasetError, match="of the target 'ink' too"):
        targets_of(spec({"ink": {}, "dry_ink": {}}))


def test_continuous_values_have_no_labels() -> None:
    made = spec({"dose": {"kind": "regression", "out_channels": 2}, "flow": {"activation": "none"}, "organs": {}})
    found = outputs_of(made)
    assert (found["dose"], found["flow"]) == (Continuous(2), Continuous(1))
    assert list(label_managers(made)) == ["organs"]
    assert names_of_labels(made, "dose") == {}
    for more in ({"labels": {"background": 0, "a": 1}}, {"ignore_label": 4}, {"activation": "sigmoid"}):
        with pytest.raises(DatasetError, match=rf"targets\.t: is a regression .*{next(iter(more))}"):
            outputs_of(spec({"t": {"kind": "regression", **more}}))

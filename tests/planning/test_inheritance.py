"""Configurations that name only what they change."""

import pytest

from nnreg.errors import PlansError
from nnreg.planning.plans import Plans
from nnreg.planning.registration.planner import plan


@pytest.fixture
def content(fingerprint):
    return plan(fingerprint()).to_dict()


def test_a_child_is_its_parent_with_its_own_keys_on_top(content):
    content["configurations"]["long"] = {"inherits_from": "3d_fullres", "training": {"epochs": 7, "optimizer": "sgd"}}
    plans = Plans.from_dict(content)
    parent, child = plans.configurations["3d_fullres"], plans.configurations["long"]
    assert (child.training.epochs, child.training.optimizer) == (7, "sgd")
    assert child.training.learning_rate == parent.training.learning_rate
    assert (child.grid, child.data_identifier) == (parent.grid, parent.data_identifier)
    assert "3d_fullres" in child.because["training.epochs"]
    assert plans == Plans.from_dict(plans.to_dict())


def test_a_chain_is_followed(content):
    content["configurations"]["a"] = {"inherits_from": "3d_fullres", "training": {"epochs": 7}}
    content["configurations"]["b"] = {"inherits_from": "a", "training": {"batch_size": 3}}
    found = Plans.from_dict(content).configurations["b"].training
    assert (found.epochs, found.batch_size) == (7, 3)


def test_arguments_are_replaced_as_a_whole(content):
    content["configurations"]["b"] = {"inherits_from": "3d_fullres", "architecture": {"name": "unetreg", "kwargs": {"integration_steps": 7}}}
    assert Plans.from_dict(content).configurations["b"].architecture.kwargs == {"integration_steps": 7}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"inherits_from": "3d_fulres"}, "did you mean '3d_fullres'"),
        ({"inherits_from": "b"}, "leads back to itself"),
        ({"inherits_from": "3d_fullres", "trainings": {}}, "did you mean 'training'"),
        ({"inherits_from": "3d_fullres", "spacing": [2.0, 2.0, 2.0]}, "data_identifier of its own"),
        ({"inherits_from": "3d_fullres", "training": {"epochs": 0}}, "training.epochs"),
    ],
)
def test_what_cannot_be_inherited_is_told_in_one_line(content, entry, words):
    content["configurations"]["b"] = entry
    with pytest.raises(PlansError) as refused:
        Plans.from_dict(content, where="plans.json")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "plans.json" in str(refused.value)


def test_arrays_of_its_own_have_a_name_of_their_own(content):
    content["configurations"]["b"] = {"inherits_from": "3d_fullres", "spacing": [2.0, 2.0, 2.0], "data_identifier": "coarse"}
    assert Plans.from_dict(content).configurations["b"].data_identifier == "coarse"

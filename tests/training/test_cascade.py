"""Registration in two stages: the network in front is trained first and kept, the second goes on from its field."""

from __future__ import annotations

import json

import pytest
import torch
from tiny import Tiny, tree
from torch import nn

from nnreg.architecture.cascade import Cascade
from nnreg.errors import PlansError
from nnreg.geometry import warp
from nnreg.planning.plans import Plans


class Constant(nn.Module):
    """A field that is the same everywhere, voxels of the images it is given."""

    def __init__(self, *displacement: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(displacement))

    def forward(self, *, fixed: torch.Tensor, moving: torch.Tensor) -> list[torch.Tensor]:
        self.seen = fixed, moving
        return [self.value.reshape(1, -1, *(1,) * (fixed.ndim - 2)).expand(len(fixed), -1, *fixed.shape[2:])]


def ramp(*shape: int) -> torch.Tensor:
    """Positions along the first axis."""
    return torch.arange(float(shape[0])).reshape(1, 1, -1, *(1,) * (len(shape) - 1)).expand(1, 1, *shape)


def test_fields_of_both_grids_are_composed_and_the_second_sees_what_the_first_left():
    first, second = Constant(1.0, 0.0), Constant(0.5, -1.0)
    network = Cascade(first, second, coarse=(8, 7), step=(2.0, 1.5))
    fixed, moving = ramp(15, 11), ramp(15, 11) + 3
    (field,) = network(fixed=fixed, moving=moving)
    torch.testing.assert_close(field[0, :, 5, 5], torch.tensor([2.5, -1.0]))
    torch.testing.assert_close(second.seen[1], warp(moving, torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 15, 11)))
    # both grids have one centre: the middle ones of 8 voxels of size 2 lie a voxel before and after that of 15
    torch.testing.assert_close(first.seen[0][0, 0, 3:5, 3], torch.tensor([6.0, 8.0]), atol=1e-4, rtol=0)
    field.sum().backward()
    assert first.value.grad is None
    assert second.value.grad is not None
    assert not network.train().stage_before.training


@pytest.fixture(scope="module")
def staged(plane: Tiny, tmp_path_factory) -> Tiny:
    """The plans of the slices with a cascade: a coarser grid, and a second stage on the arrays of the fine one."""
    twin = plane.copy(tmp_path_factory.mktemp("cascade"))
    path = twin.preprocessed / "nnRegPlans.json"
    content = json.loads(path.read_text())
    full = content["configurations"]["2d"]
    grid = [-(-size // 3) * 2 for size in full["grid"]]
    coarse = {"inherits_from": "2d", "data_identifier": "nnRegPlans_2d_lowres", "grid": grid, "spacing": [1.5 * size for size in full["spacing"]]}
    content["configurations"] |= {"2d_lowres": coarse, "2d_cascade": {"inherits_from": "2d", "previous_stage": "2d_lowres"}}
    path.write_text(json.dumps(content))
    twin.configuration = "2d_cascade"
    return twin


def test_the_stage_before_has_to_be_trained_and_is_named(staged, capsys):
    before = tree(staged.results)
    assert staged.try_train(0) == 2
    said = capsys.readouterr().err
    assert "nnreg_train 007 2d_lowres 0" in said.replace(staged.id, "007")
    assert said.count("\n") == 1
    assert tree(staged.results) == before


@pytest.mark.slow  # two trainings
def test_a_cascade_is_trained_resumed_validated_and_predicts(staged, tmp_path):
    first, second = (Tiny(staged.root, staged.dataset, name) for name in ("2d_lowres", "2d_cascade"))
    first.train(0)
    fold = second.train(0, epochs=1)
    second.train(0, "-c", epochs=2)
    given, kept = (torch.load(path / "checkpoint_final.pth", weights_only=True)["network_weights"] for path in (first.fold(0), fold))
    for name, value in given.items():
        assert torch.equal(kept[f"stage_before.{name}"], value)
    assert "Goes on from the field of" in (fold / "training_log.txt").read_text()
    pair = json.loads((fold / "validation_summary.json").read_text())["pairs"][0]
    (first.fold(0) / "checkpoint_final.pth").unlink()  # nothing but the cascade's own folder is needed from here
    found = second.predict(tmp_path, "-f", "0", "--fixed", pair["fixed"], "--moving", pair["moving"], images=staged.raw / "imagesTr")
    assert [entry["name"] for entry in found["pairs"]] == [pair["name"]]
    second.train(0, "--val", epochs=2)


@pytest.mark.parametrize(("stage", "named"), [("2d_lowers", "2d_lowres"), ("2d_cascade", "begins with the images")])
def test_plans_with_no_such_stage_are_refused(staged, stage, named):
    content = json.loads((staged.preprocessed / "nnRegPlans.json").read_text())
    content["configurations"]["2d_cascade"]["previous_stage"] = stage
    with pytest.raises(PlansError, match=f"previous_stage.*{named}"):
        Plans.from_dict(content)

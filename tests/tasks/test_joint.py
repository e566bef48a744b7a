"""A segmentation head beside the registration: what teaches it, and what it teaches."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tiny import Tiny

from nnreg.architecture import build_network
from nnreg.errors import ConfigurationError
from nnreg.tasks.registration.joint import JointLoss

SHAPE = (12, 14)
STAGES = {"strides": ((1, 1), (2, 2), (2, 2)), "kernel_sizes": ((3, 3),) * 3, "features_per_stage": (4, 6, 8), "blocks_per_stage": (1, 1, 1)}


def squares(*places: int) -> torch.Tensor:
    """Labels 3 and 7 in two squares along the first axis, a map per place; none where the place is 0."""
    maps = torch.zeros(len(places), 1, *SHAPE, dtype=torch.int16)
    for index, place in enumerate(places):
        if place:
            maps[index, 0, place : place + 3, 2:6], maps[index, 0, place : place + 3, 8:12] = 3, 7
    return maps


def sure(maps: torch.Tensor) -> torch.Tensor:
    """Logits that leave no doubt of the labels."""
    return 20.0 * torch.cat([maps == value for value in (0, 3, 7)], dim=1).float()


def loss(epoch: int = 1) -> JointLoss:
    result = JointLoss((3, 7), epochs=1)
    result.set_epoch(epoch)
    return result


def test_only_labelled_images_teach_the_head_and_only_other_pairs_are_compared():
    """A pair with labels in both, one with labels in the moving image, one without; all is found, and the structures lie two voxels apart."""
    fixed, moving = squares(2, 0, 0), squares(4, 4, 0)
    logits = sure(torch.cat([squares(2, 2, 2), squares(4, 4, 4)])).requires_grad_()
    batch = {"fixed_labels": fixed, "moving_labels": moving}
    still, right = torch.zeros(3, 2, *SHAPE), torch.zeros(3, 2, *SHAPE)
    right[:, 0] = 2.0
    total, terms = loss()(right, logits, batch)
    assert float(total.detach()) == pytest.approx(0, abs=1e-4)
    assert float(terms["segmentation_dice"]) == pytest.approx(1, abs=1e-4)
    field = still.requires_grad_()
    total, terms = loss()(field, logits, batch)
    assert float(terms["consistency"]) == pytest.approx(1 - 2 / 6, abs=1e-3)  # a third of the squares overlaps
    assert float(total.detach()) == pytest.approx(2 / 3 * float(terms["consistency"]), abs=1e-3)
    total.backward()
    moved = field.grad.flatten(1).norm(dim=1)
    assert moved[0] == 0
    assert (moved[1:] > 0).all()
    taught = logits.grad.flatten(1).norm(dim=1)
    # of the pair without labels the head learns nothing
    assert taught[2] == 0
    assert taught[5] == 0
    assert float(loss(epoch=0)(still, logits, batch)[0].detach()) == pytest.approx(0, abs=1e-4)  # at first the overlap does not count


def test_without_labels_in_a_batch_the_log_says_nothing():
    nothing = squares(0)
    total, terms = loss()(torch.zeros(1, 2, *SHAPE), torch.zeros(2, 3, *SHAPE), {"fixed_labels": nothing, "moving_labels": nothing})
    assert math.isfinite(total)
    assert math.isnan(terms["segmentation"])


def test_the_head_changes_no_field_and_segments_both_images():
    pair = {name: torch.randn(2, 1, *SHAPE) for name in ("fixed", "moving")}
    for resolution in (1, 2):
        network = build_network("dual_pyramid", channels=1, ndim=2, field_resolution=resolution, segmented_labels=2, **STAGES)
        fields, logits = network.with_segmentation(**pair)
        assert logits.shape == (4, 3, *SHAPE)
        for one, other in zip(fields, network(**pair), strict=True):
            torch.testing.assert_close(one, other)
        swapped = network.with_segmentation(fixed=pair["moving"], moving=pair["fixed"])[1]
        torch.testing.assert_close(swapped, torch.cat(logits.chunk(2)[::-1]), rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigurationError, match="segmented_labels"):
        build_network("dual_pyramid", channels=1, ndim=2, **STAGES).with_segmentation(**pair)


def test_a_joint_training_of_partly_labelled_cases_ends_and_predicts(plane: Tiny, tmp_path):
    twin = plane.copy(tmp_path)
    held_out = json.loads((twin.preprocessed / "splits_final.json").read_text())[0]["val"]
    cases = sorted(path.name.removesuffix("_seg.b2nd") for path in twin.arrays.glob("*_seg.b2nd"))
    for case in [case for case in cases if case not in held_out][1:]:
        (twin.arrays / f"{case}_seg.b2nd").unlink()
    twin.train(0, "-tr", "joint", iterations=4, epochs=2)
    log = (twin.fold(0, "joint") / "training_log.txt").read_text()
    assert "train_segmentation = " in log
    assert "val_segmentation_dice = " in log
    images = twin.raw / "imagesTr"
    found = twin.predict(tmp_path / "out", "-tr", "joint", "-f", "0", "--fixed", held_out[0], "--moving", held_out[1], images=images)
    assert len(found["pairs"]) == 1


@pytest.mark.parametrize(
    ("more", "named"),
    [(["-tr", "unetreg", "--set", "segmentation_weight=1"], "segmented_labels"), (["--set", "segmentation_weight=-1"], "segmentation_weight")],
)
def test_what_has_no_head_is_refused_in_one_line(plane: Tiny, tmp_path, capsys, more, named):
    twin = plane.copy(tmp_path)
    assert twin.try_train("all", *more) == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1


def test_labels_are_needed():
    with pytest.raises(ConfigurationError, match="segmentation_weight"):
        JointLoss((), epochs=1)
    assert np.isclose(JointLoss((1,), epochs=10).ramp, 2.0)

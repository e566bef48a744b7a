"""The overlap of all labels from the label maps is that of their one-hot maps, and so is its derivative."""

from __future__ import annotations

import pytest
import torch

from nnreg.geometry import warp
from nnreg.losses import SoftDice
from nnreg.losses.label_maps import LABELS, label_sums, sums_by_torch

SHAPES = [((11, 13), (11, 13)), ((7, 9, 8), (7, 9, 8)), ((6, 9, 8), (8, 7, 9))]


def labels_of(shape, most: int, seed: int) -> torch.Tensor:
    return torch.randint(0, most, (2, 1, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.int16)


def field_of(shape) -> torch.Tensor:
    field = 2 * torch.randn(2, len(shape), *shape, generator=torch.Generator().manual_seed(2))
    return field.requires_grad_()


@pytest.mark.parametrize(("fixed_shape", "moving_shape"), SHAPES)
@pytest.mark.parametrize("form", ["negative", "one_minus"])
def test_it_is_the_overlap_of_one_hot_maps(fixed_shape, moving_shape, form):
    fixed, moving, field = labels_of(fixed_shape, 12, 0), labels_of(moving_shape, 12, 1), field_of(fixed_shape)
    values = torch.arange(1, 12).reshape(1, -1, *(1,) * len(fixed_shape))
    loss = SoftDice(form=form)
    wanted = loss(warped=warp((moving == values).float(), field, padding="zeros"), fixed=(fixed == values).float())
    found, known = loss.of_label_maps(field=field, fixed=fixed, moving=moving)
    assert known.all()
    assert float(found.mean().detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    slopes = [torch.autograd.grad(value, field)[0] for value in (wanted, found.mean())]
    assert slopes[0].abs().max() > 1e-5
    torch.testing.assert_close(slopes[1], slopes[0], atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize(("fixed_shape", "moving_shape"), SHAPES)
def test_torch_gives_what_the_compiled_loop_gives(fixed_shape, moving_shape):
    fixed, moving, field = labels_of(fixed_shape, 9, 0)[0, 0], labels_of(moving_shape, 9, 1)[0, 0], field_of(fixed_shape)
    found = label_sums(field[0], fixed, moving)
    other = sums_by_torch(field[0], fixed.long(), moving.long())
    sums = torch.stack([found.overlap, found.warped])
    torch.testing.assert_close(sums, other, atol=1e-4, rtol=1e-5)
    weights = torch.randn(2, LABELS, generator=torch.Generator().manual_seed(3))
    slopes = [torch.autograd.grad((weights * value).sum(), field)[0] for value in (sums, other)]
    torch.testing.assert_close(slopes[0], slopes[1], atol=1e-4, rtol=1e-4)


def test_labels_of_one_side_do_not_count_and_a_sample_without_any_in_common_is_unknown():
    fixed = torch.tensor([[[[1, 1, 0], [0, 5, 5]]], [[[3, 3, 0], [0, 0, 0]]]], dtype=torch.int16)
    moving = torch.tensor([[[[1, 1, 0], [0, 0, 7]]], [[[4, 4, 0], [0, 0, 0]]]], dtype=torch.int16)
    losses, known = SoftDice().of_label_maps(field=torch.zeros(2, 2, 2, 3), fixed=fixed, moving=moving)
    assert known.tolist() == [True, False]
    assert losses.tolist() == pytest.approx([-1.0, 0.0], abs=1e-5)


def test_positions_that_are_no_numbers_count_nowhere():
    labels = labels_of((6, 7), 4, 0)
    field = torch.full((2, 2, 6, 7), float("nan"))
    losses, _ = SoftDice().of_label_maps(field=field, fixed=labels, moving=labels)
    assert ((losses == 0) | losses.isnan() | (losses > -1e-3)).all()

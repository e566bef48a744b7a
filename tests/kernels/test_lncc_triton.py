"""The GPU's local correlation is held against torch's in float64: on a GPU where there is one, else by triton's interpreter on the CPU."""

from __future__ import annotations

import importlib.util
import os
import warnings

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # has to be known before triton is imported
pytest.importorskip("triton", reason="triton is not installed: CUDA builds of torch for Linux bring it")

from nnreg.kernels import lncc_triton, reference  # noqa: E402
from nnreg.losses import LNCC, lncc  # noqa: E402

# the interpreter takes a millisecond for every few operations, so images are tiny
SHAPES = [((2, 3, 5), (3, 3, 3)), ((3, 1, 2), (5, 1, 3)), ((3, 6), (3, 5)), ((1, 5), (1, 3))]


@pytest.fixture
def small_programs(monkeypatch):
    """Programs so small that tiny images need several along every axis."""
    if DEVICE == "cpu":
        for name, value in {"RUN": 2, "ROW_LANES": 4, "PLANE_LANES": 4}.items():
            monkeypatch.setattr(lncc_triton, name, value)


def images(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    fixed, warped, chance = (torch.rand(shape, generator=generator) for _ in range(3))
    return (fixed + 3).to(DEVICE), (warped - 5).to(DEVICE), (chance > 0.3).to(DEVICE)


@pytest.mark.parametrize("floors", [(1e-3, None), (1.0, 0.3)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("shape", "window"), SHAPES)
def test_value_and_gradient_are_those_of_the_reference(shape, window, masked, floors, small_programs):
    fixed, warped, chosen = images(1, *shape)
    mask = chosen if masked else None
    value, gradient = lncc_triton.value_and_gradient(fixed, warped, window, mask=mask, smooth_dr=floors[0], warped_dr=floors[1])
    volume = shape if len(shape) == 3 else (1, *shape)
    radii = [0] * (3 - len(window)) + [size // 2 for size in window]
    variable = warped.double().requires_grad_()
    inside = None if mask is None else mask.reshape(volume).double()
    expected = reference.correlation(fixed.double().reshape(volume), variable.reshape(volume), radii, floor=floors[0], other_floor=floors[1], mask=inside)
    expected.backward()
    assert float(value) == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    assert float((gradient - variable.grad).abs().max()) <= 2e-4 * float(variable.grad.abs().max()) + 1e-9


def test_images_are_kept_apart_and_what_the_mask_leaves_out_is_never_looked_at():
    fixed, warped, mask = images(2, 2, 2, 3)
    fixed[1] *= 50
    options = {"mask": mask, "smooth_dr": 1e-3}
    expected = lncc.lncc_value_and_gradient(fixed.double(), warped.double(), (3, 3, 3), **options)
    hidden = [image.masked_fill(~mask, float("nan")) for image in (fixed, warped)]
    value, gradient = lncc_triton.value_and_gradient(*hidden, (3, 3, 3), **options)
    assert float(value) == pytest.approx(float(expected[0]), rel=1e-4)
    assert float((gradient - expected[1]).abs().max()) <= 2e-4 * float(expected[1].abs().max())
    assert not gradient[~mask].any()
    assert lncc_triton.value_and_gradient(*hidden, (3, 3, 3), **options, gradient=False) == (value, None)


def test_flat_and_masked_away_images_score_nothing():
    fixed, warped, mask = images(1, 2, 3)
    for first, second, inside in ((torch.full_like(fixed, 4.0), warped, None), (fixed, torch.full_like(fixed, 1e4), None), (fixed, warped, mask & False)):
        value, gradient = lncc_triton.value_and_gradient(first, second, (3, 3), mask=inside)
        assert value == 0
        assert not gradient.any()


def test_a_bright_voxel_leaves_nothing_behind_in_the_windows_after_it():
    fixed, warped, _ = images(1, 9, 3)
    fixed, warped = 1e-2 * (fixed - fixed.mean()), 1e-2 * (warped - warped.mean())
    fixed[0, 2], warped[0, 2] = 300.0, 300.0
    fixed[0, 1], warped[0, 1] = -300.0, -300.0  # the mean, which is taken off first, stays where it is
    _, gradient = lncc_triton.value_and_gradient(fixed, warped, (3, 3))
    _, expected = lncc.lncc_value_and_gradient(fixed.double(), warped.double(), (3, 3))
    assert float((gradient - expected)[0, 5:].abs().max()) <= 1e-3 * float(expected[0, 5:].abs().max())


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_the_loss_on_a_gpu_is_that_on_the_cpu():
    fixed, warped, mask = (image[:, None] for image in images(2, 9, 17, 40))
    results = []
    for device in ("cpu", "cuda"):
        pair = [image.detach().to(device).requires_grad_() for image in (fixed, warped)]
        value = LNCC(5)(fixed=pair[0], warped=pair[1], mask=mask.to(device))
        results.append([value.detach().cpu(), *(part.cpu() for part in torch.autograd.grad(value, pair))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_the_kernel_is_used_only_where_it_proves_itself(monkeypatch):
    device = torch.device(DEVICE)
    find = lncc._kernel_on.__wrapped__  # what it found before is not what is asked here
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert find(device) is lncc_triton.value_and_gradient

    def broken(*arguments, **options):
        raise OSError("no compiler\nand more")

    monkeypatch.setattr(lncc_triton, "value_and_gradient", broken)
    with pytest.warns(UserWarning, match="no compiler\\): local correlation is computed by torch"):
        assert find(device) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert find(device) is None

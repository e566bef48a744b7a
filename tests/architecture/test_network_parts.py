"""The parts of networks: aligned grids, correlation, convolutions in halves."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as nnf

from nnreg.architecture.blocks import Convolution, VolumeConvolution
from nnreg.architecture.correlation import local_correlation, normalised
from nnreg.architecture.pyramid import coarser_shape, corner_aligned, finer_field, pad_for
from nnreg.geometry import identity_grid, resize_field

pytestmark = pytest.mark.usefixtures("one_thread")


def affine_field(shape: tuple[int, ...], step: tuple[float, ...], seed: int = 0) -> torch.Tensor:
    """A displacement that is affine in the position ``step * index``, in voxels of size `step`."""
    n = len(shape)
    generator = torch.Generator().manual_seed(seed)
    matrix, offset = torch.randn(n, n, generator=generator), torch.randn(n, 1, generator=generator)
    scale = torch.tensor(step).reshape(1, n, *(1,) * n)
    position = (identity_grid(shape) * scale).flatten(2)[0]
    return (matrix @ position + offset).reshape(1, n, *shape) / scale


class TestPyramid:
    def test_the_coarser_grid_covers_the_finer(self, shape: tuple[int, ...]) -> None:
        for stride in itertools.product((1, 2, 3), repeat=len(shape)):
            for size, step, coarse in zip(shape, stride, coarser_shape(shape, stride), strict=True):
                assert (coarse - 1) * step >= size - 1 > (coarse - 2) * step

    def test_a_strided_convolution_returns_the_coarser_grid(self, shape: tuple[int, ...]) -> None:
        stride = (2,) * (len(shape) - 1) + (1,)
        convolution = Convolution(len(shape), 2, 3, (3,) * len(shape), stride)
        assert tuple(convolution(torch.randn(1, 2, *shape)).shape[2:]) == coarser_shape(shape, stride)

    def test_voxels_of_a_level_lie_where_the_convolution_looked(self, shape: tuple[int, ...]) -> None:
        """A kernel that copies its centre picks every second voxel: index i of the level is voxel 2 i."""
        n = len(shape)
        image = torch.randn(1, 1, *shape)
        kernel = torch.zeros(1, 1, *(3,) * n)
        kernel[(0, 0, *(1,) * n)] = 1
        picked = (nnf.conv2d if n == 2 else nnf.conv3d)(pad_for(image, (2,) * n), kernel, stride=2, padding=1)
        inside = image[(slice(None), slice(None), *(slice(0, None, 2),) * n)]
        assert torch.equal(picked[(slice(None), slice(None), *(slice(0, size) for size in inside.shape[2:]))], inside)

    def test_an_affine_field_is_brought_up_exactly(self, shape: tuple[int, ...]) -> None:
        stride = (2, 3, 2)[: len(shape)]
        coarse = affine_field(coarser_shape(shape, stride), tuple(map(float, stride)))
        fine = affine_field(shape, (1.0,) * len(shape))
        torch.testing.assert_close(finer_field(coarse, stride, shape), fine, rtol=1e-4, atol=1e-4)

    def test_an_aligned_field_fills_the_input(self, shape: tuple[int, ...]) -> None:
        """What a level returns is resized to the input by the package's one convention."""
        stride = (2, 4, 2)[: len(shape)]
        coarse = affine_field(coarser_shape(shape, stride), tuple(map(float, stride)))
        aligned = corner_aligned(coarse, stride, shape)
        assert aligned.shape == coarse.shape
        torch.testing.assert_close(resize_field(aligned, shape), affine_field(shape, (1.0,) * len(shape)), rtol=1e-4, atol=1e-4)


def correlation_by_definition(fixed: torch.Tensor, moving: torch.Tensor, radius: int) -> torch.Tensor:
    n = fixed.ndim - 2
    padded = nnf.pad(moving, [radius] * 2 * n)
    channels = []
    for offset in itertools.product(range(2 * radius + 1), repeat=n):
        shifted = padded[(slice(None), slice(None), *(slice(start, start + size) for start, size in zip(offset, fixed.shape[2:], strict=True)))]
        channels.append((fixed * shifted).mean(dim=1))
    return torch.stack(channels, dim=1)


CORRELATIONS = [((7, 9), 2), ((5, 4, 6), 1), ((1, 5, 7), 1), ((2, 3, 3), 3)]


@pytest.mark.parametrize(("shape", "radius"), CORRELATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["compiled", "torch"])
class TestCorrelation:
    def test_value_and_gradient_are_those_of_the_definition(self, shape: tuple[int, ...], radius: int, dtype: torch.dtype) -> None:
        features = [torch.randn(2, 6, *shape, dtype=dtype, requires_grad=True) for _ in range(2)]
        found, expected = local_correlation(*features, radius), correlation_by_definition(*features, radius)
        torch.testing.assert_close(found, expected)
        weights = torch.randn_like(expected)
        for one, other in zip(torch.autograd.grad(found, features, weights), torch.autograd.grad(expected, features, weights), strict=True):
            torch.testing.assert_close(one, other)

    def test_threads_change_nothing(self, shape: tuple[int, ...], radius: int, dtype: torch.dtype) -> None:
        features = [torch.randn(1, 5, *shape, dtype=dtype) for _ in range(2)]
        threads = torch.get_num_threads()
        try:
            results = []
            for count in (1, 3):
                torch.set_num_threads(count)
                results.append(local_correlation(*features, radius))
        finally:
            torch.set_num_threads(threads)
        torch.testing.assert_close(*results)


@pytest.mark.parametrize("shape", [(7, 9), (5, 4, 6)])
def test_correlation_of_half_precision_is_computed_in_full(shape: tuple[int, ...]) -> None:
    features = [torch.randn(1, 5, *shape).bfloat16() for _ in range(2)]
    found = local_correlation(*features, 1)
    torch.testing.assert_close(found, local_correlation(*(one.float() for one in features), 1), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(1, 5, 6), (4, 5, 6)])
def test_a_convolution_under_autocast_is_the_plain_one(shape: tuple[int, int, int]) -> None:
    ours, plain = VolumeConvolution(3, 4, 3, padding=1), nn.Conv3d(3, 4, 3, padding=1)
    plain.load_state_dict(ours.state_dict())
    features = torch.randn(1, 3, *shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(features)
    torch.testing.assert_close(found.float(), plain(features), rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("shape", [(5, 73, 61), (7, 73, 61)])  # plain torch 2.13 gives NaN here on processors with AMX
@pytest.mark.parametrize("stride", [(1, 1, 1), (1, 2, 2), (2, 2, 2)])
def test_a_flat_kernel_under_autocast_has_the_plain_gradients(shape: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
    ours = VolumeConvolution(62, 16, (1, 3, 3), stride=stride, padding=(0, 1, 1))
    plain = nn.Conv3d(62, 16, (1, 3, 3), stride=stride, padding=(0, 1, 1))
    plain.load_state_dict(ours.state_dict())
    features = torch.randn(1, 62, *shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours(features)
    expected = plain(features)
    torch.testing.assert_close(found.float(), expected, rtol=3e-2, atol=3e-2)
    weights = torch.randn_like(expected)
    one, other = (torch.autograd.grad(output, convolution.weight, weights.to(output.dtype))[0] for output, convolution in ((found, ours), (expected, plain)))
    assert (one - other).norm() < 2e-2 * other.norm()


def test_correlation_finds_a_shift() -> None:
    features = normalised(torch.randn(1, 8, 9, 11))
    shifted = features.roll((1, -1), dims=(2, 3))
    inside = local_correlation(features, shifted, 1)[0, :, 2:-2, 2:-2]
    offsets = list(itertools.product((-1, 0, 1), repeat=2))
    assert (inside.argmax(dim=0) == offsets.index((1, -1))).all()
    torch.testing.assert_close(inside.amax(dim=0), torch.ones_like(inside[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(4, 5, 6), (7, 9, 8), (9, 4, 3)])
@pytest.mark.parametrize("kernel", [(3, 3, 3), (1, 3, 3), (5, 3, 1)])
def test_a_convolution_in_halves_is_the_whole_one(shape: tuple[int, int, int], kernel: tuple[int, int, int]) -> None:
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    halves, whole = VolumeConvolution(3, 4, kernel, padding=padding), nn.Conv3d(3, 4, kernel, padding=padding)
    whole.load_state_dict(halves.state_dict())
    features = torch.randn(1, 3, *shape, requires_grad=True)
    results = []
    for convolution in (halves, whole):
        found = convolution(features)
        results.append([found, *torch.autograd.grad(found.square().sum(), [features, *convolution.parameters()])])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)

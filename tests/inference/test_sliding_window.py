"""Tiles, their weights, and whole images from them."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch

from nnreg.errors import PredictionError
from nnreg.inference.dense_prediction.sliding_window import SlidingWindow, importance, mirrored_mean, tile_starts

# made with nnunetv2 2.8.1: image, tile, step, starts
STARTS = [
    ((110,), (64,), 0.5, [[0, 23, 46]]),
    ((128, 128, 128), (128, 128, 128), 0.5, [[0], [0], [0]]),
    ((200, 250, 130), (128, 128, 128), 0.5, [[0, 36, 72], [0, 61, 122], [0, 2]]),
    ((33, 300, 300), (20, 256, 224), 0.5, [[0, 6, 13], [0, 44], [0, 76]]),
    ((192, 160, 256), (128, 112, 160), 0.75, [[0, 64], [0, 48], [0, 96]]),
    ((256, 256, 256), (64, 64, 64), 1.0, [[0, 64, 128, 192]] * 3),
]
# made with nnunetv2 2.8.1: tile, sum, L2 norm, smallest, largest, first four
WEIGHTS = [
    ((128, 128, 128), 644980.770322877, 1510.227481454415, 3.77513464933088e-10, [3.77513464933088e-10, 4.837910627664144e-10, 6.175707722988477e-10]),
    ((20, 256, 224), 352719.2896589302, 1116.8282767266262, 3.77513464933088e-10, [3.77513464933088e-10, 4.3520867465396407e-10, 5.010818426853803e-10]),
    ((40, 56, 40), 27556.335287345388, 312.1629935785437, 3.77513464933088e-10, [3.77513464933088e-10, 8.235351289798132e-10, 1.726076503949514e-09]),
    ((512, 512), 257326.6565597269, 1134.370447557345, 1.1253517868681229e-06, [1.1253517868681229e-06, 1.1977845133515075e-06, 1.2745680351144983e-06]),
]


@pytest.mark.parametrize(("image", "tile", "step", "starts"), STARTS)
def test_tiles_start_where_nnunets_do(image, tile, step, starts):
    assert tile_starts(image, tile, step) == starts


@pytest.mark.parametrize(("tile", "total", "norm", "smallest", "head"), WEIGHTS, ids=lambda value: str(value) if isinstance(value, tuple) else "")
def test_weights_are_nnunets(tile, total, norm, smallest, head):
    weights = importance(tile).double()
    assert weights.shape == tile
    assert float(weights.max()) == 10
    assert float(weights.sum()) == pytest.approx(total, rel=1e-6)
    assert float(weights.norm()) == pytest.approx(norm, rel=1e-6)
    assert float(weights.min()) == pytest.approx(smallest, rel=1e-5)
    assert weights.flatten()[:3].tolist() == pytest.approx(head, rel=1e-5)


@pytest.mark.parametrize("tile", [(1, 7), (3, 5, 2), (33, 1, 9)])
def test_every_voxel_of_every_tile_counts(tile):
    assert float(importance(tile).min()) > 0


@pytest.mark.parametrize(
    ("shape", "patch"), [((17, 24), (8, 10)), ((11, 14, 9), (5, 14, 4)), ((8, 21, 13), (8, 6)), ((3, 5, 4), (6, 8, 10)), ((2, 5, 30), (8, 8))]
)
@pytest.mark.parametrize("mirror", [False, True])
def test_a_network_that_sees_one_voxel_at_a_time_gives_the_same_in_tiles(shape, patch, mirror):
    """Also where the image is smaller than the patch, or goes slice by slice."""
    image = torch.randn(2, *shape)

    def network(tiles):
        return [torch.cat([tiles * 3 - 1, tiles.square()], dim=1), "coarser levels are not looked at"]

    window = SlidingWindow([network], patch, mirror_axes=tuple(range(len(patch))) if mirror else ())
    torch.testing.assert_close(window(image.numpy()), network(image[None])[0][0], rtol=1e-4, atol=1e-5)


def test_overlapping_tiles_are_weighted_as_in_one_sum_over_all_of_them():
    """What leaves slice by slice equals sums over the whole volume, for a network that tells where in the tile a voxel lies."""
    shape, patch = (23, 19, 12), (8, 9, 12)
    image, bias = torch.randn(1, *shape), torch.randn(3, *patch)
    window = SlidingWindow([lambda tiles: tiles + bias], patch, step_size=0.4)
    weight = importance(patch)
    total, count = torch.zeros(3, *shape), torch.zeros(shape)
    for starts in itertools.product(*tile_starts(shape, patch, 0.4)):
        region = tuple(slice(start, start + size) for start, size in zip(starts, patch, strict=True))
        total[(slice(None), *region)] += (image[(slice(None), *region)] + bias) * weight
        count[region] += weight
    torch.testing.assert_close(window(image), total / count, rtol=1e-4, atol=1e-5)


def test_logits_of_several_networks_are_averaged():
    image = torch.randn(1, 9, 10)
    both = SlidingWindow([lambda tiles: tiles, lambda tiles: 5 * tiles], (4, 6))
    torch.testing.assert_close(both(image), 3 * image, rtol=1e-5, atol=1e-6)


def test_mirrored_predictions_come_back_in_place():
    """A network that only ever sees the left neighbour sees both neighbours equally once mirrored."""
    tiles = torch.randn(1, 1, 4, 9)
    left = mirrored_mean(lambda tile: tile.roll(1, dims=3), tiles, (1,))
    torch.testing.assert_close(left, (tiles.roll(1, dims=3) + tiles.roll(-1, dims=3)) / 2)


def test_every_mirror_image_is_predicted_once():
    seen = []
    tiles = torch.arange(6.0).reshape(1, 1, 2, 3)
    mirrored_mean(lambda tile: (seen.append(tuple(tile.flatten().tolist())), tile)[1], tiles, (0, 1))
    assert len(seen) == len(set(seen)) == 4


def test_logits_too_large_for_memory_are_the_same_from_a_file():
    image = torch.randn(2, 12, 11, 10)
    inside, outside = (SlidingWindow([torch.sin], (6, 6, 6), largest_in_memory=limit)(image) for limit in (2**30, 100))
    assert outside.dtype is torch.float16
    torch.testing.assert_close(outside.float(), inside, rtol=1e-3, atol=1e-3)


def crowded(most: int):
    """A network that sees one voxel at a time, on a device that has memory for `most` of them."""

    def network(tiles: torch.Tensor) -> torch.Tensor:
        if tiles.numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return torch.sin(tiles)

    return network


@pytest.mark.parametrize(("most", "said"), [(2 * 8 * 12, "one by one"), (8 * 9, "parts of 9 of its 12 voxels along axis 1"), (8 * 6, "parts of 6 of its 9")])
def test_tiles_that_do_not_fit_into_memory_become_fewer_and_smaller_and_that_is_said(most, said):
    tiles = torch.rand(3, 1, 8, 12)
    window = SlidingWindow([crowded(most)], (8, 12), multiple=(2, 3))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        assert torch.equal(window.mean_logits(tiles), torch.sin(tiles))
    assert any(said in str(warning.message) for warning in heard)


def test_parts_are_of_sizes_that_the_network_takes_and_come_to_an_end():
    seen = []

    def network(tiles: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(tiles.shape[2:]))
        raise torch.OutOfMemoryError("CUDA out of memory")

    window = SlidingWindow([network], (32, 64), multiple=(16, 16))
    with pytest.warns(UserWarning, match="labels near the cut may differ"), pytest.raises(PredictionError, match=r"a tile of 32x48 voxels .*-device cpu"):
        window.mean_logits(torch.rand(1, 1, 32, 64))
    assert seen == [(32, 64), (32, 48)]


def test_progress_ends_with_the_last_tile():
    heard = []
    SlidingWindow([torch.sin], (4, 4))(np.zeros((1, 3, 6, 4), np.float32), lambda done, total: heard.append((done, total)))
    assert heard[-1] == (len(heard), len(heard)) == (6, 6)


@pytest.mark.parametrize("step", [0, -0.5, 1.5])
def test_steps_out_of_range_are_refused(step):
    with pytest.raises(PredictionError, match="-step_size"):
        tile_starts((9,), (4,), step)


def test_logits_that_are_not_finite_are_refused():
    with pytest.raises(PredictionError, match="not finite"):
        SlidingWindow([lambda tiles: tiles / 0], (4, 4))(torch.ones(1, 5, 5))


def test_large_logits_in_a_file_stay_finite():
    image = torch.full((1, 5, 6), 1e6)
    assert SlidingWindow([lambda tiles: tiles], (4, 4), largest_in_memory=0)(image).isfinite().all()

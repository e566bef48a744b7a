"""Where patches are cut: nnU-Net's boxes, forced foreground, and patches that leave the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnreg.tasks.dense_prediction.patches import draw_start, eligible, is_forced, limits
from nnreg.tasks.dense_prediction.samples import read_box

PEER = json.loads((Path(__file__).parent / "data" / "nnunet_patches.json").read_text())


@pytest.mark.parametrize("box", PEER["boxes"], ids=lambda box: "x".join(map(str, box["shape"])))
def test_limits_and_forced_starts_are_nnunets(box: dict[str, list[int]]) -> None:
    assert limits(box["shape"], box["read"], box["seen"]) == (box["lower"], box["upper"])
    voxel = np.asarray([box["voxel"]])
    start = draw_start(np.random.default_rng(0), box["shape"], box["read"], box["seen"], {5: voxel}, forced=True)
    assert list(start) == box["start"]


def test_as_many_of_a_batch_are_forced_as_in_nnunet() -> None:
    for size, count in PEER["forced"].items():
        forced = [is_forced(position, int(size)) for position in range(int(size))]
        assert sum(forced) == count
        assert forced == sorted(forced)  # the last ones


def test_every_start_within_the_limits_is_drawn() -> None:
    shape, read, seen = (3, 7, 9), (1, 6, 5), (1, 4, 5)
    lower, upper = limits(shape, read, seen)
    rng = np.random.default_rng(1)
    starts = np.asarray([draw_start(rng, shape, read, seen, {}, forced=index % 2 == 0) for index in range(600)])
    for axis, (low, high) in enumerate(zip(lower, upper, strict=True)):
        assert np.unique(starts[:, axis]).tolist() == list(range(low, high + 1))


def test_labels_are_forced_equally_often_whatever_their_size() -> None:
    locations = {1: np.asarray([[5, 5, 5]] * 1000), 2: np.asarray([[20, 20, 20]]), (1, 2): np.zeros((0, 3), int)}
    rng = np.random.default_rng(2)
    starts = [draw_start(rng, (40,) * 3, (4,) * 3, (4,) * 3, locations, forced=True) for _ in range(400)]
    rare = sum(start == (18, 18, 18) for start in starts)
    assert set(starts) == {(3, 3, 3), (18, 18, 18)}
    assert 140 < rare < 260  # a fair coin: 200 with a standard deviation of 10


def test_what_is_annotated_is_drawn_where_parts_are_not() -> None:
    everywhere, one = (-1, 0, 1), np.asarray([[9, 2, 30]])
    rng = np.random.default_rng(3)
    shape, patch = (20, 20, 40), (4, 4, 4)
    # nothing forced: on an annotated voxel. Forced: on a label; on anything annotated only if there is no label
    assert draw_start(rng, shape, patch, patch, {everywhere: one, 1: np.asarray([[1, 2, 3]])}, forced=False) == (7, 0, 28)
    assert draw_start(rng, shape, patch, patch, {everywhere: one, 1: np.asarray([[5, 6, 7]])}, forced=True) == (3, 4, 5)
    assert draw_start(rng, shape, patch, patch, {everywhere: one, 1: np.zeros((0, 3), int)}, forced=True) == (7, 0, 28)
    assert eligible({everywhere: np.zeros((0, 3), int)}) == []


@pytest.mark.parametrize("start", [(-2, 1, 3), (4, -9, 0), (2, 2, 2), (0, 0, -30)])
def test_reading_a_box_is_cutting_a_padded_array(start: tuple[int, ...]) -> None:
    array = np.arange(2 * 5 * 6 * 7).reshape(2, 5, 6, 7)
    size, pad = (4, 5, 3), 40
    padded = np.pad(array, [(0, 0), *[(pad, pad)] * 3], constant_values=-1)
    expected = padded[(slice(None), *(slice(pad + low, pad + low + extent) for low, extent in zip(start, size, strict=True)))]
    np.testing.assert_array_equal(read_box(array, start, size, -1), expected)

"""What a validation of registration measures where only some cases have labels or keypoints, or other labels than others."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny import Tiny

from nnreg.dataset import Pair, RawDataset
from nnreg.dataset.keypoints import write_keypoints
from nnreg.metrics import dice, reductions
from nnreg.tasks.registration.validation import _drawn, _known


def test_only_labels_of_both_images_count():
    fixed, moving = (
        torch.from_numpy(np.random.default_rng(seed).choice([0, 1, *more], (1, 1, 6, 7)).astype(np.int16)) for seed, more in ((0, [2, 5]), (1, [3, 5]))
    )
    expected = dice(fixed.numpy(), moving.numpy(), [1, 2, 3, 5], moving=moving.numpy())
    assert float(reductions.mean_dice(fixed, moving, moving)) == pytest.approx(np.nanmean(list(expected.values())))
    nothing = torch.where(moving == 3, moving, 0)
    assert np.isnan(float(reductions.mean_dice(fixed, nothing, nothing)))


def test_pairs_that_measure_something_are_validated_first(plane: Tiny, tmp_path):
    twin = plane.copy(tmp_path)
    raw = RawDataset.open(twin.raw)
    cases = sorted(raw.cases)
    for case in cases[2:]:
        twin.label(case).unlink()
    (twin.raw / "keypointsTr").mkdir()
    for case in cases[1:3]:
        write_keypoints(twin.raw / "keypointsTr" / f"{case}.csv", [[3.0, 3.0]])
    every = [Pair(one, other) for one, other in itertools.permutations(cases, 2)]
    known = _known(every, RawDataset.open(twin.raw))
    assert known == {Pair(cases[0], cases[1]), Pair(cases[1], cases[0]), Pair(cases[1], cases[2]), Pair(cases[2], cases[1])}
    for most in (2, 4, 5):
        drawn = _drawn(every, most, known)
        assert len(drawn) == most
        assert len(known & set(drawn)) == min(most, 4)
        assert drawn == [pair for pair in every if pair in drawn]
    assert _drawn(every, len(every), known) == every

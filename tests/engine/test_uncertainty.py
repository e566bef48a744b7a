"""The map of uncertainty is high where a map is wrong."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from nnreg.engine import Constraints, register, uncertainty_map
from nnreg.imageio import Image
from tests.engine.pairs import known_pair


def test_it_follows_the_true_error():
    fixed, moving, _, _, truth = known_pair(3, largest=3.0, seed=1)
    rng = np.random.default_rng(0)
    blurred = fixed.array.copy()
    # one half of the body has lost its texture
    middle = fixed.space.shape[1] // 2
    blurred[:, :, :middle] = np.where(fixed.array[:, :, :middle] > 60, 150, fixed.array[:, :, :middle])
    seen = Image(blurred + rng.normal(size=blurred.shape).astype(np.float32) * 3, fixed.space)
    found = register(fixed=seen, moving=moving, preset="fast", similarity="lncc", initial=None)
    estimate = uncertainty_map(found)
    steps = np.asarray(fixed.space.spacing).reshape(-1, 1, 1, 1)
    difference = (found.transform.sampled_on(fixed.space).displacement - truth.sampled_on(fixed.space).displacement) * steps
    error, body = np.sqrt((difference**2).sum(axis=0)), fixed.array[0] > 60
    assert estimate.shape == fixed.space.shape
    assert estimate.dtype == np.float32
    assert spearmanr(estimate[body], error[body])[0] > 0.4
    assert estimate[:, :middle][body[:, :middle]].mean() > 1.2 * estimate[:, middle:][body[:, middle:]].mean()


def test_it_uses_what_the_registration_used():
    fixed, moving, fixed_labels, moving_labels, truth = known_pair(2)
    masks = {"fixed_mask": Image(np.ones(fixed.array.shape, np.uint8), fixed.space)}
    labels = {"fixed_labels": fixed_labels, "moving_labels": moving_labels}
    constraints = Constraints(preserve=Image((fixed_labels.array == 1).astype(np.uint8), fixed.space))
    for options in ({**masks, **labels}, {"moving_labels": moving_labels}, {"initial": truth}, {"affine_only": True}, {"constraints": constraints}):
        estimate = uncertainty_map(register(fixed=fixed, moving=moving, preset="fast", **options))
        assert np.isfinite(estimate).all()
        assert 0 < estimate.max() < 30

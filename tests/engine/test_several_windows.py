"""Local correlation in windows of several widths, at the finest level of presets that ask for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nnreg.engine import register, registration
from nnreg.engine.grids import Level
from nnreg.engine.prepared_image import PreparedImage
from nnreg.engine.presets import PRESETS, Preset
from nnreg.engine.similarities import find_similarity
from nnreg.engine.similarities.lncc import local_correlation
from nnreg.geometry import Space
from tests.engine.pairs import known_pair

SHAPE = (9, 10, 11)


def unlike(device: str | None = None) -> tuple[Level, np.ndarray, np.ndarray]:
    """Two unlike images on one grid, another to compare with the fixed one, and where windows count."""
    generator = np.random.default_rng(0)
    fixed, moving, warped = generator.random((3, 1, *SHAPE), dtype=np.float32)
    level = Level(*(PreparedImage(image, None, Space.plain(SHAPE)) for image in (fixed, moving)), np.eye(3, 4, dtype=np.float32), 1.0)
    return level.on(None if device is None else torch.device(device)), warped, (generator.random(SHAPE) > 0.2).astype(np.float32)


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_are_sums_over_the_windows(masked):
    level, warped, valid = unlike()
    found = []
    for radii in ((1.0, 3.0), (1.0,), (3.0,)):
        term, gradient = local_correlation(level, *radii).term, np.zeros_like(warped)
        term.restrict(valid if masked else None)
        term(warped, np.zeros_like(warped))  # what a call leaves behind changes no later one
        found.append((term(warped, gradient), gradient))
    (value, slope), *single = found
    assert value == pytest.approx(sum(one for one, _ in single))
    assert np.allclose(slope, sum(one for _, one in single), atol=1e-9)


def test_tensors_give_the_same():
    level, warped, _ = unlike()
    level_of_tensors, *_ = unlike("cpu")
    gradient, tensor = np.zeros_like(warped), torch.zeros((1, *SHAPE))
    value = local_correlation(level, 1.0, 3.0).term(warped, gradient)
    other = local_correlation(level_of_tensors, 1.0, 3.0).term(torch.from_numpy(warped), tensor)
    assert float(other) == pytest.approx(value, rel=1e-5)
    assert np.allclose(gradient, tensor.numpy(), atol=1e-6)


def test_half_windows_of_levels():
    preset = Preset((1, 1, 1, 1), radius=4.0, windows=((0.5, 2.0), (0.25,)))
    assert [preset.radii(finer) for finer in range(3)] == [(2.0, 8.0), (1.0,), (4.0,)]
    assert Preset((1, 1, 1, 1)).radii(0) == (2.0,)
    assert all(list(windows) == sorted(windows) for preset in PRESETS.values() for windows in preset.windows)


@pytest.mark.parametrize("similarity", ["lncc", "nmi+gradient"])
def test_only_what_takes_several_is_given_them(monkeypatch, similarity):
    asked = []
    known = find_similarity(similarity)
    heard = replace(known, groups=lambda level, *radii: asked.append(radii) or known.groups(level, *radii))
    monkeypatch.setattr(registration, "find_similarity", lambda name: heard)
    fixed, moving, *_ = known_pair(2, seed=3)
    register(fixed=fixed, moving=moving, preset="accurate", similarity=similarity)
    assert ((1.0, 5.0) in asked) == (similarity == "lncc")
    assert {len(radii) for radii in asked} <= {1, 2}

"""How fine the working grid is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnreg.planning.decision import Decision, rule, text
from nnreg.planning.registration.fingerprint import Fingerprint

ANISOTROPIC = 3.0  # nnU-Net: a spacing this many times the others, on an axis with so many times fewer voxels
ANISOTROPIC_PERCENTILE = 10
LOWRES_ABOVE = 128**3  # voxels: smaller grids need no coarser companion
LOWRES_VOXELS = 96**3
LOWRES_STEP = 1.03  # nnU-Net's
LOWRES_GAIN = 2.0  # nnU-Net: a companion with more than half the voxels is not worth training
UNEQUAL = 2.0  # nnU-Net: axes this many times finer than the coarsest are coarsened first


@rule("spacing")
def target_spacing(fingerprint: Fingerprint) -> Decision[tuple[float, ...]]:
    """nnU-Net's: the median per axis; the 10th percentile along an axis three times coarser with three times fewer voxels, never finer than the others."""
    spacings = fingerprint.spacings()
    target = np.median(spacings, axis=0)
    sizes = np.median(fingerprint.foreground_extents() / spacings, axis=0)
    worst = int(target.argmax())
    others = [axis for axis in range(len(target)) if axis != worst]
    reason = f"median of {len(spacings)} images"
    if target[worst] > ANISOTROPIC * max(target[others]) and sizes[worst] * ANISOTROPIC < min(sizes[others]):
        tenth = float(np.percentile(spacings[:, worst], ANISOTROPIC_PERCENTILE))
        finest = float(max(target[others]))
        # nnU-Net's own step to keep the axis the coarsest, as a share of the spacing: theirs is in mm
        target[worst] = max(tenth, finest * (1 + 1e-5)) if tenth < finest else tenth
        reason += f"; axis {worst} is more than {ANISOTROPIC:g} times coarser than the others, so it takes the 10th percentile of its spacings"
    return Decision(tuple(float(value) for value in target), f"{reason}: {text(target.tolist())} mm")


def coarsened(spacing: Sequence[float], step: float = LOWRES_STEP) -> tuple[float, ...]:
    """One step coarser: first only the axes more than twice finer than the coarsest, then all."""
    coarsest = max(spacing)
    finer = [coarsest / value > UNEQUAL for value in spacing]
    return tuple(value * step if fine or not any(finer) else value for value, fine in zip(spacing, finer, strict=True))


@rule("lowres_spacing")
def lowres_spacing(spacing: Sequence[float], grid: Sequence[int]) -> Decision[tuple[float, ...] | None]:
    """A coarser companion where the grid has more than 128^3 voxels: steps of 3 %, finer axes first, to at most 96^3.

    None where that saves less than half.
    """
    voxels = int(np.prod(grid))
    if voxels <= LOWRES_ABOVE:
        return Decision(None, f"the full grid has {voxels} voxels, no more than {LOWRES_ABOVE}")
    extent = np.asarray(grid) * np.asarray(spacing)
    coarse = tuple(float(value) for value in spacing)
    while np.prod(extent / np.asarray(coarse)) > LOWRES_VOXELS:
        coarse = coarsened(coarse)
    gain = voxels / float(np.prod(extent / np.asarray(coarse)))
    if gain < LOWRES_GAIN:
        return Decision(None, f"a grid of {LOWRES_VOXELS} voxels would save less than half")
    return Decision(
        coarse, f"the full grid has {voxels} voxels; coarsened in steps of 3 %, finer axes first, to at most {LOWRES_VOXELS}: {gain:.1f} times fewer"
    )

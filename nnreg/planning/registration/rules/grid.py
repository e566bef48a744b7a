"""How much of the world the working grid shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnreg.errors import PlansError
from nnreg.planning.decision import Decision, rule, text
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.reference_space import MARGIN, frames_of, needed_extent

MULTIPLES = (8, 4, 2)
LARGEST_ROUNDING = 0.1  # of an axis


@rule("field_of_view")
def field_of_view(fingerprint: Fingerprint, pre_alignment: str, reference: str | None) -> Decision[tuple[float, ...]]:
    """Size of the working grid in mm, per axis: the whole foreground, 5 % more on each side.

    Not past a face where the body is cut off (a tenth of it is foreground), and for groups not past the image.
    """
    extent = np.max([needed_extent(fingerprint, frame, pre_alignment) for frame in frames_of(fingerprint, reference)], axis=0)
    value = tuple(float(size) for size in extent)
    if pre_alignment == "none":
        whose = "all foregrounds on their common grid" if not fingerprint.groups else f"the foregrounds of the largest of {len(fingerprint.groups)} groups"
    else:
        whose = "the foreground of the reference case, to which all are aligned" if not fingerprint.groups else "the largest foreground"
    margin = "without a margin beyond the images" if fingerprint.groups else f"{MARGIN:.0%} margin on each side unless the body is cut off there"
    return Decision(value, f"{whose}, {margin}: {text(value)} mm")


@rule("grid")
def working_grid(extent: Sequence[float], spacing: Sequence[float]) -> Decision[tuple[int, ...]]:
    """Voxels per axis, rounded up to a multiple of 8, 4 or 2 where that adds no more than a tenth."""
    exact = [int(np.ceil(size / step - 1e-6)) for size, step in zip(extent, spacing, strict=True)]
    if len(exact) == 3 and min(exact) < 2:
        raise PlansError(f"an axis of the images has a single voxel ({text(exact)}): store them as 2D images, or add the neighbouring slices.")
    grid = tuple(_rounded_up(size) for size in exact)
    return Decision(grid, f"{text(extent)} mm at {text(spacing)} mm are {text(exact)} voxels, rounded up a little for even halving")


def _rounded_up(size: int) -> int:
    for multiple in MULTIPLES:
        rounded = -(-size // multiple) * multiple
        if rounded - size <= LARGEST_ROUNDING * size:
            return rounded
    return size

"""How much of the world the working grid shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nnreg.errors import PlansError
from nnreg.planning.decision import Decision, counted, rule, text
from nnreg.planning.registration.fingerprint import Fingerprint
from nnreg.planning.registration.pair_fingerprint import PairMeasurement
from nnreg.planning.registration.reference_space import MARGIN, frames_of, labelled_box, needed_extent, rounded_up
from nnreg.planning.registration.rules.alignment import WITHIN_SUBJECT
from nnreg.planning.registration.rules.training import supervision

WORTH_CUTTING = 0.5  # share of the field of view that a region of interest fills at most: less is not worth a border inside the images
MOSTLY_THERE = 0.6  # share of what differs between the aligned images of a pair, in the median, that lies in the region; hearts have 0.88


@dataclass(frozen=True)
class Region:
    """Part of the working frame.

    Attributes
    ----------
    extent : mm per axis
    offset : mm per axis, from the middle of the frame to the middle of the region
    """

    extent: tuple[float, ...]
    offset: tuple[float, ...]


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


@rule("region_of_interest")
def region_of_interest(fingerprint: Fingerprint, extent: Sequence[float], pre_alignment: str) -> Decision[Region | None]:
    """Within a subject, the part of the field of view that the network works on: where labels teach, around what they show of every training pair.

    One box in the frame for all, found without labels again in a new image: the union of the labelled boxes, and around it what 99 % of the pilot's
    displacements reach in the median pair. Only where it fills at most half of the field of view, and where at least 0.6 of the squared difference of the
    aligned images lies in it: else something is to be registered elsewhere too. Beyond it the network's map fades to the alignment.
    """
    if fingerprint.pairing not in WITHIN_SUBJECT or not any(term.name == "soft_dice" for term in supervision(fingerprint).value):
        return Decision(None, "the whole field of view: a part of it is enough only within a subject and where labels teach")
    boxes = [labelled_box(fingerprint, frame, pre_alignment) for frame in frames_of(fingerprint, None)]
    found = [box for box in boxes if box is not None]
    reach, change = _median(fingerprint, lambda pair: pair.displacement_mm.p99), _median(fingerprint, lambda pair: pair.labelled_change)
    if len(found) < len(boxes) or reach is None or change is None:
        return Decision(None, "the whole field of view: where labels lie in the frame, or what differs there, was not measured (--clean measures again)")
    whole = np.asarray(extent)
    low = np.maximum(np.min([box.low for box in found], axis=0) - reach, -whole / 2)
    high = np.minimum(np.max([box.high for box in found], axis=0) + reach, whole / 2)
    share = float(np.prod((high - low) / whole))
    told = f"the labels of {counted(len(found), 'group')} of images and {reach:.1f} mm around them fill {share:.0%} of the field of view"
    if share > WORTH_CUTTING or change < MOSTLY_THERE:
        return Decision(None, f"the whole field of view: {told}, and {change:.0%} of what differs between aligned images lies there")
    region = Region(tuple((high - low).tolist()), tuple(((high + low) / 2).tolist()))
    return Decision(region, f"{told}, where {change:.0%} of what differs between aligned images lies: {text(region.extent)} mm, {text(region.offset)} mm off")


def _median(fingerprint: Fingerprint, value: Callable[[PairMeasurement], float | None]) -> float | None:
    return None if fingerprint.pairs is None else fingerprint.pairs.median(value)


@rule("grid_within_image")
def grid_within_image(fingerprint: Fingerprint, pre_alignment: str) -> Decision[bool]:
    """Within a subject whose images the headers align, each group's grid ends where its image does: no network computes what no image shows."""
    if fingerprint.pairing in WITHIN_SUBJECT and pre_alignment == "none":
        return Decision(True, f"pairing {fingerprint.pairing!r}, aligned by the headers: a group's grid ends with its image, if it is smaller")
    return Decision(False, "images are brought together from different places: all have the planned grid")


@rule("grid")
def working_grid(extent: Sequence[float], spacing: Sequence[float]) -> Decision[tuple[int, ...]]:
    """Voxels per axis, rounded up to a multiple of 8, 4 or 2 where that adds no more than a tenth."""
    exact = [int(np.ceil(size / step - 1e-6)) for size, step in zip(extent, spacing, strict=True)]
    if len(exact) == 3 and min(exact) < 2:
        raise PlansError(f"an axis of the images has a single voxel ({text(exact)}): store them as 2D images, or add the neighbouring slices.")
    grid = tuple(rounded_up(size) for size in exact)
    return Decision(grid, f"{text(extent)} mm at {text(spacing)} mm are {text(exact)} voxels, rounded up a little for even halving")

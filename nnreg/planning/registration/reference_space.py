"""Where the working grid lies: around the foreground, with a margin, not past anatomy that the image cuts off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Doubles
from nnreg.geometry.space import Space
from nnreg.planning import orientation
from nnreg.planning.registration.fingerprint import Fingerprint, ImageFingerprint

MARGIN = 0.05  # of the foreground's extent, on each side: what an affine alignment leaves over
CUT_OFF = 0.1  # share of a face that is foreground: there the image ends inside the body, and there is nothing beyond to see
SAME_SPACING = 1e-3
MULTIPLES = (8, 4, 2)
LARGEST_ROUNDING = 0.1  # of an axis
FEWEST_VOXELS = 4  # of an axis of a grid that was cut: a few levels of the pyramid still see more than one voxel


@dataclass(frozen=True, eq=False)
class Box:
    """A box of interest, in voxels of one image: voxel k fills k - 1/2 to k + 1/2.

    Attributes
    ----------
    low, high : array axis order, half open as slices are, but with fractions
    """

    low: Doubles
    high: Doubles

    @property
    def centre(self) -> Doubles:
        """Voxel index of the middle."""
        return (self.low + self.high - 1) / 2

    def __or__(self, other: Box) -> Box:
        return Box(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def box_of(image: ImageFingerprint, *, beyond: bool) -> Box:
    """Box around the foreground of an image, with its margin.

    Parameters
    ----------
    image
        Its measurements.
    beyond
        Whether the margin may leave the image: another subject, aligned, may fill it. Never where the image ends inside the body.
    """
    size = np.asarray(image.shape, dtype=float)
    low, high = (np.asarray(side, dtype=float) for side in (image.foreground_low, image.foreground_high))
    faces = np.asarray(image.foreground_faces)
    margin = MARGIN * (high - low)
    # beyond a face that cuts the body off there is nothing to see, though the array may go on with padding
    first, last = np.where(faces[:, 0] > CUT_OFF, low, 0), np.where(faces[:, 1] > CUT_OFF, high, size)
    inside_low, inside_high = np.maximum(low - margin, first), np.minimum(high + margin, last)
    if not beyond:
        return Box(inside_low, inside_high)
    return Box(np.where(faces[:, 0] > CUT_OFF, inside_low, low - margin), np.where(faces[:, 1] > CUT_OFF, inside_high, high + margin))


@dataclass(frozen=True)
class ReferenceCases:
    """A frame: the case that owns it, and all cases that are brought into it."""

    owner: str
    members: tuple[str, ...]
    beyond: bool


def frames_of(fingerprint: Fingerprint, reference: str | None) -> list[ReferenceCases]:
    """One frame per group of pairs, or one for the whole dataset.

    Parameters
    ----------
    fingerprint
        Of the dataset.
    reference
        Owner of the dataset's frame, where it has one.
    """
    if fingerprint.pairing in ("pairs", "groups"):
        return [ReferenceCases(group[0], group, beyond=False) for group in fingerprint.groups]
    return [ReferenceCases(reference or next(iter(fingerprint.images)), tuple(fingerprint.images), beyond=True)]


def frame_box(fingerprint: Fingerprint, frame: ReferenceCases, pre_alignment: str) -> Box:
    """Box that the frame's grid is centred on, in voxels of its owner.

    Around the owner's foreground. In a dataset whose images stay where they are, on one grid, around everybody's.
    """
    box = box_of(fingerprint.images[frame.owner], beyond=frame.beyond)
    if pre_alignment == "none" and frame.beyond:
        for case in frame.members:
            box = box | box_of(fingerprint.images[case], beyond=True)
    return box


def needed_extent(fingerprint: Fingerprint, frame: ReferenceCases, pre_alignment: str) -> npt.NDArray[np.float64]:
    """Size in mm, common axis order, of a grid around the middle of the frame's box that shows all its cases."""
    owner = fingerprint.images[frame.owner]
    box = frame_box(fingerprint, frame, pre_alignment)
    if frame.beyond:
        return _in_mm(owner, box.high - box.low, fingerprint.orientation)
    boxes = {case: box_of(fingerprint.images[case], beyond=False) for case in frame.members}
    if pre_alignment != "none":
        # the others are brought to the owner's middle, or nearly
        return np.max([_in_mm(fingerprint.images[case], other.high - other.low, fingerprint.orientation) for case, other in boxes.items()], axis=0)
    low, high = np.min([other.low for other in boxes.values()], axis=0), np.max([other.high for other in boxes.values()], axis=0)
    middle = box.centre + 0.5
    return _in_mm(owner, 2 * np.maximum(high - middle, middle - low), fingerprint.orientation)


def _in_mm(image: ImageFingerprint, voxels: Doubles, wanted: str) -> npt.NDArray[np.float64]:
    return image.ordered(tuple((voxels * np.asarray(image.spacing)).tolist()), wanted)


def labelled_box(fingerprint: Fingerprint, frame: ReferenceCases, pre_alignment: str) -> Box | None:
    """Box around everything that is labelled in the images of a frame: mm from the frame's middle, axes as the working grid has them.

    None where an image has no labels, or where the headers do not say where they lie in the frame.
    """
    images = [fingerprint.images[case] for case in frame.members]
    owner = fingerprint.images[frame.owner]
    if pre_alignment != "none" or any(image.labelled_low is None or image.labelled_high is None for image in images):
        return None
    grid, spacing = orientation.reoriented(owner.space, fingerprint.orientation), owner.ordered(owner.spacing, fingerprint.orientation)
    middle = grid.to_index(owner.space.to_world(frame_box(fingerprint, frame, pre_alignment).centre))
    corners = []
    for image in images:
        ends = np.meshgrid(*zip(np.asarray(image.labelled_low) - 0.5, np.asarray(image.labelled_high) - 0.5, strict=True), indexing="ij")
        corners.append(grid.to_index(image.space.to_world(np.stack([end.ravel() for end in ends], axis=-1))))
    from_middle = (np.concatenate(corners) - middle) * spacing
    return Box(from_middle.min(axis=0), from_middle.max(axis=0))


@dataclass(frozen=True)
class Placement:
    """How working grids lie in their frames.

    Attributes
    ----------
    orientation : letters of the working grids
    offset : mm per axis, from the middle of the frame to the middle of the grid; None for none
    within_image : whether a grid ends where the image of its frame does
    """

    orientation: str
    offset: tuple[float, ...] | None = None
    within_image: bool = False

    def space(self, native: Space, centre: Sequence[float] | Doubles, spacing: Sequence[float], grid: Sequence[int]) -> Space:
        """The working grid in a frame whose image lies on `native` and whose middle is at the world position `centre` (mm); `grid` at most."""
        turned = orientation.reoriented(native, self.orientation)
        if self.offset is not None:
            centre = turned.to_world(turned.to_index(centre) + np.asarray(self.offset) / turned.spacing)
        if self.within_image:
            centre, grid = _cut(turned, centre, spacing, grid)
        return working_space(native, centre, self.orientation, spacing, grid)


def _cut(image: Space, centre: Sequence[float] | Doubles, spacing: Sequence[float], grid: Sequence[int]) -> tuple[Doubles, tuple[int, ...]]:
    """Middle (world mm) and size of a grid that ends where `image` does, up to a rounding to even numbers."""
    scale = np.asarray(image.spacing) / np.asarray(spacing)
    middle, whole = (image.to_index(centre) + 0.5) * scale, np.asarray(image.shape) * scale
    low, high = np.maximum(middle - np.asarray(grid) / 2, 0), np.minimum(middle + np.asarray(grid) / 2, whole)
    sizes = np.ceil(high - low - SAME_SPACING).astype(int)
    cut = tuple(min(most, rounded_up(max(int(size), FEWEST_VOXELS))) for size, most in zip(sizes, grid, strict=True))
    return image.to_world((low + high) / 2 / scale - 0.5), cut


def rounded_up(size: int) -> int:
    """The next multiple of 8, 4 or 2, the first of these that adds no more than a tenth."""
    for multiple in MULTIPLES:
        rounded = -(-size // multiple) * multiple
        if rounded - size <= LARGEST_ROUNDING * size:
            return rounded
    return size


def working_space(native: Space, centre: Sequence[float] | Doubles, wanted: str, spacing: Sequence[float], grid: Sequence[int]) -> Space:
    """The working grid in the world of `native`, its axes as `wanted`, around the world position `centre` (mm).

    Where the spacing is the image's own, the grid moves by less than half a voxel so that voxel centres coincide: nothing is blurred for nothing.
    """
    turned = orientation.reoriented(native, wanted)
    space = turned.centred(centre, grid, spacing)
    if not np.allclose(turned.spacing, spacing, rtol=SAME_SPACING, atol=0):
        return space
    first = turned.to_index(np.asarray(space.origin))
    shift = turned.to_world(np.round(first)) - turned.to_world(first)
    return Space(space.shape, space.spacing, tuple((np.asarray(space.origin) + shift).tolist()), space.direction)

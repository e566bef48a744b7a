"""Where the body is, found without labels: skull-stripped brains, heads in noise, CT with air and padding, slices, stained sections.

The search looks at a thinned copy of the image, so it costs a fraction of a second whatever the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy  # its ndimage takes a third of a second to load, which it does when it is first used

from nnreg.arrays import Mask
from nnreg.padding import Box, fill_values, holds, shown, slices, without_fill

COARSE_VOXELS = {2: 512, 3: 128}  # the thinned copy has at most so many voxels along an axis
AIR_HU = -1000.0
BODY_HU = -500.0  # half way between air and water: the usual body threshold
FAINT = 0.02  # of the intensity range: what differs less from the background is background, resampled edges of a stripped brain included
NOISE_SPREADS = 6.0  # robust standard deviations of the background above its level
KEPT_COMPONENT = 0.05  # of the largest component: smaller ones are fiducials, tables and specks
QUIET = 0.5  # of the way to Otsu's threshold: real images with a background stay below 0.2, crops inside the body above 0.6
MOST_OF_A_FACE = 0.5  # if the foreground covers more of the median border face, no background can be told apart
SMALLEST_FRACTION = 0.002
TAILS = (0.5, 99.5)


@dataclass(frozen=True, eq=False)
class Foreground:
    """The foreground of one image.

    Attributes
    ----------
    found
        False if no background could be told apart: then the whole image is foreground.
    mask : array of bool, shape of the thinned part
    part
        What the image shows with a usual amount of air: all else is padding, and no part of shares and statistics.
    steps
        Every how many voxels that part was thinned, per axis.
    low, high
        Bounding box in voxels of the full image, half open.
    fraction
        Foreground voxels over those of the part.
    faces
        Share of the first and last face of the part along each axis that is foreground: near 1, the anatomy is cut off there.
    background
        Intensity of the background, per channel.
    hounsfield
        Per channel: whether its intensities look like CT numbers.
    fills
        Per channel: values that mark voxels outside the image.
    """

    found: bool
    mask: Mask
    part: Box
    steps: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    fraction: float
    faces: tuple[tuple[float, float], ...]
    background: tuple[float, ...]
    hounsfield: tuple[bool, ...]
    fills: tuple[tuple[float, ...], ...]

    def centre(self) -> npt.NDArray[np.float64]:
        """Mean voxel index (array axis order) of the foreground."""
        indices = [low + np.arange(size) * step for size, step, (low, _) in zip(self.mask.shape, self.steps, self.part, strict=True)]
        total = self.mask.sum()
        sums = [self.mask.sum(axis=tuple(other for other in range(self.mask.ndim) if other != axis)) for axis in range(self.mask.ndim)]
        return np.asarray([float(np.dot(index, count) / total) for index, count in zip(indices, sums, strict=True)])

    def values(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
        """Foreground intensities of the thinned part of an image, shape (C, N)."""
        return np.asarray(thinned(array[slices(self.part)], self.steps)[:, self.mask], dtype=np.float64)

    def indices(self) -> npt.NDArray[np.int64]:
        """Voxel indices (N, ndim) of the foreground of the thinned part."""
        return np.asarray(np.argwhere(self.mask) * np.asarray(self.steps) + [low for low, _ in self.part], dtype=np.int64)

    def filled_out(self, array: npt.NDArray[np.float32], native: npt.NDArray[np.generic], levels: Sequence[float]) -> npt.NDArray[np.float32]:
        """A normalised image (C, *spatial) whose padding, as `native` shows it, became the `levels` of its background."""
        padding = np.full(array.shape[1:], self.found)
        padding[slices(self.part)[1:]] = False
        for channel, own, fills, level in zip(array, native, self.fills, levels, strict=True):
            channel[padding | holds(own, fills) if fills else padding] = level
        return array


def thinning(shape: Sequence[int]) -> tuple[int, ...]:
    """Every how many voxels an image of `shape` is looked at, per axis."""
    return tuple(-(-size // COARSE_VOXELS[len(shape)]) for size in shape)


def thinned(array: npt.NDArray[np.generic], steps: Sequence[int]) -> npt.NDArray[np.generic]:
    """Every `steps`-th voxel of (C, *spatial); not averaged, because averaging would blur an exact background value."""
    return array[(slice(None), *(slice(None, None, step) for step in steps))]


def find_foreground(array: npt.NDArray[np.generic]) -> Foreground:
    """Tell foreground from background.

    CT is known in physical units, so its body is what lies above -500 HU. Anything else is compared with the intensity that is
    commonest on the border of the image: black around a brain, noise around a head, white around a section.

    Parameters
    ----------
    array : array, shape (C, *spatial), finite

    Returns
    -------
    Foreground
    """
    part = shown(array).part
    array = array[slices(part)]
    shape = array.shape[1:]
    steps = thinning(shape)
    coarse = np.asarray(thinned(array, steps), dtype=np.float64)
    hounsfield = tuple(looks_like_hounsfield(channel) for channel in coarse)
    # below the air of a CT nothing is taken for the body
    fills = tuple(() if is_ct else fill_values(np.sort(channel, axis=None)) for channel, is_ct in zip(coarse, hounsfield, strict=True))
    native, coarse = coarse, np.stack([without_fill(channel, values) for channel, values in zip(coarse, fills, strict=True)])
    levels = [AIR_HU if is_ct else _border_mode(channel) for channel, is_ct in zip(coarse, hounsfield, strict=True)]
    if any(hounsfield):
        mask = np.any([channel > BODY_HU for channel, is_ct in zip(coarse, hounsfield, strict=True) if is_ct], axis=0)
    else:
        mask = _unlike(coarse, levels)
    mask = _tidy(mask)
    faces = _faces(mask)
    found = bool(np.median(faces) <= MOST_OF_A_FACE) and SMALLEST_FRACTION < mask.mean() < 1.0
    if not found and not any(hounsfield):
        mask = np.ones_like(mask)
        faces = tuple((1.0, 1.0) for _ in shape)
        if any(fills):
            mask &= ~np.any([holds(channel, values) for channel, values in zip(native, fills, strict=True)], axis=0)
        levels = [float(np.median(_border(channel))) for channel in coarse]
    low, high = _box(mask, steps, part)
    return Foreground(found, mask, part, steps, low, high, float(mask.mean()), faces, tuple(levels), hounsfield, fills)


def looks_like_hounsfield(values: npt.NDArray[np.float64]) -> bool:
    """Whether intensities look like CT numbers: air near -1000 takes part of the image, tissue lies around 0, bone above 200."""
    if values.min() > -900 or values.max() < 200:
        return False
    inside = values[values > BODY_HU]
    return bool(inside.size and -200 < np.median(inside) < 300 and np.mean(values <= -700) > 0.005)


def _border(channel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    faces = [np.take(channel, index, axis=axis).ravel() for axis in range(channel.ndim) for index in (0, -1)]
    return np.concatenate(faces)


def _border_mode(channel: npt.NDArray[np.float64]) -> float:
    """The commonest intensity on the border: exact where one value has a quarter of it, else the densest part of its histogram."""
    border = _border(channel)
    values, counts = np.unique(border, return_counts=True)
    if counts.max() >= 0.25 * border.size:
        return float(values[counts.argmax()])
    low, high = np.percentile(channel, TAILS)
    if high <= low:
        return float(np.median(border))
    histogram, edges = np.histogram(border, bins=128, range=(float(low), float(high)))
    densest = int(scipy.ndimage.gaussian_filter1d(histogram.astype(float), 2.0, mode="constant").argmax())
    return float((edges[densest] + edges[densest + 1]) / 2)


def _unlike(coarse: npt.NDArray[np.float64], levels: Sequence[float]) -> Mask:
    """Where any channel differs from its background by more than its noise; everywhere if the border is no quiet background."""
    distance = np.zeros(coarse.shape[1:])
    for channel, level in zip(coarse, levels, strict=True):
        low, high = np.percentile(channel, TAILS)
        spread = max(float(high) - level, level - float(low))
        if spread > 0:
            distance = np.maximum(distance, np.abs(channel - level) / spread)
    split = otsu(distance)
    quiet = np.median([_quiet_level(np.take(distance, index, axis=axis), split) for axis in range(distance.ndim) for index in (0, -1)])
    if quiet > QUIET * split:
        return np.ones(distance.shape, dtype=bool)
    return distance > max(FAINT, float(quiet))


def _quiet_level(face: npt.NDArray[np.float64], split: float) -> float:
    """Level that the background of one border face stays below: its median plus some robust standard deviations."""
    below = face[face <= split]
    if not below.size:
        return np.inf
    middle = float(np.median(below))
    return middle + NOISE_SPREADS * 1.4826 * float(np.median(np.abs(below - middle)))


def otsu(values: npt.NDArray[np.float64], bins: int = 256) -> float:
    """Threshold that separates two classes with the largest variance between them (Otsu 1979); values beyond 1 count as 1."""
    histogram, edges = np.histogram(np.clip(values, 0, 1), bins=bins, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(histogram)
    above = below[-1] - below
    sums = np.cumsum(histogram * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between = np.nan_to_num(between[:-1])
    # between two well separated classes every threshold is as good: take the middle
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))
    return float(edges[int(best[len(best) // 2]) + 1])


def _tidy(mask: Mask) -> Mask:
    """Without specks and small components, without holes (sinuses, ventricles, lungs)."""
    # a thin axis (a few thick slices) must not be eroded away
    reach = tuple(1 if size >= 16 else 0 for size in mask.shape)
    cross = scipy.ndimage.generate_binary_structure(mask.ndim, 1)
    for axis, wanted in enumerate(reach):
        if not wanted:
            keep = [slice(None)] * mask.ndim
            keep[axis] = slice(1, 2)
            cross = cross[tuple(keep)]
    opened = scipy.ndimage.binary_opening(mask, cross) if any(reach) else mask
    # opening takes the tips of the body too; what adjoins the rest comes back
    mask = scipy.ndimage.binary_dilation(opened, cross, mask=mask) if opened.any() else mask
    labels, count = scipy.ndimage.label(mask)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        mask = (sizes >= KEPT_COMPONENT * sizes.max())[labels]
    return _fill(mask)


def _fill(mask: Mask) -> Mask:
    """Fill holes slice by slice along every axis: a lung is open at the top of a slab and closed in every axial slice."""
    if mask.ndim == 2:
        return np.asarray(scipy.ndimage.binary_fill_holes(mask), dtype=bool)
    filled = np.zeros_like(mask)
    for axis in range(mask.ndim):
        if mask.shape[axis] > 1:
            plane = np.expand_dims(scipy.ndimage.generate_binary_structure(mask.ndim - 1, 1), axis)
            filled |= scipy.ndimage.binary_fill_holes(mask, plane)
    return filled | mask


def _faces(mask: Mask) -> tuple[tuple[float, float], ...]:
    return tuple((float(np.take(mask, 0, axis=axis).mean()), float(np.take(mask, -1, axis=axis).mean())) for axis in range(mask.ndim))


def _box(mask: Mask, steps: Sequence[int], part: Box) -> tuple[tuple[int, ...], tuple[int, ...]]:
    low, high = [], []
    for axis, (step, (first, last)) in enumerate(zip(steps, part, strict=True)):
        present = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        # what lies between two looked-at voxels may be foreground too
        low.append(max(first, first + int(present[0]) * step - (step - 1)))
        high.append(min(last, first + int(present[-1]) * step + step))
    return tuple(low), tuple(high)

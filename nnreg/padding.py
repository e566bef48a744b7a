"""What of an image shows something: without the constant planes around it (air, padding) and without fill values far from all others.

Statistics taken over padding say how much of it there is, not what is in the image. Whoever measures intensities asks here first where to look.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nnreg.arrays import Mask

MARGIN = 0.4  # of the size of what is shown: air kept on each side, so that images with a usual amount of it are looked at whole
AIR_SHARE = 0.25  # of a face of what is shown: where so much of it has the value of the planes beyond, these go on with its air
LOOKED_AT = {2: 512, 3: 128}  # voxels along an axis, at most, in the search for an object in noise
NOISE_SPREADS = 6.0  # robust standard deviations around the median of the border: what noise of air reaches
QUIET = 0.25  # of the way from the border's median to the object: noise that reaches further is no noise of air
SMALL = 0.05  # of the voxels: an object that takes more is seen by percentiles of all
ONE_SIDED = 0.99  # of what stands out is brighter, or darker, than air
OCCUPIED = 1e-3  # of a plane: fewer voxels that stand out are specks
LIGHT = 90.0  # percentile of the border of a photograph: what light alone is, where tissue takes less than most of it
SAMPLE = 100_000  # values from which percentiles are taken
SMALLEST = 4  # voxels: an axis that shows fewer is left as it is
SHARE = 0.005  # of the voxels: a rarer value does not reach the percentiles that are in use
FAR = 4.0  # spreads (1 to 99 %) of all other values: an extreme value that far from them is none of the image's own
LOWEST_HOUNSFIELD = -1024.0  # what a scanner can store; below lies padding, which then needs to be FAR_IN_CT away only
FAR_IN_CT = 0.25

Box = tuple[tuple[int, int], ...]
Read = Callable[[Box], npt.NDArray[Any]]


@dataclass(frozen=True)
class Shown:
    """Where an image shows something; boxes hold the first and one past the last index per axis.

    Attributes
    ----------
    tight : Box
        Without the constant planes around it.
    airy : Box
        With as much of the air around as is usual. Planes of a value that what is shown does not have at its border are no air, but padding: none is kept.
    part : Box
        What plans are measured on: `airy`, which the engine works on; but where no background can be told apart in what is shown, as much of the
        padding is kept, which then serves as one, unless its value is far from all others.
    """

    tight: Box
    airy: Box
    part: Box


def slices(box: Box) -> tuple[slice, ...]:
    """Index of (C, *spatial) that cuts out `box`."""
    return (slice(None), *(slice(low, high) for low, high in box))


def shown(array: npt.NDArray[Any]) -> Shown:
    """Find what an image shows.

    Parameters
    ----------
    array : array, shape (C, *spatial)

    Returns
    -------
    Shown
        Everything, if the image is constant.

    Examples
    --------
    >>> image = np.zeros((1, 40, 9))
    >>> image[0, 3:13, 1:8] = np.arange(1, 71).reshape(10, 7)
    >>> shown(image)
    Shown(tight=((3, 13), (1, 8)), airy=((3, 13), (1, 8)), part=((0, 17), (0, 9)))
    """
    whole: Box = tuple((0, size) for size in array.shape[1:])
    tight = tight_box(lambda box: array[slices(box)], whole)
    airy = tuple((low - _air(array, tight, axis, 0), high + _air(array, tight, axis, 1)) for axis, (low, high) in enumerate(tight))
    objects = _objects_in_noise(array[slices(tight)])
    if objects is not None:
        tight = tuple((start + low, start + high) for (start, _), (low, high) in zip(tight, objects, strict=True))
        airy = widened(tight, MARGIN, airy)
    inside = array[slices(tight)]
    part = airy if all(_quiet(channel) for channel in inside) else widened(tight, MARGIN, _up_to_fill(array, tight))
    return Shown(tight, airy, part)


def beyond(array: npt.NDArray[Any]) -> list[float]:
    """What an image is continued with beyond its border, a value per channel.

    Its smallest value, which is air in most modalities; but where its border is a bright background in every channel (a stained section on white), that.

    Parameters
    ----------
    array : array, shape (C, *spatial), finite

    Examples
    --------
    >>> section = np.full((1, 20, 20), 255)
    >>> section[0, 5:15, 5:15] = np.arange(100).reshape(10, 10)
    >>> beyond(section), beyond(255 - section)
    ([255.0], [0.0])
    """
    photograph = array.dtype == np.uint8 and len(array) in (3, 4)  # a section may reach its border, and lies on light all the same
    found = []
    for channel in array:
        border = _border(channel)
        middle = _noise(border)[0]
        low, high = np.percentile(_sample(channel).astype(np.float64), (0.5, 99.5))
        if low < high and not (middle - low > high - middle and (photograph or _quiet(channel))):
            return [float(array.min())] * len(array)
        found.append(float(np.percentile(border, LIGHT)) if photograph else middle)
    return found


def _up_to_fill(array: npt.NDArray[Any], tight: Box) -> Box:
    """The whole of an image, but not beyond a face of `tight` where a value begins that is far from all in it."""
    samples = [_sample(channel) for channel in array[slices(tight)]]
    limits = [[0, size] for size in array.shape[1:]]
    for axis, (low, high) in enumerate(tight):
        for end, (index, limit) in enumerate(((low - 1, 0), (high, array.shape[1 + axis]))):
            if (high if end else low) == limit:
                continue
            corner: Any = (slice(None), *(index if other == axis else first for other, (first, _) in enumerate(tight)))
            values = array[corner]
            if any(_far(float(value), sample) for value, sample in zip(values, samples, strict=True)):
                limits[axis][end] = high if end else low
    return tuple((first, last) for first, last in limits)


def _sample(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Some values, sorted."""
    flat = values.reshape(-1)
    return np.sort(flat[:: max(1, flat.size // SAMPLE)])


def widened(box: Box, share: float, limits: Box) -> Box:
    """A box with `share` of its size added on each side, within `limits`."""
    rooms = [int(np.ceil(share * (high - low))) for low, high in box]
    return tuple((max(first, low - room), min(last, high + room)) for (first, last), (low, high), room in zip(limits, box, rooms, strict=True))


def _quiet(channel: npt.NDArray[Any]) -> bool:
    """Whether most of the border of a channel is a background: its noise reaches less than half way to the intensities of the rest."""
    middle, reach = _noise(_border(channel))
    low, high = np.percentile(_sample(channel).astype(np.float64), (0.5, 99.5))
    return reach < 0.5 * max(float(high) - middle, middle - float(low))


def _noise(border: npt.NDArray[Any]) -> tuple[float, float]:
    """Median of border values, and how far noise reaches from it."""
    values = border.astype(np.float64)
    middle = float(np.median(values))
    # whole numbers may be so coarse that more than half of the noise is one of them
    spread = 1.4826 * float(np.median(np.abs(values - middle))) or float(values.std())
    return middle, NOISE_SPREADS * spread


def _objects_in_noise(array: npt.NDArray[Any]) -> Box | None:
    """Box of what stands out from the noise of air, where that takes nearly all of an image; None where it does not."""
    limit = LOOKED_AT.get(array.ndim - 1, 128)
    steps = tuple(-(-size // limit) for size in array.shape[1:])
    coarse = array[(slice(None), *(slice(None, None, step) for step in steps))]
    standing_out = [found for channel in coarse if (found := _standing_out(channel)) is not None]
    if len(standing_out) < len(coarse):
        return None
    mask = np.any(standing_out, axis=0)
    box = []
    for axis, (step, size) in enumerate(zip(steps, array.shape[1:], strict=True)):
        share = mask.mean(axis=tuple(other for other in range(mask.ndim) if other != axis))
        planes = np.flatnonzero(share > OCCUPIED)
        if not len(planes):
            return None
        box.append((max(0, int(planes[0]) * step - step + 1), min(size, int(planes[-1]) * step + step)))
    return tuple(box)


def _standing_out(channel: npt.NDArray[Any]) -> Mask | None:
    """Where a channel differs from its border by more than noise; None unless the border is quiet and little differs, all of it to one side."""
    middle, reach = _noise(_border(channel))
    difference = channel - np.float64(middle)
    mask = np.asarray(np.abs(difference) > reach, dtype=bool)
    found = difference[mask]
    if not 0 < found.size < SMALL * channel.size or reach == 0:
        return None
    sides = max(float((found > 0).mean()), float((found < 0).mean()))
    return mask if sides >= ONE_SIDED and reach < QUIET * float(np.median(np.abs(found))) else None


def _border(channel: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values of all faces, those of the edges several times."""
    return np.concatenate([np.take(channel, index, axis=axis).ravel() for axis in range(channel.ndim) for index in (0, -1)])


def tight_box(read: Read, whole: Box) -> Box:
    """The box that is left of `whole` without planes that are constant in every channel; `read` gives (C, *box) of a box.

    An axis that would show fewer than SMALLEST voxels is not cut, and a constant image not at all.
    """
    box = list(whole)
    before: list[tuple[int, int]] = []
    while box != before:
        before = list(box)
        for axis in range(len(box)):
            for end in (0, 1):
                while box[axis][1] - box[axis][0] > 1 and _constant(read(_plane(box, axis, end))):
                    low, high = box[axis]
                    box[axis] = (low, high - 1) if end else (low + 1, high)
    if all(high - low == 1 for low, high in box):
        return whole
    return tuple(part if part[1] - part[0] >= SMALLEST else all_of_it for part, all_of_it in zip(box, whole, strict=True))


def _plane(box: list[tuple[int, int]], axis: int, end: int) -> Box:
    """The first or last plane of a box."""
    low, high = box[axis]
    return (*box[:axis], (high - 1, high) if end else (low, low + 1), *box[axis + 1 :])


def _constant(plane: npt.NDArray[Any]) -> bool:
    flat = plane.reshape(len(plane), -1)
    # infinity is no padding: it is to be refused by whoever reads the values
    return bool((flat == flat[:, :1]).all() and np.isfinite(flat[:, 0]).all())


def _air(array: npt.NDArray[Any], tight: Box, axis: int, end: int) -> int:
    """How many planes beyond one face of `tight` are kept: those of one value that the face has too, within the margin."""
    low, high = tight[axis]
    size = array.shape[1 + axis]
    room = min(size - high if end else low, int(np.ceil(MARGIN * (high - low))))
    if not room:
        return 0

    def planes(first: int, last: int) -> npt.NDArray[Any]:
        part = array[(slice(None), *(slice(first, last) if other == axis else slice(*ends) for other, ends in enumerate(tight)))]
        return np.moveaxis(part, 1 + axis, 1).reshape(len(array), last - first, -1)

    face = planes(high - 1, high)[:, 0] if end else planes(low, low + 1)[:, 0]
    beyond = planes(high, high + room) if end else planes(low - room, low)[:, ::-1]
    if np.mean((face == beyond[:, 0, :1]).all(axis=0)) < AIR_SHARE:
        return 0
    same = (beyond == beyond[:, :1, :1]).all(axis=(0, 2))
    return int(room if same.all() else same.argmin())


def fill_values(values: npt.NDArray[Any]) -> tuple[float, ...]:
    """Extreme values that many voxels have and that lie far from all others: -2048 around the tube of a CT scan, the largest number of a type.

    Parameters
    ----------
    values : array, sorted
        Intensities of one channel, or a sample of them.
    """
    found: list[float] = []
    for end in (0, -1):
        others = values
        while others.size and len(found) < 4:
            value = float(others[end])
            same = np.searchsorted(others, value, side="left"), np.searchsorted(others, value, side="right")
            rest = others[same[1] :] if end == 0 else others[: same[0]]
            if same[1] - same[0] < SHARE * values.size or not rest.size or not _far(value, rest):
                break
            found.append(value)
            others = rest
    return tuple(found)


def _far(value: float, rest: npt.NDArray[Any]) -> bool:
    """Whether `value` lies outside sorted values by several times their spread. Zero never does: it is what background is set to."""
    if value == 0:
        return False
    first, last = (float(rest[round(share * (rest.size - 1))]) for share in (0.01, 0.99))
    gap = first - value if value < first else value - last
    return gap > (FAR_IN_CT if value < LOWEST_HOUNSFIELD else FAR) * (last - first) and last > first


def without_fill(channel: npt.NDArray[Any], fills: tuple[float, ...]) -> npt.NDArray[Any]:
    """A channel whose fill values became the median of the border of what is left, or of all that is left."""
    if not fills:
        return channel
    for values in (_border(channel), channel.ravel()):
        own = values[~holds(values, fills)]
        if own.size:
            return np.where(holds(channel, fills), np.median(own).astype(channel.dtype), channel)
    return channel


def holds(channel: npt.NDArray[Any], fills: tuple[float, ...]) -> Mask:
    """Where a channel holds a fill value."""
    return np.asarray(np.isin(channel, fills), dtype=bool)

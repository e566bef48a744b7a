"""From a network's grid back to the image: resample, undo the crop, undo the transposition; one class at a time, whatever their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from nnreg.arrays import Floats
from nnreg.dataset.labels import LabelManager
from nnreg.errors import PredictionError
from nnreg.kernels.resize_cpu import linear, strongest
from nnreg.kernels.threads import in_parts
from nnreg.planning.dense_prediction.fingerprint import MapValues
from nnreg.planning.dense_prediction.plans import DenseConfiguration, DensePlans
from nnreg.preprocessing.dense_prediction.maps import restore_values
from nnreg.preprocessing.dense_prediction.resample import chosen_axis, linear_taps, nearest, resample_image, resample_volume
from nnreg.preprocessing.dense_prediction.storage import DenseProperties

SLAB_BYTES = 64 * 2**20  # of logits that are converted, or of probabilities that are made, at once


def restore_labels(
    logits: Tensor | npt.NDArray[Any], properties: DenseProperties, plans: DensePlans, configuration: DenseConfiguration, labels: LabelManager
) -> npt.NDArray[Any]:
    """The label map that logits mean, on the image's own grid.

    Logits are interpolated, then compared, as nnU-Net does; no more than two volumes of the result's size are held at once.

    Parameters
    ----------
    logits : Tensor or array, shape (heads, D, H, W)
        On the working grid, in the transposed order of axes. On a GPU, the work is done there.
    properties
        Of the case.
    plans, configuration
        That preprocessed it.
    labels
        Of the dataset.

    Returns
    -------
    array, shape of ``properties.native``, ``labels.dtype``
        0 outside the box.

    Raises
    ------
    PredictionError
        If the logits do not fit the labels.
    """
    way = _Way.of(logits, properties, plans, configuration, labels)
    if _plain_linear(way) and not (isinstance(logits, Tensor) and logits.is_cuda):
        winner = _strongest_cpu(logits, way, labels.has_regions)
    else:
        winner = _strongest_streamed(logits, way, labels.has_regions)
    # -1, no region, is the last entry of the table
    table = np.asarray((*labels.head_values, 0), labels.dtype)
    result = np.zeros(properties.shape_before_crop, labels.dtype)
    np.take(table, winner, out=result[_slices(properties)], mode="wrap")
    return _native(result, properties, plans)


def restore_probabilities(
    logits: Tensor | npt.NDArray[Any],
    properties: DenseProperties,
    plans: DensePlans,
    configuration: DenseConfiguration,
    labels: LabelManager,
    *,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Probabilities of every head on the image's own grid.

    Parameters
    ----------
    logits, properties, plans, configuration, labels
        As for :func:`restore_labels`.
    out : array, shape (heads, *native), optional
        Takes the result (a memory map, half precision); nothing else of its size is made.

    Returns
    -------
    array, shape (heads, *native), float32 or as `out`
        Outside the box, background is 1 and all else 0.

    Raises
    ------
    PredictionError
        If the logits do not fit the labels, or `out` does not fit the result.
    """
    way = _Way.of(logits, properties, plans, configuration, labels)
    wanted = (labels.heads, *properties.native.shape)
    if out is not None and out.shape != wanted:
        raise PredictionError(f"probabilities of {properties.case} have shape {wanted}, the array given for them {out.shape}. Make it of that shape.")
    result = np.empty(wanted, np.float32) if out is None else out
    volume = result if len(wanted) == 4 else result[:, None]
    transposed = volume.transpose(0, *(axis + 1 for axis in plans.transpose_forward))
    for head, filled in enumerate(transposed):
        filled[...] = 0 if labels.has_regions or head else 1
    box = transposed[(slice(None), *_slices(properties))]
    for start, stop, part in _interpolated_slabs(logits, way):
        box[:, start:stop] = labels.probabilities(part)
    return result


def restore_maps(
    maps: Tensor | npt.NDArray[Any], properties: DenseProperties, plans: DensePlans, configuration: DenseConfiguration, values: Sequence[MapValues]
) -> Floats:
    """Continuous values on the image's own grid, in the units of the training files.

    Parameters
    ----------
    maps : Tensor or array, shape (C, D, H, W)
        What a network predicts on the working grid, in deviations of the training set. Interpolated as images are.
    properties, plans, configuration
        As for :func:`restore_labels`.
    values
        Of each channel in training.

    Returns
    -------
    array, shape (C, *native), float32
        Outside the box, which no network sees, what the training maps are there on average.

    Raises
    ------
    PredictionError
        If there are not as many channels as the target has.
    """
    if maps.ndim != 4 or len(maps) != len(values):
        raise PredictionError(
            f"the prediction of {properties.case} has shape {tuple(maps.shape)}, expected ({len(values)}, D, H, W). Use the model of this dataset."
        )
    native, working = _spacings(properties, plans, configuration)
    result = np.empty((len(values), *properties.native.shape), np.float32)
    for channel, known, filled in zip(maps, values, result, strict=True):
        array = np.ascontiguousarray(_single(channel))[None]
        volume = np.full(properties.shape_before_crop, known.outside, np.float32)
        volume[_slices(properties)] = restore_values(resample_image(array, properties.shape_after_crop, working, native, configuration.resampling), [known])[0]
        filled[...] = _native(volume, properties, plans)
    return result


def _spacings(properties: DenseProperties, plans: DensePlans, configuration: DenseConfiguration) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Spacings (mm) of the cropped image and of the working grid."""
    native = properties.spacing(plans.transpose_forward)
    return native, (*native[: 3 - len(configuration.spacing)], *configuration.spacing)


@dataclass(frozen=True)
class _Way:
    """How logits get to the box they were cropped from."""

    shape: tuple[int, ...]
    alone: int | None
    order: int
    order_between: int

    @classmethod
    def of(cls, logits: Any, properties: DenseProperties, plans: DensePlans, configuration: DenseConfiguration, labels: LabelManager) -> _Way:
        if logits.ndim != 4 or len(logits) != labels.heads:
            raise PredictionError(
                f"the prediction of {properties.case} has shape {tuple(logits.shape)}, expected ({labels.heads}, D, H, W): a channel per label. "
                "Use the model of this dataset."
            )
        native, working = _spacings(properties, plans, configuration)
        how = configuration.resampling
        return cls(properties.shape_after_crop, chosen_axis(working, native, how), how.probabilities_order, how.between_slices_order)


def _plain_linear(way: _Way) -> bool:
    """Whether it is nnU-Net's: linear, nearest neighbour between slices that are resampled by themselves."""
    return way.order == 1 and (way.alone is None or way.order_between == 0)


def _taps(shape: tuple[int, ...], way: _Way) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    axes = [linear_taps(shape[axis], way.shape[axis], nearest_only=axis == way.alone) for axis in range(3)]
    taps, weights = (np.concatenate(parts, axis=1) for parts in zip(*axes, strict=True))
    return taps, weights, np.cumsum(way.shape[:2])


def _slabs(logits: Tensor | npt.NDArray[Any], way: _Way, bytes_per_plane: int) -> Iterator[tuple[int, int, int, int]]:
    """Planes `start` to `stop` of the result, and the planes of the logits they need."""
    depth = logits.shape[1]
    taps = linear_taps(depth, way.shape[0], nearest_only=way.alone == 0)[0]
    step = max(1, SLAB_BYTES // max(1, bytes_per_plane))
    for start in range(0, way.shape[0], step):
        stop = min(way.shape[0], start + step)
        yield start, stop, int(taps[:, start:stop].min()), int(taps[:, start:stop].max()) + 1


def _strongest_cpu(logits: Tensor | npt.NDArray[Any], way: _Way, overlapping: bool) -> npt.NDArray[np.int16]:
    winner = np.empty(way.shape, np.int16)
    shape = tuple(int(size) for size in logits.shape[1:])
    taps, weights, edges = _taps(shape, way)
    converted = 4 * len(logits) * shape[1] * shape[2] * max(1.0, shape[0] / way.shape[0])
    for start, stop, low, high in _slabs(logits, way, int(converted)):
        moved = taps.copy()
        moved[:, : edges[0]] -= low
        in_parts(_shifted, stop - start, start, winner, _single(logits[:, low:high]), moved, weights, edges, overlapping)
    return winner


def _shifted(first: int, last: int, start: int, *arguments: Any) -> None:
    strongest(start + first, start + last, *arguments)


def _single(part: Tensor | npt.NDArray[Any]) -> Floats:
    """As a float32 array on the host; no copy if it is one."""
    if isinstance(part, Tensor):
        part = part.detach().to("cpu", torch.float32).numpy()
    return np.asarray(part, dtype=np.float32)


def _strongest_streamed(logits: Tensor | npt.NDArray[Any], way: _Way, overlapping: bool) -> npt.NDArray[np.int16]:
    """Class by class; on the logits' device if it is a GPU."""
    best: Any = None
    winner: Any = None
    for head in range(len(logits)):
        values = _interpolated(logits[head], way)
        if isinstance(values, Tensor):
            values = values.contiguous()
        if winner is None:
            on_device = isinstance(values, Tensor)
            winner = torch.full_like(values, -1, dtype=torch.int16) if on_device else np.full(values.shape, -1, np.int16)
            best = values * 0 if overlapping else values - torch.inf
        better = values > best
        winner[better] = head
        if not overlapping:
            best[better] = values[better]
    result = winner.cpu().numpy() if isinstance(winner, Tensor) else winner
    return np.asarray(result if overlapping else np.maximum(result, 0), dtype=np.int16)


def _interpolated(channel: Tensor | npt.NDArray[Any], way: _Way) -> Any:
    """One channel (D, H, W) on the shape of the box: on the GPU if it is there, else a float32 array."""
    if isinstance(channel, Tensor) and channel.is_cuda and _plain_linear(way):
        return _interpolated_on_device(channel.float(), way)
    volume = np.ascontiguousarray(_single(channel))
    result = np.empty(way.shape, np.float32)
    if _plain_linear(way):
        taps, weights, edges = _taps(volume.shape, way)
        in_parts(linear, way.shape[0], result, volume, taps, weights, edges)
    else:
        resample_volume(volume, result, way.alone, way.order, way.order_between)
    return result


def _interpolated_on_device(channel: Tensor, way: _Way) -> Tensor:
    if way.alone is None:
        return functional.interpolate(channel[None, None], size=way.shape, mode="trilinear", align_corners=False)[0, 0]
    picked = torch.from_numpy(nearest(channel.shape[way.alone], way.shape[way.alone])).to(channel.device)
    slices = channel.index_select(way.alone, picked).movedim(way.alone, 0)[:, None]
    plane = [size for axis, size in enumerate(way.shape) if axis != way.alone]
    return functional.interpolate(slices, size=plane, mode="bilinear", align_corners=False)[:, 0].movedim(0, way.alone)


def _interpolated_slabs(logits: Tensor | npt.NDArray[Any], way: _Way) -> Iterator[tuple[int, int, Floats]]:
    """All channels of planes `start` to `stop`, bounded in memory where interpolation is linear."""
    if not _plain_linear(way):
        yield 0, way.shape[0], np.stack([_interpolated(channel, way) for channel in logits])
        return
    shape = tuple(int(size) for size in logits.shape[1:])
    taps, weights, edges = _taps(shape, way)
    for start, stop, low, high in _slabs(logits, way, 4 * len(logits) * way.shape[1] * way.shape[2]):
        # the slab alone: its planes are the first of the layout
        here = np.concatenate([taps[:, start:stop] - low, taps[:, edges[0] :]], axis=1)
        shares = np.concatenate([weights[:, start:stop], weights[:, edges[0] :]], axis=1)
        part = _single(logits[:, low:high])
        result = np.empty((len(part), stop - start, *way.shape[1:]), np.float32)
        for channel, filled in zip(part, result, strict=True):
            in_parts(linear, stop - start, filled, channel, here, shares, edges - edges[0] + (stop - start))
        yield start, stop, result


def _slices(properties: DenseProperties) -> tuple[slice, ...]:
    return tuple(slice(low, high) for low, high in properties.box)


def _native(volume: npt.NDArray[Any], properties: DenseProperties, plans: DensePlans) -> npt.NDArray[Any]:
    """Axes in the order of the file, two of them for a 2D image; contiguous."""
    native = volume.transpose(plans.transpose_backward)
    return np.ascontiguousarray(native if properties.native.ndim == 3 else native[0])

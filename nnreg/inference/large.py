"""Predict an image that does not fit into memory: tiles are read from its chunks, labels written into those of a Zarr."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nnreg.dataset.labels import LabelManager
from nnreg.errors import PredictionError
from nnreg.imageio.lazy import BLOCK_VOXELS, Box, boxes
from nnreg.imageio.zarr_files import CHUNK, ZarrWriter, create_zarr
from nnreg.inference.dense_predictor import DensePredictor, with_previous
from nnreg.inference.sliding_window import OnTile
from nnreg.inference.streamed_window import StreamedWindow
from nnreg.kernels.resize_cpu import strongest
from nnreg.preprocessing.dense.storage import DenseProperties
from nnreg.preprocessing.dense.streamed_resample import Grids

ENDING = ".zarr"


@dataclass(frozen=True, eq=False)
class LargePrepared:
    """A large case on the working grid, box by box.

    Attributes
    ----------
    read
        (C, *box) values, float32.
    shape : voxels per axis of the working grid
    properties : DenseProperties
    previous
        (T, *box) labels of the stage before, in a cascade.
    """

    read: Callable[[Box], npt.NDArray[np.float32]]
    shape: tuple[int, ...]
    properties: DenseProperties
    previous: Callable[[Box], npt.NDArray[np.integer]] | None = None


def predict_large(
    predictor: DensePredictor,
    prepared: LargePrepared,
    paths: Mapping[str, Path],
    *,
    region: Box | None = None,
    on_tile: OnTile = lambda done, total: None,
) -> None:
    """Predict a case into label maps, each a Zarr on the image's own grid.

    Memory is bounded whatever the size: logits are compared as soon as no further tile reaches them; where the working grid is another than the
    image's, they lie in a temporary file in half precision until they are interpolated.

    Parameters
    ----------
    paths
        Of the label map of each target.
    region
        Box of the working grid that alone is predicted; what is outside is background.

    Raises
    ------
    PredictionError
        If the network does not fit the labels, a target is continuous, or the earlier stage of a cascade is missing.
    NnRegError
        If the image has an unreadable chunk, or the disk is full; a label map that was there before stays.
    """
    properties, places = prepared.properties, predictor.places
    labels = {target: predictor.labels_of(target) for target in places}
    heads = sum(manager.heads for manager in labels.values())
    grids = _back(predictor, prepared)
    streamed = StreamedWindow(predictor.window, _input(predictor, prepared), prepared.shape, heads)
    with contextlib.ExitStack() as stack:
        native = {
            target: _Native(stack.enter_context(create_zarr(paths[target], 1, manager.dtype, properties.native)), properties, predictor.plans.transpose_forward)
            for target, manager in labels.items()
        }
        if grids.same:
            for box, logits in streamed(region, on_tile):
                for target, place in places.items():
                    native[target].write(box, _labels_of(logits[place], labels[target]))
            return
        stored = stack.enter_context(_kept_logits(heads, prepared.shape))
        for box, logits in streamed(region, on_tile):
            stored[(slice(None), *_slices(box))] = _half(logits)
        for box in boxes(grids.new, (CHUNK,) * 3, None, BLOCK_VOXELS // heads):
            for target, place in places.items():
                native[target].write(box, _interpolated_labels(stored, place, grids, box, labels[target]))


def _input(predictor: DensePredictor, prepared: LargePrepared) -> Callable[[Box], npt.NDArray[np.float32]]:
    """The image, in a cascade with a channel per label of the stage before."""
    values, previous = predictor.previous_labels, prepared.previous
    if not values:
        return prepared.read
    if previous is None:
        raise PredictionError(f"this configuration needs predictions of {predictor.configuration.previous_stage}: name their folder (-prev_stage_predictions).")

    def read(box: Box) -> npt.NDArray[np.float32]:
        return with_previous(prepared.read(box), previous(box), values)

    return read


def _back(predictor: DensePredictor, prepared: LargePrepared) -> Grids:
    """From the working grid to the cropped image."""
    native = prepared.properties.spacing(predictor.plans.transpose_forward)
    configuration = predictor.configuration
    working = (*native[: 3 - len(configuration.spacing)], *configuration.spacing)
    how = configuration.resampling
    grids = Grids.of(prepared.shape, prepared.properties.shape_after_crop, working, native, how)
    if not grids.same and (how.probabilities_order != 1 or (grids.alone is not None and how.between_slices_order != 0)):
        raise PredictionError(f"logits of images that are read by parts are interpolated linearly, the plans say {how}. Change the plans.")
    return grids


def _labels_of(logits: Tensor, labels: LabelManager) -> npt.NDArray[Any]:
    return np.asarray(labels.to_labels(logits, logits=True).numpy(), labels.dtype)


def _half(logits: Tensor) -> npt.NDArray[np.float16]:
    # half precision ends at 65504
    return logits.clamp(-65504, 65504).half().numpy()


def _interpolated_labels(stored: Any, place: slice, grids: Grids, box: Box, labels: LabelManager) -> npt.NDArray[Any]:
    """Labels of a target in a box of the cropped image, from its logits around it."""
    source, taps, weights, edges = grids.taps(box)
    part = np.asarray(stored[(place, *_slices(source))], dtype=np.float32)
    winner = np.empty([high - low for low, high in box], np.int16)
    strongest(0, winner.shape[0], winner, part, taps, weights, edges, labels.has_regions)
    # -1, no region, is the last entry of the table
    return np.take(np.asarray((*labels.head_values, 0), labels.dtype), winner, mode="wrap")


@contextlib.contextmanager
def _kept_logits(heads: int, shape: Sequence[int]) -> Iterator[Any]:
    """Room for logits (K, D, H, W) in half precision, compressed in a temporary file; where nothing is written, the first head wins."""
    import blosc2

    with tempfile.TemporaryDirectory(prefix="nnreg_", ignore_cleanup_errors=True) as folder:
        chunks = (1, *(min(CHUNK, size) for size in shape))
        yield blosc2.zeros((heads, *shape), dtype=np.float16, urlpath=str(Path(folder) / "logits.b2nd"), mode="w", chunks=chunks, cparams={"clevel": 1})


@dataclass(frozen=True, eq=False)
class _Native:
    """Boxes of the cropped image, in the plans' order of axes, onto the image's own grid."""

    writer: ZarrWriter
    properties: DenseProperties
    order: tuple[int, ...]

    def write(self, box: Box, labels: npt.NDArray[Any]) -> None:
        """Labels (*box)."""
        if not labels.any():
            return
        placed = [(low + first, high + first) for (low, high), (first, _) in zip(box, self.properties.box, strict=True)]
        back = [self.order.index(axis) for axis in range(3)]
        native, values = [placed[axis] for axis in back], labels.transpose(back)
        flat = self.properties.native.ndim == 2
        self.writer.write(native[1:] if flat else native, (values[0] if flat else values)[None])


def _slices(box: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    return tuple(itertools.starmap(slice, box))
